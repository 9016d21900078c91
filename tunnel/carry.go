package tunnel

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// carried is one connection between a local socket and a stream to a peer. It
// is listed from when its stream is open, or from when it has to wait for one,
// to its end. Its methods but Info, Cut and RemotePeer belong to the goroutine
// that serves it.
type carried struct {
	p      *P2P
	kind   Kind
	mount  *mount
	remote peer.ID
	socket *socketEnd
	from   net.Addr     // the program at the other end of socket; may be nil
	addr   ma.Multiaddr // stands for it if it has no name

	ctx    context.Context // ends with the connection; its cause may be an *Error
	cancel context.CancelCauseFunc

	id      uint64 // in the list
	listed  bool
	waiting bool // counted in mount.waiting

	relay atomic.Pointer[relay] // nil while it waits for its stream
	over  func() *stream.Conn   // set before relay is
}

var _ Connection = (*carried)(nil)

// newCarried takes a socket; from may be nil. The caller calls end.
func (p *P2P) newCarried(kind Kind, m *mount, remote peer.ID, socket net.Conn, from net.Addr, addr ma.Multiaddr) *carried {
	c := &carried{p: p, kind: kind, mount: m, remote: remote, socket: newSocketEnd(socket), from: from, addr: addr}
	c.ctx, c.cancel = context.WithCancelCause(p.ctx)
	return c
}

// list puts the connection on the list, if it is not there.
func (c *carried) list() {
	if !c.listed {
		c.listed = true
		c.id = c.p.Streams.Register(c)
	}
}

// wait lists it as one that waits for its stream.
func (c *carried) wait() {
	if !c.waiting {
		c.waiting = true
		c.mount.waiting.Add(1)
	}
	c.list()
}

func (c *carried) waited() {
	if c.waiting {
		c.waiting = false
		c.mount.waiting.Add(-1)
	}
}

// end takes it off the list.
func (c *carried) end() {
	c.cancel(nil)
	c.waited()
	if c.listed {
		c.p.Streams.Deregister(c.id)
	}
}

// RemotePeer implements Connection.
func (c *carried) RemotePeer() peer.ID { return c.remote }

// Cut implements Connection.
func (c *carried) Cut(e *Error) {
	c.cancel(e)
	if r := c.relay.Load(); r != nil {
		r.fail(e)
	}
}

// Info implements Connection.
func (c *carried) Info() StreamInfo {
	local := c.addr
	if c.from != nil {
		local = socketAddr(c.from, c.addr)
	}
	i := c.p.describe(c.kind, c.mount.name, c.mount, c.remote, local)
	r := c.relay.Load()
	if r == nil {
		i.Waiting, i.LastError = true, c.p.dials.why(c.remote)
		return i
	}
	i.BytesIn, i.BytesOut = r.in.Load(), r.out.Load()
	i.LastError = r.cause.Load()
	i.over(c.over())
	return i
}

// why says why the connection's context has ended.
func (c *carried) why() *Error {
	if e, ok := errors.AsType[*Error](context.Cause(c.ctx)); ok {
		return e
	}
	return &Error{Reason: ReasonShutdown, Detail: "this node was stopped"}
}

// run joins the socket and the peer's end until both directions have ended.
// failed is told why when the connection is cut, before either end can see
// that.
func (c *carried) run(peerEnd end, over func() *stream.Conn, lim *limiter, failed func(*Error)) {
	r := &relay{socket: c.socket, peer: peerEnd, bufs: &c.p.bufs, ctx: c.ctx, cancel: c.cancel, failed: failed}
	if lim != nil {
		r.limitIn, r.limitOut = lim.in, lim.out
	}
	c.over = over
	c.relay.Store(r)
	c.list()
	c.waited()
	c.mount.begun()
	// Whatever cut it before relay was set has ended the context.
	cut := make(chan struct{})
	stop := context.AfterFunc(c.ctx, func() {
		defer close(cut)
		r.fail(c.why())
	})
	r.run(lim.idle())
	if !stop() {
		<-cut
	}
	c.mount.ended(r.in.Load(), r.out.Load())
	c.p.stats.in.Add(r.in.Load())
	c.p.stats.out.Add(r.out.Load())
}

// roomyStack gives a goroutine the stack that carrying a connection needs at
// once. The runtime would double a small one three times over, each time with
// more to copy, which was a tenth of the processor time of a short connection.
//
//go:noinline
func roomyStack() byte {
	var room [6 << 10]byte
	return room[stackProbe]
}

// stackProbe is a variable so that the compiler keeps the array above.
var stackProbe int
