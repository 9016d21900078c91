package rpc

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/kith-p2p/kith/stream"
)

// What is known of how a peer speaks.
const (
	speaksUnknown = iota
	speaksFramed
	speaksPlain
)

// plainMemory is how long a peer is taken to speak the plain wire only, before
// it is offered the framed one again.
const plainMemory = 10 * time.Minute

// clientPeer is what a client holds about one peer. Client.mu guards all of it
// but id and gather.
type clientPeer struct {
	id        peer.ID
	gather    gather
	speaks    int
	speaksAt  time.Time // when that was found
	zstd      bool      // it reads zstd
	openEnded bool      // it does not end streams of the plain wire when we have
	idle      []*clientLink
	busy      int       // places taken: calls, and streams that are being opened or drained
	streaming int       // of these, by streaming calls
	waiting   list.List // of *place
	usedAt    int64     // by clock
}

// place is a caller that waits for its turn to have a stream.
type place struct {
	streaming bool
	ready     chan struct{} // closed when it has its place
}

// clientLink is one stream with the caller's end of the protocol. It belongs
// to one call at a time.
type clientLink struct {
	link
	c  *Client
	p  *clientPeer
	id uint64 // the newest call

	pings   pingCount
	gone    bool // the peer takes no call after this one
	cut     bool // a frame was sent in part: the stream can carry nothing more
	reused  bool
	idleAt  int64        // by clock; guarded by Client.mu
	began   atomic.Int64 // when a call that ReadTimeout bounds began, by clock; 0: none; expired: it is over
	stalled atomic.Bool
}

// expired in began says that the janitor has released the call.
const expired = -1

// check is the janitor's look at a stream in a call.
func (l *clientLink) check() {
	if w := l.writing.Load(); w != 0 && l.clock.passed(w, l.c.cfg.WriteTimeout) {
		l.stalled.Store(true)
		_ = l.conn.SetDeadline(longAgo)
	}
	if b := l.began.Load(); b > 0 && l.clock.passed(b, l.c.cfg.ReadTimeout) {
		l.expire(b)
	}
}

// expire ends the call that began at b, unless it has ended: ReadTimeout has passed.
func (l *clientLink) expire(b int64) {
	if l.began.CompareAndSwap(b, expired) {
		_ = l.conn.SetDeadline(longAgo)
	}
}

// peerOf finds or makes what is held about a peer. The caller holds mu.
func (c *Client) peerOf(id peer.ID) *clientPeer {
	p := c.peers[id]
	if p == nil {
		p = &clientPeer{id: id}
		c.peers[id] = p
	}
	p.usedAt = c.clock.now.Load()
	if p.speaks == speaksPlain && time.Since(p.speaksAt) > plainMemory {
		p.speaks = speaksUnknown
	}
	return p
}

// room says whether a call may have a place now. The caller holds mu.
func (c *Client) room(p *clientPeer, streaming bool) bool {
	most := c.cfg.MaxConnsPerPeer
	return p.busy < most && (!streaming || p.streaming < max(most*3/4, 1))
}

func (p *clientPeer) enter(streaming bool) {
	p.busy++
	if streaming {
		p.streaming++
	}
}

// leaveLocked gives a place back, to who waits for it longest. The caller holds mu.
func (c *Client) leaveLocked(p *clientPeer, streaming bool) {
	p.busy--
	if streaming {
		p.streaming--
	}
	for e := p.waiting.Front(); e != nil; {
		next := e.Next()
		w := e.Value.(*place)
		if !c.room(p, false) {
			return
		}
		if c.room(p, w.streaming) {
			p.enter(w.streaming)
			p.waiting.Remove(e)
			close(w.ready)
		}
		e = next
	}
}

// enter blocks until a call to the peer has a place. It comes with a stream
// from the pool, if there is one, and with what is known of the peer.
func (c *Client) enter(ctx context.Context, id peer.ID, streaming bool) (p *clientPeer, l *clientLink, speaks int, err error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, nil, 0, ErrClientClosed
	}
	p = c.peerOf(id)
	if c.room(p, streaming) {
		p.enter(streaming)
		l, speaks = c.idleLocked(p), p.speaks
		c.mu.Unlock()
		return p, l, speaks, nil
	}
	w := &place{streaming, make(chan struct{})}
	e := p.waiting.PushBack(w)
	c.mu.Unlock()
	select {
	case <-w.ready:
		c.mu.Lock()
		defer c.mu.Unlock()
		return p, c.idleLocked(p), p.speaks, nil
	case <-ctx.Done():
	case <-c.done:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-w.ready: // just now
		c.leaveLocked(p, streaming)
	default:
		p.waiting.Remove(e)
	}
	if ctx.Err() != nil {
		return nil, nil, 0, ctx.Err()
	}
	return nil, nil, 0, ErrClientClosed
}

// leave gives a place back that no stream was opened for.
func (c *Client) leave(p *clientPeer, streaming bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaveLocked(p, streaming)
}

// idleLocked takes the stream that was used last from the pool, or returns nil.
// The caller holds mu.
func (c *Client) idleLocked(p *clientPeer) *clientLink {
	for n := len(p.idle) - 1; n >= 0; n-- {
		l := p.idle[n]
		p.idle[n] = nil
		p.idle = p.idle[:n]
		c.idle--
		if s := l.conn.Stream(); s == nil || !s.Conn().IsClosed() {
			c.reused.Add(1)
			return l
		}
		c.dropLocked(l) // with its connection
	}
	return nil
}

// open opens a stream to the peer.
func (c *Client) open(ctx context.Context, p *clientPeer, id protocol.ID, limited bool) (*clientLink, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.ConnectTimeout, errConnectTimeout)
	defer cancel()
	opts := []stream.DialOption{stream.WithConfirm()}
	if c.known(p, id) {
		opts[0] = stream.WithLazy() // the hello leaves with the first frame
	}
	if limited {
		opts = append(opts, stream.WithAllowLimited())
	}
	conn, err := stream.Dial(ctx, c.h, p.id, id, opts...)
	if err != nil {
		if context.Cause(ctx) == errConnectTimeout {
			return nil, &Error{Code: CodeUnavailable, Message: "no stream to the peer within ConnectTimeout", Refused: true, cause: errors.Join(errUnreachable, err)}
		}
		if errors.Is(err, stream.ErrNoSuchService) {
			c.dials.Add(1)
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	l := &clientLink{c: c, p: p}
	l.init(conn.(*stream.Conn), c.bufs, &c.clock)
	l.in.hold = true
	l.squeeze.on, l.squeeze.min = c.cfg.EnableCompression, c.cfg.CompressMinSize
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = l.conn.Reset()
		return nil, ErrClientClosed
	}
	l.accepts = p.zstd
	c.links[l] = struct{}{}
	c.dials.Add(1)
	return l, nil
}

// known says whether the peer speaks a protocol, as it has shown or told. Who may
// not is asked first: libp2p programs of older and other make take what follows a
// hello that they refuse for another hello and reset the stream without a reason,
// and the refusal may be lost with it.
func (c *Client) known(p *clientPeer, id protocol.ID) bool {
	c.mu.Lock()
	framed := p.speaks == speaksFramed
	c.mu.Unlock()
	if framed && id == Protocol {
		return true
	}
	got, err := c.h.Peerstore().SupportsProtocols(p.id, id)
	return err == nil && len(got) > 0
}

// finish ends a call on a stream: it goes back to the pool if it is clean, and
// is closed otherwise, unless it was reset. The place is given back.
func (c *Client) finish(l *clientLink, clean, streaming bool) {
	// Bytes after the answer can only be the peer's goodbye.
	again := clean && l.in.buffered() == 0 && !l.gone
	l.in.giveBack()
	c.mu.Lock()
	if l.accepts {
		l.p.zstd = true
	}
	again = again && !c.closed && c.idle < c.cfg.MaxIdleConns
	if again {
		l.idleAt = c.clock.now.Load()
		l.reused = true
		l.p.idle = append(l.p.idle, l)
		c.idle++
	} else {
		c.dropLocked(l)
	}
	c.leaveLocked(l.p, streaming)
	c.mu.Unlock()
	if clean && !again {
		_ = l.conn.Close()
	}
}

// dropLocked forgets a stream; whoever calls has reset it, or is about to
// close it. The caller holds mu.
func (c *Client) dropLocked(l *clientLink) { delete(c.links, l) }

// dropIdle closes the pooled streams to a peer: it has said that it goes away.
func (c *Client) dropIdle(p *clientPeer) {
	c.mu.Lock()
	idle := p.idle
	p.idle = nil
	c.idle -= len(idle)
	for _, l := range idle {
		c.dropLocked(l)
	}
	c.mu.Unlock()
	for _, l := range idle {
		_ = l.conn.Close()
	}
}

// learn notes how a peer speaks.
func (c *Client) learn(p *clientPeer, speaks int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.speaks != speaks {
		p.speaks, p.speaksAt = speaks, time.Now()
		if speaks == speaksPlain {
			c.fallbacks.Add(1)
		}
	}
}

// peerMemory is how long a peer without streams is remembered.
const peerMemory = 2 * plainMemory

// janitor releases calls that take too long, closes streams that were not used
// for long, and forgets peers.
func (c *Client) janitor() {
	t := time.NewTicker(c.clock.every)
	defer t.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-t.C:
		}
		c.clock.now.Store(tick())
		var old, all []*clientLink
		c.mu.Lock()
		for id, p := range c.peers {
			// The oldest are in front: the last used is the first taken.
			n := 0
			for n < len(p.idle) && c.clock.passed(p.idle[n].idleAt, c.cfg.IdleConnTimeout) {
				old = append(old, p.idle[n])
				c.dropLocked(p.idle[n])
				n++
			}
			if n > 0 {
				p.idle = slices.Clone(p.idle[n:])
				c.idle -= n
			}
			if p.busy == 0 && len(p.idle) == 0 && p.waiting.Len() == 0 && c.clock.passed(p.usedAt, peerMemory) {
				delete(c.peers, id)
			}
		}
		for l := range c.links {
			all = append(all, l)
		}
		c.mu.Unlock()
		for _, l := range old {
			_ = l.conn.Close()
		}
		for _, l := range all {
			l.check()
		}
	}
}
