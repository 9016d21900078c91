package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/libp2p/go-libp2p"
	kad "github.com/libp2p/go-libp2p-kad-dht"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	routedhost "github.com/libp2p/go-libp2p/p2p/host/routed"
	ma "github.com/multiformats/go-multiaddr"
)

func infoOf(h corehost.Host) peer.AddrInfo { return peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()} }

func knows(hs ...corehost.Host) func() []peer.AddrInfo {
	var infos []peer.AddrInfo
	for _, h := range hs {
		infos = append(infos, infoOf(h))
	}
	return func() []peer.AddrInfo { return infos }
}

// runDHT runs a DHT on a host of this machine until the end of the test.
func runDHT(t testing.TB, cfg DHTConfig, learn func([]Found)) *DHT {
	t.Helper()
	if !cfg.WAN {
		cfg.LAN, cfg.Loopback = true, true
	}
	d, err := NewDHT(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, learn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}

func size(d *DHT) int { wan, lan := d.Nodes(); return wan + lan }

// A peer is found by its ID alone in a network of 20 hosts, each of which knows
// one bootstrap node.
func TestFindByIDAmong20Hosts(t *testing.T) {
	noLeaks(t)
	const n = 20
	boot := newHost(t)
	runDHT(t, DHTConfig{Host: boot}, nil)
	hosts, dhts := make([]corehost.Host, n), make([]*DHT, n)
	finders, books := make([]*Finder, n), make([]*addrbook.Book, n)
	for i := range n {
		hosts[i], books[i] = newHost(t), newBook(t, addrbook.Options{})
		cfg := DHTConfig{Host: hosts[i], Bootstrap: knows(boot)}
		if i%4 == 3 {
			cfg.Mode = DHTClient
		}
		dhts[i] = runDHT(t, cfg, func(found []Found) {
			for _, f := range found {
				books[i].Add(f.Address, f.From)
			}
		})
		finders[i] = NewFinder(FinderConfig{Host: hosts[i], Book: books[i], DHT: dhts[i]})
	}
	for _, d := range dhts {
		eventually(t, "everybody knows somebody", func() bool { return size(d) > 0 })
	}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			who := hosts[(i+7)%n]
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			var places []Place
			var err error
			for ctx.Err() == nil { // it may only just have joined
				if places, err = finders[i].Find(ctx, who.ID()); err == nil {
					break
				}
			}
			if err != nil {
				t.Errorf("host %d: %v", i, err)
				return
			}
			if !slices.ContainsFunc(places, func(p Place) bool { return p.Addr.Equal(who.Addrs()[0]) }) {
				t.Errorf("host %d: %v is not at %v", i, who.Addrs(), places)
			}
			// what it leads to is who was meant
			if err := hosts[i].Connect(ctx, peer.AddrInfo{ID: who.ID(), Addrs: []ma.Multiaddr{places[0].Addr}}); err != nil {
				t.Errorf("host %d: %v", i, err)
			}
			if hosts[i].Network().Connectedness(who.ID()) != network.Connected {
				t.Errorf("host %d is not connected", i)
			}
		})
	}
	all.Wait()
	for i := range n {
		eventually(t, "what was met is in the book", func() bool { return books[i].Len() > 0 })
	}
	if _, err := finders[0].Find(t.Context(), newID(t)); !errors.Is(err, routing.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}

// The Finder is what a libp2p host asks by itself: opening a connection needs the
// ID only.
func TestHostsAskTheFinder(t *testing.T) {
	noLeaks(t)
	boot, target, seeker := newHost(t), newHost(t), newHost(t)
	runDHT(t, DHTConfig{Host: boot}, nil)
	runDHT(t, DHTConfig{Host: target, Bootstrap: knows(boot), Mode: DHTClient}, nil)
	d := runDHT(t, DHTConfig{Host: seeker, Bootstrap: knows(boot)}, nil)
	book := newBook(t, addrbook.Options{})
	// The book is wrong: the peer has moved.
	old, err := fromParts(target.ID(), ma.StringCast("/ip4/127.0.0.1/tcp/1"))
	if err != nil {
		t.Fatal(err)
	}
	book.Add(old, addrbook.Source{Kind: addrbook.Manual})
	h := routedhost.Wrap(seeker, NewFinder(FinderConfig{Host: seeker, Book: book, DHT: d}))
	eventually(t, "the three know each other", func() bool {
		return size(d) > 0 && slices.ContainsFunc(boot.Peerstore().Addrs(target.ID()), target.Addrs()[0].Equal)
	})
	if err := h.Connect(t.Context(), peer.AddrInfo{ID: target.ID()}); err != nil {
		t.Fatal(err)
	}
}

// Stock hosts with the stock DHT and our prefix take part, and find and are
// found.
func TestStockDHTTakesPart(t *testing.T) {
	noLeaks(t)
	stock := func() (corehost.Host, *kad.IpfsDHT) {
		h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay())
		if err != nil {
			t.Fatal(err)
		}
		d, err := kad.New(h, kad.ProtocolPrefix(DHTPrefix+lanExtension), kad.Mode(kad.ModeServer))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close(); h.Close() })
		return h, d
	}
	connect := func(a, b corehost.Host) {
		t.Helper()
		if err := a.Connect(t.Context(), infoOf(b)); err != nil {
			t.Fatal(err)
		}
	}
	find := func(d routing.PeerRouting, id peer.ID) {
		t.Helper()
		eventually(t, fmt.Sprintf("%T finds %s", d, id), func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			info, err := d.FindPeer(ctx, id)
			return err == nil && info.ID == id && len(info.Addrs) > 0
		})
	}
	// stock A - ours - stock B: A finds B through us
	ours := newHost(t)
	d := runDHT(t, DHTConfig{Host: ours}, nil)
	a, da := stock()
	b, db := stock()
	connect(a, ours)
	connect(b, ours)
	eventually(t, "all know somebody", func() bool { return size(d) == 2 && da.RoutingTable().Size() > 0 && db.RoutingTable().Size() > 0 })
	find(da, b.ID())

	// ours 1 - stock C - ours 2: we find each other through it
	c, dc := stock()
	one, two := newHost(t), newHost(t)
	d1 := runDHT(t, DHTConfig{Host: one, Bootstrap: knows(c)}, nil)
	d2 := runDHT(t, DHTConfig{Host: two, Bootstrap: knows(c)}, nil)
	eventually(t, "both know C", func() bool { return size(d1) > 0 && size(d2) > 0 && dc.RoutingTable().Size() == 2 })
	find(d1, two.ID())
	find(d2, one.ID())
	find(dc, one.ID())
}

// At the end of Run the host has nothing left of the DHT, and it can run again.
func TestDHTLeavesNothing(t *testing.T) {
	noLeaks(t)
	boot, h := newHost(t), newHost(t)
	runDHT(t, DHTConfig{Host: boot}, nil)
	d, err := NewDHT(DHTConfig{Host: h, LAN: true, WAN: true, Loopback: true, Mode: DHTServer, Bootstrap: knows(boot)})
	if err != nil {
		t.Fatal(err)
	}
	before := h.Mux().Protocols()
	for again := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx, nil) }()
		eventually(t, "joined", func() bool { return size(d) > 0 })
		if err := d.Run(ctx, nil); !errors.Is(err, ErrRunning) {
			t.Errorf("a second Run: %v", err)
		}
		protos := h.Mux().Protocols()
		if !slices.Contains(protos, "/kith/kad/1.0.0") || !slices.Contains(protos, "/kith/lan/kad/1.0.0") {
			t.Errorf("%v", protos)
		}
		// the second time, the other one knows us already and need not ask
		eventually(t, "streams both ways", func() bool { return kadStreams(h) >= 2-again })
		// kad-dht protects the far ones and tags the near ones. Should it name
		// that otherwise one day, closeNets must, too.
		eventually(t, "the connection is protected or tagged", func() bool { return holds(h, boot.ID()) })
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if after := h.Mux().Protocols(); len(after) != len(before) {
			t.Errorf("handlers stay: %v, before %v", after, before)
		}
		if n := kadStreams(h); n != 0 {
			t.Errorf("%d streams stay", n)
		}
		if holds(h, boot.ID()) || h.Network().Connectedness(boot.ID()) != network.Connected {
			t.Error("the connection stays protected, or is gone")
		}
		if _, err := d.FindPeer(t.Context(), boot.ID()); !errors.Is(err, ErrDHTOff) || !errors.Is(err, routing.ErrNotFound) {
			t.Errorf("when off: %v", err)
		}
	}
}

// holds says whether kad-dht has something to say about trimming a connection.
func holds(h corehost.Host, p peer.ID) bool {
	info := h.ConnManager().GetTagInfo(p)
	return h.ConnManager().IsProtected(p, kadTag) || info != nil && info.Tags[kadTag] != 0
}

func kadStreams(h corehost.Host) (n int) {
	for _, c := range h.Network().Conns() {
		for _, s := range c.GetStreams() {
			if p := s.Protocol(); p == "/kith/kad/1.0.0" || p == "/kith/lan/kad/1.0.0" {
				n++
			}
		}
	}
	return n
}

// A DHT without bootstrap nodes dials nobody, and says so.
func TestDHTAlone(t *testing.T) {
	noLeaks(t)
	h := newHost(t)
	d := runDHT(t, DHTConfig{Host: h}, nil)
	eventually(t, "it says that it is alone", func() bool {
		_, err := d.FindPeer(t.Context(), newID(t))
		return errors.Is(err, ErrDHTAlone) && errors.Is(err, routing.ErrNotFound)
	})
	if len(h.Network().Peers()) != 0 {
		t.Errorf("connected to %v", h.Network().Peers())
	}
	if _, err := d.FindPeer(t.Context(), "x"); err == nil || errors.Is(err, ErrDHTOff) {
		t.Errorf("no ID: %v", err)
	}
}

// A bootstrap node that comes late is found nevertheless.
func TestBootstrapNodeComesLate(t *testing.T) {
	noLeaks(t)
	h := newHost(t)
	var mu sync.Mutex
	var late []peer.AddrInfo
	d := runDHT(t, DHTConfig{Host: h, Bootstrap: func() []peer.AddrInfo { mu.Lock(); defer mu.Unlock(); return late }}, nil)
	eventually(t, "it runs", func() bool { _, err := d.FindPeer(t.Context(), newID(t)); return errors.Is(err, ErrDHTAlone) })
	boot := newHost(t)
	runDHT(t, DHTConfig{Host: boot}, nil)
	mu.Lock()
	late = []peer.AddrInfo{infoOf(boot)}
	mu.Unlock()
	eventually(t, "it has joined", func() bool { return size(d) > 0 })
}

// Only what a connection of ours has proven is taught, as from the peer itself;
// whoever comes to us proves no address.
func TestOnlyWhatWasMetIsTaught(t *testing.T) {
	noLeaks(t)
	ours, server, visitor := newHost(t), newHost(t), newHost(t)
	var got collector
	runDHT(t, DHTConfig{Host: server}, nil)
	dv := runDHT(t, DHTConfig{Host: visitor, Bootstrap: knows(ours)}, nil)
	d := runDHT(t, DHTConfig{Host: ours, Bootstrap: knows(server)}, got.learn)
	eventually(t, "all are there", func() bool { return size(d) == 2 && size(dv) > 0 && len(got.all()) > 0 })
	book := newBook(t, addrbook.Options{})
	for _, f := range got.all() {
		if id, _ := f.Address.PeerID(); id == visitor.ID() && ours.Network().ConnsToPeer(id)[0].Stat().Direction == network.DirInbound && len(ours.Network().ConnsToPeer(id)) == 1 {
			t.Errorf("the visitor was taught: %v", f)
		} else if id == server.ID() && f.Address.Port != place(t, server).Port() {
			t.Errorf("%v, not at %v", f, place(t, server))
		}
		if f.From.Kind != addrbook.DHT || f.From.Peer != f.Address.NodeID || !f.From.IP.IsLoopback() {
			t.Errorf("%+v", f.From)
		}
		if added, err := book.Add(f.Address, f.From); err != nil || !added && book.Len() == 0 {
			t.Errorf("%v: %v", f, err)
		}
	}
}

func TestDHTOptions(t *testing.T) {
	noLeaks(t)
	h := newHost(t)
	for name, cfg := range map[string]DHTConfig{
		"no host":       {LAN: true},
		"no network":    {Host: h},
		"mode":          {Host: h, LAN: true, Mode: "x"},
		"prefix":        {Host: h, LAN: true, Prefix: "kith"},
		"public prefix": {Host: h, WAN: true, Prefix: "/ipfs"},
	} {
		if _, err := NewDHT(cfg); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
