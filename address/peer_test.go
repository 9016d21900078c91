package address

import (
	"errors"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

func TestParsePeer(t *testing.T) {
	for _, c := range []struct{ in, id, where string }{
		{"<A>", "<A>", ""},
		{" <A>\n", "<A>", ""},
		{"<CID>", "<A>", ""},
		{"<Q>", "<Q>", ""},
		{"/p2p/<A>", "<A>", ""},
		{"/ipfs/<Q>/", "<Q>", ""},
		{"/ip4/1.2.3.4/tcp/4001/p2p/<A>", "<A>", "/ip4/1.2.3.4/tcp/4001"},
		{"/ip4/1.2.3.4/tcp/4001/p2p/<Q>", "<Q>", "/ip4/1.2.3.4/tcp/4001"},
		{"/dns4/H/udp/1/quic-v1/p2p/<A>", "<A>", "/dns4/h/udp/1/quic-v1"},
		{"/dnsaddr/bootstrap.example/p2p/<Q>", "<Q>", "/dnsaddr/bootstrap.example"},
		{"/ip4/1.2.3.4/tcp/1/p2p/<R>/p2p-circuit/p2p/<Q>", "<Q>", "/ip4/1.2.3.4/tcp/1/p2p/<R>/p2p-circuit"},
		{"/p2p/<R>/p2p-circuit/p2p/<A>", "<A>", "/p2p/<R>/p2p-circuit"},
		{"libp2p://<A>@h", "<A>", "/dns/h/tcp/4001"},
		{"libp2p://<a>@1.2.3.4:9/udp/quic-v1/p2p/<A>", "<A>", "/ip4/1.2.3.4/udp/9/quic-v1"},
		{"libp2p:<A>", "<A>", ""},
	} {
		in := expand(c.in)
		id, addrs, err := ParsePeer(in)
		where := ""
		if len(addrs) == 1 {
			where = addrs[0].String()
		}
		if err != nil || id.String() != expand(c.id) || where != expand(c.where) || len(addrs) > 1 {
			t.Errorf("ParsePeer(%q) = %v, %v, %v; want %s at %q", in, id, addrs, err, expand(c.id), expand(c.where))
		}
	}
	for _, c := range []struct {
		in, fault string
		want      error
	}{
		{"", "empty", nil},
		{strings.Repeat("1", MaxLength+1), "bytes long", nil},
		{"<a>", "a hash that cannot be dialled: address: peer ID required: give the peer ID", ErrPeerIDRequired},
		{"<UP>", "a hash that cannot be dialled", ErrPeerIDRequired},
		{"<a>@h:26656", "an address for mconn", ErrPeerIDRequired},
		{"<A>@h:26656", "an address for mconn", ErrPeerIDRequired},
		{"memory:<a>", "an address for memory", ErrPeerIDRequired},
		{"libp2p://<a>@h", "peer ID required", ErrPeerIDRequired},
		{"/ip4/1.2.3.4/tcp/1", "peer ID required", ErrPeerIDRequired},
		{"libp2p://<b>@h/p2p/<A>", "do not belong together", ErrIDMismatch},
		{"alice", "not a peer ID", nil},
		{"12D3KooW", "not a peer ID", nil},
		{"<A>x", "a peer is named by its peer ID", nil},
		{"<A>/x", "a slash is no part of a peer ID", nil},
		{"1.2.3.4:4001", "node ID is missing", nil},
		{"bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", "not a peer ID", nil}, // CID of other content
		{"/p2p/alice", "invalid value", nil},
	} {
		in := expand(c.in)
		id, addrs, err := ParsePeer(in)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.fault) || c.want != nil && !errors.Is(err, c.want) || id != "" || addrs != nil {
			t.Errorf("ParsePeer(%.100q) = %v, %v, %v\n\twant the error to name %q and match %v", in, id, addrs, err, c.fault, c.want)
		}
	}
}

func FuzzParsePeer(f *testing.F) {
	addSeeds(f)
	f.Add(peerA)
	f.Add(peerQm)
	f.Add(string(nodeA))
	f.Fuzz(func(t *testing.T, s string) {
		var id peer.ID
		var addrs []ma.Multiaddr
		var err error
		bounded(t, len(s), func() { id, addrs, err = ParsePeer(s) })
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: error %v is untyped", s, err)
			}
			return
		}
		full := mustMultiaddr(t, "/p2p/"+id.String())
		if len(addrs) > 0 {
			full = ma.Join(addrs[0], full)
		}
		again, where, err := ParsePeer(full.String())
		if err != nil || again != id || len(where) != len(addrs) || len(where) > 0 && !where[0].Equal(addrs[0]) {
			t.Fatalf("%q is %s, which reads as %v, %v, %v", s, full, again, where, err)
		}
		if again, _, err := ParsePeer(id.String()); err != nil || again != id {
			t.Fatalf("%s alone: %v, %v", id, again, err)
		}
	})
}

// What people type instead of a peer or a socket gets an answer that fits.
func TestNearMisses(t *testing.T) {
	for s, says := range map[string]string{
		"":                       "it is empty",
		"a,b":                    "one peer at a time",
		"http://127.0.0.1:18999": "a web address names no peer",
	} {
		if _, _, err := ParsePeer(s); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("peer %q: %v", s, err)
		}
	}
	if _, err := TargetMultiaddr("http://127.0.0.1:3000"); err == nil || !strings.Contains(err.Error(), "host and port only") {
		t.Errorf("target: %v", err)
	}
}
