package connmgr

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"time"
)

// leastWait is how long the dial loop waits at least before it asks a policy
// again that named a time and no target: a time in the past must not spin.
const leastWait = time.Millisecond

// dialLoop asks the policy while there is room, and waits for Wake or for the
// time it named.
func (e *Engine[A, C]) dialLoop(t *task) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait := time.Duration(-1)
		for e.ctx.Err() == nil {
			more, again := e.dialOne(t)
			if !more {
				wait = again
				break
			}
		}
		var due <-chan time.Time
		if wait >= 0 {
			timer.Reset(max(wait, leastWait))
			due = timer.C
		}
		select {
		case <-due:
		case <-e.wake:
		case <-e.ctx.Done():
			return
		}
	}
}

// dialOne asks once and starts the dial. Without one it says when to ask again;
// below 0: when woken.
func (e *Engine[A, C]) dialOne(t *task) (more bool, again time.Duration) {
	e.mu.Lock()
	if e.dials+e.hung >= e.cfg.MaxDials || !e.gate.roomToDial() {
		e.mu.Unlock()
		return false, -1 // every end of a dial or a connection wakes us
	}
	e.asking = true
	e.mu.Unlock()

	now := e.cfg.Now()
	t.enter(stageNext)
	d, wake, ok := e.cfg.Policy.Next(now)
	t.leave(stageNext)
	if !ok {
		e.mu.Lock()
		e.asking, e.drops = false, nil
		e.mu.Unlock()
		if wake.IsZero() {
			return false, -1
		}
		return false, max(0, wake.Sub(now))
	}

	var ip netip.Addr
	if e.cfg.TargetIP != nil {
		ip = e.cfg.TargetIP(d.Target)
	}
	c := e.newConn(Outbound, originOf(ip, e.cfg.Group))
	c.dial = d
	e.mu.Lock()
	drops := e.drops
	e.asking, e.drops = false, nil
	e.enlist(c)
	refusal := e.gate.dial(&c.permit)
	if refusal == nil {
		e.count.Dialled++
	}
	e.mu.Unlock()
	for _, drop := range drops {
		if drop.match(d) {
			c.end(drop.cause)
		}
	}
	if refusal != nil {
		e.fail(c, refusal)
		e.finish(&c.task)
		return true, 0
	}
	e.run(&c.task, func() { e.dialOut(c) })
	return true, 0
}

// newConn makes a connection that nobody knows yet.
func (e *Engine[A, C]) newConn(d Direction, o origin) *Conn[A, C] {
	c := &Conn[A, C]{e: e, permit: permit{direction: d, origin: o}, done: make(chan struct{})}
	c.task.of = c
	c.pending, c.cancel = context.WithCancelCause(e.ctx)
	return c
}

// enlist makes it known as pending, and a task; the lock is held.
func (e *Engine[A, C]) enlist(c *Conn[A, C]) {
	e.lastID++
	c.id = e.lastID
	e.pending[c.id] = c
	if c.permit.direction == Outbound {
		e.dials++
		e.occupy(c, 1)
	}
	e.begin(&c.task)
}

// occupy counts a dial, or one that is over (n -1), by its kind; the lock is held.
func (e *Engine[A, C]) occupy(c *Conn[A, C], n int) {
	if e.busy[c.dial.Kind] += n; e.busy[c.dial.Kind] == 0 {
		delete(e.busy, c.dial.Kind)
	}
}

// dialOut is the life of an outbound connection, on its goroutine.
func (e *Engine[A, C]) dialOut(c *Conn[A, C]) {
	err := e.connect(c)
	switch {
	case err == errAbandoned:
	case err != nil:
		e.fail(c, err)
	case e.establish(c) == nil:
		e.announce(c)
	}
}

// errAbandoned: the dial was ended while Dial was busy, and that was said.
var errAbandoned = errors.New("abandoned")

// connect dials, and counts the connection under the address it has. When the
// dial is cancelled or takes too long, it is over for the policy and the gate
// at once, even if Dial does not return; it stays one of MaxDials until it does.
func (e *Engine[A, C]) connect(c *Conn[A, C]) error {
	if c.pending.Err() != nil {
		return context.Cause(c.pending)
	}
	ctx, cancel := context.WithTimeout(c.pending, e.cfg.DialTimeout)
	defer cancel()
	unhook := e.onEnd(ctx, func() {
		e.mu.Lock()
		e.hung++
		e.occupy(c, 1)
		e.mu.Unlock()
		e.fail(c, ended(c.pending, ctx, e.cfg.DialTimeout, "dial", nil))
	})
	c.task.enter(stageDial)
	raw, err := e.cfg.Dial(ctx, c.dial.Target)
	c.task.leave(stageDial)
	if err == nil && isNil(raw) {
		err = ErrNoConnection
	}
	said := !unhook()
	over := said || ctx.Err() != nil // it may be over, and the hook not have noticed yet
	if err == nil {
		c.raw, c.opened = raw, true
	}
	if over && err == nil {
		c.closeRaw()
		e.mu.Lock()
		e.count.Late++
		e.mu.Unlock()
	}
	if said {
		e.mu.Lock()
		e.hung--
		e.occupy(c, -1)
		e.mu.Unlock()
		e.Wake()
		return errAbandoned
	}
	if over {
		return ended(c.pending, ctx, e.cfg.DialTimeout, "dial", err)
	}
	if err != nil {
		return err
	}
	if e.cfg.RemoteIP != nil {
		o := originOf(e.cfg.RemoteIP(raw), e.cfg.Group)
		e.mu.Lock()
		refusal := e.gate.move(&c.permit, o)
		e.mu.Unlock()
		if refusal != nil {
			return refusal
		}
	}
	return nil
}

// onEnd runs f on a goroutine of its own, which Run waits for, when ctx ends.
// unhook says that f did not run and will not, which may be so for a moment
// after the end of ctx; false: it did, and has returned.
func (e *Engine[A, C]) onEnd(ctx context.Context, f func()) (unhook func() bool) {
	t, done := new(task), make(chan struct{})
	e.mu.Lock()
	e.begin(t)
	e.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		defer e.finish(t)
		defer close(done)
		f()
	})
	return func() bool {
		if stop() {
			e.finish(t)
			return true
		}
		<-done
		return false
	}
}

// ended says why a step did not count, whatever it returned: it was cancelled,
// or its context, which is over, had no more time.
func ended(parent, ctx context.Context, limit time.Duration, step string, err error) error {
	switch {
	case parent.Err() != nil:
		return context.Cause(parent)
	case err == nil || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("connmgr: the %s took more than %v: %w", step, limit, ctx.Err())
	}
	return fmt.Errorf("connmgr: the %s took more than %v: %w: %w", step, limit, ctx.Err(), err)
}

// isNil reports whether a connection is none: a nil interface, or a nil
// pointer in it.
func isNil(c any) bool {
	if c == nil {
		return true
	}
	v := reflect.ValueOf(c)
	return v.Kind() == reflect.Pointer && v.IsNil()
}
