package kith

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	khost "github.com/kith-p2p/kith/internal/host"
	"github.com/kith-p2p/kith/rpc"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
)

// What new users found, each as it showed.

// A handler that ignores the end of its context held the end of the node for
// 2.5 s, of which a program that is told to end has two.
func TestRegressionStuckHandlerDoesNotHoldTheEnd(t *testing.T) {
	if most := drainTime + handlerTime + goodbyeTime; most > 1500*time.Millisecond {
		t.Errorf("Close may take %v: with the daemon's 300 ms that is too near to two seconds", most)
	}
	a, err := New(Config{Home: t.TempDir(), LocalOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- a.Run(context.Background()) }()
	b := startWith(t, Config{})
	begun, release := make(chan struct{}), make(chan struct{})
	err = rpc.Handle(a.Server(), "stuck", func(context.Context, string) (string, error) {
		close(begun)
		<-release
		return "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Allow("stuck", "*"); err != nil {
		t.Fatal(err)
	}
	var calling sync.WaitGroup
	defer calling.Wait()
	calling.Go(func() { _, _ = b.Call(t.Context(), a.Addrs()[0], "stuck", nil) })
	<-begun
	start := time.Now()
	err = a.Close() // the handler still runs
	t.Logf("Close took %v", time.Since(start))
	// The words are Node.Close's own: it did not wait for all that rpc.Server.Stop does.
	if !errors.Is(err, rpc.ErrHandlersRunning) || !strings.Contains(err.Error(), "1 of them are left behind") {
		t.Errorf("Close: %v", err)
	}
	close(release)
	if err := <-ran; !errors.Is(err, rpc.ErrHandlersRunning) {
		t.Errorf("Run: %v", err)
	}
}

// A reason was cut at 256 bytes without a word, in the middle of a letter.
func TestRegressionBanReasonIsBounded(t *testing.T) {
	n := startWith(t, Config{})
	const who = "192.0.2.0/24"
	for _, bad := range []string{strings.Repeat("x", maxBanReason+1), strings.Repeat("x", 1<<20), "\xff"} {
		if err := n.Ban(t.Context(), who, time.Hour, bad); !errors.Is(err, ErrUsage) {
			t.Errorf("a reason of %d bytes: %v", len(bad), err)
		}
	}
	if bans := n.Book().Bans(); len(bans) != 0 {
		t.Fatalf("banned all the same: %v", bans)
	}
	longest := strings.Repeat("é", maxBanReason/2)
	if err := n.Ban(t.Context(), who, time.Hour, longest); err != nil {
		t.Fatal(err)
	}
	if bans := n.Book().Bans(); len(bans) != 1 || bans[0].Reason != longest {
		t.Errorf("the book keeps %v", bans)
	}
}

// otherKeys are hosts whose keys are not Ed25519, by kind.
func otherKeys(t *testing.T) map[string]host.Host {
	hosts := map[string]host.Host{}
	for name, kind := range map[string]int{"RSA": crypto.RSA, "secp256k1": crypto.Secp256k1, "ECDSA": crypto.ECDSA} {
		key, _, err := crypto.GenerateKeyPairWithReader(kind, 2048, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		h, err := khost.New(khost.Config{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		hosts[name] = h
	}
	return hosts
}

// A peer whose key is not Ed25519 could not be banned by its ID.
func TestRegressionBanOfAnotherKindOfKey(t *testing.T) {
	home := t.TempDir()
	n := startWith(t, Config{})
	for kind, h := range otherKeys(t) {
		t.Run(kind, func(t *testing.T) {
			who := h.ID().String()
			at, err := peer.AddrInfoFromString(n.Addrs()[0])
			if err != nil {
				t.Fatal(err)
			}
			connects := func() bool { return h.Connect(t.Context(), *at) == nil }
			connected := func() bool { return n.host.Network().Connectedness(h.ID()) == network.Connected }
			if !connects() {
				t.Fatal("it cannot connect before the ban")
			}
			eventually(t, "it is connected", connected)
			if err := n.Ban(t.Context(), who, time.Hour, "a test"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is cut off", func() bool { return !connected() })
			eventually(t, "it knows", func() bool { return h.Network().Connectedness(n.ID()) != network.Connected })
			_ = connects() // as far as it can see it may, until it is closed at once
			eventually(t, "it is not let in", func() bool { return !connected() && h.Network().Connectedness(n.ID()) != network.Connected })
			if _, err := n.Call(t.Context(), who, "ping", nil); !errors.Is(err, ErrBanned) || !strings.Contains(err.Error(), who) {
				t.Errorf("we call it: %v", err)
			}
			key, err := n.BookID(t.Context(), who)
			if err != nil {
				t.Fatal(err)
			}
			if id, ok := n.ForeignPeer(key); !ok || id != h.ID() {
				t.Errorf("the ban is of %v, %v", id, ok)
			}
			if was, err := n.Unban(t.Context(), who); err != nil || !was {
				t.Errorf("unban: %v, %v", was, err)
			}
			if _, ok := n.ForeignPeer(key); ok {
				t.Error("it is remembered after the ban")
			}
			eventually(t, "it may come back", connects)
		})
	}
	// The ban outlasts a restart.
	h := otherKeys(t)["RSA"]
	first, err := New(Config{Home: home, LocalOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Ban(t.Context(), h.ID().String(), 0, ""); err != nil {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	second := startWith(t, Config{Home: home})
	if err := second.banned(h.ID()); !errors.Is(err, ErrBanned) {
		t.Errorf("after a restart: %v", err)
	}
	if id, ok := second.ForeignPeer(banKey(h.ID())); !ok || id != h.ID() {
		t.Errorf("after a restart the ban is of %v, %v", id, ok)
	}
}

// A ban by way of the PeerManager, or of the Book, left tunnels and calls open.
func TestRegressionPeerManagerBanClosesTheRest(t *testing.T) {
	a := startWith(t, Config{})
	b := startWith(t, Config{Bootstrap: a.Addrs()[:1]})
	gone := func() bool { return len(a.host.Network().ConnsToPeer(b.ID())) == 0 }
	eventually(t, "a and b are peers", func() bool { return up(a, b) && up(b, a) })
	if err := a.PeerManager().Ban(b.NodeID(), time.Hour, "a test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b has no connection", gone)
	if err := a.PeerManager().Unban(b.NodeID()); err != nil {
		t.Fatal(err)
	}
	c := startWith(t, Config{Network: "another"}) // no session, which would end
	if _, err := c.Connect(t.Context(), a.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	if err := a.Book().Ban(c.NodeID(), time.Hour, "a test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "c has no connection", func() bool { return len(a.host.Network().ConnsToPeer(c.ID())) == 0 })
}

// Whoever gave half an address was told to write mconn://NODEID@host, which does
// not help a user of kith.
func TestRegressionErrorsSayWhatToWriteInstead(t *testing.T) {
	n := startWith(t, Config{})
	id, node := "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA", strings.Repeat("ab", 20)
	for _, tc := range []struct{ in, peer, address string }{
		{"127.0.0.1:4001", "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...", "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW..."},
		{"[::1]:5", "/ip6/::1/tcp/5/p2p/12D3KooW...", "/ip6/::1/tcp/5/p2p/12D3KooW..."},
		{"192.0.2.7", "/ip4/192.0.2.7/tcp/4001/p2p/", "/ip4/192.0.2.7/tcp/4001/p2p/"},
		{"libp2p://a.example:5", "/dns/a.example/tcp/5/p2p/", "/dns/a.example/tcp/5/p2p/"},
		{"mconn://127.0.0.1", "/ip4/127.0.0.1/tcp/4001/p2p/", "/ip4/127.0.0.1/tcp/4001/p2p/"},
		{"/ip4/1.2.3.4/udp/4/quic-v1", "/ip4/1.2.3.4/udp/4/quic-v1/p2p/", "/ip4/1.2.3.4/udp/4/quic-v1/p2p/"},
		{"nobody", "is not a peer ID", "is no address of a peer"},
		{"http://x.example", "a web address names no peer", "is no address of a peer"},
		{"", "it is empty", "no address was given"},
		{"12D3KooWshort", "13 characters, a whole one has 52", "is no address of a peer"},
		{id, "", "/ip4/192.0.2.7/tcp/4001/p2p/" + id},
		{node, "no peer with the node ID", "/ip4/192.0.2.7/tcp/4001/p2p/" + node},
		{id + "@127.0.0.1:4001", "write libp2p://" + id + "@127.0.0.1:4001", "is an address for mconn"},
		{"mconn://" + id + "@host", "write libp2p://" + id + "@host", "is an address for mconn"},
		{node + "@1.2.3.4", "has only a node ID", "is an address for mconn"},
		{"libp2p://" + id + "@", "host is empty", "host is empty; write an address like /ip4/"},
		{"/dnsaddr/nodes.invalid", "nodes.invalid", "`kith bootstrap add` takes the name alone"},
		{"/ip4/1.2.3.4/sctp/4/p2p/" + id, "", "/sctp is not supported"},
		{"QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "", "no Ed25519 key"},
		{id + "," + id, "one peer at a time: give each its own argument or flag", ""},
		{"/dns/" + strings.Repeat("x", 5000) + "/tcp/1", "", ""},
		{strings.Repeat("x", 5000), "is not a peer ID", "is no address of a peer"},
	} {
		_, err := n.ParseAddress(tc.in)
		if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), tc.address) {
			t.Errorf("an address %.60q: %v", tc.in, err)
		}
		_, _, err2 := n.parsePeer(t.Context(), tc.in)
		if tc.peer != "" && (err2 == nil || !strings.Contains(err2.Error(), tc.peer)) {
			t.Errorf("a peer %.60q: %v", tc.in, err2)
		}
		for _, err := range []error{err, err2} {
			if err != nil && (strings.Contains(err.Error(), "NODEID") || strings.Contains(err.Error(), "address: ") || len(err.Error()) > 600) {
				t.Errorf("%.60q: %v", tc.in, err)
			}
		}
	}
	if a, err := n.ParseAddress("libp2p://" + id + "@127.0.0.1:4001"); err != nil || a.Protocol != address.Libp2p {
		t.Errorf("%v, %v", a, err)
	}
	if _, err := n.ParseAddress("nobody"); !errors.Is(err, address.ErrInvalid) {
		t.Errorf("the cause is lost: %v", err)
	}
	if err := n.Ban(t.Context(), "10.0.0.0/33", 0, ""); err == nil || !strings.Contains(err.Error(), "is not a network") {
		t.Error(err)
	}
}

// Whatever a name of the DNS said of a peer was written into the address book on a
// person's word, for good, once the peer was reached at one of the addresses.
func TestRegressionANameTaughtTheBookWhereNobodyWasReached(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port)
	l.Close()
	a := startWith(t, Config{NoPEX: true})
	good, _, _ := strings.Cut(a.Addrs()[0], "/p2p/")
	id := "/p2p/" + a.ID().String()
	records := []string{"dnsaddr=" + nobody + id, "dnsaddr=" + good + id, "dnsaddr=/ip4/192.0.2.1/tcp/4001" + id}
	names, err := madns.NewResolver(madns.WithDefaultResolver(&dnsInMemory{txt: map[string][]string{"_dnsaddr.a.example": records}}))
	if err != nil {
		t.Fatal(err)
	}
	knows := func(b *Node) map[string]addrbook.Entry { // but what a says of itself
		p, _ := b.Book().Peer(a.NodeID())
		known := map[string]addrbook.Entry{}
		for _, e := range p.Addresses {
			m, err := e.Address.Multiaddr()
			if err != nil {
				t.Fatal(err)
			}
			if at, _ := peer.SplitAddr(m); e.Source.Kind != addrbook.Inbound {
				known[at.String()] = e
			}
		}
		return known
	}
	for name, prepare := range map[string]func(b *Node){
		"not connected before": func(*Node) {},
		"connected there": func(b *Node) {
			if err := b.host.Connect(t.Context(), peer.AddrInfo{ID: a.ID(), Addrs: []ma.Multiaddr{ma.StringCast(good)}}); err != nil {
				t.Fatal(err)
			}
		},
		"connected elsewhere": func(b *Node) {
			at, _, _ := strings.Cut(a.Addrs()[1], "/p2p/")
			if err := b.host.Connect(t.Context(), peer.AddrInfo{ID: a.ID(), Addrs: []ma.Multiaddr{ma.StringCast(at)}}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := startWith(t, Config{NoPEX: true}, func(n *Node) { n.names = swarm.ResolverFromMaDNS{Resolver: names} })
			prepare(b)
			if _, err := b.Connect(t.Context(), "/dnsaddr/a.example"); err != nil {
				t.Fatal(err)
			}
			known := knows(b)
			if e := known[good]; len(known) != 1 || !e.Verified || e.Source.Kind != addrbook.DNS || e.Source.Name != "a.example" {
				t.Errorf("the book has %+v, want %s alone, met, from the name", known, good)
			}
			// A person's word is kept, and is hearsay as long as nobody was met there.
			if _, err := b.Connect(t.Context(), "/dns4/nobody.example/tcp/1"+id); err == nil {
				t.Error("it answers at a name that there is not")
			}
			if n := len(knows(b)); n != 1 {
				t.Errorf("%d addresses after a name that did not answer", n)
			}
		})
	}
	b := startWith(t, Config{NoPEX: true})
	b.remember(a.ID(), []ma.Multiaddr{ma.StringCast(good)})
	if _, err := b.Connect(t.Context(), nobody+id); err != nil {
		t.Fatal(err)
	}
	if e := knows(b)[nobody]; e.Source.Kind != addrbook.Manual || e.Verified {
		t.Errorf("what a person typed, and was reached elsewhere: %+v", e)
	}
}

// Of a ban that ended by itself, the row that says whose it was stayed for ever, if
// the peer's key is not Ed25519.
func TestRegressionForeignBansOutlivedTheirBans(t *testing.T) {
	rows := func(n *Node) map[string][]byte {
		t.Helper()
		all, _, err := n.state.Bucket("foreign bans").All()
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	ban := func(n *Node, id peer.ID, d time.Duration) {
		t.Helper()
		if err := n.Ban(t.Context(), id.String(), d, "a test"); err != nil {
			t.Fatal(err)
		}
	}
	hosts := otherKeys(t)
	short, long := hosts["ECDSA"].ID(), hosts["secp256k1"].ID()
	only := func(n *Node, id peer.ID) bool {
		all := rows(n)
		_, is := all[string(banKey(id))]
		return len(all) == 1 && is
	}

	home := t.TempDir()
	first, err := New(Config{Home: home, LocalOnly: true}) // which does not run, and so looks at nothing
	if err != nil {
		t.Fatal(err)
	}
	ban(first, short, time.Nanosecond)
	ban(first, long, 0)
	if n := len(rows(first)); n != 2 {
		t.Errorf("%d rows, want one for each ban", n)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	n := startWith(t, Config{Home: home})
	if _, known := n.ForeignPeer(banKey(short)); known || !only(n, long) {
		t.Errorf("after the start the rows are %v", rows(n))
	}

	ban(n, short, time.Nanosecond)
	eventually(t, "the running node forgets it", func() bool {
		_, known := n.ForeignPeer(banKey(short))
		return !known && only(n, long)
	})
	if id, ok := n.ForeignPeer(banKey(long)); !ok || id != long {
		t.Errorf("the ban that stands is of %v, %v", id, ok)
	}
	ban(n, short, time.Hour) // again, for longer
	n.sweepForeignBans()
	if id, ok := n.ForeignPeer(banKey(short)); !ok || id != short || len(rows(n)) != 2 {
		t.Errorf("the second ban is of %v, %v", id, ok)
	}
}

// Nobody who is banned loses the name while others end, are lifted or begin.
func TestForeignBansWhileOthersEnd(t *testing.T) {
	n := startWith(t, Config{})
	id := otherKeys(t)["ECDSA"].ID()
	var sweeping sync.WaitGroup
	defer sweeping.Wait()
	stop := make(chan struct{})
	defer close(stop)
	sweeping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				n.sweepForeignBans()
			}
		}
	})
	for i := range 10 {
		if err := n.Ban(t.Context(), id.String(), time.Hour, ""); err != nil {
			t.Fatal(err)
		}
		if kept, ok := n.ForeignPeer(banKey(id)); !ok || kept != id {
			t.Fatalf("ban %d is of %v, %v", i, kept, ok)
		}
		eventually(t, "its row is there", func() bool {
			row, err := n.state.Bucket("foreign bans").Get(string(banKey(id)))
			return err == nil && len(row) > 0
		})
		if was, err := n.Unban(t.Context(), id.String()); err != nil || !was {
			t.Fatal(was, err)
		}
	}
}
