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
	// QueueTime is how long each may wait. Default 1 s.
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

// acquire blocks for at most QueueTime, or until stop is closed. If it refuses,
// it says when to come back.
func (m *limiter) acquire(stop <-chan struct{}) (retryAfter time.Duration, ok bool) {
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

	timer := time.NewTimer(m.limits.QueueTime)
	defer timer.Stop()
	select {
	case <-turn:
		return 0, true
	case <-timer.C:
	case <-stop:
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
