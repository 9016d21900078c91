package dispatch

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The set of digests against a dumb twin, with time and overflow.
func TestSeenTwin(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		most, age := 1+r.IntN(20), time.Duration(1+r.IntN(50))*time.Second
		s := newSeen(most, age)
		type entry struct {
			d  digest
			at time.Time
		}
		var twin []entry
		now := time.Unix(1000, 0)
		for range 500 {
			now = now.Add(time.Duration(r.IntN(5)) * time.Second)
			d := digest{byte(r.IntN(40))}
			twin = slices.DeleteFunc(twin, func(e entry) bool { return now.Sub(e.at) >= age })
			fresh := !slices.ContainsFunc(twin, func(e entry) bool { return e.d == d })
			if s.has(d, now) == fresh {
				t.Fatalf("has: %v", fresh)
			}
			if fresh {
				if len(twin) == most {
					twin = twin[1:]
				}
				twin = append(twin, entry{d, now})
			}
			if got := s.add(d, now); got != fresh {
				t.Fatalf("add: %v, want %v", got, fresh)
			}
			if s.len() != len(twin) || len(s.ring) > most {
				t.Fatalf("%d entries, a ring of %d, want %d", s.len(), len(s.ring), len(twin))
			}
		}
	}
}
