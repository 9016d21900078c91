package dispatch

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// The shared set against a dumb twin, while there is room: with time, removals and
// peers that go. When there is none, it keeps its bound, and the newest.
func TestSharesTwin(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for round := range 200 {
		age := time.Duration(1+r.IntN(50)) * time.Second
		most := 10_000
		if round%2 == 1 {
			most = 1 + r.IntN(20)
		}
		s := newShares(most, age)
		twin := make(map[digest]time.Time)
		now := time.Unix(1000, 0)
		for range 500 {
			now = now.Add(time.Duration(r.IntN(3)) * time.Second)
			d, from := digest{byte(r.IntN(40))}, p2p.NodeID(fmt.Sprint(r.IntN(5)))
			at, known := twin[d]
			known = known && now.Sub(at) < age
			switch got := s.has(d, now); {
			case got && !known, most > 100 && known && !got:
				t.Fatalf("has: %v, want %v", got, known)
			}
			switch r.IntN(6) {
			case 0:
				s.remove(d)
				delete(twin, d)
			case 1:
				s.gone(from)
			default:
				if was := s.has(d, now); s.add(d, from, now) == was {
					t.Fatalf("add: %v", !was)
				} else if !was {
					twin[d] = now
				}
				if !s.has(d, now) {
					t.Fatal("forgotten at once")
				}
			}
			n := 0
			for from, line := range s.of {
				if n += line.len(); line.len() == 0 {
					t.Fatalf("an empty line of %q", from)
				}
			}
			if n != s.n || n > most || len(s.set) > n {
				t.Fatalf("%d in lines, %d counted, %d in the set, at most %d", n, s.n, len(s.set), most)
			}
		}
	}
}

// Who has most makes room, however many names he had.
func TestSharesFair(t *testing.T) {
	s := newShares(100, time.Hour)
	now := time.Unix(1000, 0)
	name := func(who, n int) digest { return digest{byte(who), byte(n >> 16), byte(n >> 8), byte(n)} }
	for i := range 30 {
		s.add(name(1, i), "honest", now)
	}
	for i := range 10_000 {
		s.add(name(2, i), "flooder", now)
	}
	for i := range 10_000 {
		from := p2p.NodeID(fmt.Sprint("name ", i))
		s.add(name(3, i), from, now)
		s.gone(from)
	}
	for i := range 30 {
		if !s.has(name(1, i), now) {
			t.Fatalf("%d of 30 is forgotten", i)
		}
	}
	if s.n != 100 || len(s.set) != 100 || len(s.of) > 3 {
		t.Errorf("%d, %d of %d", s.n, len(s.set), len(s.of))
	}
}
