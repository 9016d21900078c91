package connmgr

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"
)

// settle dials all there is to dial now, and lets it succeed.
func (w *tableWorld) settle() {
	w.t.Helper()
	for range 10_000 {
		id, _, _, ok := w.ask()
		if !ok {
			return
		}
		if _, with := w.dials[id]; with {
			if err := w.up(id); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	w.t.Fatal("the table never rests")
}

// mallory accepts every dial and drops the connection at once, for an hour. It
// returns how often it was dialled.
func mallory(w *tableWorld) (dials int) {
	for w.now.Sub(w.start) < time.Hour {
		var ids []uint64
		id, _, wake, ok := w.ask()
		for ; ok; id, _, wake, ok = w.ask() {
			if _, with := w.dials[id]; with {
				w.up(id)
				ids = append(ids, id)
			}
			if len(ids) == int(w.table.cfg.target) {
				break // all slots at a time
			}
		}
		for _, id := range ids {
			w.down(id)
		}
		if len(ids) == 0 {
			w.now = wake
		}
	}
	for _, n := range w.dialed {
		dials += n
	}
	return dials
}

// In btcd each success ends the growth: such a peer is dialled again at the
// shortest pause each time.
func TestRegressionAcceptAndDropIsDialledWithGrowth(t *testing.T) {
	const most = 40 // in an hour, at the default RetryDuration
	for _, addresses := range []int{1, 2} {
		w := newTableWorld(t, tableConfig{})
		req := &ConnReq{Addr: peerName("mallory"), Permanent: true}
		for range addresses - 1 {
			req.OtherAddrs = append(req.OtherAddrs, peerName("mallory2"))
		}
		w.table.connect(req)
		dials := mallory(w)
		t.Logf("permanent, %d addresses: %d dials in an hour", addresses, dials)
		if dials > most || dials < most/2 {
			t.Errorf("permanent, %d addresses: %d dials in an hour, want at most %d", addresses, dials, most)
		}
	}
	// The same peer as the only one that the address source knows.
	for _, target := range []int64{1, 2, 8} {
		w := newTableWorld(t, tableConfig{target: target})
		w.source = func() string { return "mallory" }
		dials := mallory(w)
		t.Logf("automatic, target %d: %d dials in an hour", target, dials)
		if dials > most || dials < most/2 {
			t.Errorf("automatic, target %d: %d dials in an hour, want at most %d", target, dials, most)
		}
	}
}

// In btcd three automatic connections beside two permanent ones become two, and
// one, as they drop.
func TestRegressionAutomaticSlotsDoNotDecay(t *testing.T) {
	for seed := range uint64(50) {
		w := newTableWorld(t, tableConfig{target: 3})
		random := rand.New(rand.NewPCG(seed, 1))
		for _, name := range []string{"alice", "bob"} {
			w.table.connect(&ConnReq{Addr: peerName(name), Permanent: true})
		}
		w.settle()
		for range 100 {
			w.now = w.now.Add(time.Duration(random.IntN(10)) * time.Second)
			w.table.shorts = 0 // pacing is another test's
			var ids []uint64
			for _, r := range w.table.requests() {
				if r.Kind == KindAutomatic && random.IntN(2) == 0 {
					ids = append(ids, r.ID)
				}
			}
			for _, id := range ids {
				switch random.IntN(3) {
				case 0:
					w.down(id)
				case 1:
					w.drop(w.table.disconnect(id, false, w.now))
				default:
					w.drop(w.table.remove(id, w.now))
				}
			}
			w.settle()
			if a, p := w.count(KindAutomatic, ConnEstablished), w.count(KindPermanent, ConnEstablished); a != 3 || p != 2 {
				t.Fatalf("seed %d: %d automatic and %d permanent connections, want 3 and 2", seed, a, p)
			}
		}
	}
}

// A network full of peers that do not keep a connection, each at an address of
// its own, is not raced through. No slot waits longer than RetryDuration.
func TestRegressionShortConnectionsArePaced(t *testing.T) {
	w := newTableWorld(t, tableConfig{target: 3})
	dials := mallory(w)
	if most := 25 + 3*721; dials > most || dials < most*9/10 {
		t.Errorf("%d dials in an hour, want nearly %d", dials, most)
	}
	w.settle()
	w.now = w.now.Add(defaultRetry)
	w.settle()
	if n := w.count(KindAutomatic, ConnEstablished); n != 3 {
		t.Errorf("%d connections one RetryDuration later, want 3", n)
	}
	// One that lives ends the pacing.
	w.now = w.now.Add(defaultRetry)
	for id := range w.upAt {
		w.down(id)
	}
	w.settle()
	if n := w.count(KindAutomatic, ConnEstablished); n != 3 {
		t.Errorf("%d connections at once, want 3", n)
	}
}

// In btcd it stays in a map that nobody can see.
func TestRegressionFailingOneShotIsSeenAndRemovable(t *testing.T) {
	w := newTableWorld(t, tableConfig{})
	req := &ConnReq{Addr: peerName("alice")}
	w.table.connect(req)
	id, _, _, _ := w.ask()
	w.fail(id, errNoAnswer)
	list := w.table.requests()
	if len(list) != 1 || list[0].ID != req.ID() || list[0].State != ConnFailing || !errors.Is(list[0].Cause, errNoAnswer) {
		t.Fatalf("listed: %+v", list)
	}
	if w.drop(w.table.remove(id, w.now)); len(w.table.requests()) != 0 || req.State() != ConnCanceled {
		t.Fatalf("after Remove: %+v, state %v", w.table.requests(), req.State())
	}
}

// In btcd the new connection of a request used again is closed without a word.
func TestRegressionRequestUsedAgainAfterRemove(t *testing.T) {
	w := newTableWorld(t, tableConfig{})
	req := &ConnReq{Addr: peerName("alice")}
	for want := uint64(1); want <= 3; want++ {
		w.table.connect(req)
		w.settle()
		if req.ID() != want || req.State() != ConnEstablished {
			t.Fatalf("id %d, state %v, want %d, established", req.ID(), req.State(), want)
		}
		w.drop(w.table.remove(req.ID(), w.now))
		if req.State() != ConnDisconnected {
			t.Fatalf("removed: %v", req.State())
		}
	}
}

// dcrd dials a peer that was added and removed before the start all the same.
func TestRegressionRemovedBeforeTheStartIsNotDialled(t *testing.T) {
	w := newTableWorld(t, tableConfig{})
	var reqs []*ConnReq
	for i := range 9 {
		reqs = append(reqs, &ConnReq{Addr: peerName(fmt.Sprint(i)), Permanent: true})
		w.table.connect(reqs[i])
		w.table.remove(reqs[0].ID(), w.now)
	}
	w.settle()
	if w.dialed["0"] != 0 || len(w.dialed) != 8 {
		t.Fatalf("dialled: %v", w.dialed)
	}
}

func TestARequestIsOneTablesAtATime(t *testing.T) {
	a, b := newTableWorld(t, tableConfig{}), newTableWorld(t, tableConfig{})
	req := &ConnReq{Addr: peerName("alice")}
	a.table.connect(req)
	b.table.connect(req)
	if len(b.table.requests()) != 0 || len(a.table.requests()) != 1 {
		t.Fatal("two tables hold one request")
	}
	a.settle()
	a.down(1)
	b.table.connect(req)
	if req.ID() != 1 || len(b.table.requests()) != 1 {
		t.Fatalf("id %d, %d requests", req.ID(), len(b.table.requests()))
	}
	// What a knew of it is over, though the number is the same.
	if a.table.settle(1, true, a.now); len(a.table.requests()) != 0 {
		t.Fatal("a table took back what is another's")
	}
}

// The engine closes after the table has decided.
func TestOrdersWhileTheEngineCloses(t *testing.T) {
	w := newTableWorld(t, tableConfig{})
	req := &ConnReq{Addr: peerName("alice"), Permanent: true}
	w.table.connect(req)
	w.settle()
	d := w.dials[1]
	match := w.table.disconnect(1, false, w.now)
	if match == nil || !match(d) || req.State() != ConnPending {
		t.Fatalf("%v, state %v", match != nil, req.State())
	}
	if w.table.dialNow(1, nil); req.State() != ConnPending || len(w.table.asked) != 0 {
		t.Fatal("dialled beside the connection that is being closed")
	}
	if _, _, _, ok := w.ask(); ok {
		t.Fatal("dialled before the engine said that the connection is gone")
	}
	w.down(1)
	w.now = w.now.Add(defaultRetry)
	w.settle()
	if match(w.dials[1]) {
		t.Fatal("the order for the first connection matches the second")
	}

	// A second order before the engine is done cancels, or removes.
	w.table.disconnect(1, false, w.now)
	if m := w.table.disconnect(1, false, w.now); m == nil || !m(w.dials[1]) || req.State() != ConnCanceled {
		t.Fatalf("%v, state %v", m != nil, req.State())
	}
	w.down(1)
	if len(w.table.requests()) != 0 {
		t.Fatal("still there")
	}
	if err := w.up(1); !errors.Is(err, ErrDropped) {
		t.Fatalf("a late success: %v", err)
	}
	if err := w.table.resolved(1, peerName("x"), w.now); !errors.Is(err, ErrDropped) {
		t.Fatalf("a late address: %v", err)
	}
}

func TestConnectOfWhatCannotBe(t *testing.T) {
	w := newTableWorld(t, tableConfig{anchors: nil})
	w.table.connect(nil)
	w.table.connect(&ConnReq{})
	w.table.connect(&ConnReq{Permanent: true})
	w.table.connect(&ConnReq{OtherAddrs: []net.Addr{nil, peerName("bob"), nil}})
	for i, want := range []ConnState{ConnFailing, ConnFailing, ConnPending} {
		if r := w.table.requests()[i]; r.State != want || (want == ConnFailing) != errors.Is(r.Cause, ErrNoAddress) {
			t.Errorf("%+v, want %v", r, want)
		}
	}
	w.settle()
	if w.dialed["bob"] != 1 || len(w.dialed) != 1 {
		t.Fatalf("dialled %v", w.dialed)
	}
}

// A target that no network has room for costs what its connections cost, and in
// an outage next to nothing.
func TestHugeTargets(t *testing.T) {
	const atATime = 64 // what an engine dials
	w := newTableWorld(t, tableConfig{target: math.MaxUint32})
	w.source = func() string { w.asked++; return "" }
	w.quick = true
	for w.now.Sub(w.start) < time.Hour {
		wake := w.now
		for range atATime {
			_, _, next, ok := w.ask()
			if !ok {
				wake = next
				break
			}
		}
		if wake.Before(w.now) {
			t.Fatalf("to be asked again at %v, before now", wake)
		}
		w.now = wake
	}
	// At most 25 slots, each trying every RetryDuration.
	w.coherent()
	if w.asked > 25*721 || len(w.table.entries) > 25 {
		t.Fatalf("%d addresses asked for in an hour without network, %d requests listed", w.asked, len(w.table.entries))
	}
	w.source = func() string { w.asked++; return fmt.Sprint(w.asked) }
	for range 5000 {
		if id, _, wake, ok := w.ask(); ok {
			w.up(id)
		} else {
			w.now = wake
		}
	}
	w.quick = false
	w.coherent()
	if n := w.count(KindAutomatic, ConnEstablished); n < 4990 {
		t.Fatalf("%d connections after the outage", n)
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	w := newTableWorld(t, tableConfig{target: 1})
	for range 2 * maxFlaps {
		w.settle()
		for id := range w.upAt {
			w.down(id)
		}
		w.now = w.now.Add(defaultRetry)
	}
	if len(w.table.late) != maxLate || len(w.table.flaps.by) != maxFlaps {
		t.Fatalf("%d late, %d flaps", len(w.table.late), len(w.table.flaps.by))
	}
	// Flaps forget the one whose pause ends first.
	if _, ok := w.table.flaps.by[flapKey(peerName("node1"))]; ok {
		t.Fatal("the first is remembered")
	}
	if _, ok := w.table.flaps.by[flapKey(peerName(fmt.Sprintf("node%d", 2*maxFlaps)))]; !ok {
		t.Fatal("the last is not remembered")
	}
}

func TestFlapsAreForgotten(t *testing.T) {
	w := newTableWorld(t, tableConfig{})
	now, a, f := w.now, peerName("a"), &w.table.flaps
	for range flapGrace + 1 {
		f.short(a, now)
	}
	const pause = (flapGrace + 1) * defaultRetry
	if f.mayDial(a, now) || f.mayDial(a, now.Add(pause-1)) {
		t.Fatal("dialled within its pause")
	}
	if !f.mayDial(a, now.Add(pause)) || f.mayDial(a, now.Add(pause+time.Second)) {
		t.Fatal("after its pause one may dial, and no other meanwhile")
	}
	if !f.mayDial(a, now.Add(time.Hour)) || len(f.by) != 0 {
		t.Fatal("not forgotten")
	}
}

func TestGrow(t *testing.T) {
	for _, c := range []struct {
		retry, most time.Duration
		n           int
		want        time.Duration
	}{
		{5 * time.Second, 5 * time.Minute, 1, 5 * time.Second},
		{5 * time.Second, 5 * time.Minute, 59, 295 * time.Second},
		{5 * time.Second, 5 * time.Minute, 60, 5 * time.Minute},
		{5 * time.Second, 5 * time.Minute, math.MaxInt, 5 * time.Minute},
		{time.Hour, time.Minute, 1, time.Minute},
		{1, math.MaxInt64, math.MaxInt, math.MaxInt64},
		{math.MaxInt64, math.MaxInt64, 2, math.MaxInt64},
	} {
		w := newTableWorld(t, tableConfig{retry: c.retry, maxRetry: c.most})
		if got := w.table.grow(c.n); got != c.want {
			t.Errorf("%d x %v, at most %v: %v, want %v", c.n, c.retry, c.most, got, c.want)
		}
	}
}

// Any orders in any sequence: the table stays coherent (checked after each
// step), what is permanent comes up, and the target is met.
func TestTableAtRandom(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 2))
		w := newTableWorld(t, tableConfig{
			target: int64(random.IntN(5)), feelers: time.Duration(random.IntN(2)) * time.Minute,
			anchors: []net.Addr{peerName("old1"), nil, peerName("old2")}, random: random.Float64,
		})
		w.source = func() string {
			w.asked++
			return []string{"", "same", fmt.Sprint("node", w.asked)}[random.IntN(3)]
		}
		var mine []*ConnReq
		pick := func() uint64 { return uint64(random.IntN(int(w.table.last) + 2)) }
		for range 300 {
			switch random.IntN(12) {
			case 0:
				req := &ConnReq{Addr: peerName(fmt.Sprint("p", len(mine))), Permanent: random.IntN(2) == 0}
				if random.IntN(2) == 0 {
					req.OtherAddrs = []net.Addr{peerName("other")}
				}
				mine = append(mine, req)
				w.table.connect(req)
			case 1:
				if len(mine) > 0 {
					w.table.connect(mine[random.IntN(len(mine))])
				}
			case 2:
				w.drop(w.table.disconnect(pick(), random.IntN(2) == 0, w.now))
			case 3:
				w.drop(w.table.remove(pick(), w.now))
			case 4:
				w.table.dialNow(pick(), nil)
			case 5:
				if random.IntN(10) == 0 {
					w.table.resetBackoff()
				} else if random.IntN(3) == 0 {
					w.table.more()
				}
			case 6, 7:
				w.now = w.now.Add(time.Duration(random.IntN(8000)) * time.Millisecond)
			default:
				if _, _, wake, ok := w.ask(); !ok && !wake.IsZero() && wake.Before(w.now) {
					t.Fatalf("seed %d: to be asked again at %v, before now", seed, wake)
				}
				for id := range w.dials {
					_, isUp := w.upAt[id]
					switch {
					case isUp && random.IntN(8) == 0:
						w.down(id)
					case !isUp && random.IntN(2) == 0:
						w.up(id)
					case !isUp:
						w.fail(id, errNoAnswer)
					}
				}
			}
			w.coherent()
		}
		// From here on all goes well.
		w.source = func() string { w.asked++; return fmt.Sprint("node", w.asked) }
		for range 400 {
			w.settle()
			w.now = w.now.Add(time.Second)
		}
		if n := w.count(KindAutomatic, ConnEstablished); int64(n) < w.table.wanted() {
			t.Fatalf("seed %d: %d automatic connections, want %d", seed, n, w.table.wanted())
		}
		for _, r := range w.table.requests() {
			if r.Kind == KindPermanent && r.State != ConnEstablished {
				t.Fatalf("seed %d: %+v is not up", seed, r)
			}
		}
		w.table.stop()
		for id := range w.upAt {
			w.down(id)
		}
		if rest := w.table.requests(); len(rest) != 0 || len(w.table.queue)+len(w.table.asked) != 0 {
			t.Fatalf("seed %d: after the stop: %+v", seed, rest)
		}
		states := []ConnState{ConnCanceled, ConnDisconnected, ConnFailing}
		for id, req := range w.reqs {
			if !slices.Contains(states, req.State()) {
				t.Fatalf("seed %d: request %d ends as %v", seed, id, req.State())
			}
		}
	}
}
