package dispatch

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// Subscriber is one receiver of the messages of a type. It may be registered
// with one Dispatcher at a time.
type Subscriber struct {
	id          any
	messageType string
	dedup       bool
	priority    Priority
	weight      int

	ch    chan<- Message // one of the two
	queue *queue

	duplicates      atomic.Uint64
	delivered, full atomic.Uint64 // of the channel
}

// NewSubscriber makes a subscriber whose messages go into a channel. A message
// for which the channel has no room is dropped and counted: nothing waits for
// it. With dedup, messages with content that came before are left out, unless they
// were dropped; weight says how much its messages are worth (see Policy). The channel is never closed.
func NewSubscriber(id any, ch chan Message, dedup bool, messageType string, weight int) *Subscriber {
	return &Subscriber{id: id, messageType: messageType, dedup: dedup, weight: weightOf(weight), ch: ch}
}

// newQueued makes a subscriber with a queue of ours.
func newQueued(id any, messageType string, p Policy, changed func()) *Subscriber {
	return &Subscriber{
		id: id, messageType: messageType, dedup: p.Dedup, priority: p.Priority, weight: weightOf(p.Weight),
		queue: newQueue(p, changed),
	}
}

// ID is what NewSubscriber was given.
func (s *Subscriber) ID() any { return s.id }

// MessageType is what NewSubscriber was given.
func (s *Subscriber) MessageType() string { return s.messageType }

// Weight is that of its messages as it counts: 0 to MaxWeight.
func (s *Subscriber) Weight() int { return s.weight }

func (s *Subscriber) is(r registered) bool { return r.Subscriber == s }

// offer hands over messages, as far as there is room, and marks those that were
// taken. missed is what was lost before. It does not block.
func (s *Subscriber) offer(run []parcel, missed *losses) {
	if s.queue != nil {
		s.duplicates.Add(s.queue.push(run, missed, int32(s.weight)))
		return
	}
	for i := range run {
		p := &run[i]
		if missed.repeats(p) {
			s.duplicates.Add(1)
			continue
		}
		select {
		case s.ch <- p.m:
			s.delivered.Add(1)
			p.taken, p.worth = true, max(p.worth, int32(s.weight))
			missed.took(p)
		default:
			s.full.Add(1)
			missed.lost(p)
		}
	}
}

// maxMissed is how many messages that a subscriber lost are remembered.
const maxMissed = 4096

// losses are the messages that a subscriber lost, by who brought them, so that a peer
// that sends more than there is room for does not have those forgotten that others
// brought: a copy of one would then count as one that the subscriber had. nil: the
// subscriber wants duplicates. Not safe for concurrent use.
type losses struct {
	*shares
	up func(p2p.NodeID) bool // whether a peer has a share of its own; nil: none has
}

// repeats says whether a message is one that the subscriber had before.
func (s *losses) repeats(p *parcel) bool {
	return s != nil && p.repeat && !s.has(p.digest, time.Now())
}

func (s *losses) took(p *parcel) {
	if s != nil && p.repeat {
		s.remove(p.digest)
	}
}

func (s *losses) lost(p *parcel) {
	if s == nil || !p.hashed {
		return
	}
	var from p2p.NodeID
	if s.up != nil && s.up(p.m.MessageFrom()) {
		from = p.m.MessageFrom()
	}
	s.add(p.digest, from, time.Now())
}

// SubscriberStats counts the messages of one subscriber.
type SubscriberStats struct {
	ID          string // as fmt prints it, cut after 64 bytes
	MessageType string
	// Delivered went into its channel or queue, Queued wait there now. What was
	// offered to it is the sum of Delivered, Duplicates and what was dropped but for
	// DroppedOldest.
	Delivered   uint64
	Queued      int
	QueuedBytes int // 0 for a channel
	// Duplicates were left out because content like theirs had come before.
	Duplicates uint64
	// DroppedNewest, and DroppedOldest to make room, are what it lost for being
	// slow. DroppedLarge messages are longer than the queue, and DroppedClosed came
	// after its end.
	DroppedNewest, DroppedOldest, DroppedLarge, DroppedClosed uint64
	// Held is how many peers are asked to hold back messages now.
	Held int
}

// Dropped is the sum of what was lost.
func (s SubscriberStats) Dropped() uint64 {
	return s.DroppedNewest + s.DroppedOldest + s.DroppedLarge + s.DroppedClosed
}

// Stats are the counts now.
func (s *Subscriber) Stats() SubscriberStats {
	id := fmt.Sprint(s.id)
	st := SubscriberStats{
		ID: id[:min(len(id), 64)], MessageType: s.messageType,
		Delivered: s.delivered.Load(), Duplicates: s.duplicates.Load(), DroppedNewest: s.full.Load(),
	}
	if s.queue == nil {
		st.Queued = len(s.ch)
		return st
	}
	var dropped [numDrops]uint64
	st.Queued, st.QueuedBytes, st.Delivered, dropped = s.queue.depth()
	st.DroppedNewest, st.DroppedOldest = dropped[droppedNewest], dropped[droppedOldest]
	st.DroppedLarge, st.DroppedClosed = dropped[droppedLarge], dropped[droppedClosed]
	st.Held = len(s.queue.held())
	return st
}
