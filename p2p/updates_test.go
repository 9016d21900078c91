package p2p

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// comes connects a peer and makes it ready.
func comes(t *testing.T, m *PeerManager, id NodeID) {
	t.Helper()
	if m.Accepted(id) != nil || m.Ready(id, ChannelIDSet{7: {}}) != nil {
		t.Fatalf("%v cannot come", id)
	}
}

func TestUpdatesArriveBeforeTheCallReturns(t *testing.T) {
	m := newManager(t, PeerManagerOptions{})
	subs := []*PeerUpdates{m.Subscribe(), m.Subscribe(), m.Subscribe()}
	comes(t, m, nodeID("a"))
	for _, sub := range subs {
		if len(sub.Updates()) != 1 {
			t.Fatal("no update")
		}
		if up := <-sub.Updates(); up.NodeID != nodeID("a") || up.Status != PeerStatusUp || !up.Channels.Contains(7) || up.Channels.Contains(8) {
			t.Fatal(up)
		}
	}
	subs[1].Close()
	if err := m.Disconnected(nodeID("a")); err != nil {
		t.Fatal(err)
	}
	for i, sub := range subs {
		if up, ok := <-sub.Updates(); ok == (i == 1) || ok && (up.Status != PeerStatusDown || up.Channels != nil) {
			t.Fatal(i, up, ok)
		}
	}
}

// Tendermint sent updates under the manager's lock: one subscriber that did not
// read stopped dialling, accepting and evicting.
func TestRegressionSlowSubscriberStopsNobody(t *testing.T) {
	leaves(t)
	m := newManager(t, PeerManagerOptions{})
	slow, fast := m.Subscribe(), m.Subscribe()
	heard := 0
	for i := range 2000 {
		id := numberedID(i)
		comes(t, m, id)
		if i%2 == 0 {
			if err := m.Disconnected(id); err != nil {
				t.Fatal(err)
			}
		}
		for len(fast.Updates()) > 0 {
			<-fast.Updates()
			heard++
		}
	}
	if heard != 3000 {
		t.Errorf("the one that reads heard %d of 3000 updates", heard)
	}
	// What waits for the slow one is bounded by who is up, and by what it was told.
	slow.mu.Lock()
	waits := len(slow.waiting)
	slow.mu.Unlock()
	if waits > 1000+updatesRoom {
		t.Errorf("%d peers wait for the slow one, though 1000 are up", waits)
	}
	slow.Close()
	slow.Close()
}

// Against a model: whenever and however slowly a subscriber reads, it hears in
// turn that each peer came and went, and in the end what is so.
func TestUpdatesTellTheTruthInTheEnd(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(seed, 0))
		for round := range 200 {
			u := newPeerUpdates(func(*PeerUpdates) {})
			is, told := map[NodeID]bool{}, map[NodeID]bool{}
			hear := func(up PeerUpdate) {
				if now := up.Status == PeerStatusUp; told[up.NodeID] == now {
					t.Fatalf("round %d: %v is %s twice", round, up.NodeID, up.Status)
				} else {
					told[up.NodeID] = now
				}
			}
			peers := 1 + r.IntN(200)
			for range 1000 {
				id := numberedID(r.IntN(peers))
				up := PeerUpdate{NodeID: id, Status: PeerStatusUp}
				if is[id] {
					up.Status = PeerStatusDown
				}
				is[id] = !is[id]
				u.mu.Lock()
				busy := u.busy // once nobody else sends, only send changes that
				u.mu.Unlock()
				room := len(u.ch) < updatesRoom
				before := len(u.ch)
				if u.send(up); room && !busy && len(u.ch) != before+1 {
					t.Fatal("there was room, and the update did not arrive")
				}
				u.mu.Lock()
				for id, waiting := range u.waiting {
					if len(waiting) > 2 || len(waiting) == 2 && waiting[1].Status != PeerStatusUp || len(waiting) == 0 {
						t.Fatalf("of %v wait %v", id, waiting)
					}
				}
				u.mu.Unlock()
				for range r.IntN(3) * r.IntN(2) {
					select {
					case up := <-u.ch:
						hear(up)
					default:
					}
				}
				if r.IntN(20) == 0 {
					synctest.Wait() // lets the goroutine go on
				}
			}
			for synctest.Wait(); len(u.ch) > 0; synctest.Wait() {
				hear(<-u.ch)
			}
			for id := range is {
				if is[id] != told[id] {
					t.Fatalf("round %d: %v is up: %v, was told %v", round, id, is[id], told[id])
				}
			}
			u.Close()
		}
	})
}

// A down between two ups is never merged away, and is heard between them.
func TestDownBetweenTwoUpsIsHeard(t *testing.T) {
	m := newManager(t, PeerManagerOptions{})
	sub := m.Subscribe()
	comes(t, m, nodeID("a"))
	for i := range updatesRoom {
		comes(t, m, numberedID(i)) // the last one finds no room
	}
	for range 5 { // and goes and comes while nobody reads
		if err := m.Disconnected(nodeID("a")); err != nil {
			t.Fatal(err)
		}
		comes(t, m, nodeID("a"))
	}
	var heard []PeerStatus
	for range 1 + updatesRoom + 2 {
		select {
		case up := <-sub.Updates():
			if up.NodeID == nodeID("a") {
				heard = append(heard, up.Status)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("heard only %v", heard)
		}
	}
	if fmt.Sprint(heard) != "[up down up]" {
		t.Fatal(heard)
	}
}

// A subscription hears what comes after it, and not what was on its way.
func TestSubscribeFromNowOn(t *testing.T) {
	m := newManager(t, PeerManagerOptions{})
	if err := m.Accepted(nodeID("a")); err != nil {
		t.Fatal(err)
	}
	// As in do, up to where its lock is given back and nothing is sent yet.
	m.mu.Lock()
	m.core.ready(nodeID("a"), m.core.connected[nodeID("a")], nil)
	for _, up := range m.core.updates {
		m.outbox = append(m.outbox, delivery{up, m.subscriptions})
	}
	waiting := len(m.outbox)
	m.core.updates = nil
	m.mu.Unlock()
	sub := m.Subscribe()
	m.sendUpdates()
	if waiting != 1 {
		t.Fatalf("%d updates were on their way", waiting)
	}
	if len(sub.Updates()) != 0 {
		t.Fatal(<-sub.Updates())
	}
}

// Close while the goroutine holds an update that nobody takes.
func TestUpdatesCloseWhileSending(t *testing.T) {
	leaves(t)
	m := newManager(t, PeerManagerOptions{})
	sub := m.Subscribe()
	for i := range updatesRoom + 10 {
		comes(t, m, numberedID(i))
	}
	sub.Close()
	n := 0
	for range sub.Updates() {
		n++
	}
	if n < updatesRoom || n > updatesRoom+1 {
		t.Fatal(n)
	}
	comes(t, m, nodeID("a"))
}
