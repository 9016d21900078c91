package tunnel

import (
	"sync"
	"sync/atomic"
)

// Buffer sizes for copying. A connection starts at 16 KiB, grows by a factor
// of four while reads fill what it has, and holds nothing while it waits. (Over
// QUIC, where nothing tells that a stream is readable, it holds 4 KiB.)
const (
	bufFloor = 4 << 10
	bufStart = 16 << 10
	bufMax   = 256 << 10

	// bufBudget caps what all connections of one node hold together, above a
	// floor of 4 KiB each.
	bufBudget = 64 << 20
	// bufShare keeps a few connections with stuck readers from taking it all:
	// one may take a size only while that is at most 1/16 of what is left, so
	// sizes step down as the budget runs out (dynamic thresholds, Choudhury
	// and Hahne 1998).
	bufShare = 16
)

// buffers lends copy buffers and counts what is out. Safe for concurrent use.
type buffers struct {
	used  atomic.Int64
	pools [4]sync.Pool // by class: 4, 16, 64, 256 KiB
}

func classOf(size int) int {
	switch {
	case size >= bufMax:
		return 3
	case size >= 64<<10:
		return 2
	case size >= bufStart:
		return 1
	}
	return 0
}

func classSize(class int) int { return bufFloor << (2 * class) }

// get lends a buffer of at most the wanted size: less when the budget is
// short, never less than the floor. It never blocks.
func (b *buffers) get(want int) *[]byte {
	class := classOf(want)
	for class > 0 {
		size := int64(classSize(class))
		left := bufBudget - b.used.Load()
		if size*bufShare <= left {
			b.used.Add(size)
			break
		}
		class--
	}
	if p, ok := b.pools[class].Get().(*[]byte); ok {
		return p
	}
	buf := make([]byte, classSize(class))
	return &buf
}

// put takes a buffer back.
func (b *buffers) put(p *[]byte) {
	class := classOf(len(*p))
	if class > 0 {
		b.used.Add(-int64(len(*p)))
	}
	b.pools[class].Put(p)
}

// framePayload is what go-yamux carries in one message: 64 KiB less a header of
// 12 bytes.
const framePayload = 64<<10 - 12

// usable is how much of a buffer to read into: whole messages, so that a large
// read does not end in a message of a few bytes, which the other side would
// take for the end of a burst.
func usable(size int) int {
	if size < 64<<10 {
		return size
	}
	return size / (64 << 10) * framePayload
}

// nextSize is the size to ask for after a read of n bytes into a buffer of size
// bytes.
func nextSize(size, n int) int {
	switch {
	case n >= usable(size) && size < bufMax:
		return min(bufMax, max(4*bufStart, size*4))
	case n <= size/8 && size > bufStart:
		return size / 4
	}
	return max(size, bufStart)
}
