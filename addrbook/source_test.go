package addrbook

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestSources(t *testing.T) {
	for want, s := range map[string]Source{
		"":                      {Kind: Manual, IP: ip("8.8.8.8")},
		"8.8.0.0/16":            {Kind: PEX, Peer: id(1), IP: ip("8.8.8.8")},
		"peer " + string(id(1)): {Kind: PEX, Peer: id(1)},
		"dns seed.example":      {Kind: DNS, Name: "seed.example"},
		"dht ":                  {Kind: DHT},
	} {
		if g := s.Group(); g != want {
			t.Errorf("%v: group %q, want %q", s, g, want)
		}
	}
	s := Source{Kind: DNS, Name: "seed", Peer: id(1), IP: ip("8.8.8.8")}
	if got := s.String(); got != "dns seed "+string(id(1))+" at 8.8.8.8" {
		t.Error(got)
	}
	long := Source{Kind: Kind(strings.Repeat("k", 99)), Name: strings.Repeat("n", 999), IP: netip.MustParseAddr("::ffff:8.8.8.8")}.normal()
	if len(long.Kind) != 32 || len(long.Name) != 253 || !long.IP.Is4() {
		t.Error(long)
	}
}

func TestTokensOfASource(t *testing.T) {
	tk := tokens{rate: 0.1, burst: 1000, sources: map[string]*allowance{}}
	now := stampOf(newClock().now())
	take := func(s Source, n int) (got int) {
		for range n {
			if tk.take(s, now) {
				got++
			}
		}
		return got
	}
	a, b := pex(1, "8.8.8.8"), pex(2, "8.8.8.8")
	if n := take(a, 5000); n != 1000 {
		t.Errorf("burst of %d", n)
	}
	if n := take(b, 10); n != 10 {
		t.Error("one peer pays for another")
	}
	now = now.after(time.Minute)
	if n := take(a, 100); n != 6 {
		t.Errorf("%d in a minute", n)
	}
	now = now.after(1000 * time.Hour)
	if n := take(a, 5000); n != 1000 {
		t.Errorf("%d after a long time", n)
	}
	now = 1 // the clock goes back: nothing is gained and nothing breaks
	if n := take(a, 10); n != 0 {
		t.Errorf("%d out of nothing", n)
	}
	for _, s := range []Source{{Kind: Manual}, {Kind: Bootstrap}, {Kind: Inbound, Peer: id(1)}} {
		if n := take(s, 2000); n != 2000 {
			t.Errorf("%v is limited to %d", s, n)
		}
	}
	if tk.rate = -1; take(a, 5000) != 5000 {
		t.Error("no limit is a limit")
	}
}

func TestTokensRememberFewSources(t *testing.T) {
	tk := tokens{rate: 0.1, burst: 10, sources: map[string]*allowance{}}
	now := stampOf(newClock().now())
	for n := range 10 * maxAllowances {
		tk.take(pex(n, "8.8.8.8"), now)
		if len(tk.sources) > maxAllowances {
			t.Fatalf("%d sources", len(tk.sources))
		}
	}
	now = now.after(time.Hour)
	tk.take(pex(1<<30, "8.8.8.8"), now)
	for len(tk.sources) < maxAllowances {
		tk.take(pex(1<<31+len(tk.sources), "8.8.8.8"), now)
	}
	if tk.take(pex(1<<32, "8.8.8.8"), now.after(time.Hour)); len(tk.sources) != 1 {
		t.Errorf("%d sources, all but one were full again", len(tk.sources))
	}
}
