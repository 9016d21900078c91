package p2p

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/connmgr"
)

// What wakes DialNext: after d, and not before, it returns an address.
func TestDialNextWakes(t *testing.T) {
	a, b := memoryAddress("a"), memoryAddress("b")
	for name, test := range map[string]struct {
		o      PeerManagerOptions
		before func(m *PeerManager)
		event  func(m *PeerManager) // after a second
		want   NodeAddress
		after  time.Duration
	}{
		"an address is added":     {PeerManagerOptions{}, nil, func(m *PeerManager) { _, _ = m.Add(a) }, a, time.Second},
		"an address is learnt":    {PeerManagerOptions{}, nil, func(m *PeerManager) { m.Book().Learn(Source{Kind: "pex", Protocol: "memory"}, []NodeAddress{a}) }, a, time.Second},
		"a dial failed":           {PeerManagerOptions{MaxConnected: 1}, func(m *PeerManager) { _, _ = m.Add(a); m.TryDialNext(); _, _ = m.Add(b) }, func(m *PeerManager) { _ = m.DialFailed(a) }, b, time.Second},
		"a failed dial is due":    {PeerManagerOptions{MinRetryTime: 5 * time.Second}, func(m *PeerManager) { _, _ = m.Add(a); m.TryDialNext() }, func(m *PeerManager) { _ = m.DialFailed(a) }, a, 6 * time.Second},
		"a peer disconnected":     {PeerManagerOptions{}, func(m *PeerManager) { _, _ = m.Add(a); _ = m.Accepted(a.NodeID) }, func(m *PeerManager) { _ = m.Disconnected(a.NodeID) }, a, time.Second},
		"the cooldown is over":    {PeerManagerOptions{DisconnectCooldownPeriod: 3 * time.Second}, func(m *PeerManager) { _, _ = m.Add(a); _ = m.Accepted(a.NodeID) }, func(m *PeerManager) { _ = m.Disconnected(a.NodeID) }, a, 4 * time.Second},
		"a place is free":         {PeerManagerOptions{MaxConnected: 1}, func(m *PeerManager) { _ = m.Accepted(b.NodeID); _, _ = m.Add(a) }, func(m *PeerManager) { _ = m.Disconnected(b.NodeID) }, a, time.Second},
		"a ban is over":           {PeerManagerOptions{}, func(m *PeerManager) { _, _ = m.Add(a); m.Book().SetBan(a.NodeID, 5*time.Second, "") }, func(*PeerManager) {}, a, 5 * time.Second},
		"a ban is lifted":         {PeerManagerOptions{}, func(m *PeerManager) { _, _ = m.Add(a); m.Book().SetBan(a.NodeID, 0, "") }, func(m *PeerManager) { m.Book().ClearBan(a.NodeID) }, a, time.Second},
		"a score rose":            {PeerManagerOptions{MaxConnected: 1, MaxConnectedUpgrade: 1}, func(m *PeerManager) { _ = m.Accepted(b.NodeID); _, _ = m.Add(a) }, func(m *PeerManager) { m.Report(a.NodeID, Behaviour{Status: PeerStatusGood}) }, a, time.Second},
		"a connected peer's fell": {PeerManagerOptions{MaxConnected: 1, MaxConnectedUpgrade: 1}, func(m *PeerManager) { _ = m.Accepted(b.NodeID); _, _ = m.Add(a) }, func(m *PeerManager) { m.Report(b.NodeID, Behaviour{Status: PeerStatusBad}) }, a, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newManager(t, test.o)
				if test.before != nil {
					test.before(m)
				}
				start := time.Now()
				go func() {
					time.Sleep(time.Second)
					test.event(m)
				}()
				ctx, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				got, err := m.DialNext(ctx)
				if err != nil || got != test.want || time.Since(start) != test.after {
					t.Errorf("%v, %v after %v, want %v after %v", got, err, time.Since(start), test.want, test.after)
				}
				time.Sleep(time.Second)
				m.Close()
			})
		})
	}
}

// What wakes EvictNext.
func TestEvictNextWakes(t *testing.T) {
	a, b := memoryAddress("a"), memoryAddress("b")
	upgrade := PeerManagerOptions{MaxConnected: 1, MaxConnectedUpgrade: 1, PeerScores: map[NodeID]PeerScore{b.NodeID: 1}}
	for name, test := range map[string]struct {
		o     PeerManagerOptions
		event func(m *PeerManager) // after a second
	}{
		"an error":                {PeerManagerOptions{}, func(m *PeerManager) { m.Errored(a.NodeID, io.EOF) }},
		"a ban":                   {PeerManagerOptions{}, func(m *PeerManager) { _ = m.Ban(a.NodeID, 0, "") }},
		"an upgrade was dialled":  {upgrade, func(m *PeerManager) { _, _ = m.Add(b); _ = m.Dialed(m.TryDialNext()) }},
		"an upgrade was accepted": {upgrade, func(m *PeerManager) { _ = m.Accepted(b.NodeID) }},
		"above capacity": {PeerManagerOptions{MaxConnected: 2, PersistentPeers: []NodeID{b.NodeID}}, func(m *PeerManager) {
			_ = m.Accepted(b.NodeID)
			m.do(func(c *managerCore, _ time.Time) { c.o.MaxConnected, c.evictOK = 1, true }) // not possible from outside
		}},
		"a session that had to go was superseded": {PeerManagerOptions{}, func(m *PeerManager) {
			_ = m.Disconnected(a.NodeID)
			_, _ = m.admit(arrival{id: a.NodeID, number: 1, direction: connmgr.Inbound, kith: true})
			_, _ = m.Add(a)
			m.do(func(c *managerCore, now time.Time) {
				c.connected[a.NodeID].evict = io.EOF
				if n, err := c.dialled(a, session{number: 2, kith: true}, now); n != 1 || err != nil {
					panic(err)
				}
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newManager(t, test.o)
				if err := m.Accepted(a.NodeID); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				go func() {
					time.Sleep(time.Second)
					test.event(m)
				}()
				ctx, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				if id, err := m.EvictNext(ctx); err != nil || id != a.NodeID || time.Since(start) != time.Second {
					t.Errorf("%v, %v after %v", id, err, time.Since(start))
				}
				synctest.Wait()
				if id, err := m.TryEvictNext(); err != nil || id != "" {
					t.Errorf("then %v, %v", id, err)
				}
				m.Close()
			})
		})
	}
}

// One signal may stand for several addresses: everybody who waits gets one.
func TestRegressionEveryWaiterWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, PeerManagerOptions{})
		const n = 5
		for i := range n {
			mustAdd(t, m, numberedAddress(i, 0))
			if err := m.DialFailed(m.TryDialNext()); err != nil {
				t.Fatal(err)
			}
		}
		var dialled, evicted sync.Map
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				a, err := m.DialNext(t.Context())
				if _, twice := dialled.LoadOrStore(a, true); err != nil || twice {
					t.Errorf("%v, %v, twice: %v", a, err, twice)
				}
			})
			all.Go(func() {
				id, err := m.EvictNext(t.Context())
				if _, twice := evicted.LoadOrStore(id, true); err != nil || twice {
					t.Errorf("%v, %v, twice: %v", id, err, twice)
				}
			})
		}
		synctest.Wait()
		m.book.ResetRetries() // the network changed: all are due with one signal
		m.mu.Lock()
		for i := range n {
			id := numberedID(100 + i)
			m.core.connect(id, session{}, nil, time.Now())
			m.core.markEvict(id, io.EOF)
		}
		m.mu.Unlock()
		m.do(func(*managerCore, time.Time) {})
		all.Wait()
		m.Close()
	})
}

// A context that is over does not hide what is there (as in Tendermint), and
// otherwise is the error.
func TestNextWithContextOver(t *testing.T) {
	a := memoryAddress("a")
	m := newManager(t, PeerManagerOptions{})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := m.DialNext(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := m.EvictNext(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	mustAdd(t, m, a)
	if got, err := m.DialNext(ctx); err != nil || got != a || m.Dialed(a) != nil {
		t.Fatal(got, err)
	}
	m.Errored(a.NodeID, nil)
	if id, err := m.EvictNext(ctx); err != nil || id != a.NodeID {
		t.Fatal(id, err)
	}
}
