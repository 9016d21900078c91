package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/kith-p2p/kith/internal/unixsock"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// ForwardConfig is what a forward can be told. The zero value of a field means
// its default.
type ForwardConfig struct {
	// Wait is how long a connection waits while the peer is being redialled.
	// Default 10 s; negative: not at all.
	Wait time.Duration
	// Timeout is how long a connection may wait for its stream in all, and for
	// the service's answer. Default 30 s.
	Timeout time.Duration
	// MaxConnections bounds the connections carried or waiting at once.
	// Default 8192.
	MaxConnections int
	// Once closes the local socket after the first connection.
	Once bool
	// AllowCustomProtocol permits a "/" name outside "/x/".
	AllowCustomProtocol bool
	// Admit, if set, is asked by Dial when nothing else is wrong, and before
	// anything is bound. Its error is Dial's.
	Admit func(context.Context) error
}

const (
	defaultWait       = 10 * time.Second
	defaultTimeout    = 30 * time.Second
	defaultMaxForward = 8192
)

// DialOption changes one call of Dial or Open.
type DialOption func(*ForwardConfig)

func forwardConfig(opts []DialOption) (ForwardConfig, error) {
	var c ForwardConfig
	for _, o := range opts {
		o(&c)
	}
	if c.Timeout < 0 || c.MaxConnections < 0 {
		return c, fmt.Errorf("%w: a timeout or limit below zero", ErrOption)
	}
	if c.Wait == 0 {
		c.Wait = defaultWait
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = defaultMaxForward
	}
	return c, nil
}

// forward is one local socket that leads to a peer's service.
type forward struct {
	p      *P2P
	cfg    ForwardConfig
	remote peer.ID
	name   string
	l      net.Listener
	addr   ma.Multiaddr // of l
	mount  *mount
	limits *limiter
	once   sync.Once
	loop   sync.WaitGroup
}

// Dial forwards a local socket to a service of a peer: it listens on bindAddr
// (a TCP address, where port 0 picks one, or a unix socket) and carries every
// connection it accepts over a stream of its own. addr is where the peer is;
// it may be nil, and is kept for good, not for libp2p's two minutes. Dial
// returns as soon as the socket is bound; the peer is dialled when the first
// connection comes (but see ForwardConfig.Admit). Errors: ErrName, ErrAddress, ErrOption, ErrExists (and
// syscall.EADDRINUSE) when the socket is taken, ErrClosed.
func (p *P2P) Dial(ctx context.Context, addr ma.Multiaddr, remote peer.ID, proto string, bindAddr ma.Multiaddr, opts ...DialOption) (*ListenerInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cfg, err := forwardConfig(opts)
	if err != nil {
		return nil, err
	}
	if err := remote.Validate(); err != nil {
		return nil, fmt.Errorf("%w: no peer ID given: %w", ErrAddress, err)
	}
	if _, err := checkName(proto, cfg.AllowCustomProtocol); err != nil {
		return nil, err
	}
	if err := checkSocket(bindAddr); err != nil {
		return nil, err
	}
	p.Remember(remote, addr)
	if cfg.Admit != nil {
		if err := cfg.Admit(ctx); err != nil {
			return nil, err
		}
	}
	l, bound, err := listenLocal(bindAddr)
	if err != nil {
		return nil, err
	}
	f := &forward{p: p, cfg: cfg, remote: remote, name: proto, l: l, addr: bound,
		limits: newLimiter(Limits{MaxConnections: cfg.MaxConnections})}
	f.mount = &mount{name: proto, shut: f.shut, info: ListenerInfo{
		Kind: KindForward, Protocol: proto, Identity: remote,
		Address: bound, TargetAddress: peerAddr(remote),
	}}
	if !p.begin("") { // for the accept loop
		l.Close()
		return nil, ErrClosed
	}
	f.loop.Add(1)
	f.mount.list(&p.Listeners)
	info := f.mount.snapshot()
	go func() {
		defer p.end("")
		defer f.loop.Done()
		f.accept()
	}()
	if p.ctx.Err() != nil { // Close may have passed over the list just before
		f.mount.remove()
		return nil, ErrClosed
	}
	return &info, nil
}

// Remember keeps an address of a peer for as long as the node runs. Without
// the peer's ID at its end it is taken as it is.
func (p *P2P) Remember(remote peer.ID, addrs ...ma.Multiaddr) {
	for _, a := range addrs {
		if len(a) == 0 {
			continue
		}
		if t, id := peer.SplitAddr(a); id != "" {
			a = t
		}
		if len(a) > 0 {
			p.ps.AddAddr(remote, a, peerstore.PermanentAddrTTL)
		}
	}
}

// listenLocal binds a local socket. Unix sockets are made private to the user;
// one that a dead process left behind is replaced.
func listenLocal(a ma.Multiaddr) (net.Listener, ma.Multiaddr, error) {
	network, addr, err := manet.DialArgs(a)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s: %w", ErrAddress, a, err)
	}
	lc := net.ListenConfig{KeepAlive: keepAlive(a)}
	var l net.Listener
	if network == "unix" {
		l, err = unixsock.Take(addr)
	} else {
		l, err = lc.Listen(context.Background(), network, addr)
	}
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, nil, &inUseError{addr}
		}
		return nil, nil, fmt.Errorf("%w: cannot listen on %s: %w", ErrAddress, a, err)
	}
	return l, socketAddr(l.Addr(), a), nil
}

// inUseError says that a local address is taken. It is ErrExists and
// syscall.EADDRINUSE.
type inUseError struct{ addr string }

func (e *inUseError) Error() string {
	return fmt.Sprintf("cannot listen on %s: it is in use by another program or mount (`kith ls`); choose another port or path, or 0 to have a port picked", e.addr)
}

func (e *inUseError) Is(target error) bool {
	return target == ErrExists || target == syscall.EADDRINUSE
}

func (f *forward) shut() error {
	var err error
	f.once.Do(func() {
		err = f.l.Close()
	})
	f.loop.Wait()
	return err
}

// accept hands each local connection to a goroutine, until the socket is
// closed. Running out of descriptors makes it wait, not give up.
func (f *forward) accept() {
	for pause := time.Duration(0); ; {
		c, err := f.l.Accept()
		switch {
		case err == nil:
			pause = 0
		case errors.Is(err, net.ErrClosed):
			return
		default:
			pause = min(time.Second, max(5*time.Millisecond, 2*pause))
			f.p.refused(f.mount, f.remote, &Error{Reason: ReasonLimit, Err: err, Detail: "cannot accept: " + rootCause(err)})
			select {
			case <-time.After(pause):
			case <-f.p.ctx.Done():
				return
			}
			continue
		}
		if !f.p.begin(f.remote) {
			c.Close()
			return
		}
		go func() {
			defer f.p.end(f.remote)
			roomyStack()
			f.serve(c)
		}()
		if f.cfg.Once {
			f.p.wg.Go(func() { f.mount.remove() })
			return
		}
	}
}

// serve carries one local connection to its end, or resets it.
func (f *forward) serve(socket net.Conn) {
	if e := f.limits.take(f.name); e != nil {
		f.refuse(newSocketEnd(socket), e)
		return
	}
	defer f.limits.give()
	c := f.p.newCarried(KindForward, f.mount, f.remote, socket, socket.RemoteAddr(), f.addr)
	defer c.end()
	o := &opener{p: f.p, remote: f.remote, service: f.name, cfg: f.cfg, waiting: c.wait}
	end, err := o.open(c.ctx)
	if err != nil {
		e := reasonOf(err)
		if c.ctx.Err() != nil {
			e = c.why()
		}
		f.refuse(c.socket, e)
		return
	}
	f.p.stats.opened.Add(1)
	c.run(end, end.current, nil, func(e *Error) {
		if end.pending.Load() { // the peer has not agreed
			f.p.refused(f.mount, f.remote, e)
		} else {
			f.p.cut(f.mount, f.remote, e)
		}
	})
}

func (f *forward) refuse(socket *socketEnd, e *Error) {
	f.p.refused(f.mount, f.remote, e) // first: who sees the reset may look for the reason
	socket.abort(e.Reason)
}

// Connect makes sure that there is a connection to a peer, with one attempt.
// The error is an *Error.
func (p *P2P) Connect(ctx context.Context, remote peer.ID) error {
	return p.dials.connect(ctx, remote, 0)
}
