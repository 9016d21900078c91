package p2p

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
)

// Two nodes that dial each other, as a model: two cores, and between them
// connections of which each side learns in its own time. Every order of events
// is tried.

// modelConn is one connection of the model.
type modelConn struct {
	name   string
	closed bool // by either side
	ends   [2]modelEnd
}

// modelEnd is what one side knows of a connection. Side 0 has the smaller ID.
type modelEnd struct {
	number  uint64 // of the session
	settled bool   // admitted, refused, or its handshake failed
	stands  bool   // admitted, and its end not told yet
}

// crossing is the model.
type crossing struct {
	sides [2]*coreRig
	kith  [2]bool // whether a side believes that the other is kith
	dials int     // that each side may still make
	made  [2]int
	conns []*modelConn
	last  uint64
	trace []string
}

func newCrossing(t testing.TB, clock *testClock, kith bool, dials int) *crossing {
	x := &crossing{kith: [2]bool{kith, kith}, dials: dials}
	ids := [2]NodeID{NodeID(strings.Repeat("1", 40)), NodeID(strings.Repeat("9", 40))}
	for i := range x.sides {
		book, err := addrbook.Open(addrbook.NewMemoryStore(), addrbook.Options{Self: ids[i], NewBuckets: 1, TriedBuckets: 1, Now: clock.now, Rand: rand.New(rand.NewPCG(1, 1)).Float64})
		if err != nil {
			t.Fatal(err)
		}
		x.sides[i] = &coreRig{clock: clock, managerCore: newManagerCore(ids[i], PeerManagerOptions{Rand: rand.Float64, Now: clock.now}, book)}
		if _, err := book.Add(NodeAddress{NodeID: ids[1-i], Protocol: "memory"}, Source{Kind: addrbook.Manual}); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func (x *crossing) close() {
	for _, s := range x.sides {
		_ = s.book.Close()
	}
}

// event is something that may happen next.
type modelEvent struct {
	name string
	do   func() error
}

// enabled are the events that may happen now.
func (x *crossing) enabled() (es []modelEvent) {
	for side, core := range x.sides {
		now, other := core.clock.now(), x.sides[1-side].self
		if x.made[side] < x.dials && core.free(other) {
			es = append(es, modelEvent{fmt.Sprintf("%d dials", side), func() error {
				d, ok := core.next(now, false)
				if !ok || d.address.NodeID != other {
					return fmt.Errorf("%d dials %v, %v", side, d, ok)
				}
				x.made[side]++
				c := &modelConn{name: fmt.Sprintf("conn %d of %d", x.made[side], side)}
				for i := range c.ends {
					x.last++
					c.ends[i].number = x.last
				}
				x.conns = append(x.conns, c)
				return nil
			}})
		}
		for _, c := range x.conns {
			end, dialler := &c.ends[side], strings.HasSuffix(c.name, fmt.Sprint("of ", side))
			if !end.settled {
				es = append(es, modelEvent{fmt.Sprintf("%s is done at %d", c.name, side), func() error {
					end.settled = true
					s := session{number: end.number, kith: x.kith[side]}
					var superseded uint64
					var err error
					if dialler {
						superseded, err = core.dialled(NodeAddress{NodeID: other, Protocol: "memory"}, s, now)
					} else {
						superseded, err = core.accepted(other, s, now)
					}
					if err != nil {
						c.closed = true
						return nil
					}
					end.stands = true
					core.ready(other, core.connected[other], nil)
					return x.supersede(side, superseded)
				}})
			}
			if c.closed && !end.settled { // the close comes before the end of the handshake
				es = append(es, modelEvent{fmt.Sprintf("%s fails at %d", c.name, side), func() error {
					end.settled = true
					if dialler {
						core.notDialled(other, now)
					}
					return nil
				}})
			}
			if c.closed && end.stands {
				es = append(es, modelEvent{fmt.Sprintf("%s is down at %d", c.name, side), func() error {
					end.stands = false
					if s := core.connected[other]; s != nil && s.number == end.number {
						core.disconnected(other, s, now)
					}
					return nil
				}})
			}
		}
	}
	return es
}

func (x *crossing) supersede(side int, number uint64) error {
	if number == 0 {
		return nil
	}
	for _, c := range x.conns {
		if c.ends[side].number == number {
			c.closed = true
			return nil
		}
	}
	return fmt.Errorf("supersedes %d, which is none", number)
}

// take lets the n-th event happen.
func (x *crossing) take(es []modelEvent, n int) error {
	x.trace = append(x.trace, es[n].name)
	if err := es[n].do(); err != nil {
		return err
	}
	for _, core := range x.sides {
		if err := errors.Join(core.check(), core.checkHeld()); err != nil {
			return err
		}
		for i := 1; i < len(core.updates); i++ {
			if core.updates[i].Status == core.updates[i-1].Status {
				return fmt.Errorf("%s twice", core.updates[i].Status)
			}
		}
	}
	return nil
}

// kept is the connection that each side has, when nothing is left to happen.
func (x *crossing) kept() (names [2]string) {
	for side, core := range x.sides {
		if s := core.connected[x.sides[1-side].self]; s != nil {
			for _, c := range x.conns {
				if c.ends[side].number == s.number {
					names[side] = c.name
				}
			}
		}
	}
	return names
}

func TestCrossingDialsKeepTheSameConnection(t *testing.T) {
	clock := newTestClock()
	kept := map[string]int{}
	runs := 0
	// A run is the list of choices made; the next one differs in the last place
	// where there was another choice.
	for choices := []int{}; choices != nil; runs++ {
		x := newCrossing(t, clock, true, 1)
		var widths []int
		fail := func(err error) {
			t.Fatalf("%v, after:\n  %s", err, strings.Join(x.trace, "\n  "))
		}
		for depth := 0; ; depth++ {
			es := x.enabled()
			if len(es) == 0 {
				break
			}
			if depth == len(choices) {
				choices = append(choices, 0)
			}
			widths = append(widths, len(es))
			if err := x.take(es, choices[depth]); err != nil {
				fail(err)
			}
		}
		names := x.kept()
		if names[0] != names[1] || names[0] == "" {
			fail(fmt.Errorf("one keeps %q, the other %q", names[0], names[1]))
		}
		if len(x.conns) == 2 && names[0] != "conn 1 of 0" {
			fail(fmt.Errorf("of two, %s was kept, which the greater NodeID dialled", names[0]))
		}
		kept[fmt.Sprintf("%s of %d", names[0], len(x.conns))]++
		x.close()
		for len(choices) > 0 {
			last := len(choices) - 1
			if choices[last]++; choices[last] < widths[last] {
				break
			}
			choices = choices[:last]
		}
		if len(choices) == 0 {
			choices = nil
		}
	}
	t.Logf("%d orders: %v", runs, kept)
	if len(kept) != 3 {
		t.Error("there should be orders with one dial of either, and with two")
	}
}

// With more dials, what was given up is dialled again: in the end the two agree.
func TestCrossingDialsAgreeInTheEnd(t *testing.T) {
	clock := newTestClock()
	const runs = 20_000
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, kith := range []bool{true, false} {
		none := 0
		for range runs / 2 {
			x := newCrossing(t, clock, kith, 3)
			for es := x.enabled(); len(es) > 0; es = x.enabled() {
				if err := x.take(es, r.IntN(len(es))); err != nil {
					t.Fatalf("%v, after:\n  %s", err, strings.Join(x.trace, "\n  "))
				}
			}
			names := x.kept()
			if names[0] != names[1] {
				t.Fatalf("one keeps %q, the other %q, after:\n  %s", names[0], names[1], strings.Join(x.trace, "\n  "))
			}
			if names[0] == "" {
				none++
			}
			x.close()
		}
		t.Logf("kith %v: %d of %d ended without a connection", kith, none, runs/2)
		if kith && none > 0 {
			t.Error("two kith nodes must not give up both connections")
		}
	}
}

// A session's report that comes late changes nothing.
func TestStaleSessionsAreIgnored(t *testing.T) {
	m := newManager(t, PeerManagerOptions{})
	id := nodeID("a")
	first := arrival{id: id, number: 1, direction: connmgr.Inbound, kith: true}
	if _, err := m.admit(first); err != nil || !m.sessionReady(id, 1, nil) {
		t.Fatal(err)
	}
	m.sessionDown(id, 1, nil)
	if m.Status(id) != PeerStatusDown {
		t.Fatal("not down")
	}
	second := arrival{id: id, number: 2, direction: connmgr.Inbound, kith: true}
	if _, err := m.admit(second); err != nil {
		t.Fatal(err)
	}
	m.sessionDown(id, 1, nil)
	if m.sessionReady(id, 1, nil) || !m.sessionReady(id, 2, nil) || m.Status(id) != PeerStatusUp {
		t.Fatal("the old session's reports count")
	}
	m.sessionDown(id, 1, nil)
	if m.Status(id) != PeerStatusUp {
		t.Fatal("the old session's end ended the new one")
	}
}
