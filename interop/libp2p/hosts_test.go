package libp2p

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const patience = 60 * time.Second // for what must happen; far beyond what it takes

// overs are the transports that every meeting is tried over.
var overs = []string{"tcp", "quic"}

// each runs a test over each transport.
func each(t *testing.T, test func(t *testing.T, over string)) {
	for _, over := range overs {
		t.Run(over, func(t *testing.T) {
			noLeaks(t)
			test(t, over)
		})
	}
}

// newStock makes a host with libp2p's defaults that listens on the loopback
// interface, until the test ends.
func newStock(t *testing.T, opts ...libp2p.Option) host.Host {
	t.Helper()
	h, err := libp2p.New(append([]libp2p.Option{libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// newKith runs a node on the loopback interface until the test ends.
func newKith(t *testing.T, cfg kith.Config) *kith.Node {
	t.Helper()
	cfg.Home, cfg.LocalOnly, cfg.Version = t.TempDir(), true, "interop"
	n, err := kith.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return n
}

// is says whether an address is of a transport.
func is(over, address string) bool {
	return strings.Contains(address, "/quic-v1") == (over == "quic")
}

// addressOf is where the node listens with a transport, with its ID.
func addressOf(t *testing.T, n *kith.Node, over string) peer.AddrInfo {
	t.Helper()
	for _, a := range n.Addrs() {
		if is(over, a) {
			info, err := peer.AddrInfoFromString(a)
			if err != nil {
				t.Fatal(err)
			}
			return *info
		}
	}
	t.Fatalf("no address for %s in %q", over, n.Addrs())
	return peer.AddrInfo{}
}

// stockAddress is where a stock host listens with a transport, with its ID.
func stockAddress(t *testing.T, h host.Host, over string) string {
	t.Helper()
	for _, a := range h.Addrs() {
		if is(over, a.String()) {
			return a.String() + "/p2p/" + h.ID().String()
		}
	}
	t.Fatalf("no address for %s in %v", over, h.Addrs())
	return ""
}

// dial connects a stock host to the node over a transport.
func dial(t *testing.T, h host.Host, n *kith.Node, over string) network.Conn {
	t.Helper()
	if err := h.Connect(ctxOf(t), addressOf(t, n, over)); err != nil {
		t.Fatal(err)
	}
	conns := h.Network().ConnsToPeer(n.ID())
	if len(conns) == 0 || !is(over, conns[0].RemoteMultiaddr().String()) {
		t.Fatalf("connected by %v", conns)
	}
	return conns[0]
}

// ctxOf lasts as long as patience does.
func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually calls check until it returns nil; after patience it fails the
// test with what check said last.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(fmt.Errorf("%s: %w", what, err))
		}
	}
}

// noLeaks has the test fail if it leaves goroutines. Call it first.
func noLeaks(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 4<<20)
				t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
				return
			}
		}
	})
}
