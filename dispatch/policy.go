package dispatch

import (
	"cmp"
	"errors"
	"fmt"
)

// Priority is how urgent messages are, on their way to peers and in the
// Dispatcher's inbox. A higher one goes first; none starves another for ever.
type Priority int8

// The priorities.
const (
	PriorityLow    Priority = -1
	PriorityNormal Priority = 0
	PriorityHigh   Priority = 1
)

// lanes is how many priorities there are; lane 0 is the most urgent.
const lanes = 3

// lane is the place of a priority, clipped to those there are.
func (p Priority) lane() int { return int(PriorityHigh - min(max(p, PriorityLow), PriorityHigh)) }

// String is "low", "normal" or "high".
func (p Priority) String() string { return [lanes]string{"high", "normal", "low"}[p.lane()] }

// Overflow says what happens to a message for which a subscription has no room.
type Overflow uint8

const (
	// DropOldest drops the oldest messages until the new one fits: for news that
	// outdates what it follows. The default.
	DropOldest Overflow = iota
	// DropNewest drops the new message.
	DropNewest
	// Hold keeps a queue for each peer, and asks a peer whose queue is half full
	// to send no more messages of the type directly, until a quarter is left. Its
	// sends return ErrHeldBack meanwhile. What it sends all the same is dropped
	// when its queue is full; no other peer and no other subscription notices.
	// Published messages come by everybody, so that asking one peer does not stop
	// them: what does not fit is dropped.
	Hold
)

// String is the name of the constant.
func (o Overflow) String() string {
	switch o {
	case DropOldest:
		return "drop-oldest"
	case DropNewest:
		return "drop-newest"
	case Hold:
		return "hold"
	}
	return fmt.Sprintf("overflow-%d", uint8(o))
}

// Weights.
const (
	// DefaultWeight is what a weight of 0 means.
	DefaultWeight = 1
	// MaxWeight is the largest weight. Larger ones are cut to it.
	MaxWeight = 1000
	// NoWeight, as any negative weight, is that of messages that earn their
	// senders nothing.
	NoWeight = -1
)

// weightOf is a weight as it counts: 0 to MaxWeight.
func weightOf(w int) int {
	if w == 0 {
		return DefaultWeight
	}
	return min(max(w, 0), MaxWeight)
}

// Policy is how a subscription treats its messages. The zero value of a field is
// its default.
type Policy struct {
	// Queue and QueueBytes bound what waits for the subscriber: messages, and
	// bytes of their data. With Hold that is what waits of one peer, and of all
	// peers together eight times as much. Defaults 1,024 and 4 MiB.
	Queue, QueueBytes int
	// Overflow says what happens when that is full. Default DropOldest.
	Overflow Overflow
	// Dedup leaves out a message with the data of an earlier one, if that came within
	// DispatcherOptions.FilterAge, whoever sent the two. An earlier one for which there
	// was no room does not count, and its copy is taken; with DropOldest it does,
	// since what was dropped had been outdated. Without Dedup, what two peers send
	// comes twice. The copies that the network makes of one published message never
	// come, with or without it. Default: off.
	Dedup bool
	// Priority is that of the messages in the Dispatcher's inbox: what is more
	// urgent is handed out first. Default PriorityNormal.
	Priority Priority
	// Weight is how much these messages are worth, compared with others: see
	// Options.ScoreEvery. 0 is DefaultWeight, NoWeight is none.
	Weight int
}

const maxQueue = 1 << 24 // messages; and times 1 KiB the bytes

func (p Policy) withDefaults() Policy {
	p.Queue = cmp.Or(p.Queue, 1024)
	p.QueueBytes = cmp.Or(p.QueueBytes, 4<<20)
	return p
}

// validate reports every fault of a policy that has its defaults, joined.
func (p Policy) validate() error {
	var faults []error
	if p.Queue < 1 || p.Queue > maxQueue {
		faults = append(faults, fmt.Errorf("dispatch: Policy.Queue is %d, at least 1 and at most %d", p.Queue, maxQueue))
	}
	if p.QueueBytes < 1 || p.QueueBytes > maxQueue<<10 {
		faults = append(faults, fmt.Errorf("dispatch: Policy.QueueBytes is %d, at least 1 and at most %d", p.QueueBytes, maxQueue<<10))
	}
	if p.Overflow > Hold {
		faults = append(faults, fmt.Errorf("dispatch: unknown Policy.Overflow %d", p.Overflow))
	}
	if p.Priority < PriorityLow || p.Priority > PriorityHigh {
		faults = append(faults, fmt.Errorf("dispatch: unknown Policy.Priority %d", p.Priority))
	}
	return errors.Join(faults...)
}
