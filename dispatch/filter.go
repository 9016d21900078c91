package dispatch

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
	"time"
)

// digest names the content of a message: the first 16 bytes of
// SHA-256(length of the type, the type, the data), of the data as it was before
// it was compressed. To make another message with the digest of one that is not
// his own, a peer would have to try 2^128 of them.
type digest [16]byte

type hasher struct {
	h   hash.Hash
	buf [2 + MaxTypeName]byte
}

var hashers = sync.Pool{New: func() any { return &hasher{h: sha256.New()} }}

// digestOf is the digest of a message; more is hashed before the data, if
// anything.
func digestOf(name string, data []byte, more ...[]byte) (d digest) {
	p := hashers.Get().(*hasher)
	p.h.Reset()
	name = name[:min(len(name), MaxTypeName)] // no type is longer
	binary.BigEndian.PutUint16(p.buf[:], uint16(len(name)))
	p.h.Write(p.buf[:2+copy(p.buf[2:], name)])
	for _, m := range more {
		p.h.Write(m)
	}
	p.h.Write(data)
	copy(d[:], p.h.Sum(p.buf[:0]))
	hashers.Put(p)
	return d
}

// seen is a set of digests that forgets: each one after age, and the oldest
// first when there are too many. It is never wiped. Not safe for concurrent
// use.
type seen struct {
	age  time.Duration
	most int
	set  map[digest]struct{}
	ring []sighting // of len(set) entries from head, in the order of time
	head int
}

type sighting struct {
	d  digest
	at int64 // Unix nanoseconds
}

func newSeen(most int, age time.Duration) *seen {
	return &seen{age: age, most: most, set: make(map[digest]struct{})}
}

// add notes a digest and reports whether it was new. Time must not go backwards,
// or it is forgotten later.
func (s *seen) add(d digest, now time.Time) bool {
	s.expire(now)
	if _, known := s.set[d]; known {
		return false
	}
	if len(s.set) == s.most {
		s.pop()
	}
	if len(s.set) == len(s.ring) {
		s.grow()
	}
	s.ring[(s.head+len(s.set))%len(s.ring)] = sighting{d, now.UnixNano()}
	s.set[d] = struct{}{}
	return true
}

// has reports whether a digest is there, without noting it.
func (s *seen) has(d digest, now time.Time) bool {
	s.expire(now)
	_, known := s.set[d]
	return known
}

func (s *seen) expire(now time.Time) {
	for dead := now.Add(-s.age).UnixNano(); len(s.set) > 0 && s.ring[s.head].at <= dead; {
		s.pop()
	}
}

func (s *seen) pop() {
	delete(s.set, s.ring[s.head].d)
	s.head = (s.head + 1) % len(s.ring)
}

func (s *seen) grow() {
	ring := make([]sighting, min(max(2*len(s.ring), 64), s.most))
	n := copy(ring, s.ring[s.head:])
	copy(ring[n:], s.ring[:s.head])
	s.ring, s.head = ring, 0
}

func (s *seen) len() int { return len(s.set) }
