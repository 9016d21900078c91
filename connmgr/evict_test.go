package connmgr

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

// parseCandidates reads lines such as
//
//	3 to 6: group b, up 10m, rtt 20ms, useful 5 1m ago, protected
func parseCandidates(t *testing.T, lines []string) (all []Candidate) {
	t.Helper()
	now := epoch.Add(100 * time.Hour)
	duration := func(s string) time.Duration {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, line := range lines {
		ids, about, _ := strings.Cut(line, ": ")
		from, to, several := strings.Cut(ids, " to ")
		if !several {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 64)
		last, err2 := strconv.ParseUint(to, 10, 64)
		if err != nil || err2 != nil {
			t.Fatalf("%q: %v, %v", line, err, err2)
		}
		for id := first; id <= last; id++ {
			c := Candidate{ID: id, Since: now.Add(-time.Hour)}
			for _, fact := range strings.Split(about, ", ") {
				switch w := strings.Fields(fact); w[0] {
				case "group":
					c.Group = w[1]
				case "up":
					c.Since = now.Add(-duration(w[1]))
				case "rtt":
					c.RTT = duration(w[1])
				case "useful":
					c.Useful, _ = strconv.ParseUint(w[1], 10, 64)
					c.LastUseful = now.Add(-duration(w[2]))
				case "protected":
					c.Protected = true
				default:
					t.Fatalf("%q: what is %q?", line, fact)
				}
			}
			all = append(all, c)
		}
	}
	return all
}

func TestEvictScripts(t *testing.T) {
	runScripts(t, "evict-*.txt", func(t *testing.T) func(step) string {
		return func(s step) string {
			if s.command() != "who-goes" {
				t.Fatalf("%s: no command %q", s.pos, s.command())
			}
			all := parseCandidates(t, s.input)
			rounds, err := strconv.Atoi(s.arg("times", "1"))
			if err != nil {
				t.Fatal(err)
			}
			var gone []string
			for range rounds {
				rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				id, ok := leastUseful(all, 7)
				if !ok {
					gone = append(gone, "nobody")
					break
				}
				for i, c := range all {
					if c.ID == id {
						gone = append(gone, fmt.Sprintf("%d (group %s)", id, c.Group))
						all = append(all[:i], all[i+1:]...)
						break
					}
				}
			}
			return strings.Join(gone, ", ")
		}
	})
}

// Whoever attacks from few networks, ever new and unproven, pushes out only
// themselves: honest peers with any merit stay.
func TestEvictionUnderAttackTakesTheAttackers(t *testing.T) {
	var all []Candidate
	for i := range uint64(40) {
		all = append(all, Candidate{
			ID: i + 1, Group: fmt.Sprint("honest", i%20), Since: epoch.Add(time.Duration(i) * time.Minute),
			RTT: time.Duration(20+i) * time.Millisecond,
		})
	}
	r := rand.New(rand.NewPCG(1, 1))
	lost := 0
	for i := range uint64(2000) {
		all = append(all, Candidate{ID: 1000 + i, Group: fmt.Sprint("attack", r.IntN(4)), Since: epoch.Add(time.Hour + time.Duration(i)*time.Second)})
		if len(all) < 100 {
			continue
		}
		id, ok := LeastUseful(all)
		if !ok {
			t.Fatal("nobody goes")
		}
		if id < 1000 {
			lost++
		}
		for k, c := range all {
			if c.ID == id {
				all = append(all[:k], all[k+1:]...)
				break
			}
		}
	}
	if lost > 0 {
		t.Errorf("%d of 40 honest peers were evicted", lost)
	}
}

// The answer is one of those asked about, not protected, whatever the input,
// and the argument stays as it was.
func TestLeastUsefulIsSane(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 2))
		all := make([]Candidate, r.IntN(60))
		free := map[uint64]bool{}
		for i := range all {
			all[i] = Candidate{
				ID: r.Uint64(), Group: fmt.Sprint(r.IntN(5)), Since: epoch.Add(time.Duration(r.IntN(1e6))), RTT: time.Duration(r.IntN(3)),
				Useful: r.Uint64N(3), Protected: r.IntN(4) == 0,
			}
			free[all[i].ID] = !all[i].Protected
		}
		before := append([]Candidate(nil), all...)
		id, ok := LeastUseful(all)
		for i := range all {
			if all[i] != before[i] {
				t.Fatal("the argument was changed")
			}
		}
		if ok && !free[id] {
			t.Fatalf("seed %d: %d goes", seed, id)
		}
		unprotected := 0
		for _, f := range free {
			if f {
				unprotected++
			}
		}
		if ok != (unprotected > 1) {
			t.Fatalf("seed %d: %v with %d unprotected", seed, ok, unprotected)
		}
	}
}

func BenchmarkLeastUseful(b *testing.B) {
	all := make([]Candidate, 192)
	for i := range all {
		all[i] = Candidate{ID: uint64(i + 1), Group: fmt.Sprint(i % 64), Since: epoch.Add(time.Duration(i)), RTT: time.Duration(i)}
	}
	b.ReportAllocs()
	for b.Loop() {
		LeastUseful(all)
	}
}
