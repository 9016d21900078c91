package libp2p

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
	"github.com/kith-p2p/kith/p2p"
)

// routed is a node with a Router on its host.
type routed struct {
	node
	t  *Transport
	pm *p2p.PeerManager
	r  *p2p.Router
}

// route puts a Router on a node: over libp2p, and the other transports given. It
// is not started, and is stopped with the test.
func route(tb testing.TB, n node, others ...p2p.Transport) *routed {
	tb.Helper()
	t, err := New(n.Host, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	pm, err := p2p.NewPeerManager(n.id(), addrbook.NewMemoryStore(), p2p.PeerManagerOptions{
		MinRetryTime: 10 * time.Millisecond, DisconnectCooldownPeriod: 20 * time.Millisecond,
	})
	if err != nil {
		tb.Fatal(err)
	}
	r, err := p2p.NewRouter(p2p.RouterOptions{
		NodeInfo: p2p.NodeInfo{Network: "test", Moniker: "n", ListenAddr: "0.0.0.0:0"}, PrivKey: n.key, PeerManager: pm,
		Transports: append([]p2p.Transport{t}, others...), Limits: &connmgr.Limits{},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		r.Stop()
		pm.Close()
	})
	return &routed{n, t, pm, r}
}

func start(tb testing.TB, nodes ...*routed) {
	tb.Helper()
	for _, n := range nodes {
		if err := n.r.Start(); err != nil {
			tb.Fatal(err)
		}
	}
}

func (n *routed) up(id p2p.NodeID) bool {
	for _, p := range n.r.Stats().Peers {
		if p.ID == id {
			return n.pm.Status(id) == p2p.PeerStatusUp
		}
	}
	return false
}

// meet makes a dial b at an address, and waits until both are up.
func meet(tb testing.TB, a, b *routed, at p2p.NodeAddress) {
	tb.Helper()
	if _, err := a.pm.Add(at); err != nil {
		tb.Fatal(err)
	}
	until(tb, "both nodes are up", func() bool { return a.up(b.id()) && b.up(a.id()) })
}

type (
	bytesValue   = wrapperspb.BytesValue
	bytesChannel = p2p.TypedChannel[*wrapperspb.BytesValue]
)

func open(tb testing.TB, n *routed, id p2p.ChannelID, d p2p.ChannelDescriptor) *bytesChannel {
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
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	for in, err := range c.Receive(ctx) {
		if err != nil {
			tb.Fatal(err)
		}
		return in
	}
	panic("unreachable")
}

// numbered is message i of a test.
func numbered(i, size int) []byte {
	data := make([]byte, size)
	data[0], data[1] = byte(i>>8), byte(i)
	return data
}

func number(data []byte) int { return int(data[0])<<8 | int(data[1]) }
