package mconn

import (
	"math/bits"
	"sync"
)

// Message buffers that were given back, by the power of two that their capacity
// reaches. Smaller ones cost the collector little, larger ones too much memory
// to keep.
const (
	leastRecycled = 8  // 256 bytes
	mostRecycled  = 21 // 2 MiB, not included
)

// lent carries a buffer in a pool, so that putting one there allocates nothing.
type lent struct{ b []byte }

var (
	recycled [mostRecycled - leastRecycled]sync.Pool // of *lent with a buffer
	carriers = sync.Pool{New: func() any { return new(lent) }}
)

// Recycle gives the memory of a message from ReceiveMessage back, for later
// messages of any connection. Nobody has to; but who is done with a message,
// having decoded it say, spares the collector most of its work by it, which at
// full speed is a tenth to a fifth of the throughput. The message and whatever
// shares its memory must not be touched afterwards. It may be called from any
// goroutine, after Close too.
func (c *Connection) Recycle(message []byte) { recycle(message) }

func recycle(b []byte) {
	if class := bits.Len(uint(cap(b))) - 1; class >= leastRecycled && class < mostRecycled {
		l := carriers.Get().(*lent)
		l.b = b[:0]
		recycled[class-leastRecycled].Put(l)
	}
}

// buffer returns an empty buffer with room for n bytes: one that was given
// back, or a new one of that size.
func buffer(n int) []byte {
	if class := bits.Len(uint(n)) - 1; class >= leastRecycled && class < mostRecycled {
		if l, ok := recycled[class-leastRecycled].Get().(*lent); ok {
			b := l.b
			l.b = nil
			carriers.Put(l)
			if cap(b) >= n {
				return b
			}
		}
	}
	return make([]byte, 0, n)
}
