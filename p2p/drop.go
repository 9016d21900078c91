package p2p

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that say why a message was not queued. Every one of them is counted
// too, under the DropReason of the same meaning.
var (
	// ErrQueueFull says that the queue towards a peer has no room and its policy
	// is not to wait. The message was not queued; slow down or let it go.
	ErrQueueFull = errors.New("p2p: queue full")
	// ErrQueueClosed says that the queue closed: the peer's session ended, or the
	// channel was closed.
	ErrQueueClosed = errors.New("p2p: queue closed")
	// ErrChannelUnsupported says that there is no such channel towards this peer:
	// it did not announce it, or the transport cannot carry it.
	ErrChannelUnsupported = errors.New("p2p: channel not supported by the peer")
	// ErrMessageTooLarge says that a message is longer than its channel allows.
	// The receiver would close the connection over it, so it is not sent.
	ErrMessageTooLarge = errors.New("p2p: message too large")
)

// DropReason says why a message was not carried. The numbers are stable and
// only ever added to.
type DropReason uint8

// The reasons. Those marked (refused) befall a message before it is queued, and
// its sender is told by an error; the others befall a queued one, and only the
// counter tells.
const (
	// DropFull (refused, for outbound): no room.
	DropFull DropReason = iota
	// DropOldest: a newer message took its place.
	DropOldest
	// DropDeadline: its deadline passed before its first chunk was sent.
	DropDeadline
	// DropClosed: it was waiting when its queue closed.
	DropClosed
	// DropCut: the connection ended when a part of it, at least, had been sent.
	DropCut
	// DropUnsupported (refused): the peer does not have the channel.
	DropUnsupported
	// DropTooLarge (refused): longer than the channel allows.
	DropTooLarge
	// DropGone (refused): it came after its queue had closed.
	DropGone
	// DropCancelled (refused): its sender stopped waiting for room.
	DropCancelled

	numDropReasons = iota
)

var dropNames = [numDropReasons]string{"full", "oldest", "deadline", "closed", "cut", "unsupported", "too-large", "gone", "cancelled"}

// String is a short name, such as "deadline".
func (r DropReason) String() string {
	if int(r) < len(dropNames) {
		return dropNames[r]
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// Refused reports whether the reason befalls a message before it is queued for
// sending.
func (r DropReason) Refused() bool {
	switch r {
	case DropFull, DropUnsupported, DropTooLarge, DropGone, DropCancelled:
		return true
	}
	return false
}

// err is what the sender of a refused message is told.
func (r DropReason) err() error {
	switch r {
	case DropFull:
		return ErrQueueFull
	case DropUnsupported:
		return ErrChannelUnsupported
	case DropTooLarge:
		return ErrMessageTooLarge
	}
	return ErrQueueClosed
}

// Drops counts messages by the reason they were dropped for; the index is the
// DropReason.
type Drops [numDropReasons]uint64

// Total is the sum over all reasons.
func (d Drops) Total() uint64 {
	var n uint64
	for _, c := range d {
		n += c
	}
	return n
}

// refused is the sum over the reasons that befall a message before it is queued.
func (d Drops) refused() uint64 {
	var n uint64
	for r, c := range d {
		if DropReason(r).Refused() {
			n += c
		}
	}
	return n
}

func (d *Drops) add(other Drops) {
	for r, c := range other {
		d[r] += c
	}
}

// String lists the reasons that were seen: "full=3 cut=1", or "none".
func (d Drops) String() string {
	var b strings.Builder
	for r, c := range d {
		if c > 0 {
			fmt.Fprintf(&b, "%s=%d ", DropReason(r), c)
		}
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()[:b.Len()-1]
}
