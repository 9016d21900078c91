package addrbook

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// maxBucket is how many slots a bucket can have: the bits of a word.
const maxBucket = 64

// slot is a place in a table.
type slot struct {
	bucket uint16
	pos    uint8
}

// bucket holds up to 64 entries. used and due are sets of positions.
type bucket struct {
	slots     [maxBucket]*entry
	used, due uint64
	readyAt   int32 // place in table.ready; -1 when nothing is due
}

// table is one of the two halves of the book. Buckets are made when first
// used, and given back when empty. A pick takes any bucket that has something
// due, then anything due in it: so many entries in few buckets, as of a
// flood from few sources, count as few buckets.
type table struct {
	buckets []*bucket
	size    int
	count   int      // occupied slots
	ready   []uint16 // buckets with something due
}

func newTable(buckets, size int) *table {
	return &table{buckets: make([]*bucket, buckets), size: size}
}

// find returns the slot for an entry that belongs into bucket b, at or after
// position start, or the entry that stands at start when the bucket is full.
func (t *table) find(b uint16, start uint8) (s slot, opponent *entry) {
	bk := t.buckets[b]
	if bk == nil {
		return slot{b, start}, nil
	}
	for i := range t.size {
		pos := uint8((int(start) + i) % t.size)
		if bk.used&(1<<pos) == 0 {
			return slot{b, pos}, nil
		}
	}
	return slot{b, start}, bk.slots[start]
}

func (t *table) put(s slot, e *entry) {
	bk := t.buckets[s.bucket]
	if bk == nil {
		bk = &bucket{readyAt: -1}
		t.buckets[s.bucket] = bk
	}
	bk.slots[s.pos] = e
	bk.used |= 1 << s.pos
	t.count++
}

func (t *table) clear(s slot) {
	t.setDue(s, false)
	bk := t.buckets[s.bucket]
	bk.slots[s.pos] = nil
	bk.used &^= 1 << s.pos
	t.count--
	if bk.used == 0 {
		t.buckets[s.bucket] = nil
	}
}

// setDue says whether the entry in s may be picked.
func (t *table) setDue(s slot, due bool) {
	bk := t.buckets[s.bucket]
	if due {
		bk.due |= 1 << s.pos
		if bk.readyAt < 0 {
			bk.readyAt = int32(len(t.ready))
			t.ready = append(t.ready, s.bucket)
		}
		return
	}
	bk.due &^= 1 << s.pos
	if bk.due == 0 && bk.readyAt >= 0 {
		last := t.ready[len(t.ready)-1]
		t.ready[bk.readyAt] = last
		t.buckets[last].readyAt = bk.readyAt
		t.ready = t.ready[:len(t.ready)-1]
		bk.readyAt = -1
	}
}

// pick returns any due entry, nil if none is; random is a number in [0,1).
func (t *table) pick(random func() float64) *entry {
	if len(t.ready) == 0 {
		return nil
	}
	bk := t.buckets[t.ready[below(random, len(t.ready))]]
	due := bk.due
	for range below(random, bits.OnesCount64(due)) {
		due &= due - 1
	}
	return bk.slots[bits.TrailingZeros64(due)]
}

// below returns a number in [0,n).
func below(random func() float64, n int) int {
	return max(0, min(n-1, int(random()*float64(n))))
}

// hasher places addresses by a secret that is kept with the book, so that
// nobody outside can tell which addresses share a bucket, and all stay where
// they are over a restart. It is SHA-256 over secret, tag and the parts with
// their lengths, cut to 64 bits: what is cut away is what a length extension
// would need, and nothing of it is ever shown.
type hasher struct{ secret [32]byte }

func (h *hasher) sum(tag byte, parts ...string) uint64 {
	var space [256]byte
	b := append(append(space[:0], h.secret[:]...), tag)
	for _, p := range parts {
		b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
	}
	sum := sha256.Sum256(b)
	return binary.LittleEndian.Uint64(sum[:])
}

// The tags of the hashes.
const (
	tagNewSpread = iota
	tagNewBucket
	tagNewPosition
	tagTriedSpread
	tagTriedBucket
	tagTriedPosition
)

// How many buckets the addresses of one group of sources may reach among the
// new, and the addresses of one group among the tried (Bitcoin Core's).
const (
	newSpread   = 64
	triedSpread = 8
)

// newPlace returns the bucket for an address of one group taught by a source
// of another: of all the buckets, the source has newSpread, and each of its
// groups of addresses has one of these. Position is where in the bucket to
// look first, and whose place is in question when the bucket is full.
func (h *hasher) newPlace(t *table, group, source, url string) (b uint16, position uint8) {
	spread := [1]byte{byte(h.sum(tagNewSpread, source, group) % newSpread)}
	b = uint16(h.sum(tagNewBucket, source, string(spread[:])) % uint64(len(t.buckets)))
	return b, h.newPosition(t, b, url)
}

func (h *hasher) newPosition(t *table, b uint16, url string) uint8 {
	n := [2]byte{byte(b >> 8), byte(b)}
	return uint8(h.sum(tagNewPosition, string(n[:]), url) % uint64(t.size))
}

// triedPlace returns the bucket for a verified address: each group has
// triedSpread of all the buckets.
func (h *hasher) triedPlace(t *table, group, url string) (b uint16, position uint8) {
	spread := [1]byte{byte(h.sum(tagTriedSpread, url) % triedSpread)}
	b = uint16(h.sum(tagTriedBucket, group, string(spread[:])) % uint64(len(t.buckets)))
	n := [2]byte{byte(b >> 8), byte(b)}
	return b, uint8(h.sum(tagTriedPosition, string(n[:]), url) % uint64(t.size))
}
