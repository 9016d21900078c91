package transport

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

// checkPanel fails unless map, lists and states agree.
func checkPanel(t testing.TB, p *Panel) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, l := range []*list{&p.closed, &p.open} {
		count := 0
		var prev *Breaker
		for b := l.front; b != nil; prev, b = b, b.next {
			count++
			if b.prev != prev || b.where != l || p.breakers[b.key] != b || (b.state == Closed) != (l == &p.closed) {
				t.Fatalf("%s (%v) is filed wrongly", b.Name(), b.state)
			}
		}
		if l.back != prev || l.n != count {
			t.Fatalf("a list of %d says %d", count, l.n)
		}
		n += count
	}
	if n != len(p.breakers) || n > p.opts.Breakers {
		t.Fatalf("%d in the lists, %d in the map, at most %d", n, len(p.breakers), p.opts.Breakers)
	}
}

func has(p *Panel, name string) bool {
	for have := range p.All() {
		if have == name {
			return true
		}
	}
	return false
}

func TestLookup(t *testing.T) {
	p, _ := testPanel(Options{})
	const id = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
	same := [][]fmt.Stringer{
		{ma.StringCast("/ip6/::1/tcp/80"), ma.StringCast("/ip6/0:0:0:0:0:0:0:1/tcp/80"), text("/ip6/::1/tcp/80"), text("/ip6/0::1/tcp/080")},
		{ma.StringCast("/p2p/" + id), ma.StringCast("/ipfs/" + id)},
		{text("127.0.0.1:80"), text("127.0.0.1:80")},
		{text("/no such/thing"), text("/no such/thing")},
		{nil, text("")},
		{ma.Multiaddr(nil), ma.Multiaddr{}},
		{ma.StringCast("/unix/tmp/x")},
	}
	seen := map[*Breaker]string{}
	for _, spellings := range same {
		b := p.Lookup(spellings[0])
		if other, ok := seen[b]; ok {
			t.Errorf("%v and %s have the same breaker", spellings[0], other)
		}
		seen[b] = fmt.Sprint(spellings[0])
		for _, s := range spellings[1:] {
			if p.Lookup(s) != b {
				t.Errorf("%v has another breaker than %v", s, spellings[0])
			}
		}
	}
	for name, b := range p.All() {
		if b.Name() != name {
			t.Errorf("%q is called %q", name, b.Name())
		}
		delete(seen, b)
	}
	if len(seen) > 0 {
		t.Errorf("All lacks %v", seen)
	}
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range p.All() {
			if !yield(name) {
				return
			}
		}
	})
	want := []string{"", "", "/ip6/::1/tcp/80", "/no such/thing", "/p2p/" + id, "/unix/tmp/x", "127.0.0.1:80"}
	if !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}
	for range p.All() {
		break // must be possible
	}
	if nameOf("\xff\xff") != "" {
		t.Error("bytes that are no multiaddr have no name")
	}
	checkPanel(t, p)
}

func TestLeastRecentlyLookedUpIsForgotten(t *testing.T) {
	p, _ := testPanel(Options{Breakers: 4})
	held := p.Lookup(text("0"))
	fail(t, held, 2)
	for i := range 3 {
		p.Lookup(text(strconv.Itoa(i + 1)))
	}
	p.Lookup(text("0")) // now 1 is the oldest
	p.Lookup(text("4"))
	if !has(p, "0") || has(p, "1") || p.Stats().Evicted != 1 {
		t.Fatalf("%v %+v", maps.Collect(p.All()), p.Stats())
	}
	for i := range 4 {
		p.Lookup(text(strconv.Itoa(i + 10)))
	}
	if has(p, "0") {
		t.Fatal("0 is still there")
	}
	fail(t, held, 1) // one that was forgotten still works for who holds it
	if held.State() != Open || p.Lookup(text("0")).State() != Closed || p.Stats().Open != 0 {
		t.Fatalf("%v %+v", held.State(), p.Stats())
	}
	checkPanel(t, p)
}

// Making others be forgotten must not be a way past an open breaker.
func TestRegressionEvictionDoesNotBypassOpenBreakers(t *testing.T) {
	p, _ := testPanel(Options{Breakers: 100})
	p.Lookup(text("bad")).Trip()
	for i := range 100_000 {
		p.Lookup(text(strconv.Itoa(i)))
	}
	if s := p.Lookup(text("bad")).State(); s != Open {
		t.Fatalf("100,000 other addresses later it is %v", s)
	}
	// Nor may open breakers crowd out the closed ones, which could then never open.
	for i := range 1000 {
		p.Lookup(text(strconv.Itoa(i))).Trip()
	}
	if s := p.Stats(); s.Open > 76 || s.EvictedOpen == 0 || s.Breakers != 100 {
		t.Fatalf("%+v", s)
	}
	for range 2 {
		for i := range 20 {
			fail(t, p.Lookup(text("new"+strconv.Itoa(i))), 1)
		}
	}
	for i := range 20 {
		b := p.Lookup(text("new" + strconv.Itoa(i)))
		if fail(t, b, 1); b.State() != Open {
			t.Fatal("a breaker could not count to three")
		}
	}
	checkPanel(t, p)
}

func TestOpenBreakersAreCounted(t *testing.T) {
	p, c := testPanel(Options{})
	b := p.Lookup(text("x"))
	for _, step := range []struct {
		do   func()
		open int
	}{
		{b.Trip, 1}, {b.Trip, 1}, {b.Reset, 0}, {b.Reset, 0},
		{func() { fail(t, b, 3) }, 1},
		{func() { c.advance(time.Second) }, 1},
		{func() { allow(t, b)(errDown) }, 1},
		{func() { c.advance(time.Minute) }, 1},
		{func() { allow(t, b)(nil) }, 0},
	} {
		if step.do(); p.Stats().Open != step.open {
			t.Fatalf("%+v, want %d open", p.Stats(), step.open)
		}
		checkPanel(t, p)
	}
}
