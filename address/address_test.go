package address

import (
	"strings"
	"testing"

	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// testID returns both names of the node whose seed is 32 times b.
func testID(b byte) (identity.NodeID, string) {
	seed := make([]byte, identity.SeedSize)
	for i := range seed {
		seed[i] = b
	}
	key, err := identity.PrivKeyFromSeed(seed)
	if err != nil {
		panic(err)
	}
	return key.Public().NodeID(), key.Public().PeerID().String()
}

// The names that the tables of this package's tests put in place of these words.
var (
	nodeA, peerA = testID(1)
	_, peerR     = testID(2) // a relay
	nodeB, _     = testID(3)
)

const (
	peerQm = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
	hash   = "uEiDDq4_xNyDorZBH3TlGazyJdOWSwvo4PUo5YHFMrvDE8g" // some SHA-256 as /certhash spells it
)

// expand writes the names of nodes into a table's text.
func expand(s string) string {
	cid := peer.ToCid(mustID(peerA)).String()
	return strings.NewReplacer("<a>", string(nodeA), "<A>", peerA, "<R>", peerR, "<b>", string(nodeB), "<Q>", peerQm,
		"<HASH>", hash, "<CID>", cid, "<UP>", strings.ToUpper(string(nodeA))).Replace(s)
}

func mustID(s string) peer.ID {
	id, err := peer.Decode(s)
	if err != nil {
		panic(err)
	}
	return id
}

// spellings are valid addresses: what is read, the canonical URL, and the multiaddr ("" for none).
var spellings = []struct{ in, url, multiaddr string }{
	// URLs
	{"mconn://<a>@1.2.3.4:26656", "mconn://<a>@1.2.3.4:26656", "/ip4/1.2.3.4/tcp/26656"},
	{"mconn://<a>@1.2.3.4", "mconn://<a>@1.2.3.4", "/ip4/1.2.3.4/tcp/26656"},
	{"mconn://<a>@1.2.3.4/", "mconn://<a>@1.2.3.4", "/ip4/1.2.3.4/tcp/26656"},
	{"MConn://<UP>@Example.COM.:80", "mconn://<a>@example.com:80", "/dns/example.com/tcp/80"},
	{"mconn://<a>@h:80/some/Path?q=1#x", "mconn://<a>@h:80/some/Path?q=1#x", ""},
	{"mconn://<A>@h:80", "mconn://<a>@h:80", "/dns/h/tcp/80"},
	{"mconn://<a>@[2001:DB8:0::1]:80", "mconn://<a>@[2001:db8::1]:80", "/ip6/2001:db8::1/tcp/80"},
	{"mconn://<a>@[::1]", "mconn://<a>@[::1]", "/ip6/::1/tcp/26656"},
	{"mconn://<a>@[::ffff:1.2.3.4]:80", "mconn://<a>@1.2.3.4:80", "/ip4/1.2.3.4/tcp/80"},
	{"mconn://<a>@my_host-1:080", "mconn://<a>@my_host-1:80", "/dns/my_host-1/tcp/80"},
	{"memory:<a>", "memory:<a>", ""},
	{"memory:<A>", "memory:<a>", ""},
	{"carrier+pigeon://<a>@loft:7/x@y:1", "carrier+pigeon://<a>@loft:7/x@y:1", ""},
	{"pigeon:<a>/coop", "pigeon:<a>/coop", ""},
	// CometBFT
	{"<a>@1.2.3.4:26656", "mconn://<a>@1.2.3.4:26656", "/ip4/1.2.3.4/tcp/26656"},
	{"<UP>@[::1]:1", "mconn://<a>@[::1]:1", "/ip6/::1/tcp/1"},
	{"<A>@seed.example.com:26656", "mconn://<a>@seed.example.com:26656", "/dns/seed.example.com/tcp/26656"},
	{"tcp://<a>@1.2.3.4:26656", "mconn://<a>@1.2.3.4:26656", "/ip4/1.2.3.4/tcp/26656"},
	{" \t<a>@1.2.3.4:26656\r\n", "mconn://<a>@1.2.3.4:26656", "/ip4/1.2.3.4/tcp/26656"},
	// libp2p URLs
	{"libp2p://<a>@1.2.3.4:4001/p2p/<A>", "libp2p://<a>@1.2.3.4:4001/p2p/<A>", "/ip4/1.2.3.4/tcp/4001/p2p/<A>"},
	{"libp2p://<a>@1.2.3.4/tcp/p2p/<A>", "libp2p://<a>@1.2.3.4/p2p/<A>", "/ip4/1.2.3.4/tcp/4001/p2p/<A>"},
	{"libp2p://<A>@h:4001", "libp2p://<a>@h:4001/p2p/<A>", "/dns/h/tcp/4001/p2p/<A>"},
	{"libp2p://<CID>@h:4001/p2p/<CID>", "libp2p://<a>@h:4001/p2p/<A>", "/dns/h/tcp/4001/p2p/<A>"},
	{"libp2p://<a>@h:4001/ipfs/<A>", "libp2p://<a>@h:4001/p2p/<A>", "/dns/h/tcp/4001/p2p/<A>"},
	{"libp2p://<a>@h:4001/dns/p2p/<A>", "libp2p://<a>@h:4001/p2p/<A>", "/dns/h/tcp/4001/p2p/<A>"},
	{"libp2p://<A>@h:9/quic-v1", "libp2p://<a>@h:9/udp/quic-v1/p2p/<A>", "/dns/h/udp/9/quic-v1/p2p/<A>"},
	{"libp2p://<a>@h:9/udp/quic-v1/p2p/<A>", "libp2p://<a>@h:9/udp/quic-v1/p2p/<A>", "/dns/h/udp/9/quic-v1/p2p/<A>"},
	{"libp2p://<A>@h:9/ws", "libp2p://<a>@h:9/tcp/ws/p2p/<A>", "/dns/h/tcp/9/ws/p2p/<A>"},
	{"libp2p://<A>@h:9/p2p/<R>/p2p-circuit", "libp2p://<a>@h:9/p2p/<R>/p2p-circuit/p2p/<A>", "/dns/h/tcp/9/p2p/<R>/p2p-circuit/p2p/<A>"},
	{"libp2p://<a>@h", "libp2p://<a>@h", ""},
	{"libp2p://<a>@h:9/p2p/<R>/p2p-circuit", "libp2p://<a>@h:9/p2p/<R>/p2p-circuit", ""},
	{"libp2p:<A>", "libp2p:<a>/p2p/<A>", "/p2p/<A>"},
	// multiaddrs
	{"/ip4/1.2.3.4/tcp/4001/p2p/<A>", "libp2p://<a>@1.2.3.4:4001/p2p/<A>", "/ip4/1.2.3.4/tcp/4001/p2p/<A>"},
	{"/ip4/1.2.3.4/tcp/4001/p2p/<CID>/", "libp2p://<a>@1.2.3.4:4001/p2p/<A>", "/ip4/1.2.3.4/tcp/4001/p2p/<A>"},
	{"/ip6/::FFFF:1.2.3.4/tcp/4001/ipfs/<A>", "libp2p://<a>@1.2.3.4:4001/p2p/<A>", "/ip4/1.2.3.4/tcp/4001/p2p/<A>"},
	{"/ip6/2001:db8::1/udp/4001/quic-v1/p2p/<A>", "libp2p://<a>@[2001:db8::1]:4001/udp/quic-v1/p2p/<A>", "/ip6/2001:db8::1/udp/4001/quic-v1/p2p/<A>"},
	{"/ip4/1.2.3.4/udp/4001/quic-v1/webtransport/certhash/<HASH>/certhash/<HASH>/p2p/<A>", "libp2p://<a>@1.2.3.4:4001/udp/quic-v1/webtransport/certhash/<HASH>/certhash/<HASH>/p2p/<A>", "/ip4/1.2.3.4/udp/4001/quic-v1/webtransport/certhash/<HASH>/certhash/<HASH>/p2p/<A>"},
	{"/dns/Example.com/tcp/443/wss/p2p/<A>", "libp2p://<a>@example.com:443/tcp/wss/p2p/<A>", "/dns/example.com/tcp/443/wss/p2p/<A>"},
	{"/dns4/example.com/tcp/443/tls/ws/p2p/<A>", "libp2p://<a>@example.com:443/dns4/tcp/tls/ws/p2p/<A>", "/dns4/example.com/tcp/443/tls/ws/p2p/<A>"},
	{"/ip4/1.2.3.4/tcp/443/tls/sni/Example.com/ws/p2p/<A>", "libp2p://<a>@1.2.3.4:443/tcp/tls/sni/example.com/ws/p2p/<A>", "/ip4/1.2.3.4/tcp/443/tls/sni/example.com/ws/p2p/<A>"},
	{"/dns6/example.com/udp/1/quic-v1/p2p/<A>", "libp2p://<a>@example.com:1/dns6/udp/quic-v1/p2p/<A>", "/dns6/example.com/udp/1/quic-v1/p2p/<A>"},
	{"/dnsaddr/example.com/p2p/<A>", "libp2p://<a>@example.com/dnsaddr/p2p/<A>", "/dnsaddr/example.com/p2p/<A>"},
	{"/dnsaddr/example.com/tcp/4001/p2p/<A>", "libp2p://<a>@example.com:4001/dnsaddr/tcp/p2p/<A>", "/dnsaddr/example.com/tcp/4001/p2p/<A>"},
	{"/dnsaddr/example.com/udp/4001/quic-v1/p2p/<A>", "libp2p://<a>@example.com:4001/dnsaddr/udp/quic-v1/p2p/<A>", "/dnsaddr/example.com/udp/4001/quic-v1/p2p/<A>"},
	{"/dnsaddr/example.com/p2p/<R>/p2p-circuit/p2p/<A>", "libp2p://<a>@example.com/dnsaddr/p2p/<R>/p2p-circuit/p2p/<A>", "/dnsaddr/example.com/p2p/<R>/p2p-circuit/p2p/<A>"},
	{"/ip4/1.2.3.4/udp/4001/quic-v1/p2p/<Q>/p2p-circuit/p2p/<A>", "libp2p://<a>@1.2.3.4:4001/udp/quic-v1/p2p/<Q>/p2p-circuit/p2p/<A>", "/ip4/1.2.3.4/udp/4001/quic-v1/p2p/<Q>/p2p-circuit/p2p/<A>"},
	{"/p2p/<A>", "libp2p:<a>/p2p/<A>", "/p2p/<A>"},
	{"/p2p/<R>/p2p-circuit/p2p/<A>", "libp2p:<a>/p2p/<R>/p2p-circuit/p2p/<A>", "/p2p/<R>/p2p-circuit/p2p/<A>"},
}

func mustMultiaddr(t testing.TB, s string) ma.Multiaddr {
	t.Helper()
	m, err := ma.NewMultiaddr(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
