package mconn

import (
	"math/bits"
	"sync"
)

// Message buffers that were given back, by the power of two that their capacity
// reaches. Smaller ones cost the collector little, larger ones too much memory
// to keep. They are kept by the magazine, as p2p keeps those it sends from: one of
// each class is at hand on each processor, and full ones go through a pool to where
// messages are received.
const (
	leastRecycled = 8  // 256 bytes
	mostRecycled  = 21 // 2 MiB, not included

	recycledClasses = mostRecycled - leastRecycled
	magazineMost    = 32       // buffers in a magazine
	magazineRoom    = 64 << 10 // bytes in one, about, if that is less; one buffer at least
)

// magazine is a stack of buffers of one class.
type magazine struct {
	n int
	b [magazineMost][]byte
}

// rack is what a processor has at hand: a magazine of each class, or nil.
type rack [recycledClasses]*magazine

var (
	racks          = sync.Pool{New: func() any { return new(rack) }} // one for each processor
	fullMagazines  [recycledClasses]sync.Pool
	emptyMagazines = sync.Pool{New: func() any { return new(magazine) }}
)

// recycledClass is the class of a capacity; false if none is kept of that.
func recycledClass(n int) (class int, ok bool) {
	class = bits.Len(uint(n)) - 1 - leastRecycled
	return class, class >= 0 && class < recycledClasses
}

// Recycle gives the memory of a message from ReceiveMessage back, for later
// messages of any connection. Nobody has to; but who is done with a message,
// having decoded it say, spares the collector most of its work by it, which at
// full speed is a tenth to a fifth of the throughput. The message and whatever
// shares its memory must not be touched afterwards. It may be called from any
// goroutine, after Close too.
func (c *Connection) Recycle(message []byte) { recycle(message) }

func recycle(b []byte) {
	class, ok := recycledClass(cap(b))
	if !ok {
		return
	}
	r := racks.Get().(*rack)
	m := r[class]
	if m == nil {
		m = emptyMagazines.Get().(*magazine)
		r[class] = m
	}
	m.b[m.n] = b[:0]
	if m.n++; m.n == max(1, min(magazineMost, magazineRoom>>(class+leastRecycled))) {
		fullMagazines[class].Put(m)
		r[class] = nil
	}
	racks.Put(r)
}

// buffer returns an empty buffer with room for n bytes: one that was given
// back, or a new one of that size.
func buffer(n int) []byte {
	if class, ok := recycledClass(n); ok {
		if b := given(class); cap(b) >= n {
			return b
		}
	}
	return make([]byte, 0, n)
}

func given(class int) (b []byte) {
	r := racks.Get().(*rack)
	m := r[class]
	if m == nil || m.n == 0 {
		if full, ok := fullMagazines[class].Get().(*magazine); ok {
			if m != nil {
				emptyMagazines.Put(m)
			}
			m, r[class] = full, full
		}
	}
	if m != nil && m.n > 0 {
		m.n--
		b, m.b[m.n] = m.b[m.n], nil
	}
	racks.Put(r)
	return b
}
