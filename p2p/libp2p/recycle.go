package libp2p

import (
	"math/bits"
	"sync"
)

// Messages that were given back, by the power of two that their capacity reaches.
// Shorter ones cost the collector little, longer ones too much memory to keep.
const (
	leastRecycled = 9  // 512 bytes
	mostRecycled  = 21 // 2 MiB, not included
)

// lent carries a buffer in a pool, so that putting one there allocates nothing.
type lent struct{ b []byte }

var (
	recycled [mostRecycled - leastRecycled]sync.Pool // of *lent with a buffer
	carriers = sync.Pool{New: func() any { return new(lent) }}
)

// Recycle gives the memory of a message back, for later messages of any connection.
// Nobody has to; it spares the collector work. The message, and whatever shares its
// memory, must not be touched afterwards. It may be called from any goroutine, after
// Close too.
func (c *Connection) Recycle(message []byte) { recycle(message) }

func recycle(b []byte) {
	class := bits.Len(uint(cap(b))) - 1
	if class < leastRecycled || class >= mostRecycled {
		return
	}
	l := carriers.Get().(*lent)
	l.b = b[:0]
	recycled[class-leastRecycled].Put(l)
}

// buffer returns an empty slice with room for n bytes: one that was given back, or
// a new one of that size.
func buffer(n int) []byte {
	class := bits.Len(uint(n)) - 1
	if class < leastRecycled || class >= mostRecycled {
		return make([]byte, 0, n)
	}
	l, _ := recycled[class-leastRecycled].Get().(*lent)
	if l == nil {
		return make([]byte, 0, n)
	}
	b := l.b
	l.b = nil
	carriers.Put(l)
	if cap(b) < n {
		return make([]byte, 0, n)
	}
	return b
}
