// Package race connects to the first of several addresses of one peer that
// answers, as RFC 8305 ("Happy Eyeballs") says: a peer of which one address
// hangs is reached at the next one a quarter of a second later.
package race

import (
	"context"
	"io"
	"time"
)

// Stagger is how long one address has before the next is tried beside it: the
// Connection Attempt Delay that RFC 8305 section 8 recommends.
const Stagger = 250 * time.Millisecond

// First dials the addresses in their order: the next one when one has failed, or
// after Stagger. It returns the first connection, or, without one, the error of
// each that was dialled, by its place in the list (nil for the others). dial has
// to heed its context, which ends when there is a winner or ctx ends: First
// returns when every dial has, and closes connections that came too late.
func First[A any, C io.Closer](ctx context.Context, addrs []A, dial func(context.Context, A) (C, error)) (winner C, won bool, errs []error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		at   int
		conn C
		err  error
	}
	results := make(chan result)
	errs = make([]error, len(addrs))
	next := time.NewTimer(Stagger)
	defer next.Stop()
	for started, running, due := 0, 0, true; ; {
		more := started < len(addrs) && !won && ctx.Err() == nil
		if more && due {
			at := started
			started++
			running++
			due = false
			go func() {
				c, err := dial(ctx, addrs[at])
				results <- result{at, c, err}
			}()
			next.Reset(Stagger)
			continue
		}
		if running == 0 { // none failed that another would follow
			return winner, won, errs
		}
		var wait <-chan time.Time
		if more {
			wait = next.C
		}
		select {
		case <-wait:
			due = true
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				errs[r.at] = r.err
				due = true
			case won:
				_ = r.conn.Close()
			default:
				winner, won = r.conn, true
				cancel()
			}
		}
	}
}
