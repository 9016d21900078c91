package addrbook

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
)

// rows is one row of each kind, as a book writes them.
func rows(t testing.TB) map[string][]byte {
	t.Helper()
	store := NewMemoryStore()
	clk := newClock()
	b, err := Open(store, Options{Self: id(7), Now: clk.now, Rand: seeded(1)})
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.PrivKeyFromSeed(bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	quic, err := address.Parse("/ip4/20.1.0.9/udp/4001/quic-v1/p2p/" + key.Public().PeerID().String())
	if err != nil {
		t.Fatal(err)
	}
	mustAdd(t, b, at(1, "20.1.0.1"), pex(50, "20.9.0.1"))
	mustAdd(t, b, at(2, "2a00::1"), Source{Kind: DNS, Name: "seed.example", IP: netip.MustParseAddr("2a00::9")})
	mustAdd(t, b, quic, manual)
	b.Good(at(1, "20.1.0.1"))
	b.Failed(at(2, "2a00::1"), clk.now().Add(time.Hour))
	b.Adjust(id(1), -77)
	b.Connected(id(1))
	b.SetAnchors([]address.NodeAddress{at(1, "20.1.0.1"), quic})
	b.Shun(id(2), time.Hour, "other network")
	if err := b.Ban(id(3), 0, "spam"); err != nil {
		t.Fatal(err)
	}
	if err := b.BanPrefix(netip.MustParsePrefix("20.3.0.0/16"), time.Hour, "flood"); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return store.rows
}

// All rows that are written can be read, and mean the same.
func TestRowsRoundTrip(t *testing.T) {
	was := rows(t)
	s := &saved{bans: map[netip.Prefix]sanction{}}
	for key, value := range was {
		s.row(key, value)
	}
	if len(s.aside) > 0 || len(s.entries) != 3 || len(s.records) != 4 || len(s.bans) != 1 || len(s.meta.anchors) != 2 {
		t.Fatalf("%+v", s)
	}
	now := stampOf(newClock().now())
	o, err := Options{Self: id(7), Rand: seeded(1)}.complete()
	if err != nil {
		t.Fatal(err)
	}
	c := newCore(o)
	if n := c.load(s, now); len(n) > 0 {
		t.Fatal(n)
	}
	for a := range c.addrs {
		c.dirty.addrs[a] = struct{}{}
	}
	for id := range c.peers {
		c.dirty.peers[id] = struct{}{}
	}
	for p := range c.bans.rows {
		c.dirty.bans[p] = struct{}{}
	}
	for _, m := range []string{metaSecret, metaSelf, metaAnchors, metaShape} {
		c.dirty.meta[m] = struct{}{}
	}
	again := map[string][]byte{}
	for c.dirty.len() > 0 {
		for _, row := range c.collect(&c.dirty, 2) {
			again[row.Key] = row.Value
		}
	}
	if !reflect.DeepEqual(was, again) {
		t.Fatalf("was\n%q\nis\n%q", was, again)
	}
}

// Every cut and every flipped bit of a row is another row or none: the reader
// never panics, and what it takes it would write again.
func TestDamagedRowsNeverPanic(t *testing.T) {
	read := func(key string, value []byte) {
		s := &saved{bans: map[netip.Prefix]sanction{}}
		s.row(key, value)
		o, _ := Options{Rand: seeded(1)}.complete()
		c := newCore(o)
		c.load(s, stampOf(newClock().now()))
		if err := c.invariants(stampOf(newClock().now())); err != nil {
			t.Fatalf("%q %x: %v", key, value, err)
		}
	}
	for key, value := range rows(t) {
		for n := range len(value) {
			s := &saved{bans: map[netip.Prefix]sanction{}}
			if s.row(key, value[:n]); len(s.aside) != 2 {
				t.Errorf("%q cut to %d bytes is taken", key, n)
			}
		}
		s := &saved{bans: map[netip.Prefix]sanction{}}
		if s.row(key, append(bytes.Clone(value), 0)); len(s.aside) != 2 {
			t.Errorf("%q with a byte more is taken", key)
		}
		for bit := range 8 * len(value) {
			v := bytes.Clone(value)
			v[bit/8] ^= 1 << (bit % 8)
			read(key, v)
		}
		for i := range len(key) {
			k := []byte(key)
			k[i] ^= 1
			read(string(k), value)
		}
	}
}

func TestRowsOfOthers(t *testing.T) {
	was := rows(t)
	text := func(s string) []byte { w := newRow(); w.text(s); return w }
	var peerRow []byte
	for _, k := range slices.Sorted(maps.Keys(was)) {
		if k[0] == rowPeer {
			peerRow = was[k]
		}
	}
	score := bytes.Clone(peerRow)
	at := 2 + int(score[1])
	binary.BigEndian.PutUint64(score[at:], math.Float64bits(math.NaN()))
	for key, value := range map[string][]byte{
		"":                              {1},
		"?what":                         {1},
		"mwhat":                         {1},
		"msecret":                       text("short"),
		"mself":                         text("nobody"),
		"manchors":                      text("mconn://x"),
		"mshape":                        {1, 1, 1},
		"pnobody":                       peerRow,
		"p" + string(id(3)):             score,
		"b20.3.0.1/16":                  encodeBan(sanction{since: 1}),
		"b20.3.0.0/16":                  encodeBan(sanction{}),
		"bwhat":                         encodeBan(sanction{since: 1}),
		"amconn://x":                    nil,
		"aMCONN://" + string(id(1)):     nil,
		"a" + "memory:" + string(id(1)): {2},
	} {
		s := &saved{bans: map[netip.Prefix]sanction{}}
		if s.row(key, value); len(s.aside) != 2 {
			t.Errorf("%q %x is taken", key, value)
		}
	}
	s := &saved{bans: map[netip.Prefix]sanction{}}
	if s.row("xanything", []byte("at all")); len(s.aside) != 0 {
		t.Error("what was set aside is set aside again")
	}
	if s.row(strings.Repeat("y", 30000), nil); len(s.aside[0].Key) > 2000 {
		t.Error("the key of a damaged row is kept whole")
	}
}

// FuzzRow reads any row: no panic, no more memory than the row is worth, and
// what is taken reads the same after it is written.
func FuzzRow(f *testing.F) {
	for key, value := range rows(f) {
		f.Add(key, value)
	}
	f.Add("p"+string(id(1)), []byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add("aconn://", []byte{})
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		s := &saved{bans: map[netip.Prefix]sanction{}}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := s.decode(key, value)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(4*(len(key)+len(value))+64<<10) {
			t.Fatalf("%d bytes allocated for %d", n, len(key)+len(value))
		}
		if err != nil {
			return
		}
		o, _ := Options{Rand: seeded(1)}.complete()
		c := newCore(o)
		now := stampOf(newClock().now())
		c.load(s, now)
		if err := c.invariants(now); err != nil {
			t.Fatal(err)
		}
		for c.dirty.len() > 0 {
			for _, row := range c.collect(&c.dirty, chunk) {
				if row.Value != nil && row.Key[0] != rowAside {
					if err := (&saved{bans: map[netip.Prefix]sanction{}}).decode(row.Key, row.Value); err != nil {
						t.Fatalf("%q is written and cannot be read: %v", row.Key, err)
					}
				}
			}
		}
	})
}
