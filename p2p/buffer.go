package p2p

import (
	"math/bits"
	"sync"
)

// Buffers that were given back, by the power of two that their capacity reaches.
// Smaller ones cost the collector little, larger ones too much memory to keep.
//
// A sync.Pool that holds thousands of buffers, and gets back on one processor what
// was taken on another, costs more than what it saves. So buffers are put there by
// the magazine (Bonwick and Adams, "Magazines and Vmem", 2001): each processor has
// one of each class at hand, and full and empty ones change hands.
const (
	leastKept = 8  // 256 bytes
	mostKept  = 21 // 2 MiB, not included

	bufferClasses = mostKept - leastKept
	magazineMost  = 32       // buffers in a magazine
	magazineRoom  = 64 << 10 // bytes in one, about, if that is less; one buffer at least
)

// magazine is a stack of buffers of one class.
type magazine struct {
	n int
	b [magazineMost][]byte
}

// rack is what a processor has at hand: a magazine of each class, or nil.
type rack [bufferClasses]*magazine

var (
	racks          = sync.Pool{New: func() any { return new(rack) }} // one for each processor
	fullMagazines  [bufferClasses]sync.Pool
	emptyMagazines = sync.Pool{New: func() any { return new(magazine) }}
)

// magazineSize is how many buffers of a class a magazine takes.
func magazineSize(class int) int { return max(1, min(magazineMost, magazineRoom>>(class+leastKept))) }

// bufferClass is the class of a capacity; false if none is kept of that.
func bufferClass(n int) (class int, ok bool) {
	class = bits.Len(uint(n)) - 1 - leastKept
	return class, class >= 0 && class < bufferClasses
}

// Buffer returns an empty slice with room for n bytes, and for less than 2n if n is
// 256 or more: one that was given to Recycle, whose bytes beyond its length are not
// cleared, or a new one. It is for transports and whoever else encodes or receives
// many messages; it does not block and may be called from any goroutine.
func Buffer(n int) []byte {
	class, ok := bufferClass(n)
	if !ok {
		return make([]byte, 0, n)
	}
	if b := takeBuffer(class); cap(b) >= n {
		return b
	}
	return make([]byte, 0, min((n+63)&^63, 2<<(class+leastKept)-1)) // for one that is a little longer the next time, too
}

func takeBuffer(class int) (b []byte) {
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

// Recycle takes back a buffer, from wherever it came, for a later Buffer anywhere in
// the process. It and whatever shares its memory must not be touched afterwards.
// Nobody has to call it. One of less than 256 bytes, or of 2 MiB and more, is left
// to the collector. It does not block and may be called from any goroutine.
func Recycle(b []byte) {
	class, ok := bufferClass(cap(b))
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
	if m.n++; m.n == magazineSize(class) {
		fullMagazines[class].Put(m)
		r[class] = nil
	}
	racks.Put(r)
}
