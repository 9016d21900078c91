package rpc

import (
	"container/list"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound the calls of one method or of one peer.
type Limits struct {
	// Concurrent is how many may run at one time. 0: the default of where the
	// Limits stand.
	Concurrent int
	// Queue is how many more may wait for their turn. 0: as many as
	// Concurrent; -1: none.
	Queue int
	// QueueTime is how long each may wait, but no longer than
	// ServerConfig.ReadTimeout, than its deadline and than its caller. Default 1 s.
	QueueTime time.Duration
	// Rate is how many may start in a second, on average. 0: no limit.
	Rate float64
	// Burst is how many may start at once after a pause. Default: Rate rounded
	// up.
	Burst int
}

func (l Limits) withDefaults(concurrent int) Limits {
	l.Concurrent = or(l.Concurrent, concurrent)
	l.Queue = max(or(l.Queue, l.Concurrent), 0)
	l.QueueTime = or(l.QueueTime, time.Second)
	l.Burst = or(l.Burst, int(math.Ceil(min(l.Rate, math.MaxInt32))))
	return l
}

// limiter admits calls, first come, first served. Who is not admitted learns
// when to come back.
type limiter struct {
	limits Limits
	rate   *rate.Limiter // nil: none

	mu      sync.Mutex // guards what follows
	running int
	waiting list.List     // of chan struct{}, closed by who makes room
	average time.Duration // of the running time of the last calls
}

// newLimiter wants limits with defaults.
func newLimiter(l Limits) *limiter {
	m := &limiter{limits: l}
	if l.Rate > 0 {
		m.rate = rate.NewLimiter(rate.Limit(l.Rate), l.Burst)
	}
	return m
}

// minRetryAfter is the least that a refused caller is told to wait.
const minRetryAfter = 10 * time.Millisecond

// wait bounds the time in a queue further than QueueTime does.
type wait struct {
	most   time.Duration   // 0: no further bound
	stop   <-chan struct{} // closed by Stop
	caller interface {     // nil: nobody gives up
		// gone is asked once there is something to wait for. It is closed when
		// the caller wants no answer any more.
		gone() <-chan struct{}
	}
}

// full says, before a request is read, whether it would be turned away now, and
// if so when to come back. It takes no place.
func (m *limiter) full() (retryAfter time.Duration, full bool) {
	if m.rate != nil {
		if short := 1 - m.rate.Tokens(); short > 0 {
			return max(time.Duration(short/m.limits.Rate*float64(time.Second)), minRetryAfter), true
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running < m.limits.Concurrent || m.waiting.Len() < m.limits.Queue {
		return 0, false
	}
	return m.retryAfter(), true
}

// acquire takes a place. It blocks for at most QueueTime and as w says. If it
// refuses, it says when to come back.
func (m *limiter) acquire(w wait) (retryAfter time.Duration, ok bool) {
	if m.rate != nil {
		r := m.rate.Reserve()
		if !r.OK() {
			return time.Second, false
		}
		if d := r.Delay(); d > 0 {
			r.Cancel()
			return max(d, minRetryAfter), false
		}
	}
	m.mu.Lock()
	if m.running < m.limits.Concurrent {
		m.running++
		m.mu.Unlock()
		return 0, true
	}
	if m.waiting.Len() >= m.limits.Queue {
		d := m.retryAfter()
		m.mu.Unlock()
		return d, false
	}
	turn := make(chan struct{})
	e := m.waiting.PushBack(turn)
	m.mu.Unlock()

	most := m.limits.QueueTime
	if w.most > 0 {
		most = min(most, w.most)
	}
	var gone <-chan struct{}
	if w.caller != nil {
		gone = w.caller.gone()
	}
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-turn:
		return 0, true
	case <-timer.C:
	case <-w.stop:
	case <-gone:
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-turn: // just now
		return 0, true
	default:
		m.waiting.Remove(e)
		return m.retryAfter(), false
	}
}

// retryAfter guesses when the queue as it is will have been served. The caller
// holds mu.
func (m *limiter) retryAfter() time.Duration {
	d := m.average * time.Duration(m.waiting.Len()+1) / time.Duration(m.limits.Concurrent)
	return min(max(d, minRetryAfter), 30*time.Second)
}

// release ends a call that ran for d. Its place goes to who waits longest.
func (m *limiter) release(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.average += (d - m.average) / 8
	if e := m.waiting.Front(); e != nil {
		close(m.waiting.Remove(e).(chan struct{}))
		return
	}
	m.running--
}

// load says how many run and how many wait.
func (m *limiter) load() (running, waiting int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running, m.waiting.Len()
}
