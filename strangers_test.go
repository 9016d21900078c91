package kith

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-p2p/kith/discovery"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// sourceNames are the names of the sources of addresses that a node has.
func sourceNames(n *Node) (names []string) {
	for _, s := range n.Discovery() {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

// inALine runs three nodes, of which the ends were told of the middle alone, until
// both are its peers.
func inALine(t *testing.T, cfg Config) (a, b, c *Node) {
	t.Helper()
	b = startWith(t, cfg)
	cfg.Bootstrap = b.Addrs()[:1]
	a, c = startWith(t, cfg), startWith(t, cfg)
	eventually(t, "the ends are peers of the middle", func() bool { return up(b, a, c) && up(a, b) && up(c, b) })
	return a, b, c
}

// With NoPEX nobody tells of others: of three nodes in a line the ends have not
// heard of each other by the time that those of another line, made later and
// without it, have met.
func TestNoPEXTellsNobody(t *testing.T) {
	a, b, c := inALine(t, Config{NoPEX: true})
	withA, withB, withC := inALine(t, Config{})
	eventually(t, "with PEX the ends meet", func() bool { return up(withA, withC) && up(withC, withA) })
	for _, n := range []*Node{withA, withB, withC} {
		if names := sourceNames(n); !slices.Equal(names, []string{"bootstrap", "pex"}) {
			t.Errorf("with PEX the sources are %q", names)
		}
	}
	for _, n := range []*Node{a, b, c} {
		if names := sourceNames(n); !slices.Equal(names, []string{"bootstrap"}) {
			t.Errorf("without PEX the sources are %q", names)
		}
	}
	for _, ends := range [][2]*Node{{a, c}, {c, a}} {
		if up(ends[0], ends[1]) || len(ends[0].host.Network().ConnsToPeer(ends[1].ID())) > 0 {
			t.Error("the ends met without PEX")
		}
		if known := ends[0].Book().Addresses(ends[1].NodeID()); len(known) > 0 {
			t.Errorf("an end heard of the other: %v", known)
		}
		if known := ends[0].host.Peerstore().Addrs(ends[1].ID()); len(known) > 0 {
			t.Errorf("an end heard of the other: %v", known)
		}
	}
}

// nameServer is a DNS server that answers nobody and counts who asks.
func nameServer(t *testing.T) (at string, asked *atomic.Int64) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			if _, _, err := c.ReadFrom(buf); err != nil {
				return
			}
			asked.Add(1)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().String(), asked
}

// speaksDHT is the protocol of a DHT that a node answers on, if any.
func speaksDHT(n *Node) protocol.ID {
	for _, p := range n.host.Mux().Protocols() {
		if strings.Contains(string(p), "/kad/") {
			return p
		}
	}
	return ""
}

// A node that was told nothing joins nothing public: it speaks no protocol of a
// DHT, has nobody to begin with, dials nobody and asks DNS for nothing.
func TestNothingPublicUnlessAskedFor(t *testing.T) {
	dns, asked := nameServer(t)
	n, err := New(Config{Home: t.TempDir(), DNSServer: dns, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()
	// When it has done all that it does with a peer, it has begun all that it would.
	other := startWith(t, Config{Bootstrap: n.Addrs()[:1]})
	eventually(t, "they are peers", func() bool { return up(n, other) && up(other, n) })

	if names := sourceNames(n); !slices.Equal(names, []string{"bootstrap", "pex"}) {
		t.Errorf("the sources are %q", names)
	}
	for _, s := range n.Discovery() {
		if s.Name == "bootstrap" && (s.Offered > 0 || s.Dials.OK > 0 || s.Dials.Failed > 0) {
			t.Errorf("there is a list to begin with: %+v", s)
		}
	}
	if list := n.Bootstrap(); len(list) > 0 || len(n.boot.addrInfos()) > 0 || n.dht != nil {
		t.Errorf("it begins with %v, %v", list, n.dht)
	}
	if p := speaksDHT(n); p != "" {
		t.Errorf("it speaks %s", p)
	}
	if st := n.Router().Stats().Engine; st.Outbound > 0 || len(st.Dials) > 0 || len(n.host.Network().Peers()) != 1 {
		t.Errorf("it dialled somebody: %+v, peers %v", st, n.host.Network().Peers())
	}
	if asked.Load() > 0 {
		t.Errorf("it asked DNS %d times", asked.Load())
	}

	// Each of these checks sees what is asked for.
	go func() { _, _ = n.Connect(ctx, "/dnsaddr/nodes.example") }()
	eventually(t, "a name that was given is asked for", func() bool { return asked.Load() > 0 })
	told := startWith(t, Config{DHT: DHTLAN, DNSServer: dns, DNSSeeds: []string{"seed.example:4001"}, NoPEX: true})
	if names := sourceNames(told); len(names) != 3 || !slices.ContainsFunc(told.Discovery(), func(s discovery.SourceStats) bool { return strings.Contains(s.Name, "seed.example") }) {
		t.Errorf("the sources are %q", names)
	}
	eventually(t, "it speaks the DHT's protocol", func() bool { return speaksDHT(told) != "" })
}

// What the PeerManager thinks of a peer is what GossipSub adds to its score.
func TestTopicsUseThePeersScore(t *testing.T) {
	a := startWith(t, Config{})
	b := startWith(t, Config{Bootstrap: a.Addrs()[:1]})
	eventually(t, "a and b are peers", func() bool { return up(a, b) && up(b, a) })
	eventually(t, "gossip has them", func() bool { return a.gossip.Stats().Peers == 1 })
	base, before := a.gossip.Stats().Scores[b.ID()], float64(a.Book().Score(b.NodeID()))
	for _, delta := range []int{40, -90} { // a score below 0, too
		now := float64(a.Book().Adjust(b.NodeID(), delta))
		if now == before {
			t.Fatalf("Adjust by %d leaves the score at %v", delta, now)
		}
		eventually(t, "gossip sees the score", func() bool {
			return a.gossip.Stats().Scores[b.ID()] == base+float64(a.Book().Score(b.NodeID()))-before
		})
	}
	if other := b.gossip.Stats().Scores[a.ID()]; other < 0 {
		t.Errorf("b, who adjusted nothing, sees %v", other)
	}
}

// After Forget a peer could still be connected to by its ID: the addresses that
// tunnels and calls go by were kept.
func TestRegressionForgetKeptAddresses(t *testing.T) {
	home := t.TempDir()
	a := startWith(t, Config{})
	other := startWith(t, Config{NoPEX: true, Network: "another"}) // no peer of ours: it has addresses, and no entry in the book
	for _, n := range []*Node{a, other} {
		t.Run(n.cfg.Network, func(t *testing.T) {
			b := startWith(t, Config{Home: home, NoPEX: true})
			if _, err := b.Connect(t.Context(), n.Addrs()[0]); err != nil {
				t.Fatal(err)
			}
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the connection is gone", func() bool { return len(b.host.Network().ConnsToPeer(n.ID())) == 0 })
			if _, err := b.Connect(t.Context(), n.ID().String()); err == nil || errors.Is(err, ErrUnknownPeer) {
				t.Fatalf("before Forget: %v", err)
			}
			if known, err := b.Forget(t.Context(), n.ID().String()); err != nil || !known {
				t.Fatal(known, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, err := b.Connect(ctx, n.ID().String()); !errors.Is(err, ErrUnknownPeer) {
				t.Errorf("after Forget: %v", err)
			}
			if slices.ContainsFunc(b.Peers(), func(p Peer) bool { return p.ID == n.ID() && len(p.Known) > 0 }) {
				t.Errorf("it is listed: %+v", b.Peers())
			}
			if known, err := b.Forget(ctx, n.ID().String()); err != nil || known {
				t.Errorf("again: %v, %v", known, err)
			}
		})
	}
	b := startWith(t, Config{NoPEX: true})
	if _, err := b.Forget(t.Context(), "nobody"); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
}
