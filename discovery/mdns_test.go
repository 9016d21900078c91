package discovery

import (
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// What a local network says is believed only as far as it can be true of it.
func TestOnlyAddressesOfThisNetwork(t *testing.T) {
	self, other := newID(t), newID(t)
	var got []peer.AddrInfo
	n := newNotifee(self, slog.New(slog.DiscardHandler), nil, func(p peer.AddrInfo) { got = append(got, p) })
	n.HandlePeerFound(peer.AddrInfo{ID: other, Addrs: []ma.Multiaddr{
		ma.StringCast("/ip4/192.168.1.5/tcp/4001"),
		ma.StringCast("/ip4/8.8.8.8/tcp/4001"),                                     // a victim elsewhere
		ma.StringCast("/ip4/127.0.0.1/tcp/22"),                                     // our own services
		ma.StringCast("/ip6/::1/tcp/22"),                                           //
		ma.StringCast("/dns4/example.org/tcp/80"),                                  // a name
		ma.StringCast("/ip4/10.0.0.1/tcp/1/p2p/" + self.String() + "/p2p-circuit"), // over someone
		ma.StringCast("/ip6/fe80::1/udp/4001/quic-v1"),
	}})
	if len(got) != 1 || fmt.Sprint(got[0].Addrs) != "[/ip4/192.168.1.5/tcp/4001 /ip6/fe80::1/udp/4001/quic-v1]" {
		t.Fatalf("%v", got)
	}
	lan := ma.StringCast("/ip4/192.168.1.5/tcp/4001")
	for name, p := range map[string]peer.AddrInfo{
		"ourselves":    {ID: self, Addrs: []ma.Multiaddr{lan}},
		"nobody":       {Addrs: []ma.Multiaddr{lan}},
		"nowhere":      {ID: newID(t)},
		"nowhere near": {ID: newID(t), Addrs: []ma.Multiaddr{ma.StringCast("/ip4/8.8.8.8/tcp/1")}},
	} {
		if n.HandlePeerFound(p); len(got) != 1 {
			t.Errorf("%s was passed on", name)
			got = got[:1]
		}
	}
}

// Anybody can announce anything: peers and addresses are capped, and known
// peers may still change their addresses when the cap is reached.
func TestAnnouncementsAreCapped(t *testing.T) {
	count := 0
	n := newNotifee(newID(t), slog.New(slog.DiscardHandler), nil, func(p peer.AddrInfo) {
		count++
		if len(p.Addrs) > maxAddrs {
			t.Fatalf("%d addresses", len(p.Addrs))
		}
	})
	var many []ma.Multiaddr
	for i := range 100 {
		many = append(many, ma.StringCast(fmt.Sprintf("/ip4/10.0.0.%d/tcp/4001", i)))
	}
	first := peer.AddrInfo{ID: newID(t), Addrs: many}
	n.HandlePeerFound(first)
	for range 2 * maxPeers {
		n.HandlePeerFound(peer.AddrInfo{ID: newID(t), Addrs: many})
	}
	if count != maxPeers {
		t.Fatalf("%d peers were passed on, at most %d", count, maxPeers)
	}
	if n.HandlePeerFound(first); count != maxPeers+1 {
		t.Fatal("a known peer can no longer change its addresses")
	}
}

// Made-up announcements deafened a node for as long as it ran.
func TestRegressionAnnouncementsDeafenForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := map[peer.ID]bool{}
		n := newNotifee(newID(t), slog.New(slog.DiscardHandler), nil, func(p peer.AddrInfo) { heard[p.ID] = true })
		say := func() peer.ID {
			id := newID(t)
			n.HandlePeerFound(peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/10.0.0.1/tcp/4001")}})
			return id
		}
		for range maxPeers {
			say()
		}
		if heard[say()] {
			t.Error("more than may be")
		}
		time.Sleep(forgetPeers + time.Second)
		if !heard[say()] {
			t.Error("still deaf")
		}
	})
}

// An announcement becomes addresses that the book takes from mDNS.
func TestAnnouncementsEnterTheBook(t *testing.T) {
	id := newID(t)
	found := heard(peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{
		ma.StringCast("/ip4/192.168.1.5/tcp/4001"),
		ma.StringCast("/ip4/192.168.1.5/udp/4001/quic-v1"),
		ma.StringCast("/ip4/192.168.1.5/udp/4001/webrtc-direct"), // no form of ours
	}})
	if len(found) != 2 {
		t.Fatalf("%v", found)
	}
	book := newBook(t, addrbook.Options{})
	for _, f := range found {
		if l := book.Learn(f.From, []address.NodeAddress{f.Address}); l.Added != 1 {
			t.Errorf("%v: %+v", f, l)
		}
	}
}

// Made-up announcements took all places in the table of seen peers, and nobody
// else was heard.
func TestRegressionMadeUpAnnouncementsFillTheTable(t *testing.T) {
	for name, c := range map[string]struct {
		place  func(i int) string
		passed int // of 10,000 made-up ones
	}{
		"at one place":        {func(int) string { return "10.0.0.1" }, maxPeers},
		"at 20 places":        {func(i int) string { return fmt.Sprintf("10.0.0.%d", i%20) }, maxPeers + 20},
		"at ever new places":  {func(i int) string { return fmt.Sprintf("10.1.%d.%d", i/250, i%250) }, 10_000},
		"at some, ever again": {func(i int) string { return fmt.Sprintf("10.0.0.%d", i*i%251) }, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				heard, refused := map[peer.ID]bool{}, &tally{}
				n := newNotifee(newID(t), slog.New(slog.DiscardHandler), refused, func(p peer.AddrInfo) { heard[p.ID] = true })
				say := func(id peer.ID, place string) {
					n.HandlePeerFound(peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/" + place + "/tcp/4001")}})
				}
				for i := range 10_000 {
					say(peer.ID(fmt.Sprint("made up ", i)), c.place(i))
				}
				if len(heard) > c.passed || len(n.seen) > maxPeers {
					t.Errorf("%d made-up ones were passed on, %d are remembered", len(heard), len(n.seen))
				}
				if got, _ := refused.Report(); got[RefusedCrowd] != uint64(10_000-len(heard)) {
					t.Errorf("%d of 10000 were passed on, refused: %v", len(heard), got)
				}
				for i := range 20 { // all at once, at places that nobody else names
					id := newID(t)
					if say(id, fmt.Sprintf("10.0.9.%d", i)); !heard[id] {
						t.Errorf("the %d. real one is not heard", i+1)
					}
				}
			})
		})
	}
}
