package rpc

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Caller is who calls what: the peer is proven by the handshake of the
// connection below.
type Caller struct {
	Peer   peer.ID
	Method string // the protocol ID
}

type callerKey struct{}

// CallerFromContext returns, in a handler, who called. It returns false for a
// context that is not a handler's.
func CallerFromContext(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(*callContext)
	if !ok {
		return Caller{}, false
	}
	return c.caller, true
}

// callContext is the context of a handler. It ends when the caller cancels or
// is lost, when the deadline that came with the call passes, when Stop runs out
// of patience, and when the handler returns.
//
// Somebody must read the stream to notice a cancel. For the many handlers that
// never look at their context that would be a goroutine for nothing, so reading
// begins (watch) when the context is first asked whether it has ended.
type callContext struct {
	base     context.Context // the server's
	caller   Caller
	deadline time.Time          // zero: none
	watch    func(*callContext) // nil: something reads already

	mu     sync.Mutex // guards what follows
	inner  context.Context
	cancel context.CancelCauseFunc
	timer  context.CancelFunc
	ended  bool
}

var _ context.Context = (*callContext)(nil)

// real returns the context behind, made on first use. The caller holds mu.
func (c *callContext) real() context.Context {
	if c.inner == nil {
		c.inner, c.cancel = context.WithCancelCause(c.base)
		c.timer = func() {}
		if !c.deadline.IsZero() {
			c.inner, c.timer = context.WithDeadline(c.inner, c.deadline)
		}
		if c.ended {
			c.cancel(nil)
			c.timer()
		}
	}
	return c.inner
}

// observed is real for who wants to know when it ends.
func (c *callContext) observed() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	inner := c.real()
	if c.watch != nil && !c.ended {
		c.watch(c) // starts a goroutine
		c.watch = nil
	}
	return inner
}

// Deadline implements context.Context.
func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Done implements context.Context.
func (c *callContext) Done() <-chan struct{} { return c.observed().Done() }

// Err implements context.Context.
func (c *callContext) Err() error { return c.observed().Err() }

// Value implements context.Context. Contexts made from this one find the
// context behind by it, and need no goroutine to follow its end.
func (c *callContext) Value(key any) any {
	if key == (callerKey{}) {
		return c
	}
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner == nil {
		inner = c.base
	}
	return inner.Value(key)
}

// stop ends the context for a cause. If nobody has looked yet, whoever does
// finds it ended.
func (c *callContext) stop(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.real()
	c.cancel(cause)
}

// end is for after the handler. It returns the cause if the context had ended
// before.
func (c *callContext) end() (cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.inner != nil {
		cause = context.Cause(c.inner)
		c.cancel(nil)
		c.timer()
	}
	return cause
}
