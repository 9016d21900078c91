package p2p

import (
	"math/bits"
	"sync"
)

// Memory of encoded messages that were sent to one peer only, by the power of two
// that their capacity reaches. Smaller ones cost the collector little, larger ones
// too much memory to keep.
//
// A sync.Pool that holds thousands of buffers, and gets back on one processor what
// was taken on another, costs more than what it saves. So buffers are put there by
// the magazine (Bonwick and Adams, "Magazines and Vmem", 2001): each processor has
// one of each class at hand, and full and empty ones change hands.
const (
	leastFrame = 8  // 256 bytes
	mostFrame  = 21 // 2 MiB, not included

	frameClasses = mostFrame - leastFrame
	magazineMost = 32       // buffers in a magazine
	magazineRoom = 64 << 10 // bytes in one, about, if that is less; one buffer at least
)

// magazine is a stack of buffers of one class.
type magazine struct {
	n int
	b [magazineMost][]byte
}

// frameRack is what a processor has at hand: a magazine of each class, or nil.
type frameRack [frameClasses]*magazine

var (
	frameRacks     = sync.Pool{New: func() any { return new(frameRack) }} // one for each processor
	fullMagazines  [frameClasses]sync.Pool
	emptyMagazines = sync.Pool{New: func() any { return new(magazine) }}
)

// magazineSize is how many buffers of a class a magazine takes.
func magazineSize(class int) int { return max(1, min(magazineMost, magazineRoom>>(class+leastFrame))) }

// frameClass is the class of a capacity; false if none is kept of that.
func frameClass(n int) (class int, ok bool) {
	class = bits.Len(uint(n)) - 1 - leastFrame
	return class, class >= 0 && class < frameClasses
}

// frameBuffer returns an empty buffer with room for n bytes.
func frameBuffer(n int) []byte {
	if class, ok := frameClass(n); ok {
		if b := takeFrame(class); cap(b) >= n {
			return b
		}
	}
	return make([]byte, 0, (n+63)&^63) // for one that is a little longer the next time, too
}

func takeFrame(class int) (b []byte) {
	rack := frameRacks.Get().(*frameRack)
	m := rack[class]
	if m == nil || m.n == 0 {
		if full, ok := fullMagazines[class].Get().(*magazine); ok {
			if m != nil {
				emptyMagazines.Put(m)
			}
			m, rack[class] = full, full
		}
	}
	if m != nil && m.n > 0 {
		m.n--
		b, m.b[m.n] = m.b[m.n], nil
	}
	frameRacks.Put(rack)
	return b
}

// freeFrame takes back a buffer that nobody will read again.
func freeFrame(b []byte) {
	class, ok := frameClass(cap(b))
	if !ok {
		return
	}
	rack := frameRacks.Get().(*frameRack)
	m := rack[class]
	if m == nil {
		m = emptyMagazines.Get().(*magazine)
		rack[class] = m
	}
	m.b[m.n] = b[:0]
	if m.n++; m.n == magazineSize(class) {
		fullMagazines[class].Put(m)
		rack[class] = nil
	}
	frameRacks.Put(rack)
}
