package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
)

// countedPolicy counts how often the engine asks.
type countedPolicy struct {
	dialPolicy
	asked *atomic.Int64
}

func (p countedPolicy) Next(now time.Time) (connmgr.Dial[dialTarget], time.Time, bool) {
	p.asked.Add(1)
	return p.dialPolicy.Next(now)
}

type testConn struct{ io.Closer }

func (testConn) Close() error { return nil }

// engineRig runs the engine on a PeerManager the way the Router does.
type engineRig struct {
	m             *PeerManager
	asked, dialed atomic.Int64
	dial          func(NodeAddress) error
	limits        connmgr.Limits
	stop          func()
}

func (g *engineRig) start(t *testing.T) {
	cfg := connmgr.EngineConfig[dialTarget, *testConn]{
		Policy: countedPolicy{dialPolicy{g.m}, &g.asked}, Limits: g.limits,
		Dial: func(_ context.Context, target dialTarget) (*testConn, error) {
			g.dialed.Add(1)
			return &testConn{}, g.dial(target.address)
		},
		Admit: func(_ *testConn, at connmgr.EstablishInfo[dialTarget]) error {
			_, err := g.m.admit(arrival{id: at.Dial.Target.address.NodeID, number: at.ID, direction: at.Direction, dialled: at.Dial.Target.address, kind: at.Dial.Kind})
			return err
		},
		Connected: func(c *connmgr.Conn[dialTarget, *testConn]) {
			g.m.sessionReady(c.Dial().Target.address.NodeID, c.ID(), nil)
		},
		Disconnected: func(c *connmgr.Conn[dialTarget, *testConn], _ error) {
			g.m.sessionDown(c.Dial().Target.address.NodeID, c.ID(), connmgr.ErrClosed)
		},
	}
	engine, err := connmgr.NewEngine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.m.attach(NodeAddress{}, engine.Wake)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = engine.Run(ctx)
	}()
	g.stop = func() {
		stop()
		<-done
		g.m.detach()
	}
}

// A time that has come and is of no use must not make the engine ask again and
// again: an hour costs a few questions, and some for each event.
func TestEngineDoesNotSpin(t *testing.T) {
	dead := errors.New("nobody there")
	hour := func(n int) PeerManagerOptions {
		return PeerManagerOptions{MaxConnected: uint16(n), MinRetryTime: 10 * time.Minute}
	}
	for name, test := range map[string]struct {
		o      PeerManagerOptions
		peers  int
		before func(m *PeerManager)
		dial   error
		limits connmgr.Limits
		most   int64 // questions in an hour
	}{
		"nobody known":                    {PeerManagerOptions{}, 0, nil, nil, connmgr.Limits{}, 60},
		"full, many due":                  {hour(3), 100, nil, nil, connmgr.Limits{}, 250},
		"full, and upgrades are possible": {PeerManagerOptions{MaxConnected: 3, MaxConnectedUpgrade: 2, MinRetryTime: time.Minute}, 200, nil, nil, connmgr.Limits{}, 400},
		"outgoing reached":                {PeerManagerOptions{MaxConnected: 9, MaxOutgoingConnections: 2}, 100, nil, nil, connmgr.Limits{}, 250},
		"all dead":                        {hour(0), 100, nil, dead, connmgr.Limits{}, 2000},
		"never again":                     {PeerManagerOptions{}, 100, nil, dead, connmgr.Limits{}, 1000},
		"a persistent peer is banned": {PeerManagerOptions{PersistentPeers: []NodeID{numberedID(0)}}, 1, func(m *PeerManager) {
			m.book.SetBan(numberedID(0), 30*time.Minute, "")
		}, nil, connmgr.Limits{}, 60},
		"full of persistent peers": {PeerManagerOptions{MaxConnected: 2, MaxConnectedUpgrade: 1, PersistentPeers: []NodeID{numberedID(0), numberedID(1)}}, 200, nil, nil, connmgr.Limits{}, 250},
		"our own limits refuse":    {hour(0), 3, nil, nil, connmgr.Limits{Outbound: connmgr.Share{Total: 1}}, 250},
		"many come due at once": {PeerManagerOptions{MaxConnected: 1, MaxConnectedUpgrade: 1}, 500, func(m *PeerManager) {
			for i := range 500 {
				m.book.Failed(numberedAddress(i, 0), m.core.o.Now().Add(10*time.Minute))
			}
			_ = m.Accepted(nodeID("a"))
		}, nil, connmgr.Limits{}, 400},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newManager(t, test.o)
				for i := range test.peers {
					mustAdd(t, m, numberedAddress(i, 0))
				}
				if test.before != nil {
					test.before(m)
				}
				g := &engineRig{m: m, dial: func(NodeAddress) error { return test.dial }, limits: test.limits}
				g.start(t)
				time.Sleep(time.Hour)
				asked := g.asked.Load()
				t.Logf("%d questions, %d dials", asked, g.dialed.Load())
				if asked > test.most {
					t.Errorf("%d questions in an hour with %d dials, at most %d are right", asked, g.dialed.Load(), test.most)
				}
				g.stop()
				m.Close()
			})
		})
	}
}

// Feelers test addresses beside a full node: what answers is verified, nothing
// stays connected, and no failure is counted.
func TestFeelersVerifyAndLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, PeerManagerOptions{MaxConnected: 1})
		a := numberedAddress(1, 0)
		if err := m.Accepted(nodeID("a")); err != nil {
			t.Fatal(err)
		}
		mustAdd(t, m, a)
		sub := m.Subscribe()
		g := &engineRig{m: m, dial: func(NodeAddress) error { return nil }}
		g.start(t)
		time.Sleep(feelerEvery - time.Second)
		if g.dialed.Load() != 0 {
			t.Error("a feeler before its time")
		}
		time.Sleep(2 * time.Second)
		if e, ok := m.book.Entry(a); !ok || !e.Verified || e.Failures != 0 || g.dialed.Load() != 1 {
			t.Errorf("%+v after %d dials", e, g.dialed.Load())
		}
		if m.Status(a.NodeID) != PeerStatusDown || len(sub.Updates()) != 0 {
			t.Error("a feeler is a connection")
		}
		g.stop()
		m.Close()
	})
}

// Persistent peers come back however long they were gone, whatever else is there
// to be dialled, and never wait longer than their cap.
func TestPersistentPeersNeverStarve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pia := numberedAddress(0, 0)
		m := newManager(t, PeerManagerOptions{
			PersistentPeers: []NodeID{pia.NodeID}, MaxConnected: 4, MaxConnectedUpgrade: 1, MaxOutgoingConnections: 2,
			MinRetryTime: time.Second, MaxRetryTime: time.Hour, MaxRetryTimePersistent: time.Minute,
		})
		mustAdd(t, m, pia)
		for i := range 300 {
			mustAdd(t, m, numberedAddress(i+1, 0))
		}
		var back atomic.Bool
		g := &engineRig{m: m, dial: func(a NodeAddress) error {
			if a == pia && !back.Load() {
				return io.EOF
			}
			return nil
		}}
		g.start(t)
		for i := range 3 {
			_ = m.Accepted(nodeID(fmt.Sprint(i + 1)))
		}
		time.Sleep(12 * time.Hour)
		if m.Status(pia.NodeID) == PeerStatusUp {
			t.Error("up, though it is not there")
		}
		back.Store(true)
		time.Sleep(time.Minute + time.Second)
		if m.Status(pia.NodeID) != PeerStatusUp {
			t.Error("the persistent peer is there, and not connected")
		}
		g.stop()
		m.Close()
	})
}

// What we did ourselves is no failure of the peer.
func TestOurOwnRefusalIsNoFailure(t *testing.T) {
	a := numberedAddress(1, 0)
	for name, test := range map[string]struct {
		cause    error
		failures int
		pause    time.Duration
	}{
		"stopped":                         {connmgr.ErrStopped, 0, 0},
		"cancelled":                       {fmt.Errorf("x: %w", connmgr.ErrDropped), 0, 0},
		"refused":                         {fmt.Errorf("x: %w", &connmgr.Refusal{Rule: connmgr.RuleHost}), 0, refusedPause},
		"dead":                            {io.EOF, 1, time.Hour},
		"a transport that says cancelled": {context.Canceled, 1, time.Hour},
	} {
		clock := newTestClock()
		m := newManager(t, PeerManagerOptions{MinRetryTime: time.Hour, Now: clock.now})
		mustAdd(t, m, a)
		p := dialPolicy{m}
		d, _, ok := p.Next(clock.now())
		if !ok {
			t.Fatal("nobody to dial")
		}
		late := d
		late.Tag++
		p.Ended(late, connmgr.Outcome{Cause: io.EOF}) // another dial's end changes nothing
		if !m.TryDialNext().IsZero() {
			t.Errorf("%s: the end of another dial ended this one", name)
		}
		p.Ended(d, connmgr.Outcome{Cause: test.cause})
		if e, _ := m.book.Entry(a); e.Failures != test.failures {
			t.Errorf("%s: %d failures", name, e.Failures)
		}
		if test.pause > 0 {
			clock.add(test.pause - 1)
			if a := m.TryDialNext(); !a.IsZero() {
				t.Errorf("%s: dialled before %v", name, test.pause)
			}
			clock.add(1)
		}
		if m.TryDialNext() != a {
			t.Errorf("%s: not dialled after %v", name, test.pause)
		}
	}
}

// Tendermint kept peers of other networks, and dialled them, for ever.
func TestRegressionPeersOfOtherNetworksAreForgotten(t *testing.T) {
	clock := newTestClock()
	a, pia := numberedAddress(1, 0), numberedAddress(2, 0)
	m := newManager(t, PeerManagerOptions{PersistentPeers: []NodeID{pia.NodeID}, Now: clock.now, MinRetryTime: time.Second})
	source := Source{Kind: addrbook.PEX, Peer: nodeID("9"), IP: netip.MustParseAddr("80.1.1.1"), Protocol: "mconn"}
	if added, err := m.AddFrom(a, source); !added || err != nil {
		t.Fatal(added, err)
	}
	if m.TryDialNext() != a {
		t.Fatal("not dialled")
	}
	m.otherNetwork(a.NodeID, errors.New("network b, not a"))
	if err := m.DialFailed(a); err != nil || len(m.Peers()) != 0 {
		t.Fatal(err, m.Peers())
	}
	for _, d := range []time.Duration{0, 23 * time.Hour} {
		clock.add(d)
		if added, err := m.AddFrom(a, source); added || err == nil {
			t.Fatal("learnt again:", added, err)
		}
	}
	clock.add(time.Hour)
	if added, err := m.AddFrom(a, source); !added || err != nil {
		t.Fatal(added, err)
	}
	// The user's word holds: a persistent peer stays.
	mustAdd(t, m, pia)
	m.otherNetwork(pia.NodeID, io.EOF)
	if m.TryDialNext() != pia {
		t.Fatal("the persistent peer is forgotten")
	}
}

// What speaks against a newcomer is known before anybody is evicted for it.
func TestScreen(t *testing.T) {
	m := newManager(t, PeerManagerOptions{MaxConnected: 1})
	if _, err := m.admit(arrival{id: nodeID("a"), number: 1, kith: true}); err != nil {
		t.Fatal(err)
	}
	if err := m.Ban(nodeID("b"), 0, ""); err != nil {
		t.Fatal(err)
	}
	for c, want := range map[string]error{"a": ErrAlreadyConnected, "b": ErrBanned, "c": nil} { // c: places are another question
		if err := m.screen(arrival{id: nodeID(c), number: 2, kith: true}); !errors.Is(err, want) {
			t.Errorf("%s: %v", c, err)
		}
	}
}

// The one peer that is worse than all others is the victim, though the engine's
// choice would spare it for being the only one of its kind.
func TestRegressionWorstOfAllIsTheVictim(t *testing.T) {
	m := newManager(t, PeerManagerOptions{PersistentPeers: []NodeID{nodeID("a")}, PeerScores: map[NodeID]PeerScore{nodeID("c"): 5, nodeID("d"): -1}})
	candidates := []connmgr.Candidate{{ID: 99, Identity: string(nodeID("f"))}}
	for i, c := range []string{"a", "b", "c", "d", "e"} {
		if _, err := m.admit(arrival{id: nodeID(c), number: uint64(i + 1)}); err != nil {
			t.Fatal(err)
		}
		candidates = append(candidates, connmgr.Candidate{ID: uint64(i + 1), Identity: string(nodeID(c)), Protected: c == "e"})
	}
	for _, want := range []uint64{4, 2, 3} {
		if number, ok := (dialPolicy{m}).Victim(candidates); !ok || number != want {
			t.Fatalf("%d, %v, want %d", number, ok, want)
		}
	}
	if number, ok := (dialPolicy{m}).Victim(candidates); ok {
		t.Fatalf("%d, though only a persistent and a protected peer are left", number)
	}
	if err := m.Accepted(nodeID("d")); err != nil { // its session is over at once
		t.Fatal(err)
	}
}

// The address of an inbound peer is remembered, unproven.
func TestInboundAddress(t *testing.T) {
	m := newManager(t, PeerManagerOptions{})
	a := numberedAddress(1, 0)
	m.saidAddress(a, Endpoint{Protocol: "mconn", IP: []byte{80, 1, 1, 1}})
	m.saidAddress(NodeAddress{}, Endpoint{})
	if e, ok := m.book.Entry(a); !ok || e.Verified || e.Source.Kind != addrbook.Inbound {
		t.Fatal(e, ok)
	}
}
