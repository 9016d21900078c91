package transport

import (
	"sync"
	"sync/atomic"
	"time"
)

// EventKind says what happened to a breaker.
type EventKind uint8

// The kinds of Event.
const (
	Tripped EventKind = iota + 1 // it opened
	Reset                        // it closed: a trial succeeded, or by Breaker.Reset
	Fail                         // a failure was counted
	Ready                        // the wait is over: it became half-open. Seen by the next Allow or State, not by a timer
)

// String returns "tripped", "reset", "fail" or "ready".
func (k EventKind) String() string {
	switch k {
	case Tripped:
		return "tripped"
	case Reset:
		return "reset"
	case Fail:
		return "fail"
	case Ready:
		return "ready"
	}
	return "unknown"
}

// Event is one change of one breaker. Those of one breaker arrive in the order in which they happened.
type Event struct {
	Kind     EventKind
	Name     string    // of the breaker
	At       time.Time // by the clock of the Options
	Failures int64     // in a row, with this one; for Fail and Tripped
	RetryAt  time.Time // for Tripped: when the next trial is let through
	Err      error     // for Fail: what the attempt ended with
}

// eventBuffer is how many events wait for a subscriber before further ones are dropped.
const eventBuffer = 256

// subscribers are those who want the events. The mutex guards the list and orders sends, which never block, against
// closing the channels.
type subscribers struct {
	any     atomic.Bool // the list is not empty
	dropped atomic.Uint64

	mu   sync.Mutex
	list []chan Event
}

func (s *subscribers) add() <-chan Event {
	c := make(chan Event, eventBuffer)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, c)
	s.any.Store(true)
	return c
}

func (s *subscribers) remove(c <-chan Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, have := range s.list {
		if have == c {
			close(have)
			s.list = append(s.list[:i:i], s.list[i+1:]...)
			s.any.Store(len(s.list) > 0)
			return
		}
	}
}

func (s *subscribers) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.list)
}

func (s *subscribers) send(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.list {
		select {
		case c <- e:
		default:
			s.dropped.Add(1)
		}
	}
}
