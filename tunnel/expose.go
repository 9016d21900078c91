package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/kith-p2p/kith/access"
	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
)

// A refused opener may have bytes under way: so long, and so many, are read.
const (
	refuseDrain    = time.Second
	maxRefuseDrain = 1 << 20
)

const serviceClosed = "the service was closed; ask its owner to expose it again"

// ServiceConfig is what an exposed service can be told. The zero value serves
// nobody, sends bytes as they are and has the default limits.
type ServiceConfig struct {
	// Allow lists the peers that may use the service.
	Allow []peer.ID
	// AllowAny lets every peer use it.
	AllowAny bool
	// ReportPeerID sends "<peer ID>\n" to the target first.
	ReportPeerID bool
	// ProxyProtocol sends a PROXY protocol header to the target first: version
	// 1 or 2; 0 means none.
	ProxyProtocol int
	// HTTP says that the target speaks HTTP/1.1: requests reach it with an
	// X-Kith-Peer header, and a failure is answered with 502 and the reason.
	HTTP bool
	// Limits bound the service.
	Limits Limits
	// AllowCustomProtocol permits a "/" name outside "/x/".
	AllowCustomProtocol bool
}

// ListenOption changes one call of NewListener or Listen. Write one in place
// to set any field, or use AllowPeers and AllowAny.
type ListenOption func(*ServiceConfig)

// AllowPeers lets these peers use the service.
func AllowPeers(ids ...peer.ID) ListenOption {
	return func(c *ServiceConfig) { c.Allow = append(c.Allow, ids...) }
}

// AllowAny lets every peer use the service.
func AllowAny() ListenOption { return func(c *ServiceConfig) { c.AllowAny = true } }

func (c *ServiceConfig) validate() error {
	switch {
	case c.ProxyProtocol < 0 || c.ProxyProtocol > 2:
		return fmt.Errorf("%w: PROXY protocol version %d; there are 1 and 2", ErrOption, c.ProxyProtocol)
	case c.HTTP && (c.ProxyProtocol != 0 || c.ReportPeerID):
		return fmt.Errorf("%w: an HTTP service names the peer in a header, not with a PROXY header or a first line; choose one", ErrOption)
	}
	return c.Limits.validate()
}

// Listener is what an exposed service is inside: where streams of peers that
// may use it come out. P2PListener implements it.
type Listener interface {
	Accept() (network.Stream, error)
	Close() error
}

var _ Listener = (*P2PListener)(nil)

// P2PListener is one exposed service.
type P2PListener struct {
	p      *P2P
	name   string
	cfg    ServiceConfig
	target ma.Multiaddr  // nil: the program accepts
	dialer *targetDialer // nil if target is
	mount  *mount
	limits *limiter
	raw    net.Listener // accepts the raw protocol; nil when there is none
	http   *httpService // nil unless cfg.HTTP

	queue chan *inbound // to Accept; nil when there is a target
	done  chan struct{} // closed by Close
	once  sync.Once
	wg    sync.WaitGroup // the raw accept loop
}

// inbound is one stream of a peer that passed the checks.
type inbound struct {
	c     *stream.Conn
	rich  bool // speaks Protocol
	probe bool // only asks
}

// NewListener exposes a local socket under a service name: connections of
// peers that may use it are carried to target, a TCP or unix socket that need
// not be up yet. It does not block on the network; ctx bounds nothing today.
// Errors: ErrName, ErrAddress, ErrOption, ErrExists, ErrClosed.
func (p *P2P) NewListener(ctx context.Context, proto string, target ma.Multiaddr, opts ...ListenOption) (*ListenerInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkSocket(target); err != nil {
		return nil, err
	}
	if port(target) == "0" {
		return nil, fmt.Errorf("%w: %s: port can not be 0; give the port that the service listens on", ErrAddress, target)
	}
	l, err := p.listen(proto, target, opts)
	if err != nil {
		return nil, err
	}
	info := l.mount.snapshot()
	return &info, nil
}

// Listen exposes a service whose connections this program accepts itself.
// Errors as in NewListener.
func (p *P2P) Listen(proto string, opts ...ListenOption) (*P2PListener, error) {
	return p.listen(proto, nil, opts)
}

func (p *P2P) listen(name string, target ma.Multiaddr, opts []ListenOption) (*P2PListener, error) {
	var cfg ServiceConfig
	for _, o := range opts {
		o(&cfg)
	}
	raw, err := checkName(name, cfg.AllowCustomProtocol)
	if err != nil {
		return nil, err
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.HTTP && target == nil {
		return nil, fmt.Errorf("%w: HTTP needs a target; a program that accepts itself has its own server", ErrOption)
	}
	l := &P2PListener{
		p: p, name: name, cfg: cfg, target: target,
		limits: newLimiter(cfg.Limits),
		done:   make(chan struct{}),
	}
	if target == nil {
		l.queue = make(chan *inbound, backlog)
	} else {
		l.dialer = newTargetDialer(target, l.limits)
	}
	l.mount = &mount{name: name, shut: l.shut, info: ListenerInfo{
		Kind: KindExpose, Protocol: name, Identity: p.id,
		Address: peerAddr(p.id), TargetAddress: target,
		Allow: cfg.Allow, AllowAny: cfg.AllowAny,
	}}
	if err := p.claim(l); err != nil {
		return nil, err
	}
	if raw {
		l.raw, err = stream.Listen(p.h, protocol.ID(name), stream.WithBacklog(backlog))
		if err != nil {
			p.unclaim(l)
			if errors.Is(err, stream.ErrAddrInUse) {
				err = fmt.Errorf("%w: the protocol %q is in use on this node", ErrExists, name)
			}
			return nil, err
		}
		l.wg.Go(func() {
			p.acceptLoop(l.raw, func(c *stream.Conn) { p.serve(name, &inbound{c: c}) })
		})
	}
	if cfg.HTTP {
		l.http = newHTTPService(l)
	}
	p.access.Set(name, access.Rule{Any: cfg.AllowAny, Peers: cfg.Allow})
	l.mount.list(&p.Listeners)
	if p.ctx.Err() != nil { // Close may have passed over the list just before
		l.mount.remove()
		return nil, ErrClosed
	}
	return l, nil
}

// claim reserves the name. The service is closed to all until it has a rule.
func (p *P2P) claim(l *P2PListener) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if _, ok := p.services[l.name]; ok {
		return fmt.Errorf("%w: the service %q is exposed; close it first, or choose another name", ErrExists, l.name)
	}
	p.services[l.name] = l
	return nil
}

func (p *P2P) unclaim(l *P2PListener) {
	p.access.Remove(l.name)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.services[l.name] == l {
		delete(p.services, l.name)
	}
}

// Close removes the service. Connections that it carries go on; ones that wait
// for Accept are reset.
func (l *P2PListener) Close() error { return l.mount.remove() }

// Info returns a snapshot of the mount.
func (l *P2PListener) Info() ListenerInfo { return l.mount.snapshot() }

// shut is Close without the bookkeeping of the mount.
func (l *P2PListener) shut() error {
	l.once.Do(func() {
		l.p.unclaim(l)
		close(l.done)
		if l.raw != nil {
			l.raw.Close()
			l.wg.Wait()
		}
		if l.http != nil {
			l.http.close()
		}
		for {
			select {
			case in := <-l.queue:
				in.refuse(&Error{Reason: ReasonClosed, Detail: serviceClosed})
				l.limits.give()
			default:
				return
			}
		}
	})
	return nil
}

// Accept returns the next stream of a service made with Listen. It blocks
// until there is one, and returns net.ErrClosed after Close. The caller closes
// or resets the stream, which is neither listed in Streams nor counted against
// the service's limits nor reset by P2P.Close: AcceptConn does all that. A
// connection from this node itself is no stream and is reset here.
func (l *P2PListener) Accept() (network.Stream, error) {
	for {
		in, err := l.next()
		if err != nil {
			return nil, err
		}
		l.limits.give()
		if s := in.c.Stream(); s != nil {
			return s, nil
		}
		in.c.ResetWithCode(ReasonNotAllowed.code())
	}
}

// AcceptConn is Accept with a net.Conn that is listed in Streams and counted
// against the service's limits until it is closed.
func (l *P2PListener) AcceptConn() (net.Conn, error) {
	in, err := l.next()
	if err != nil {
		return nil, err
	}
	c := l.p.track(in.c, l.mount, KindExpose, l.name, l.limits, l.limits.give)
	l.p.stats.served.Add(1)
	return c, nil
}

func (l *P2PListener) next() (*inbound, error) {
	select {
	case in := <-l.queue:
		return in, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// serveOpen takes a stream between kith nodes.
func (p *P2P) serveOpen(c *stream.Conn) {
	in := &inbound{c: c, rich: true}
	if !p.greet(c.RemotePeer()) {
		e := refuse(ReasonLimit, "%d streams wait for their open frame", strangerStreams)
		c.ResetWithCode(e.Reason.code())
		p.refused(nil, c.RemotePeer(), e)
		return
	}
	open, e := readOpen(c)
	p.greeted(c.RemotePeer())
	if e != nil {
		p.refused(nil, c.RemotePeer(), e)
		in.refuse(e)
		return
	}
	in.probe = open.GetProbe()
	p.serve(open.GetService(), in)
}

// serve checks a stream and carries it. All ways into a service lead here.
func (p *P2P) serve(name string, in *inbound) {
	remote := in.c.RemotePeer()
	p.mu.Lock()
	l := p.services[name]
	p.mu.Unlock()
	e := p.mayUse(l, name, remote)
	if e == nil && !p.stands(l) { // the rule may be another mount's already
		e = &Error{Reason: ReasonClosed, Service: name, Peer: remote, Detail: serviceClosed}
	}
	if e == nil && in.probe {
		if writeReply(in.c, nil) != nil {
			in.c.Reset()
		}
		in.c.Close()
		return
	}
	if e == nil {
		e = l.limits.take(name)
	}
	if e != nil {
		var m *mount
		if l != nil {
			m = l.mount
		}
		p.refused(m, remote, e) // before the peer can see it
		in.refuse(e)
		return
	}
	switch {
	case l.http != nil:
		l.http.serve(in) // gives the limit back
	case l.target == nil:
		l.enqueue(in)
	default:
		l.carry(in)
		l.limits.give()
	}
}

// stands says whether l is still the service of its name.
func (p *P2P) stands(l *P2PListener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.services[l.name] == l
}

// mayUse is the access check. This node may use its own services.
func (p *P2P) mayUse(l *P2PListener, name string, remote peer.ID) *Error {
	err := p.access.Check(name, remote)
	switch {
	case l == nil, errors.Is(err, access.ErrNoRule):
		return &Error{Reason: ReasonNoService, Service: name, Peer: remote, Detail: fmt.Sprintf("there is no service %q here; see what it is called with `kith ls` on the machine that serves it", printable(name))}
	case err != nil && remote != p.id:
		return &Error{Reason: ReasonNotAllowed, Service: name, Peer: remote, Detail: fmt.Sprintf("%s may not use %q; ask its owner to allow this peer", remote, name)}
	}
	return nil
}

// enqueue offers a stream to Accept. Like a TCP listener it agrees before the
// program accepts.
func (l *P2PListener) enqueue(in *inbound) {
	e := &Error{Reason: ReasonLimit, Service: l.name, Detail: fmt.Sprintf("%d connections wait to be accepted; try again", backlog)}
	if len(l.queue) < cap(l.queue) {
		if in.rich && writeReply(in.c, nil) != nil {
			in.c.Reset()
			l.limits.give()
			return
		}
		in.rich = false // answered; a refusal from here on is a reset
		select {
		case <-l.done:
			e = &Error{Reason: ReasonClosed, Service: l.name, Detail: serviceClosed}
		case l.queue <- in:
			select {
			case <-l.done: // Close may have drained the queue just before
				l.drainOne()
			default:
			}
			return
		default: // filled up meanwhile
		}
	}
	l.p.refused(l.mount, in.c.RemotePeer(), e)
	in.refuse(e)
	l.limits.give()
}

func (l *P2PListener) drainOne() {
	select {
	case in := <-l.queue:
		in.refuse(&Error{Reason: ReasonClosed, Detail: serviceClosed})
		l.limits.give()
	default:
	}
}

// carry connects a stream to the target and carries it to its end.
func (l *P2PListener) carry(in *inbound) {
	remote := in.c.RemotePeer()
	target, e := l.connectTarget(in)
	if e == nil && l.closed() {
		target.Close()
		e = &Error{Reason: ReasonClosed, Service: l.name, Detail: serviceClosed}
	}
	if e != nil {
		l.p.refused(l.mount, remote, e)
		in.refuse(e)
		return
	}
	l.p.stats.served.Add(1)
	c := l.p.newCarried(KindExpose, l.mount, remote, target, nil, l.target)
	defer c.end()
	c.run(&servedEnd{streamEnd: streamEnd{in.c}, owes: in.rich}, func() *stream.Conn { return in.c }, l.limits,
		func(e *Error) { l.p.cut(l.mount, remote, e) })
}

func (l *P2PListener) closed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// connectTarget dials the target and tells it who calls, if it wants to know.
func (l *P2PListener) connectTarget(in *inbound) (net.Conn, *Error) {
	target, e := l.dialer.dial(l.p.ctx)
	if e != nil {
		e.Service = l.name
		return nil, e
	}
	if b := l.cfg.preface(in.c, target); len(b) > 0 {
		target.SetWriteDeadline(time.Now().Add(l.limits.ConnectTimeout))
		if _, err := target.Write(b); err != nil {
			target.Close()
			return nil, &Error{Reason: ReasonTarget, Service: l.name, Detail: "the service's target closed the connection; its own log, on the machine that exposes the service, should say why", Err: err}
		}
		target.SetWriteDeadline(time.Time{})
	}
	return target, nil
}

// refuse answers a stream with the reason and ends it.
func (in *inbound) refuse(e *Error) {
	if !in.rich || e.Reason == ReasonProtocol || e.Reason == ReasonTimeout {
		in.c.ResetWithCode(e.Reason.code())
		return
	}
	if writeReply(in.c, e) != nil {
		in.c.ResetWithCode(e.Reason.code())
		return
	}
	// Over QUIC a close at once would stop the opener's writes, with no reason,
	// before it has read this one.
	in.c.CloseWrite()
	in.c.SetReadDeadline(time.Now().Add(refuseDrain))
	io.Copy(io.Discard, io.LimitReader(in.c, maxRefuseDrain))
	in.c.Close()
}
