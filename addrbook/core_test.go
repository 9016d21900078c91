package addrbook

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
)

// invariants checks everything that must hold between two calls.
func (c *core) invariants(now stamp) error {
	slots := map[*entry]int{}
	for t, tab := range map[Table]*table{New: c.fresh, Tried: c.tried} {
		n, ready := 0, 0
		for b, bk := range tab.buckets {
			if bk == nil {
				continue
			}
			if bk.used == 0 || bits.OnesCount64(bk.used) > tab.size || bk.due&^bk.used != 0 {
				return fmt.Errorf("%v bucket %d: used %x, due %x", t, b, bk.used, bk.due)
			}
			if bk.due != 0 {
				ready++
				if bk.readyAt < 0 || tab.ready[bk.readyAt] != uint16(b) {
					return fmt.Errorf("%v bucket %d has something due and is not ready", t, b)
				}
			} else if bk.readyAt != -1 {
				return fmt.Errorf("%v bucket %d has nothing due and is ready", t, b)
			}
			for pos, e := range bk.slots {
				used, due := bk.used&(1<<pos) != 0, bk.due&(1<<pos) != 0
				if used != (e != nil) || e != nil && due != e.due {
					return fmt.Errorf("%v slot %d/%d: %v, used %v, due %v", t, b, pos, e, used, due)
				}
				if e == nil {
					continue
				}
				n++
				slots[e]++
				if e.tried != (t == Tried) || !slices.Contains(e.refs, slot{uint16(b), uint8(pos)}) {
					return fmt.Errorf("%s stands in a slot that it does not know", e.addr)
				}
			}
		}
		if n != tab.count || ready != len(tab.ready) {
			return fmt.Errorf("%v: %d slots and %d ready, counted %d and %d", t, tab.count, len(tab.ready), n, ready)
		}
	}
	if len(c.all.items) != len(c.addrs) || len(slots) != len(c.addrs) {
		return fmt.Errorf("%d in the list, %d in the index, %d in slots", len(c.all.items), len(c.addrs), len(slots))
	}
	uses, withAddr := map[Source]int{}, map[*record]int{}
	for a, e := range c.addrs {
		buckets := map[uint16]bool{}
		for _, s := range e.refs {
			buckets[s.bucket] = true
		}
		switch {
		case e.addr != a || c.all.items[e.allAt] != e || c.peers[a.NodeID] != e.peer || !slices.Contains(e.peer.entries, e):
			return fmt.Errorf("%s: index, list and peer do not agree", a)
		case len(e.refs) != slots[e] || len(e.refs) == 0 || len(e.refs) > maxReferences || e.tried && len(e.refs) > 1 || len(buckets) != len(e.refs):
			return fmt.Errorf("%s: %d slots, %v", a, slots[e], e.refs)
		case e.tried && !e.verified:
			return fmt.Errorf("%s is tried and not verified", a)
		case e.due && e.heapAt >= 0:
			return fmt.Errorf("%s is due and waits", a)
		case e.heapAt >= 0 && c.waiting.items[e.heapAt] != e:
			return fmt.Errorf("%s is not where it waits", a)
		case a.NodeID == c.o.Self:
			return fmt.Errorf("self is in the book")
		}
		switch at := c.readyAt(e, now); {
		case at == never && (e.due || e.heapAt >= 0):
			return fmt.Errorf("%s will never be dialable and is due %v, waits %v", a, e.due, e.heapAt >= 0)
		case at > now && at != never && (e.due || e.heapAt < 0 || e.dueAt != at):
			return fmt.Errorf("%s is dialable at %d, not %d", a, at, e.dueAt)
		case at <= now && !e.due && (e.heapAt < 0 || e.dueAt > now):
			return fmt.Errorf("%s is dialable now and neither due nor on its way", a)
		}
		uses[*e.from]++
		withAddr[e.peer]++
	}
	for i := 1; i < len(c.waiting.items); i++ {
		if c.waiting.items[i].dueAt < c.waiting.items[(i-1)/2].dueAt {
			return errors.New("the heap is out of order")
		}
	}
	loose := 0
	for id, r := range c.peers {
		due := slices.ContainsFunc(r.entries, func(e *entry) bool { return e.due })
		switch {
		case r.id != id || withAddr[r] != len(r.entries) || len(r.entries) > c.o.AddressesPerPeer:
			return fmt.Errorf("%s has %d addresses, counted %d", id, len(r.entries), withAddr[r])
		case (len(r.entries) == 0) != (r.looseAt >= 0):
			return fmt.Errorf("%s has %d addresses and is loose %v", id, len(r.entries), r.looseAt >= 0)
		case (r.bestAt >= 0) != (due && r.score.value > 0):
			return fmt.Errorf("%s has score %v, due %v, and is among the best: %v", id, r.score, due, r.bestAt >= 0)
		}
		if len(r.entries) == 0 {
			loose++
		}
	}
	if loose != len(c.loose.items) || len(c.sources) != len(uses) {
		return fmt.Errorf("%d loose, counted %d; %d sources, counted %d", len(c.loose.items), loose, len(c.sources), len(uses))
	}
	if c.o.MaxPeers > 0 && len(c.peers)-loose > c.o.MaxPeers {
		return fmt.Errorf("%d peers, at most %d", len(c.peers)-loose, c.o.MaxPeers)
	}
	for s, n := range uses {
		if c.sources[s] == nil || c.sources[s].entries != n {
			return fmt.Errorf("source %v is counted wrong", s)
		}
	}
	for _, x := range c.contest {
		if c.addrs[x.candidate.addr] != x.candidate || c.addrs[x.opponent.addr] != x.opponent || x.candidate.tried || !x.opponent.tried || !x.candidate.verified {
			return fmt.Errorf("contest of %s and %s", x.candidate.addr, x.opponent.addr)
		}
	}
	if len(c.contest) > maxContests {
		return fmt.Errorf("%d contests", len(c.contest))
	}
	return nil
}

// memory is what a book says of all that is saved.
func remembered(b *Book) map[string]any {
	all := map[string]any{}
	for id := range b.c.peers {
		p, _ := b.Peer(id)
		p.Held = false
		for i := range p.Addresses {
			e := &p.Addresses[i]
			if e.Given {
				e.Given = false
			}
			e.Dialable = false
		}
		slices.SortFunc(p.Addresses, func(a, b Entry) int { return strings.Compare(a.Address.String(), b.Address.String()) })
		if len(p.Addresses) > 0 || p.Ban != nil || p.Shun != nil || p.Score != 0 || b.o.Now().Sub(p.LastConnected) <= staleTime {
			all[string(id)] = p
		}
	}
	all["bans"], all["anchors"] = b.Bans(), b.Anchors()
	return all
}

// TestRandomOperations drives small books, in which everything collides, and
// checks the invariants after each step; that nothing unverified displaces
// what is verified; and that a restart remembers everything.
func TestRandomOperations(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("KITH_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("KITH_SEED=%d", seed)
	for round := range 12 {
		r := rand.New(rand.NewPCG(seed, uint64(round)))
		clk := newClock()
		o := Options{
			Self: id(0), NewBuckets: 1 + r.IntN(12), TriedBuckets: 1 + r.IntN(4), BucketSize: 1 + r.IntN(6), AddressesPerPeer: 1 + r.IntN(4),
			MaxRecords: 1 + r.IntN(20), MaxPeers: r.IntN(2) * 12, Now: clk.now, Rand: r.Float64, WriteDelay: time.Hour, LearnBurst: 50,
			PrivatePeers: map[identity.NodeID]struct{}{id(3): {}},
		}
		if r.IntN(2) == 0 {
			o.Protocols = []address.Protocol{address.MConn}
		}
		store := NewMemoryStore()
		b := open(t, store, o)
		collided := uint64(0)
		who := func() identity.NodeID { return id(1 + r.IntN(30)) }
		where := func() address.NodeAddress {
			a := at(r.IntN(30), global(r.IntN(4)<<16|r.IntN(3)).String())
			switch r.IntN(8) {
			case 0:
				a = address.NodeAddress{NodeID: a.NodeID, Protocol: address.Memory}
			case 1:
				a.Hostname = fmt.Sprintf("10.0.0.%d", r.IntN(5))
			}
			return a
		}
		known := func() address.NodeAddress {
			if n := len(b.c.all.items); n > 0 && r.IntN(10) > 0 {
				return b.c.all.items[r.IntN(n)].addr
			}
			return where()
		}
		ops := map[string]func(){
			"add": func() {
				src := pex(r.IntN(30), global(r.IntN(6)<<16).String())
				src.Kind = []Kind{PEX, PEX, PEX, DNS, MDNS, DHT, Inbound, Bootstrap, Manual}[r.IntN(9)]
				a, verified := where(), map[address.NodeAddress]bool{}
				for _, e := range b.c.all.items {
					if e.verified {
						verified[e.addr] = e.tried
					}
				}
				added, err := b.Add(a, src)
				if err != nil && added {
					t.Fatal("added and refused")
				}
				for v, tried := range verified {
					if e := b.c.addrs[v]; e == nil || e.tried != tried {
						t.Fatalf("verified %s was displaced by %s from %v", v, a, src)
					}
				}
			},
			"good":    func() { b.Good(known()) },
			"failed":  func() { b.Failed(known(), clk.now().Add(time.Duration(r.IntN(4))*time.Minute)) },
			"given":   func() { b.Failed(known(), time.Time{}) },
			"attempt": func() { b.Attempt(known()) },
			"remove":  func() { b.Remove(known()) },
			"forget":  func() { b.Forget(who()) },
			"hold":    func() { b.Hold(who()) },
			"release": func() { b.Release(who(), clk.now().Add(time.Duration(r.IntN(2))*time.Minute)) },
			"connect": func() { b.Connected(who()); b.Disconnected(who()) },
			"adjust":  func() { b.Adjust(who(), r.IntN(200)-100) },
			"ban":     func() { b.SetBan(who(), time.Duration(r.IntN(3))*time.Hour, "x") },
			"unban":   func() { b.ClearBan(who()) },
			"shun":    func() { b.Shun(who(), time.Duration(r.IntN(3))*time.Hour, "y") },
			"reset":   func() { b.ResetRetries() },
			"anchors": func() { b.SetAnchors([]address.NodeAddress{known(), known(), known()}) },
			"prefix": func() {
				b.do(func(c *core, now stamp) {
					c.banPrefix(netip.PrefixFrom(global(r.IntN(4)<<16), 16).Masked(), sanctionFor(time.Minute, "z", now), now)
				})
			},
			"time": func() { clk.add(time.Duration(r.IntN(100)) * time.Minute) },
			"long": func() { clk.add(time.Duration(r.IntN(200)) * time.Hour) },
			"pick": func() {
				for _, tab := range []Table{Any, New, Tried} {
					if a, ok := b.Pick(tab); ok {
						if e, _ := b.Entry(a); !e.Dialable || tab != Any && e.Table != tab {
							t.Fatalf("picked from %v: %+v", tab, e)
						}
						if p, _ := b.Peer(a.NodeID); p.Held || p.Ban != nil || p.Shun != nil || a.NodeID == id(0) {
							t.Fatalf("picked %+v", p)
						}
					}
				}
				b.Feeler()
				if a, s, ok := b.Best(); ok && (s <= 0 || b.Score(a.NodeID) != s) {
					t.Fatalf("best %s with %d", a, s)
				}
			},
			"sample": func() {
				for _, a := range b.Sample(r.IntN(20), Audience{Peer: id(1), IP: global(9)}) {
					if a.NodeID == id(1) || a.NodeID == id(3) || a.Hostname[:3] == "10." {
						t.Fatalf("told %s", a)
					}
				}
			},
			"restart": func() {
				if r.IntN(10) > 0 {
					return
				}
				for n := range 30 {
					b.Release(id(n), time.Time{}) // who is held stays, even above MaxRecords
				}
				if len(b.c.loose.items) > o.MaxRecords {
					return // of bans without end; others may go
				}
				before := remembered(b)
				collided += b.Stats().Displaced + b.Stats().Kinds[PEX].Refused
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
				b = open(t, store, o)
				if after := remembered(b); !reflect.DeepEqual(before, after) {
					for k := range before {
						if !reflect.DeepEqual(before[k], after[k]) {
							t.Errorf("%s was\n%+v\nis\n%+v", k, before[k], after[k])
						}
					}
					for k := range after {
						if before[k] == nil {
							t.Errorf("%s is new: %+v", k, after[k])
						}
					}
					t.Fatalf("round %d: a restart forgot something", round)
				}
				if n := b.Notices(); len(n) != 0 {
					t.Fatal(n)
				}
			},
		}
		names := slices.Sorted(maps.Keys(ops))
		names = append(names, "add", "add", "add", "add", "good", "good", "failed", "pick")
		for step := range 4000 {
			name := names[r.IntN(len(names))]
			ops[name]()
			if err := b.c.invariants(b.now()); err != nil {
				t.Fatalf("round %d, step %d, after %s: %v", round, step, name, err)
			}
		}
		if s := b.Stats(); collided+s.Displaced+s.Kinds[PEX].Refused == 0 {
			t.Errorf("round %d: nothing ever collided: %+v", round, s)
		}
	}
}
