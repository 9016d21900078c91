package transport

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/kith-p2p/kith/internal/backoff"
	ma "github.com/multiformats/go-multiaddr"
)

// State is the state of a Breaker.
type State uint8

// The states of a Breaker.
const (
	Closed   State = iota // everything passes
	Open                  // nothing passes until the wait is over
	HalfOpen              // one trial at a time passes
)

// String returns "closed", "open" or "half-open".
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case HalfOpen:
		return "half-open"
	}
	return "unknown"
}

// Breaker holds back attempts at something that keeps failing (see the package comment). Panel.Lookup makes them. Safe
// for concurrent use; it has no goroutine and no timer, and nothing blocks on it.
//
// It is one of a Panel, which may forget it in favour of others: look it up for each attempt rather than keep it.
type Breaker struct {
	panel      *Panel
	key        string   // see key; never changes
	prev, next *Breaker // owned by Panel.mu
	where      *list    // owned by Panel.mu: the list it is in, nil once evicted

	// mu guards what follows. Panel.mu may be held when it is taken, never the other way round; subscribers.mu is taken
	// under it.
	mu sync.Mutex
	// done reports the result of an attempt of this generation; nil until the first Allow. All attempts of a generation
	// share it, which is why Allow allocates nothing.
	done func(error)
	// gen counts the generations: it grows with each change of state. A result of an earlier one is ignored.
	gen uint64
	// pending is how many attempts of this generation have not reported.
	pending int64
	// failures counts those in a row; in Open and HalfOpen it is what led there.
	failures int64
	// until is the end of the wait in Open, and of the patience with the trial in HalfOpen if one is pending.
	until time.Time
	opens int32 // how often it opened since it last closed: the exponent of the wait
	state State
}

// Name returns the text of the address that the breaker is for.
func (b *Breaker) Name() string { return nameOf(b.key) }

// nameOf returns the text of a key. It is made when wanted: kept, it would be half of a breaker's memory.
func nameOf(key string) string {
	if key == "" || key[0] == textKey {
		return key[min(len(key), 1):]
	}
	m, err := ma.NewMultiaddrBytes([]byte(key))
	if err != nil {
		return ""
	}
	return m.String()
}

// Allow asks whether an attempt may be made now. If so, the caller makes it and reports how it ended with done: nil is
// a success, an error that is context.Canceled counts as nothing, any other error is a failure. Otherwise err is an
// *OpenError, which matches ErrBreakerOpen, and done is nil.
//
// Call done once, from any goroutine. Whatever it is called beyond that is harmless to this extent: a trial's result
// counts once, never more results count than attempts were allowed, and results from before the breaker last changed
// its state count for nothing. Without done a trial holds the half-open breaker for twice Options.Timeout, after which
// the next one is let through.
//
// It never blocks; in state Closed it takes tens of nanoseconds and allocates nothing.
func (b *Breaker) Allow() (done func(error), err error) {
	b.mu.Lock()
	if b.state == Closed && b.done != nil {
		b.pending++
		done = b.done
		b.mu.Unlock()
		return done, nil
	}
	defer b.mu.Unlock()
	if b.state != Closed {
		now := b.panel.opts.Now()
		b.advance(now)
		if b.state == Open || b.pending > 0 && now.Before(b.until) {
			return nil, &OpenError{Name: b.Name(), RetryAt: b.until, Wait: b.until.Sub(now), Trial: b.state == HalfOpen}
		}
		if b.pending > 0 {
			b.renew() // the trial before is given up
		}
		b.until = now.Add(b.panel.patience)
	}
	if b.done == nil {
		gen := b.gen
		b.done = func(err error) { b.report(gen, err) }
	}
	b.pending++
	return b.done, nil
}

// renew begins a generation.
func (b *Breaker) renew() {
	b.gen++
	b.done, b.pending = nil, 0
}

// advance makes an open breaker half-open when its wait is over.
func (b *Breaker) advance(now time.Time) {
	if b.state == Open && !now.Before(b.until) {
		b.renew()
		b.state = HalfOpen
		b.emit(Event{Kind: Ready, At: now})
	}
}

// report takes the result of an attempt.
func (b *Breaker) report(gen uint64, err error) {
	cancelled := errors.Is(err, context.Canceled)
	if f, ok := err.(*failure); ok {
		err = f.error
	}
	b.mu.Lock()
	if gen != b.gen || b.pending == 0 {
		b.mu.Unlock()
		return
	}
	b.pending--
	was := b.state
	switch {
	case cancelled:
	case err != nil:
		now := b.panel.opts.Now()
		b.failures++
		b.emit(Event{Kind: Fail, At: now, Failures: b.failures, Err: err})
		if b.state == HalfOpen || b.failures >= b.panel.opts.Threshold {
			b.open(now)
		}
	case b.state == HalfOpen:
		b.close()
	default:
		b.failures = 0
	}
	b.unlock(was)
}

// open opens the breaker for longer than the last time.
func (b *Breaker) open(now time.Time) {
	b.renew()
	b.state = Open
	b.opens = min(b.opens, math.MaxInt32-1) + 1
	o := &b.panel.opts
	b.until = now.Add(backoff.Delay(int(b.opens), o.Backoff, o.MaxBackoff, o.Random()))
	b.emit(Event{Kind: Tripped, At: now, Failures: b.failures, RetryAt: b.until})
}

// close closes the breaker and forgets what was.
func (b *Breaker) close() {
	was := b.state
	b.renew()
	b.state, b.failures, b.opens, b.until = Closed, 0, 0, time.Time{}
	if was != Closed {
		b.emit(Event{Kind: Reset, At: b.panel.opts.Now()})
	}
}

// unlock ends a change that may have left the state was.
func (b *Breaker) unlock(was State) {
	moved := (was == Closed) != (b.state == Closed)
	b.mu.Unlock()
	if moved {
		b.panel.refile(b)
	}
}

// emit tells the subscribers. It is called under mu, so that they hear of changes in their order, and never blocks.
func (b *Breaker) emit(e Event) {
	if s := &b.panel.subs; s.any.Load() {
		e.Name = b.Name()
		s.send(e)
	}
}

// Trip opens the breaker as a failed trial would: it lets the next attempt through after a wait. If it is open already,
// nothing changes. Attempts under way are not stopped, but their results no longer count.
func (b *Breaker) Trip() {
	b.mu.Lock()
	was, now := b.state, b.panel.opts.Now()
	if b.advance(now); b.state != Open {
		b.open(now)
	}
	b.unlock(was)
}

// Reset closes the breaker and forgets all failures. Results of attempts that are under way no longer count.
func (b *Breaker) Reset() {
	b.mu.Lock()
	was := b.state
	if was != Closed || b.failures > 0 || b.pending > 0 {
		b.close()
	}
	b.unlock(was)
}

// State returns the state as Allow would see it now.
func (b *Breaker) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == Open {
		b.advance(b.panel.opts.Now())
	}
	return b.state
}

// Call runs f if Allow permits it, and reports what f returned, which Call returns too; if not, the error is Allow's.
//
// With a timeout above 0, Call returns after that time with an error that is context.DeadlineExceeded, which counts as
// a failure. f then still runs, in a goroutine of its own, and its result is lost: f must end by itself in bounded time
// and clean up after itself. With a timeout of 0 or less, f runs in the caller's goroutine without limit.
//
// A panic of f counts as a failure and goes on in the caller, or where f runs if the caller no longer waits. The end of
// its goroutine (runtime.Goexit) counts as a failure too.
func (b *Breaker) Call(f func() error, timeout time.Duration) error {
	done, err := b.Allow()
	if err != nil {
		return err
	}
	if timeout <= 0 {
		err := errNotEnded
		defer func() { done(err) }()
		err = f()
		return err
	}
	results, late := make(chan outcome), make(chan struct{})
	go run(f, results, late)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case o := <-results:
		done(o.err)
		if o.panicked != nil {
			panic(o.panicked)
		}
		return o.err
	case <-timer.C:
		close(late)
		err := &timeoutError{timeout}
		done(err)
		return fmt.Errorf("transport: %s: %w", clip(b.Name()), err)
	}
}
