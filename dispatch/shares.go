package dispatch

import (
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// shares is a set of digests as seen is, which several fill: when there are too
// many, the oldest goes of whoever has most. So a peer that makes up messages by the
// thousand loses the memory of those, and not that of what others brought. Not safe
// for concurrent use.
type shares struct {
	age  time.Duration
	most int
	n    int                            // in all lines
	set  map[digest]int64               // since when, in Unix nanoseconds
	of   map[p2p.NodeID]*fifo[sighting] // by who brought them, as they came; none is empty
}

func newShares(most int, age time.Duration) *shares {
	return &shares{age: age, most: most, set: make(map[digest]int64), of: make(map[p2p.NodeID]*fifo[sighting])}
}

// has reports whether a digest is there, without noting it.
func (s *shares) has(d digest, now time.Time) bool {
	at, known := s.set[d]
	return known && at > now.Add(-s.age).UnixNano()
}

// add notes a digest that a peer brought, and reports whether it was new.
func (s *shares) add(d digest, from p2p.NodeID, now time.Time) bool {
	if s.has(d, now) {
		return false
	}
	s.expire(from, now)
	if s.n >= s.most {
		s.makeRoom(now)
	}
	line := s.of[from]
	if line == nil {
		line = new(fifo[sighting])
		s.of[from] = line
	}
	line.push(sighting{d, now.UnixNano()})
	s.set[d] = now.UnixNano()
	s.n++
	return true
}

// remove forgets a digest.
func (s *shares) remove(d digest) { delete(s.set, d) } // pop takes the rest

// gone puts what a peer brought to what all brought who are gone: whoever comes
// under a new name each time has one share.
func (s *shares) gone(from p2p.NodeID) {
	line := s.of[from]
	if line == nil || from == "" {
		return
	}
	delete(s.of, from)
	if all := s.of[""]; all == nil {
		s.of[""] = line
	} else {
		for line.len() > 0 {
			all.push(line.pop())
		}
	}
}

// makeRoom makes room for one digest.
func (s *shares) makeRoom(now time.Time) {
	for from := range s.of {
		s.expire(from, now)
	}
	if s.n < s.most {
		return
	}
	var most p2p.NodeID
	n := 0
	for from, line := range s.of {
		if line.len() > n {
			most, n = from, line.len()
		}
	}
	s.pop(most)
}

// expire forgets what a peer brought too long ago.
func (s *shares) expire(from p2p.NodeID, now time.Time) {
	for dead := now.Add(-s.age).UnixNano(); s.of[from] != nil && s.of[from].at(0).at <= dead; {
		s.pop(from)
	}
}

func (s *shares) pop(from p2p.NodeID) {
	line := s.of[from]
	if old := line.pop(); s.set[old.d] == old.at { // or it was removed, or came again
		delete(s.set, old.d)
	}
	s.n--
	if line.len() == 0 {
		delete(s.of, from)
	}
}
