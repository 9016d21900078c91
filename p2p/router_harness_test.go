package p2p_test

import (
	"context"
	"encoding/binary"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
	"github.com/kith-p2p/kith/p2p/memory"
)

// world is where the nodes of a test live: a memory network, or the loopback.
type world struct {
	testing.TB
	net   *memory.Network // nil: mconn over TCP
	nodes int
	peers p2p.PeerManagerOptions
}

// inMemory runs a test in a bubble of virtual time, on a memory network. What is
// left running at its end fails it.
func inMemory(t *testing.T, o memory.Options, test func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(t, &world{TB: t, net: memory.NewNetwork(o)})
	})
}

// overBoth runs a test over memory and over mconn.
func overBoth(t *testing.T, test func(*testing.T, *world)) {
	t.Run("memory", func(t *testing.T) { inMemory(t, memory.Options{}, test) })
	t.Run("mconn", func(t *testing.T) {
		before := runtime.NumGoroutine()
		t.Cleanup(func() { // the first, so after all of the test's
			for end := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					stacks := make([]byte, 1<<20)
					t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
				}
			}
		})
		test(t, &world{TB: t})
	})
}

func testKey(n int) identity.PrivKey {
	seed := make([]byte, 32)
	binary.BigEndian.PutUint64(seed, uint64(n))
	key, err := identity.PrivKeyFromSeed(seed)
	if err != nil {
		panic(err)
	}
	return key
}

// node makes a node that is stopped at the end. It is not started.
func (w *world) node(change ...func(*p2p.RouterOptions)) *testNode {
	w.Helper()
	w.nodes++
	key := testKey(w.nodes)
	id := key.Public().NodeID()
	peers := w.peers
	if peers.MinRetryTime == 0 {
		peers.MinRetryTime, peers.MaxRetryTime = 10*time.Millisecond, 100*time.Millisecond
	}
	switch peers.DisconnectCooldownPeriod {
	case 0:
		peers.DisconnectCooldownPeriod = 50 * time.Millisecond
	case -1: // none
		peers.DisconnectCooldownPeriod = 0
	}
	pm, err := p2p.NewPeerManager(id, addrbook.NewMemoryStore(), peers)
	if err != nil {
		w.Fatal(err)
	}
	var tr p2p.Transport
	if w.net != nil {
		tr, err = w.net.Listen(id)
	} else {
		tr, err = mconn.New(mconn.Options{Listen: "127.0.0.1:0"})
	}
	if err != nil {
		w.Fatal(err)
	}
	o := p2p.RouterOptions{
		NodeInfo: p2p.NodeInfo{Network: "test", Moniker: "n", ListenAddr: "127.0.0.1:1"}, PrivKey: key, PeerManager: pm,
		Transports: []p2p.Transport{tr}, Limits: &connmgr.Limits{},
	}
	for _, c := range change {
		c(&o)
	}
	r, err := p2p.NewRouter(o)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		r.Stop()
		pm.Close()
	})
	return &testNode{id, pm, r, o.Transports[0].Endpoints()[0].NodeAddress(id)}
}

// start starts nodes.
func (w *world) start(nodes ...*testNode) {
	w.Helper()
	for _, n := range nodes {
		if err := n.r.Start(); err != nil {
			w.Fatal(err)
		}
	}
}

// connect makes a dial others and returns when all of them are up on both sides.
func (w *world) connect(a *testNode, others ...*testNode) {
	w.Helper()
	for _, b := range others {
		if _, err := a.pm.Add(b.at); err != nil {
			w.Fatal(err)
		}
	}
	for _, b := range others {
		w.until(func() bool { return up(a, b.id) && up(b, a.id) })
	}
}

// until waits for a condition, within for at most a time.
func (w *world) until(ok func() bool) {
	w.Helper()
	w.within(30*time.Second, ok)
}

func (w *world) within(d time.Duration, ok func() bool) {
	w.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("waited for %v", d)
		}
	}
}

func up(n *testNode, id p2p.NodeID) bool {
	for _, p := range n.r.Stats().Peers {
		if p.ID == id {
			return n.pm.Status(id) == p2p.PeerStatusUp
		}
	}
	return false
}

type (
	text       = wrapperspb.StringValue
	textFace   = p2p.TypedChannel[*wrapperspb.StringValue]
	bytesValue = wrapperspb.BytesValue
	bytesFace  = p2p.TypedChannel[*wrapperspb.BytesValue]
)

func openText(tb testing.TB, n *testNode, id p2p.ChannelID, opts ...p2p.ChannelOption) *textFace {
	tb.Helper()
	c, err := p2p.OpenTyped[*text](n.r, id, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func openBytes(tb testing.TB, n *testNode, id p2p.ChannelID, d p2p.ChannelDescriptor) *bytesFace {
	tb.Helper()
	c, err := p2p.OpenTyped[*bytesValue](n.r, id, p2p.WithDescriptor(d))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// next is the next message of a channel.
func next[T proto.Message](tb testing.TB, c *p2p.TypedChannel[T]) p2p.Incoming[T] {
	tb.Helper()
	ctx, stop := context.WithTimeout(tb.Context(), time.Minute)
	defer stop()
	for in, err := range c.Receive(ctx) {
		if err != nil {
			tb.Fatal(err)
		}
		return in
	}
	panic("unreachable")
}

// balance checks the counts of a channel.
func balance(tb testing.TB, s p2p.ChannelStats) {
	tb.Helper()
	refused := uint64(0)
	for r, n := range s.Send.Dropped {
		if p2p.DropReason(r).Refused() {
			refused += n
		}
	}
	if s.Send.Offered != s.Send.Accepted+refused {
		tb.Errorf("offered %d, accepted %d, dropped %s", s.Send.Offered, s.Send.Accepted, s.Send.Dropped)
	}
	if s.Send.Accepted != s.Send.Written+uint64(s.Send.Queued)+s.Send.Dropped.Total()-refused {
		tb.Errorf("accepted %d, written %d, queued %d, dropped %s", s.Send.Accepted, s.Send.Written, s.Send.Queued, s.Send.Dropped)
	}
	in := s.Received
	if in.Received != in.Delivered+uint64(in.Queued)+uint64(in.Paused)+in.Dropped.Total() {
		tb.Errorf("received %d, delivered %d, queued %d, dropped %s", in.Received, in.Delivered, in.Queued, in.Dropped)
	}
}
