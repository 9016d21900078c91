package p2p

import (
	"math/bits"
	"sync"
)

// Memory of encoded messages that were sent to one peer only, by the power of two
// that their capacity reaches. Smaller ones cost the collector little, larger ones
// too much memory to keep.
const (
	leastFrame = 8  // 256 bytes
	mostFrame  = 21 // 2 MiB, not included
)

// frameHolder carries a buffer in a pool, so that putting one there allocates nothing.
type frameHolder struct{ b []byte }

var (
	frames       [mostFrame - leastFrame]sync.Pool // of *frameHolder with a buffer
	frameHolders = sync.Pool{New: func() any { return new(frameHolder) }}
)

// frameBuffer returns an empty buffer with room for n bytes.
func frameBuffer(n int) []byte {
	if class := bits.Len(uint(n)) - 1; class >= leastFrame && class < mostFrame {
		if h, ok := frames[class-leastFrame].Get().(*frameHolder); ok {
			b := h.b
			h.b = nil
			frameHolders.Put(h)
			if cap(b) >= n {
				return b
			}
		}
	}
	return make([]byte, 0, (n+63)&^63) // for one that is a little longer the next time, too
}

// freeFrame takes back a buffer that nobody will read again.
func freeFrame(b []byte) {
	if class := bits.Len(uint(cap(b))) - 1; class >= leastFrame && class < mostFrame {
		h := frameHolders.Get().(*frameHolder)
		h.b = b[:0]
		frames[class-leastFrame].Put(h)
	}
}
