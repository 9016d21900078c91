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
	"github.com/libp2p/go-libp2p/core/peer"
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
	mount   *mount // nil for a connection that this program opened
	kind    Kind
	service string
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

var (
	_ net.Conn   = (*conn)(nil)
	_ Connection = (*conn)(nil)
)

// track lists a stream and returns it as a net.Conn that is taken off the list
// when it is closed, and reset when the P2P is. lim may be nil.
func (p *P2P) track(s *stream.Conn, m *mount, kind Kind, service string, lim *limiter, onClose func()) *conn {
	c := &conn{Conn: s, p: p, mount: m, kind: kind, service: service, onClose: onClose, limits: lim}
	c.setup.Lock()
	defer c.setup.Unlock()
	c.ctx, c.cancel = context.WithCancel(p.ctx)
	if m != nil {
		m.begun()
	}
	c.id = p.Streams.Register(c)
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

// Cut implements Connection.
func (c *conn) Cut(e *Error) { c.fail(e) }

// Info implements Connection.
func (c *conn) Info() StreamInfo {
	i := c.p.describe(c.kind, c.service, c.mount, c.RemotePeer(), nil)
	i.BytesIn, i.BytesOut = c.in.Load(), c.out.Load()
	i.LastError = c.cause.Load()
	i.over(c.Conn)
	return i
}

// describe is what is known of a connection before it has a stream; socket is
// the local end.
func (p *P2P) describe(kind Kind, service string, m *mount, remote peer.ID, socket ma.Multiaddr) StreamInfo {
	i := StreamInfo{
		Kind: kind, Mount: m.number(), Protocol: service,
		LocalPeer: p.id, RemotePeer: remote,
		LocalAddr: socket, RemoteAddr: peerAddr(remote),
	}
	i.Local, i.Remote = i.LocalAddr, i.RemoteAddr
	if kind == KindExpose {
		i.Local, i.Remote = i.RemoteAddr, i.LocalAddr
	}
	return i
}

// over fills in what a stream runs over.
func (i *StreamInfo) over(s *stream.Conn) {
	if nc, ok := pathOf(s); ok {
		i.Path, i.Relayed = nc.RemoteMultiaddr(), stream.Relayed(nc)
	}
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
		if c.mount != nil {
			c.mount.ended(c.in.Load(), c.out.Load())
		}
		c.p.stats.in.Add(c.in.Load())
		c.p.stats.out.Add(c.out.Load())
		if c.onClose != nil {
			c.onClose()
		}
	})
}
