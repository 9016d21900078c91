package connmgr

import (
	"math"
	"net/netip"
	"time"
)

// buckets are token buckets by source, at most a fixed number of them: a
// source that was not seen for longest is forgotten first, and one that comes
// again starts with a full bucket. Not safe for concurrent use.
type buckets struct {
	rate     float64 // tokens a second
	burst    float64
	capacity int

	index map[netip.Prefix]int32
	slots []bucket // linked by newer and older; -1 ends
	first int32    // the newest
	last  int32    // the oldest
}

type bucket struct {
	key          netip.Prefix
	tokens       float64
	at           int64 // when tokens was right, Unix nanoseconds
	newer, older int32
}

func newBuckets(rate float64, burst, capacity int) *buckets {
	return &buckets{rate: rate, burst: float64(burst), capacity: capacity, index: make(map[netip.Prefix]int32), first: -1, last: -1}
}

// take takes a token of the source, or says how many it has (less than one)
// and how long until the next.
func (b *buckets) take(key netip.Prefix, now time.Time) (ok bool, left float64, wait time.Duration) {
	s := b.slot(key, now)
	at := now.UnixNano()
	if at > s.at { // a clock that went back refills nothing
		s.tokens = min(b.burst, s.tokens+b.rate*time.Duration(at-s.at).Seconds())
		s.at = at
	}
	if s.tokens >= 1 {
		s.tokens--
		return true, s.tokens, 0
	}
	seconds := (1 - s.tokens) / b.rate
	if seconds > math.MaxInt64/float64(time.Second)/2 {
		return false, s.tokens, math.MaxInt64
	}
	return false, s.tokens, time.Duration(seconds * float64(time.Second))
}

// slot is the source's bucket, now the newest.
func (b *buckets) slot(key netip.Prefix, now time.Time) *bucket {
	i, known := b.index[key]
	switch {
	case known:
		b.unlink(i)
	case len(b.slots) < b.capacity:
		i = int32(len(b.slots))
		b.slots = append(b.slots, bucket{})
	default:
		i = b.last
		b.unlink(i)
		delete(b.index, b.slots[i].key)
	}
	if !known {
		b.slots[i] = bucket{key: key, tokens: b.burst, at: now.UnixNano()}
		b.index[key] = i
	}
	s := &b.slots[i]
	s.newer, s.older = -1, b.first
	if b.first >= 0 {
		b.slots[b.first].newer = i
	} else {
		b.last = i
	}
	b.first = i
	return s
}

func (b *buckets) unlink(i int32) {
	s := &b.slots[i]
	if s.newer >= 0 {
		b.slots[s.newer].older = s.older
	} else {
		b.first = s.older
	}
	if s.older >= 0 {
		b.slots[s.older].newer = s.newer
	} else {
		b.last = s.newer
	}
}
