package addrbook

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kith-p2p/kith/address"
)

// flood fills a book with 1,987 honest addresses, of which the given share
// worked, and then with 200,000 of an attacker who has some groups of sources
// (IPv4 /16) and twice as many groups of addresses. It returns the attacker's
// share of the book and of 20,000 picks. 1,987 and 200,000 are the figures of
// the same flood on btcd's address manager, of whose picks the attacker got
// 7.8 %.
func flood(t *testing.T, groups int, worked float64, rate float64) (ofBook, ofPicks float64) {
	t.Helper()
	r := rand.New(rand.NewPCG(7, uint64(groups)))
	clk := newClock()
	b := open(t, NewMemoryStore(), Options{Now: clk.now, Rand: r.Float64, LearnRate: rate})
	const attacker = 1 << 30
	// Honest peers live all over the internet and are told of by many.
	honest := 0
	for n := 0; honest < 1987; n++ {
		a := at(n, inGroup(r.IntN(64*256), r.IntN(1<<16)).String())
		src := Source{Kind: PEX, Peer: id(1_000_000 + n%300), IP: inGroup(n%300*37, 1), Protocol: address.MConn}
		if added, _ := b.Add(a, src); added {
			honest++
			if r.Float64() < worked {
				b.Good(a)
			}
		}
		clk.add(time.Second)
	}
	// The attacker claims addresses in all the groups of the internet, from
	// sources in its own groups.
	for n := range 200_000 {
		a := at(attacker+n, inGroup(r.IntN(64*256), r.IntN(1<<16)).String())
		g := n % groups
		b.Add(a, Source{Kind: PEX, Peer: id(attacker - 1 - n%(groups*50)), IP: inGroup(16000+g, n%50), Protocol: address.MConn})
		if n%100 == 0 {
			clk.add(time.Second)
		}
	}
	bad, picks := 0, 20_000
	for range picks {
		a, ok := b.Pick(Any)
		if !ok {
			t.Fatal("nothing to pick")
		}
		if a.NodeID > id(attacker-1) {
			bad++
		}
	}
	theirs := 0
	for _, e := range b.c.all.items {
		if e.addr.NodeID > id(attacker-1) {
			theirs++
		}
	}
	if err := b.c.invariants(b.now()); err != nil {
		t.Fatal(err)
	}
	return float64(theirs) / float64(len(b.c.all.items)), float64(bad) / float64(picks)
}

// TestFlood prints the attacker's share of picks. With its sources in g groups
// it has at most 64 g of 1,024 new buckets. The first line is the flood that
// btcd was measured with, of which 7.8 % is the bar.
func TestFlood(t *testing.T) {
	report("flood of 200,000 addresses against 1,987 honest ones (seed 7); btcd: 7.8 %% of picks in the first case")
	for _, c := range []struct {
		groups  int
		worked  float64 // share of the honest addresses that worked before
		rate    float64 // tokens of a source a second; -1: no limit
		atMost  float64 // of the picks
		meaning string
	}{
		{1, 0, -1, 0.078, "one group of sources, nobody verified, no rate limit"},
		{1, 0.25, -1, 0.040, "one group, a quarter of the honest verified, no rate limit"},
		{1, 0.25, 0.1, 0.040, "the same, with the rate limit"},
		{4, 0.25, -1, 0.140, "four groups, no rate limit"},
		{16, 0.25, -1, 0.400, "sixteen groups, no rate limit"},
	} {
		ofBook, ofPicks := flood(t, c.groups, c.worked, c.rate)
		report("  %-62s %5.1f %% of the book, %4.1f %% of the picks (at most %.1f)", c.meaning, 100*ofBook, 100*ofPicks, 100*c.atMost)
		if ofPicks > c.atMost {
			t.Errorf("%s: the attacker got %.2f %% of the picks", c.meaning, 100*ofPicks)
		}
	}
}

// A restart under attack: the anchors and what was verified survive, whatever
// the flood did.
func TestFloodAndRestart(t *testing.T) {
	clk := newClock()
	store := NewMemoryStore()
	o := Options{Now: clk.now, Rand: seeded(5), LearnRate: -1}
	b := open(t, store, o)
	var good []address.NodeAddress
	for n := range 200 {
		a := at(n, global(n<<16|9).String())
		mustAdd(t, b, a, pex(1_000_000+n, global(n<<16).String()))
		b.Good(a)
		good = append(good, a)
	}
	b.SetAnchors(good[:2])
	r := rand.New(rand.NewPCG(3, 3))
	for n := range 100_000 {
		b.Add(at(1<<30+n, inGroup(r.IntN(64*256), r.IntN(1<<16)).String()), pex(2_000_000+n%500, inGroup(n%1000, 1).String()))
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, store, o)
	for _, a := range good {
		if e, ok := b.Entry(a); !ok || e.Table != Tried {
			t.Fatalf("%s is gone: %+v", a, e)
		}
	}
	if as := b.Anchors(); len(as) != 2 || as[0] != good[0] {
		t.Fatal(as)
	}
	honest := 0
	for range 10_000 {
		if a, _ := b.Pick(Any); a.NodeID < id(1000) {
			honest++
		}
	}
	report("restart after a flood from 1,000 groups: %.1f %% of the picks are verified honest peers", float64(honest)/100)
	if honest < 4800 {
		t.Errorf("%d of 10,000 picks are honest", honest)
	}
}
