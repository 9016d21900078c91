package tunnel

import (
	"context"
	"net"
	"sync"
	"sync/atomic"

	"github.com/kith-p2p/kith/stream"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"
)

// conn is a connection that a program of this process uses itself: a stream
// that is listed and counted like the ones that are carried to a socket.
type conn struct {
	*stream.Conn
	p       *P2P
	id      uint64
	in, out atomic.Uint64
	onClose func() // may be nil
	once    sync.Once

	limitIn, limitOut *rate.Limiter // may be nil
}

var _ net.Conn = (*conn)(nil)

// track lists a stream and returns it as a net.Conn that is taken off the list
// when it is closed.
func (p *P2P) track(s *stream.Conn, m *mount, kind Kind, service string, onClose func()) *conn {
	c := &conn{Conn: s, p: p, onClose: onClose}
	info := p.streamInfo(s, kind, service, nil)
	if m != nil {
		info.Mount = m.info.ID
	}
	a := &active{info: info, mount: m, in: c.in.Load, out: c.out.Load, fail: func(e *Error) {
		s.ResetWithCode(e.Reason.code())
		c.end()
	}}
	p.Streams.Register(a)
	c.id = a.info.ID
	return c
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
	c.in.Add(uint64(n))
	if n > 0 {
		if werr := waitFor(c.p.ctx, c.limitIn, n); werr != nil && err == nil {
			err = werr
		}
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if err := waitFor(c.p.ctx, c.limitOut, len(b)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	c.out.Add(uint64(n))
	return n, err
}

// Close ends both directions and takes the connection off the list.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.end()
	return err
}

// Reset cuts the connection with ReasonReset.
func (c *conn) Reset() error {
	err := c.ResetWithCode(ReasonReset.code())
	c.end()
	return err
}

func (c *conn) end() {
	c.once.Do(func() {
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
	a := &active{info: p.streamInfo(s, kind, m.name, local), mount: m, in: r.in.Load, out: r.out.Load, fail: r.fail}
	a.info.Mount = m.info.ID
	p.Streams.Register(a)
	defer p.Streams.Deregister(a.info.ID)
	// Close may have begun between begin and Register.
	defer context.AfterFunc(p.ctx, func() { r.fail(&Error{Reason: ReasonShutdown, Detail: "this node was stopped"}) })()
	r.run(p.ctx, lim.idle())
	p.stats.in.Add(r.in.Load())
	p.stats.out.Add(r.out.Load())
}
