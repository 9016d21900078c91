package connmgr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"
)

// EventType says what happened.
type EventType uint8

// The types of events. The numbers are stable.
const (
	_ EventType = iota
	// EventConnected: a connection passed every check and is up.
	EventConnected
	// EventDisconnected: it was closed; Cause says why.
	EventDisconnected
	// EventFailed: an outbound connection was refused, or its dial, handshake or
	// admission failed; Cause says why.
	EventFailed
	// EventFloodBegan and EventFloodEnded: flood mode (Limits.FloodRate). Its
	// end is noticed by the next attempt, or by Inspect.
	EventFloodBegan
	EventFloodEnded
)

var eventNames = []string{"", "connected", "disconnected", "failed", "flood-began", "flood-ended"}

// String is the type in lower case, such as "flood-began".
func (t EventType) String() string {
	if t > 0 && int(t) < len(eventNames) {
		return eventNames[t]
	}
	return fmt.Sprintf("event(%d)", uint8(t))
}

// MarshalText is String, for JSON and logs.
func (t EventType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// An Event is one thing that happened, as it was then. For one connection
// EventConnected comes before EventDisconnected, always. Refused inbound
// attempts are no events, but counters (Snapshot.Refused): there may be any
// number of them.
type Event struct {
	Type      EventType
	At        time.Time
	ID        uint64 // of the connection; 0 for floods
	Direction Direction
	Kind      Kind
	Tag       uint64 // the policy's, for outbound ones
	IP        netip.Addr
	Identity  string
	Cause     error
	// Missed is how many events were lost just before this one because the
	// subscriber was too slow. After a loss, Inspect says what is up.
	Missed uint64
}

// eventsKept is how many events wait for a slow subscriber: some 150 KiB.
const eventsKept = 1024

// ErrSubscriptionClosed is returned by Events.Next after Events.Close.
var ErrSubscriptionClosed = errors.New("connmgr: the subscription is closed")

// Events is one subscriber's ordered view of what happens. The engine never
// waits for it: at most 1,024 events are kept, then the oldest are dropped and
// counted in Missed. Next is for one goroutine at a time; Close for any.
type Events struct {
	hub   *hub
	ready chan struct{} // holds a token when there may be something new

	// Guarded by hub.mu.
	queue  []Event // a ring of n events from head on; grows up to eventsKept
	head   int
	n      int
	missed uint64
	closed bool // by Close
}

// Next returns the next event, and blocks until there is one. It returns
// io.EOF after the last event of an engine whose Run has ended,
// ErrSubscriptionClosed after Close, or the context's error.
func (s *Events) Next(ctx context.Context) (Event, error) {
	for {
		if ev, err, ok := s.take(); ok {
			return ev, err
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

func (s *Events) take() (ev Event, err error, ok bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	switch {
	case s.closed:
		return ev, ErrSubscriptionClosed, true
	case s.n > 0:
		ev, s.queue[s.head] = s.queue[s.head], Event{}
		s.head = (s.head + 1) % len(s.queue)
		s.n--
		ev.Missed, s.missed = s.missed, 0
		return ev, nil, true
	case s.hub.over:
		return ev, io.EOF, true
	}
	return ev, nil, false
}

// put adds an event; the hub's lock is held. When the ring is full the oldest
// goes.
func (s *Events) put(ev Event) {
	if s.n == len(s.queue) && s.n < eventsKept {
		grown := make([]Event, max(16, 2*s.n))
		for i := range s.n {
			grown[i] = s.queue[(s.head+i)%s.n]
		}
		s.queue, s.head = grown, 0
	}
	if s.n == len(s.queue) {
		s.head = (s.head + 1) % len(s.queue)
		s.n--
		s.missed++
	}
	s.queue[(s.head+s.n)%len(s.queue)] = ev
	s.n++
	s.wake()
}

func (s *Events) wake() {
	select {
	case s.ready <- struct{}{}:
	default: // a token is there already
	}
}

// Close ends the subscription and releases a waiting Next. It never blocks; a
// second call does nothing.
func (s *Events) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.closed = true
	s.queue = nil
	delete(s.hub.subscribers, s)
	s.wake()
}

// A hub hands events to subscribers. Its mutex is the innermost: emit is called
// with and without the engine's, and calls nobody.
type hub struct {
	mu          sync.Mutex
	subscribers map[*Events]struct{}
	over        bool
}

func (h *hub) subscribe() *Events {
	s := &Events{hub: h, ready: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.subscribers[s] = struct{}{}
	}
	return s
}

func (h *hub) emit(ev Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subscribers {
		s.put(ev)
	}
}

// end lets every subscriber read what is queued, then io.EOF.
func (h *hub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	for s := range h.subscribers {
		s.wake()
	}
	h.subscribers = nil
}

// Subscribe returns a subscription to what happens from now on. It costs
// nothing while nothing happens, and must be closed. In any phase; after Run
// has ended its Next returns io.EOF.
func (e *Engine[A, C]) Subscribe() *Events { return e.hub.subscribe() }
