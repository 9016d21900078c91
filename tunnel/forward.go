package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
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
// syscall.EADDRINUSE) when the socket is taken, what else the system says when it
// cannot be bound, ErrClosed.
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
	l, bound, err := listenLocal(ctx, bindAddr)
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
// one that a dead process left behind is replaced. ctx bounds looking up a name.
func listenLocal(ctx context.Context, a ma.Multiaddr) (net.Listener, ma.Multiaddr, error) {
	network, addr, err := manet.DialArgs(a)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s: %w", ErrAddress, a, err)
	}
	lc := net.ListenConfig{KeepAlive: keepAlive(a)}
	var l net.Listener
	if network == "unix" {
		l, err = unixsock.Take(addr)
	} else {
		l, err = lc.Listen(ctx, network, addr)
	}
	if err != nil {
		return nil, nil, &bindError{whyNotBound(network, addr, err), err}
	}
	return l, socketAddr(l.Addr(), a), nil
}

// bindError says that this machine does not let a local address be listened on,
// which is no fault of the address's form. It is ErrExists when it is taken.
type bindError struct {
	text string
	err  error
}

func (e *bindError) Error() string { return e.text }
func (e *bindError) Unwrap() error { return e.err }
func (e *bindError) Is(target error) bool {
	return target == ErrExists && errors.Is(e.err, syscall.EADDRINUSE)
}

// whyNotBound says what is wrong and what to do about it.
func whyNotBound(network, addr string, err error) string {
	return "cannot listen on " + addr + ": " + bindAdvice(network == "unix", addr, err)
}

func bindAdvice(path bool, addr string, err error) string {
	dns, noName := errors.AsType[*net.DNSError](err)
	switch {
	case noName:
		return fmt.Sprintf("its name cannot be looked up (%s); give an IP address of this machine, such as 127.0.0.1", oneLine(dns.Err))
	case errors.Is(err, syscall.EADDRINUSE):
		if path {
			switch fi, err := os.Stat(addr); {
			case err != nil: // it went, or may not be looked at
			case fi.IsDir():
				return "there is a directory of that name; choose another path"
			case fi.Mode()&os.ModeSocket == 0:
				return "there is a file of that name, which is no socket and is left alone; choose another path"
			}
		}
		return "it is in use by another program or mount (`kith ls`); choose another port or path, or 0 to have a port picked"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this machine has no such address; give one that it has, such as 127.0.0.1, or 0.0.0.0 for all of them"
	case path && errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("there is no directory %s; make it first, or choose another path", filepath.Dir(addr))
	case path && errors.Is(err, syscall.ENOTDIR):
		return "a part of this path is no directory; choose another path"
	case path && errors.Is(err, syscall.EINVAL):
		return fmt.Sprintf("%d bytes are more than the path of a unix socket may have; choose a shorter one", len(addr))
	case path && errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("this user may not make a socket in %s; choose a path in a directory of your own", filepath.Dir(addr))
	case errors.Is(err, fs.ErrPermission):
		return "not permitted; ports below 1024 need privileges: choose one from 1024, or 0 to have one picked"
	}
	return rootCause(err) + "; mend that, or choose another port or path"
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
		e.Detail = fmt.Sprintf("this forward of %q carries %d connections at once, which are in use; try again when one has ended, or end some (`kith streams`)",
			f.name, f.cfg.MaxConnections)
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
