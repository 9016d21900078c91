package kith

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith/p2p"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// startWith makes a node on 127.0.0.1 with a configuration of its own, lets the
// test open channels, and runs it until the test ends.
func startWith(t *testing.T, cfg Config, before ...func(*Node)) *Node {
	t.Helper()
	if cfg.Home == "" {
		cfg.Home = t.TempDir()
	}
	cfg.LocalOnly = true
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range before {
		f(n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return n
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 60 s: %s", what)
		}
	}
}

func up(n *Node, ids ...*Node) bool {
	for _, id := range ids {
		if n.PeerManager().Status(id.NodeID()) != p2p.PeerStatusUp {
			return false
		}
	}
	return true
}

// A node that was told of one other finds the third through it, and a typed
// message and a request cross between them.
func TestMessagesBetweenNodes(t *testing.T) {
	chats := map[*Node]*p2p.TypedChannel[*wrapperspb.StringValue]{}
	open := func(n *Node) {
		c, err := p2p.OpenTyped[*wrapperspb.StringValue](n.Router(), 0x10, p2p.WithRequests())
		if err != nil {
			t.Fatal(err)
		}
		chats[n] = c
	}
	a := startWith(t, Config{}, open)
	b := startWith(t, Config{Bootstrap: a.Addrs()[:1]}, open)
	eventually(t, "a and b are peers", func() bool { return up(a, b) && up(b, a) })
	c := startWith(t, Config{Bootstrap: a.Addrs()[:1]}, open)
	eventually(t, "b and c are peers", func() bool { return up(b, c) && up(c, b) })

	go func() {
		for in, err := range chats[c].Receive(t.Context()) {
			if err != nil {
				return
			}
			if in.IsRequest() {
				_ = in.Reply(t.Context(), wrapperspb.String("and I am "+c.cfg.Moniker))
			}
		}
	}()
	reply, err := chats[b].Request(t.Context(), c.NodeID(), wrapperspb.String("I am b"))
	if err != nil || reply.GetValue() != "and I am "+c.cfg.Moniker {
		t.Fatal(reply, err)
	}
	sources := map[string]bool{}
	for _, s := range b.Discovery() {
		sources[s.Name] = s.Added > 0 && (s.Name == "pex" || s.Dials.OK > 0)
	}
	if !sources["bootstrap"] || !sources["pex"] {
		t.Errorf("b learnt from %v", sources)
	}
	// The same connection serves tunnels.
	if p, err := b.Connect(t.Context(), c.ID().String()); err != nil || !p.Connected {
		t.Error(p, err)
	}
}

// Nodes of different networks are no peers.
func TestNetworksStayApart(t *testing.T) {
	a := startWith(t, Config{Network: "one"})
	b := startWith(t, Config{Network: "two", Bootstrap: a.Addrs()[:1]})
	eventually(t, "b gave up on a", func() bool { p, ok := b.Book().Peer(a.NodeID()); return ok && p.Shun != nil })
	if up(a, b) || up(b, a) {
		t.Error("they are peers")
	}
}

// Who is banned is refused by tunnels, too.
func TestOneSetOfBans(t *testing.T) {
	a := startWith(t, Config{})
	b := startWith(t, Config{Bootstrap: a.Addrs()[:1]})
	eventually(t, "a and b are peers", func() bool { return up(a, b) && up(b, a) })
	if err := a.PeerManager().Ban(b.NodeID(), time.Hour, "a test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b is cut off", func() bool { return !up(b, a) })
	for _, c := range a.host.Network().ConnsToPeer(b.ID()) {
		c.Close()
	}
	for pong, err := range b.Ping(t.Context(), a.Addrs()[0], time.Second) {
		if err == nil {
			t.Errorf("a banned peer reached us: %+v", pong)
		}
		break
	}
	if err := a.PeerManager().Unban(b.NodeID()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b may come back", func() bool {
		for _, err := range b.Ping(t.Context(), a.Addrs()[0], time.Second) {
			return err == nil
		}
		return false
	})
}

// What a node was taught is there after a restart.
func TestBookSurvivesRestart(t *testing.T) {
	a := startWith(t, Config{})
	home := t.TempDir()
	first, err := New(Config{Home: home, LocalOnly: true, Bootstrap: a.Addrs()[:1]})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = first.Run(ctx) })
	eventually(t, "they are peers", func() bool { return up(first, a) })
	cancel()
	wg.Wait()
	second := startWith(t, Config{Home: home})
	eventually(t, "it finds its peer again", func() bool { return up(second, a) })
	id, places, err := second.Find(t.Context(), string(a.NodeID()))
	if err != nil || id != a.ID() || len(places) == 0 {
		t.Error(id, places, err)
	}
}

func TestBootstrapList(t *testing.T) {
	home := t.TempDir()
	one, two := "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA", "/dnsaddr/nodes.example.org"
	n, err := New(Config{Home: home, LocalOnly: true, Bootstrap: []string{two}})
	if err != nil {
		t.Fatal(err)
	}
	if added, err := n.AddBootstrap(one, two, one); err != nil || !slices.Equal(added, []string{one}) {
		t.Error(added, err)
	}
	if _, err := n.AddBootstrap("/ip4/192.0.2.2/tcp/4001/p2p/"+n.ID().String(), "nonsense"); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
	if err := n.RemoveBootstrap(two); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
	n.Close()
	n, err = New(Config{Home: home, LocalOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if l := n.Bootstrap(); len(l) != 1 || l[0] != (BootstrapEntry{one, false}) {
		t.Error(l)
	}
	if err := n.RemoveBootstrap(one); err != nil || len(n.Bootstrap()) != 0 {
		t.Error(err, n.Bootstrap())
	}
}

// The libp2p connections of the Router's peers are kept from trimming, and the
// host has room for more than these.
func TestPeersAreProtected(t *testing.T) {
	a := startWith(t, Config{MaxPeers: 10})
	b := startWith(t, Config{Bootstrap: a.Addrs()[:1]})
	eventually(t, "a and b are peers", func() bool { return up(a, b) && up(b, a) })
	for _, pair := range [][2]*Node{{a, b}, {b, a}} {
		eventually(t, "the connection is protected", func() bool { return pair[0].host.ConnManager().IsProtected(pair[1].ID(), "") })
	}
	b.router.Stop()
	eventually(t, "it no longer is", func() bool { return !a.host.ConnManager().IsProtected(b.ID(), "") })
	if info := a.host.ConnManager().(interface{ GetInfo() connmgr.CMInfo }).GetInfo(); info.HighWater != 10+tunnelReserve {
		t.Errorf("the host keeps %d connections, want %d", info.HighWater, 10+tunnelReserve)
	}
}

// A banned network gets no connection, whoever asks.
func TestBannedNetwork(t *testing.T) {
	a := startWith(t, Config{})
	if err := a.Ban(t.Context(), "127.0.0.0/8", time.Hour, "a test"); err != nil {
		t.Fatal(err)
	}
	b := startWith(t, Config{})
	if p, err := b.Connect(t.Context(), a.Addrs()[0]); err == nil {
		t.Errorf("connected: %+v", p)
	}
	if _, err := a.Connect(t.Context(), b.Addrs()[0]); err == nil {
		t.Error("a banned network was dialled")
	}
	if was, err := a.Unban(t.Context(), "127.0.0.0/8"); err != nil || !was {
		t.Error(was, err)
	}
	if _, err := b.Connect(t.Context(), a.Addrs()[0]); err != nil {
		t.Error(err)
	}
}
