package addrbook

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/address"
)

// Ranking the whole store for each dial: a pick looks at a bucket or two, and
// allocates nothing, whatever the size of the book and however much of it
// waits.
func TestRegressionRankingTheWholeStoreForEachDial(t *testing.T) {
	for _, size := range []int{100, 20_000} {
		b, clk := test(t, Options{LearnRate: -1})
		for n := range size {
			b.Add(at(n, global(n<<14).String()), pex(n%5000, global(n<<16).String()))
		}
		var probes int
		b.c.random = func() float64 { probes++; return float64(probes*7919%10007) / 10007 }
		for _, e := range b.c.all.items[:size/2] {
			b.Failed(e.addr, clk.now().Add(time.Hour))
		}
		probes = 0
		if allocs := testing.AllocsPerRun(100, func() {
			if _, ok := b.Pick(Any); !ok {
				t.Fatal("nothing")
			}
		}); allocs > 0 {
			t.Errorf("%d addresses: %v allocations for a pick", size, allocs)
		}
		if probes > 101*4 {
			t.Errorf("%d addresses: %d random numbers for 101 picks", size, probes)
		}
		// Half the book becomes due at one moment: no pick moves more than mature.
		clk.add(2 * time.Hour)
		before := len(b.c.waiting.items)
		b.Pick(Any)
		if moved := before - len(b.c.waiting.items); moved > mature || moved == 0 {
			t.Errorf("%d addresses: one pick moved %d", size, moved)
		}
	}
}

// Peers of other networks kept for ever: Forget and Shun take their addresses,
// keep others from teaching them again, and are forgotten in time.
func TestRegressionPeersOfOtherNetworksKeptForEver(t *testing.T) {
	b, clk := test(t, Options{LearnRate: -1})
	for n := range 500 {
		a := at(n, global(n<<14).String())
		mustAdd(t, b, a, pex(9000+n%50, global(n<<16).String()))
		b.Connected(id(n))
		b.Forget(id(n))
		b.Shun(id(n), 24*time.Hour, "other network")
	}
	if s := b.Stats(); s.Addresses != 0 {
		t.Fatalf("%+v", s)
	}
	if _, err := b.Add(at(1, "20.1.0.1"), pex(9000, "20.9.0.1")); err == nil {
		t.Fatal("learnt again the next moment")
	}
	clk.add(25 * time.Hour)
	mustAdd(t, b, at(1, "20.1.0.1"), pex(9000, "20.9.0.1"))
	b.Remove(at(1, "20.1.0.1"))
	clk.add(31 * 24 * time.Hour)
	for n := range 500 { // any change sweeps a little
		b.Add(at(20_000+n, global(n<<14).String()), pex(9000+n%50, global(n<<16).String()))
	}
	if s := b.Stats(); s.Peers > 500 {
		t.Errorf("%d peers are remembered, %d of them have an address", s.Peers, b.Len())
	}
}

// One corrupt row failing the start.
func TestRegressionOneCorruptRowFailingTheStart(t *testing.T) {
	good := rows(t)
	for key := range good {
		store := NewMemoryStore()
		for k, v := range good {
			store.rows[k] = append([]byte{}, v...)
		}
		store.rows[key] = store.rows[key][:len(store.rows[key])-1]
		if key == "p"+string(id(2)) {
			store.rows[key] = append(good[key], "something more"...)
		}
		b := open(t, store, Options{Self: id(7)})
		if n := b.Notices(); len(n) == 0 || !strings.Contains(n[0], "1 rows could not be read and are set aside") {
			t.Errorf("%q is damaged and nothing is said", key)
		}
		if n := b.Stats().Addresses; n < 2 {
			t.Errorf("%q is damaged: %d addresses are left", key, n)
		}
		b.Close()
		if b = open(t, store, Options{Self: id(7)}); len(b.Notices()) != 0 {
			t.Errorf("%q: said twice: %q", key, b.Notices())
		}
	}
}

// A row that was refused for what follows it counted all the same.
func TestRegressionHalfOfARefusedRow(t *testing.T) {
	for key, value := range rows(t) {
		if key[0] == rowMeta {
			var m meta
			if err := m.decode(key[1:], append(value, 0)); err == nil || !reflect.DeepEqual(m, meta{}) {
				t.Errorf("%q: %v, %+v", key, err, m)
			}
		}
	}
}

// Scores lost on restart or wrapping around.
func TestRegressionScoresLostOrWrapping(t *testing.T) {
	clk := newClock()
	store := NewMemoryStore()
	o := Options{Now: clk.now, Rand: seeded(1)}
	b := open(t, store, o)
	for range 3 {
		b.Adjust(id(1), math.MaxInt16)
		b.Adjust(id(2), math.MinInt16)
		b.Adjust(id(3), 7)
	}
	check := func(want ...PeerScore) {
		t.Helper()
		for n, w := range want {
			if s := b.Score(id(n + 1)); s != w {
				t.Errorf("peer %d has %d, want %d", n+1, s, w)
			}
		}
	}
	check(MaxScore, MinScore, 21)
	if MaxScore.Add(1) != math.MaxInt16 || PeerScore(math.MaxInt16).Add(1) != math.MaxInt16 {
		t.Error("a score wraps")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, store, o)
	check(MaxScore, MinScore, 21)
	clk.add(24 * time.Hour)
	check(16383, MinScore/2, 11)
	if err := b.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// A slot that an address got from a second source was not saved.
func TestRegressionSecondSlotLostOnRestart(t *testing.T) {
	clk := newClock()
	store := NewMemoryStore()
	o := Options{Now: clk.now, Rand: seeded(1)}
	b := open(t, store, o)
	a := at(1, "20.1.0.1")
	mustAdd(t, b, a, pex(50, "20.9.0.1"))
	if err := b.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		b.Add(a, pex(n, global(n<<16).String()))
	}
	e, _ := b.Entry(a)
	if e.Slots < 2 || e.Slots > maxReferences {
		t.Fatalf("%d slots", e.Slots)
	}
	b.Close()
	b = open(t, store, o)
	if again, _ := b.Entry(a); again.Slots != e.Slots {
		t.Fatalf("%d slots, %d before", again.Slots, e.Slots)
	}
}

// Lifting a shun by hand let go of the record that was just being filled.
func TestRegressionManualAddOfAShunnedPeer(t *testing.T) {
	b, _ := test(t, Options{})
	b.Shun(id(1), 0, "inactive")
	mustAdd(t, b, at(1, "20.1.0.1"), manual)
	if err := b.c.invariants(b.now()); err != nil {
		t.Fatal(err)
	}
	if a, ok := b.Pick(Any); !ok || a != at(1, "20.1.0.1") {
		t.Fatal(a)
	}
}

// What a peer said of itself took the place of who had taught its address, so
// that nobody saw how it had been found. It keeps the worth of its own word.
func TestRegressionAPeersOwnWordHidHowItWasFound(t *testing.T) {
	mdns := Source{Kind: MDNS, Protocol: address.MConn}
	told := pex(50, "20.9.0.1")
	own := Source{Kind: Inbound, Peer: id(1), IP: ip("192.168.0.1")}
	for name, c := range map[string]struct {
		taught []Source
		want   Source
		rank   int
	}{
		"found, then it spoke":      {[]Source{mdns, own}, mdns, rankSelf},
		"it spoke, then was found":  {[]Source{own, mdns}, mdns, rankSelf},
		"its word alone":            {[]Source{own, own}, own, rankSelf},
		"the first of two":          {[]Source{own, mdns, told, own}, mdns, rankSelf},
		"a person before everybody": {[]Source{mdns, own, manual, mdns}, manual, rankManual},
		"others do not vouch":       {[]Source{mdns, told}, mdns, rankTold},
	} {
		store := NewMemoryStore()
		b := open(t, store, Options{})
		a := at(1, "192.168.0.1")
		for _, s := range c.taught {
			if s == told { // may not speak of a private network
				s.IP = ip("192.168.0.9")
			}
			if _, err := b.Add(a, s); err != nil {
				t.Fatalf("%s: %v: %v", name, s, err)
			}
		}
		for _, when := range []string{"at once", "after a restart"} {
			if e, _ := b.Entry(a); e.Source != c.want {
				t.Errorf("%s, %s: found by %v, want %v", name, when, e.Source, c.want)
			}
			if r := b.c.addrs[a].rank(); r != c.rank {
				t.Errorf("%s, %s: rank %d, want %d", name, when, r, c.rank)
			}
			if err := b.c.invariants(b.now()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			b = open(t, store, Options{})
		}
		b.Close()
	}
}

// A store that was cut to nothing, or whose restoring was killed halfway, was
// taken for a new one without a word, and its good copy was replaced at once.
func TestRegressionLostStoreTakenForANewOne(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"is empty":   func(path string) error { return os.Truncate(path, 0) },
		"is missing": func(path string) error { return os.Rename(path, path+".damaged-20260101T000000.000000000") },
	} {
		path := filepath.Join(t.TempDir(), "book.db")
		s := openFile(t, path)
		b := open(t, s, Options{})
		for n := range 20 {
			if err := b.Ban(id(n), 0, "spam"); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(b.Close(), s.s.Backup(), s.Close(), harm(path)); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-2 * copyEvery) // so that a copy is due
		if err := os.Chtimes(path+".backup", old, old); err != nil {
			t.Fatal(err)
		}
		good, err := os.ReadFile(path + ".backup")
		if err != nil {
			t.Fatal(err)
		}
		s = openFile(t, path)
		b = open(t, s, Options{})
		if n := len(b.Bans()); n != 20 {
			t.Errorf("%s: %d bans", name, n)
		}
		if said := strings.Join(b.Notices(), "\n"); !strings.Contains(said, name) || !strings.Contains(said, "took its place") || !strings.Contains(said, "to start afresh") {
			t.Errorf("%s: %q", name, said)
		}
		if now, err := os.ReadFile(path + ".backup"); err != nil || !bytes.Equal(now, good) {
			t.Errorf("%s: the copy was replaced: %v", name, err)
		}
		b.Close()
		s.Close()
		if _, notices := dump(t, openFile(t, path)); len(notices) != 0 {
			t.Errorf("%s: said twice: %q", name, notices)
		}
	}
}
