package discovery

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/internal/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	routedhost "github.com/libp2p/go-libp2p/p2p/host/routed"
)

// A node as the root package builds it: a host that asks the Finder by itself, a
// mix of all sources that need no DNS, one book.
func TestWholeNode(t *testing.T) {
	noLeaks(t)
	boot, target := newHost(t), newHost(t)
	runDHT(t, DHTConfig{Host: boot}, nil)
	runDHT(t, DHTConfig{Host: target, Bootstrap: knows(boot)}, nil)

	list, err := ParseList([]string{boot.Addrs()[0].String() + "/p2p/" + boot.ID().String()})
	if err != nil {
		t.Fatal(err)
	}
	book := newBook(t, addrbook.Options{})
	inner, err := host.New(host.Config{Key: newKey(t), Listen: addrs("/ip4/127.0.0.1/tcp/0")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inner.Close() })
	dht, err := NewDHT(DHTConfig{Host: inner, LAN: true, Loopback: true, Bootstrap: list.AddrInfos})
	if err != nil {
		t.Fatal(err)
	}
	finder := NewFinder(FinderConfig{Host: inner, Book: book, DHT: dht})
	h := routedhost.Wrap(inner, finder)
	m := newMix(t, MixConfig{
		Learner:  book,
		Sources:  []Source{NewBootstrap("config", list), dht},
		External: []External{{"pex", addrbook.PEX, book}},
	})
	defer start(t, m)()

	eventually(t, "the target is reachable by its ID", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := h.Connect(ctx, peer.AddrInfo{ID: target.ID()}); err != nil {
			return false
		}
		for _, c := range h.Network().ConnsToPeer(target.ID()) {
			if c.Stat().Direction == network.DirOutbound {
				return true
			}
		}
		h.Network().ClosePeer(target.ID()) // it found us first, which proves no address
		return false
	})
	eventually(t, "both are in the book", func() bool {
		return len(book.Addresses(nodeID(t, boot.ID()))) == 1 && len(book.Addresses(nodeID(t, target.ID()))) == 1
	})
	a := book.Addresses(nodeID(t, target.ID()))[0]
	if a != parse(t, target.Addrs()[0].String()+"/p2p/"+target.ID().String()) {
		t.Errorf("%v", a)
	}
	eventually(t, "dials of what the DHT taught count", func() bool { return m.Dialled(a, nil) })
	m.Dialled(a, errNoName)
	s := statsOf(t, m, "dht")
	if s.Dials != (Dials{1, 1}) || s.Added == 0 || s.State != StateRunning {
		t.Errorf("%+v", s)
	}
	if s := statsOf(t, m, "bootstrap config"); s.Added+s.Known != 1 {
		t.Errorf("%+v", s)
	}
	if err := m.Switch(t.Context(), "dht", false); err != nil {
		t.Fatal(err)
	}
	if _, err := finder.Find(t.Context(), newID(t)); !errors.Is(err, ErrDHTOff) {
		t.Errorf("the DHT is off: %v", err)
	}
	if n := kadStreams(h); n != 0 {
		t.Errorf("%d streams stay", n)
	}
	if h.Network().Connectedness(target.ID()) != network.Connected {
		t.Error("the connection went with the DHT")
	}
}

// mDNS as a source: it ends when it is told to, wherever it runs, with nothing
// left, and fails where nothing can multicast.
func TestMDNSSource(t *testing.T) {
	noLeaks(t)
	book := newBook(t, addrbook.Options{})
	m := newMix(t, MixConfig{Learner: book, Sources: []Source{NewMDNS(newHost(t), nil)}})
	stop := start(t, m)
	eventually(t, "it has started or failed", func() bool { s := statsOf(t, m, "mdns"); return s.State == StateRunning || s.LastError != nil })
	stop()
	if s := statsOf(t, m, "mdns"); s.State != StateOff || s.Panics != 0 {
		t.Errorf("%+v", s)
	}
}

var _ Learner = (*addrbook.Book)(nil)
var _ Book = (*addrbook.Book)(nil)
