package connmgr

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"
	"time"
)

// A Conn is one connection of an Engine. Its methods are safe for concurrent
// use and, but for Close and CloseWith, do not block.
//
// The engine does not read from a connection, so it cannot see that the other
// side hung up: whoever reads from it must call Close when it ends.
type Conn[A any, C io.Closer] struct {
	// Set before the Conn is announced, then only read.
	e        *Engine[A, C]
	id       uint64
	dial     Dial[A] // zero for inbound
	raw      C
	identity string
	since    time.Time

	// permit is guarded by e.mu, but its direction and origin are not written
	// any more when the Conn is announced.
	permit permit

	// pending is the context of dial and handshake, and cancel ends it with a
	// cause; both nil once it is up. Guarded by e.mu, but for reads by the
	// connection's own goroutine, which alone writes them.
	pending context.Context
	cancel  context.CancelCauseFunc

	task      task
	opened    bool // raw is set; only the connection's goroutine uses it
	rawClosed atomic.Bool
	closing   atomic.Bool
	done      chan struct{}
	cause     error // written before done is closed, read after

	useful     atomic.Uint64
	lastUseful atomic.Int64 // Unix nanoseconds, 0 never
	rtt        atomic.Int64
	protected  atomic.Bool
}

// ID is the connection's number: from 1 on, never used twice by one Engine.
func (c *Conn[A, C]) ID() uint64 { return c.id }

// Direction says who opened it.
func (c *Conn[A, C]) Direction() Direction { return c.permit.direction }

// Kind says what it is for; KindInbound if somebody else opened it.
func (c *Conn[A, C]) Kind() Kind { return c.dial.Kind }

// Dial is the policy's decision that led to it; zero for inbound ones.
func (c *Conn[A, C]) Dial() Dial[A] { return c.dial }

// Raw is the connection itself, as Dial or Accept returned it. Do not close it:
// the engine would go on counting it. Use Close.
func (c *Conn[A, C]) Raw() C { return c.raw }

// RemoteIP is the address the connection is counted under, without zone, an
// embedded IPv4 address in place of the IPv6 one around it; the zero Addr if
// it is not known.
func (c *Conn[A, C]) RemoteIP() netip.Addr { return c.permit.origin.ip }

// Group is the address group it is counted under; "" if not known.
func (c *Conn[A, C]) Group() string { return c.permit.origin.group }

// Identity is what EngineConfig.Identify said.
func (c *Conn[A, C]) Identity() string { return c.identity }

// Since is when it was established.
func (c *Conn[A, C]) Since() time.Time { return c.since }

// Done is closed when the connection is closed, counted out, and its end told
// to the policy; before Disconnected is called.
func (c *Conn[A, C]) Done() <-chan struct{} { return c.done }

// Err is nil until Done is closed, then the cause: what CloseWith was given,
// or ErrClosed, ErrDropped, ErrEvicted, ErrStopped.
func (c *Conn[A, C]) Err() error {
	select {
	case <-c.done:
		return c.cause
	default:
		return nil
	}
}

// Close is CloseWith(ErrClosed).
func (c *Conn[A, C]) Close() error { return c.CloseWith(ErrClosed) }

// CloseWith closes the connection, gives its place back, tells the policy, and
// lets Disconnected run, with the cause (nil: ErrClosed). All of it happens
// once: a second call, also at the same time, does nothing and returns nil. It
// blocks as long as the Close of the connection itself, whose error it returns,
// and the policy's Ended.
func (c *Conn[A, C]) CloseWith(cause error) error {
	_, err := c.close(cause)
	return err
}

// close is CloseWith; first says whether it was the first.
func (c *Conn[A, C]) close(cause error) (first bool, err error) {
	if !c.closing.CompareAndSwap(false, true) {
		return false, nil
	}
	if cause == nil {
		cause = ErrClosed
	}
	c.cause = cause
	c.task.enter(stageClose)
	err = c.closeRaw()
	c.task.leave(stageClose)
	e := c.e
	e.mu.Lock()
	delete(e.conns, c.id)
	e.gate.release(&c.permit)
	e.count.Closed++
	e.mu.Unlock()
	now := e.cfg.Now()
	if c.permit.direction == Outbound {
		c.ended(Outcome{Established: true, Lived: max(0, now.Sub(c.since)), Cause: cause, At: now})
	}
	e.hub.emit(c.event(EventDisconnected, now, cause))
	close(c.done)
	e.Wake()
	return true, err
}

// closeRaw closes the connection itself, once.
func (c *Conn[A, C]) closeRaw() error {
	if !c.rawClosed.CompareAndSwap(false, true) {
		return nil
	}
	return c.raw.Close()
}

// ended tells the policy, outside every lock.
func (c *Conn[A, C]) ended(o Outcome) {
	c.task.enter(stageEnded)
	c.e.cfg.Policy.Ended(c.dial, o)
	c.task.leave(stageEnded)
}

// end ends the connection in whatever phase it is: its dial or handshake is
// cancelled, or it is closed. It reports whether that had any effect.
func (c *Conn[A, C]) end(cause error) bool {
	e := c.e
	e.mu.Lock()
	if _, pending := e.pending[c.id]; pending {
		first := c.pending.Err() == nil
		c.cancel(cause) // runs nothing of others under the lock: hooks have goroutines of their own
		e.mu.Unlock()
		return first
	}
	_, up := e.conns[c.id]
	e.mu.Unlock()
	if !up {
		return false
	}
	first, _ := c.close(cause)
	return first
}

// NoteUseful records useful work of the peer, in any unit of the caller's:
// what was asked for and came, say. The most recently useful are the last to
// be evicted.
func (c *Conn[A, C]) NoteUseful(n uint64) {
	c.useful.Add(n)
	c.lastUseful.Store(c.e.cfg.Now().UnixNano())
}

// NoteRTT records a measured round trip time; the last one counts. Values
// below 1 are ignored.
func (c *Conn[A, C]) NoteRTT(d time.Duration) {
	if d > 0 {
		c.rtt.Store(int64(d))
	}
}

// Protect keeps the connection from being evicted, or no longer.
func (c *Conn[A, C]) Protect(on bool) { c.protected.Store(on) }

// String names the connection in logs, such as "connection 7 (outbound,
// permanent, 192.0.2.1)".
func (c *Conn[A, C]) String() string {
	s := fmt.Sprintf("connection %d (%s", c.id, c.permit.direction)
	if c.permit.direction == Outbound {
		s += ", " + c.dial.Kind.String()
	}
	if ip := c.permit.origin.ip; ip.IsValid() {
		s += ", " + ip.String()
	}
	return s + ")"
}

// event is something that happened to the connection.
func (c *Conn[A, C]) event(t EventType, now time.Time, cause error) Event {
	return Event{
		Type: t, At: now, ID: c.id, Direction: c.permit.direction, Kind: c.dial.Kind, Tag: c.dial.Tag,
		IP: c.permit.origin.ip, Identity: c.identity, Cause: cause,
	}
}

func (c *Conn[A, C]) candidate() Candidate {
	k := Candidate{
		ID: c.id, IP: c.permit.origin.ip, Group: c.permit.origin.group, Identity: c.identity, Since: c.since,
		RTT: time.Duration(c.rtt.Load()), Useful: c.useful.Load(), Protected: c.protected.Load(),
	}
	if at := c.lastUseful.Load(); at != 0 {
		k.LastUseful = time.Unix(0, at)
	}
	return k
}
