package tunnel

import (
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"
)

// conn is a connection that a program of this process uses itself: a stream
// that is listed and counted like the ones that are carried to a socket.
//
// A wait for the service's bandwidth ends with Close, and with the deadline
// that was set when it began.
type conn struct {
	*stream.Conn
	p       *P2P
	id      uint64
	in, out atomic.Uint64
	onClose func() // may be nil
	once    sync.Once

	setup   sync.Mutex      // held by track, so that nothing ends what is half made
	ctx     context.Context // ends with the connection
	cancel  context.CancelFunc
	unhook  func() bool // from the P2P's end
	idle    idleWatch
	stop    func() // watching idle
	limits  *limiter
	cause   atomic.Pointer[Error]
	readBy  atomic.Int64 // deadlines, unix nanoseconds; 0 means none
	writeBy atomic.Int64
}

var _ net.Conn = (*conn)(nil)

// track lists a stream and returns it as a net.Conn that is taken off the list
// when it is closed, and reset when the P2P is. lim may be nil.
func (p *P2P) track(s *stream.Conn, m *mount, kind Kind, service string, lim *limiter, onClose func()) *conn {
	c := &conn{Conn: s, p: p, onClose: onClose, limits: lim}
	c.setup.Lock()
	defer c.setup.Unlock()
	c.ctx, c.cancel = context.WithCancel(p.ctx)
	info := p.streamInfo(s, kind, service, nil)
	if m != nil {
		info.Mount = m.info.ID
	}
	a := &active{info: info, mount: m, in: c.in.Load, out: c.out.Load, fail: c.fail, cause: c.cause.Load}
	p.Streams.Register(a)
	c.id = a.info.ID
	c.stop = c.idle.start(lim.idle(), func() {
		e := refuse(ReasonIdle, "no traffic for %v", lim.idle())
		p.cut(m, s.RemotePeer(), e)
		c.fail(e)
	})
	c.unhook = context.AfterFunc(p.ctx, func() { c.fail(&Error{Reason: ReasonShutdown, Detail: "this node was stopped"}) })
	return c
}

// fail cuts the connection with a reason; after Close it does nothing.
func (c *conn) fail(e *Error) {
	c.cause.CompareAndSwap(nil, e)
	c.ResetWithCode(e.Reason.code())
}

// streamInfo fills in what is known of a stream; socket is the local end.
func (p *P2P) streamInfo(s *stream.Conn, kind Kind, service string, socket ma.Multiaddr) StreamInfo {
	i := StreamInfo{
		Kind: kind, Protocol: service,
		LocalPeer: p.id, RemotePeer: s.RemotePeer(),
		LocalAddr: socket, RemoteAddr: peerAddr(s.RemotePeer()),
	}
	i.Local, i.Remote = i.LocalAddr, i.RemoteAddr
	if kind == KindExpose {
		i.Local, i.Remote = i.RemoteAddr, i.LocalAddr
	}
	if nc, ok := pathOf(s); ok {
		i.Path, i.Relayed = nc.RemoteMultiaddr(), relayed(nc)
	}
	return i
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.in.Add(uint64(n))
		c.idle.touch()
		if c.limits != nil {
			if werr := c.wait(c.limits.in, n, &c.readBy); werr != nil && err == nil {
				err = werr
			}
		}
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if c.limits != nil {
		if err := c.wait(c.limits.out, len(b), &c.writeBy); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Write(b)
	c.out.Add(uint64(n))
	c.idle.touch()
	return n, err
}

// wait blocks until the service's bandwidth allows n bytes.
func (c *conn) wait(l *rate.Limiter, n int, by *atomic.Int64) error {
	if l == nil {
		return nil
	}
	ctx := c.ctx
	if t := by.Load(); t != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, time.Unix(0, t))
		defer cancel()
	}
	err := waitFor(ctx, l, n)
	switch {
	case err == nil:
		return nil
	case c.ctx.Err() != nil:
		return net.ErrClosed
	}
	return os.ErrDeadlineExceeded // has come, or would before the bytes may pass
}

func deadline(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.readBy.Store(deadline(t))
	c.writeBy.Store(deadline(t))
	return c.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.readBy.Store(deadline(t))
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writeBy.Store(deadline(t))
	return c.Conn.SetWriteDeadline(t)
}

// Close ends both directions and takes the connection off the list.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.end()
	return err
}

// Reset cuts the connection with ReasonReset.
func (c *conn) Reset() error { return c.ResetWithCode(ReasonReset.code()) }

// ResetWithCode cuts the connection with a code of the caller's.
func (c *conn) ResetWithCode(code network.StreamErrorCode) error {
	err := c.Conn.ResetWithCode(code)
	c.end()
	return err
}

func (c *conn) end() {
	c.once.Do(func() {
		c.setup.Lock()
		defer c.setup.Unlock()
		c.stop()
		c.unhook()
		c.cancel()
		c.p.Streams.Deregister(c.id)
		c.p.stats.in.Add(c.in.Load())
		c.p.stats.out.Add(c.out.Load())
		if c.onClose != nil {
			c.onClose()
		}
	})
}

// carry joins a local socket and a stream until both directions have ended.
// failed is told why when it is cut, before either end can see that.
func (p *P2P) carry(socket net.Conn, peerEnd end, s *stream.Conn, m *mount, kind Kind, local ma.Multiaddr, lim *limiter, failed func(*Error)) {
	r := &relay{socket: newSocketEnd(socket), peer: peerEnd, bufs: &p.bufs, failed: failed}
	if lim != nil {
		r.limitIn, r.limitOut = lim.in, lim.out
	}
	a := &active{info: p.streamInfo(s, kind, m.name, local), mount: m, in: r.in.Load, out: r.out.Load, fail: r.fail, cause: r.cause.Load}
	a.info.Mount = m.info.ID
	p.Streams.Register(a)
	defer p.Streams.Deregister(a.info.ID)
	// Close may have begun between begin and Register.
	defer context.AfterFunc(p.ctx, func() { r.fail(&Error{Reason: ReasonShutdown, Detail: "this node was stopped"}) })()
	r.run(p.ctx, lim.idle())
	p.stats.in.Add(r.in.Load())
	p.stats.out.Add(r.out.Load())
}
