package peers

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// again is how often a look-up with reset tells gRPC to stop waiting, until an attempt begins. Once would do, but for
// the moment between the end of an attempt and the wait after it, when gRPC does not listen.
const again = 100 * time.Millisecond

// waiter is a look-up that waits for a channel. channel.mu guards refusal and wake.
type waiter struct {
	after   int                // results of attempts up to this number do not count
	refusal error              // why it waits in vain
	wake    context.CancelFunc // ends its present wait
}

// wait returns nil when the channel may be handed out: it is ready, or idle and known to work.
func (c *channel) wait(ctx context.Context, cc *grpc.ClientConn, reset bool) error {
	state := cc.GetState()
	if state == connectivity.Ready || state == connectivity.Idle && c.works(reset) {
		return nil
	}
	w, err := c.arrive(state, reset)
	if err != nil {
		return err
	}
	defer c.depart(w)
	for {
		if done, err := c.step(ctx, cc, w, reset); done {
			return err
		}
	}
}

// step waits for one change. It returns true when the wait is over, with how it ended.
func (c *channel) step(ctx context.Context, cc *grpc.ClientConn, w *waiter, reset bool) (bool, error) {
	now, cancel := context.WithCancel(ctx)
	defer cancel()
	begun, refusal := c.look(w, cancel)
	state := cc.GetState()
	switch {
	case state == connectivity.Ready:
		c.calm()
		return true, nil
	case state == connectivity.Shutdown:
		return true, c.whyShut()
	case refusal != nil:
		return true, refusal
	case ctx.Err() != nil:
		return true, c.gaveUp(ctx.Err())
	case state == connectivity.Idle:
		cc.Connect()
	case state == connectivity.TransientFailure && reset && !begun:
		// In this state only: gRPC goes over its subchannels without a lock, and now it makes none.
		cc.ResetConnectBackoff()
		var stop context.CancelFunc
		now, stop = context.WithTimeout(now, again)
		defer stop()
	}
	cc.WaitForStateChange(now, state)
	return false, nil
}

// calm drops a reset that was asked for when there was nothing left to reset.
func (c *channel) calm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset = false
}

// works says whether an idle channel may be handed out. If so, and with reset, its next attempt resets the breakers.
func (c *channel) works(reset bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset = c.reset || reset && c.proven
	return c.proven
}

// arrive registers a look-up. It returns an error if it is known that waiting is of no use.
func (c *channel) arrive(state connectivity.State, reset bool) (*waiter, error) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !reset && state == connectivity.TransientFailure && now.Before(c.heldUntil) && c.last != nil {
		return nil, c.last
	}
	w := &waiter{after: c.tries, wake: func() {}}
	switch {
	case c.trying && (!reset || c.resetting):
		w.after-- // the result of the attempt under way is as good as that of the next
	case reset:
		c.reset = true
	}
	if c.waiters == nil {
		c.waiters = make(map[*waiter]struct{})
	}
	c.waiters[w] = struct{}{}
	return w, nil
}

func (c *channel) depart(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if delete(c.waiters, w); len(c.waiters) == 0 {
		c.waiters = nil
	}
}

// look says whether an attempt that counts for w has begun, and why w waits in vain, if it does. From then on wake is
// called when that changes.
func (c *channel) look(w *waiter, wake context.CancelFunc) (begun bool, refusal error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.wake = wake
	return c.tries > w.after, w.refusal
}

// whyShut says who closed the channel.
func (c *channel) whyShut() error {
	select {
	case <-c.b.down:
		return ErrClosed
	default:
		return ErrRemoved
	}
}

// gaveUp is the error of a caller whose context ended.
func (c *channel) gaveUp(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		return err
	}
	return fmt.Errorf("%w; the last attempt: %w", err, c.last)
}
