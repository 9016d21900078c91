package p2p

import (
	"math/bits"
	"sync"
)

// SendPolicy says what happens to a message for which the queue of its channel
// towards a peer has no room.
type SendPolicy uint8

const (
	// SendDropNewest refuses the new message with ErrQueueFull. The default.
	SendDropNewest SendPolicy = iota
	// SendDropOldest drops the oldest messages of the channel that were not begun
	// until the new one fits: for news that outdates what it follows.
	SendDropOldest
	// SendBlock makes the sender wait, in order of arrival, until there is room or
	// its context ends. Sends that must not wait (a broadcast, TrySend) are refused
	// with ErrQueueFull instead.
	SendBlock
)

// ReceivePolicy says what happens to a received message for which the queue of
// its channel has no room.
type ReceivePolicy uint8

const (
	// ReceiveDropNewest drops the new message. The default.
	ReceiveDropNewest ReceivePolicy = iota
	// ReceiveDropOldest drops the oldest queued messages until the new one fits.
	ReceiveDropOldest
	// ReceivePause stops reading the channel from that peer until there is room, so
	// that the peer is slowed down instead. Only for transports with flow control
	// for each channel: elsewhere it would stop the peer's other channels.
	ReceivePause
)

// queueLimits bound a queue: how many messages and how many bytes it may hold.
// Both are hard and both are at least 1.
type queueLimits struct{ messages, bytes int }

// takes reports whether n more bytes in one more message fit beside what is held.
func (l queueLimits) takes(messages, bytes, n int) bool {
	return messages < l.messages && n <= l.bytes-bytes
}

// fifo is a queue in a ring that doubles when full. The zero value is empty and
// ready. It gives its memory back when it drains after a burst: to rings, if it has
// one. Not safe for concurrent use.
type fifo[T any] struct {
	buf   []T // length is a power of two, or 0
	head  int
	n     int
	rings *ringPool // of rings of T; nil: they are left to the collector
}

// ringPool keeps the rings of fifos of one type, by the power of two of their length,
// so that a queue that fills and drains all the time need not allocate them each
// time. They are empty.
type ringPool [bits.UintSize]sync.Pool // of *[]T

// fifoKeep is the length of ring an empty fifo keeps for the next burst.
const fifoKeep = 256

func (f *fifo[T]) len() int { return f.n }

// at is the element i places behind the front.
func (f *fifo[T]) at(i int) *T { return &f.buf[(f.head+i)&(len(f.buf)-1)] }

func (f *fifo[T]) front() *T { return f.at(0) }

func (f *fifo[T]) push(v T) {
	if f.n == len(f.buf) {
		grown := f.ring(max(8, 2*len(f.buf)))
		k := copy(grown, f.buf[f.head:])
		copy(grown[k:], f.buf[:f.head])
		f.dismiss()
		f.buf, f.head = grown, 0
	}
	f.n++
	*f.at(f.n - 1) = v
}

func (f *fifo[T]) pop() T {
	var zero T
	slot := f.front()
	v := *slot
	*slot = zero
	f.head = (f.head + 1) & (len(f.buf) - 1)
	f.shrunk()
	return v
}

func (f *fifo[T]) popBack() T {
	var zero T
	slot := f.at(f.n - 1)
	v := *slot
	*slot = zero
	f.shrunk()
	return v
}

func (f *fifo[T]) shrunk() {
	if f.n--; f.n == 0 && len(f.buf) > fifoKeep {
		f.dismiss()
		f.buf, f.head = nil, 0
	}
}

// ring is an empty ring of a length that is a power of two.
func (f *fifo[T]) ring(n int) []T {
	if f.rings != nil && n > fifoKeep {
		if kept, ok := f.rings[bits.Len(uint(n))-1].Get().(*[]T); ok {
			return *kept
		}
	}
	return make([]T, n)
}

// dismiss gives the ring away: nobody looks at it any more.
func (f *fifo[T]) dismiss() {
	if ring := f.buf; f.rings != nil && len(ring) > fifoKeep {
		if f.n > 0 {
			clear(ring)
		}
		f.rings[bits.Len(uint(len(ring)))-1].Put(&ring)
	}
}

// remove takes out the element i places behind the front; the others keep their
// order. It moves i elements.
func (f *fifo[T]) remove(i int) T {
	v := *f.at(i)
	for ; i > 0; i-- {
		*f.at(i) = *f.at(i - 1)
	}
	f.pop()
	return v
}
