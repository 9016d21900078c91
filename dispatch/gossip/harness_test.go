package gossip_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/dispatch/gossip"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/host"
	"github.com/kith-p2p/kith/p2p"
)

type text = wrapperspb.StringValue

func say(s string) *text { return wrapperspb.String(s) }

// patience is how long a test waits for what must happen; how long it takes is no
// test's business.
const patience = 60 * time.Second

func testKey(n int) identity.PrivKey {
	seed := make([]byte, 32)
	binary.BigEndian.PutUint64(seed, uint64(n))
	key, err := identity.PrivKeyFromSeed(seed)
	if err != nil {
		panic(err)
	}
	return key
}

// node is a libp2p host with a Service over a Backend.
type node struct {
	host corehost.Host
	id   p2p.NodeID
	b    *gossip.Backend
	s    *dispatch.Service
}

// hosts counts those made, so that each has a key of its own.
var hosts int

func newHost(tb testing.TB) corehost.Host {
	tb.Helper()
	hosts++
	h, err := host.New(host.Config{Key: testKey(hosts).Libp2p(), Listen: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/0")}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { h.Close() })
	return h
}

func newNode(tb testing.TB, change ...func(*gossip.Options)) *node {
	tb.Helper()
	h := newHost(tb)
	var o gossip.Options
	for _, c := range change {
		c(&o)
	}
	b, err := gossip.New(h, o)
	if err != nil {
		tb.Fatal(err)
	}
	key := testKey(hosts)
	s, err := dispatch.NewService(nil, dispatch.Options{Key: key, Backend: b})
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Stop(); err != nil {
			tb.Error(err)
		}
		b.Close()
	})
	return &node{h, key.Public().NodeID(), b, s}
}

// noLeaks checks that everything that a test started has ended. Call it first.
func noLeaks(tb testing.TB) {
	tb.Helper()
	before := runtime.NumGoroutine()
	tb.Cleanup(func() {
		end := time.Now().Add(patience)
		for runtime.NumGoroutine() > before+2 { // libp2p keeps some for the process
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				tb.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

func connect(tb testing.TB, a, b corehost.Host) {
	tb.Helper()
	ctx, stop := context.WithTimeout(tb.Context(), patience)
	defer stop()
	if err := a.Connect(ctx, peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		tb.Fatal(err)
	}
}

// mesh connects each host to others of them, a ring and some at random.
func mesh(tb testing.TB, all []corehost.Host, degree int) {
	tb.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	for i := range all {
		connect(tb, all[i], all[(i+1)%len(all)])
		for range degree - 1 {
			if j := random.IntN(len(all)); j != i {
				connect(tb, all[i], all[j])
			}
		}
	}
}

func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("waited %v for %s", patience, what)
		}
	}
}

func subscribe(tb testing.TB, n *node, topic string, p dispatch.Policy) *dispatch.Subscription[*text] {
	tb.Helper()
	sub, err := dispatch.Subscribe[*text](n.s, topic, p)
	if err != nil {
		tb.Fatal(err)
	}
	return sub
}

func publish(tb testing.TB, n *node, topic, s string) {
	tb.Helper()
	if err := n.s.Publish(tb.Context(), topic, say(s)); err != nil {
		tb.Fatal(err)
	}
}

// next are the next messages of a subscription.
func next(tb testing.TB, sub *dispatch.Subscription[*text], n int) (got []dispatch.Received[*text]) {
	tb.Helper()
	ctx, stop := context.WithTimeout(tb.Context(), patience)
	defer stop()
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			tb.Fatalf("after %d of %d messages: %v", len(got), n, err)
		}
		if got = append(got, m); len(got) == n {
			return got
		}
	}
	return got
}

// meet waits until all nodes have the others they are connected to on a topic in
// view, and a neighbour in the mesh.
func meet(tb testing.TB, topic string, nodes ...*node) {
	tb.Helper()
	for i, n := range nodes {
		until(tb, fmt.Sprint("the mesh of node ", i), func() bool {
			t := n.b.Stats().Topic(topic)
			return t.Mesh > 0 && t.Peers > 0
		})
	}
}
