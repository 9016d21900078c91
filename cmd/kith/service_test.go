package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/kith-p2p/kith"
)

func TestSplitService(t *testing.T) {
	const id = "12D3KooWEc1pRgsK3VgEbNFAfm5qK5EP4ZPKs6oCMvirLzePy7eJ"
	const nodeID = "0223e9c80f96a0a5167ba7b0c49e31e85a3ecc24"
	at := "/ip4/1.2.3.4/tcp/4001/p2p/" + id
	for _, tc := range []struct{ arg, peer, name string }{
		// A name alone after the peer.
		{id + "/web", id, "web"},
		{nodeID + "/web", nodeID, "web"},
		{at + "/web", at, "web"},
		{"/p2p/" + id + "/web", "/p2p/" + id, "web"},
		{"/ipfs/" + id + "/web", "/ipfs/" + id, "web"},
		{"/ip4/1.2.3.4/udp/4001/quic-v1/p2p/" + id + "/3000", "/ip4/1.2.3.4/udp/4001/quic-v1/p2p/" + id, "3000"},
		{"/dns4/p2p.example/tcp/1/p2p/" + id + "/web", "/dns4/p2p.example/tcp/1/p2p/" + id, "web"},
		// Names with slashes.
		{id + "//x/web", id, "/x/web"},
		{at + "//x/a/b", at, "/x/a/b"},
		{at + "/x/web", at, "x/web"},
		{at + "/a/p2p/b", at, "a/p2p/b"},
		{at + "//p2p/b", at, "/p2p/b"},
		{at + "/p2p-circuit", at, "p2p-circuit"},
		{at + "/p2p-circuit/web", at, "p2p-circuit/web"},
		// Through a relay.
		{at + "/p2p-circuit/p2p/" + id + "/web", at + "/p2p-circuit/p2p/" + id, "web"},
		{at + "/p2p-circuit/p2p/" + id + "//x/web", at + "/p2p-circuit/p2p/" + id, "/x/web"},
		// DNS names.
		{"/dnsaddr/example.com/web", "/dnsaddr/example.com", "web"},
		{"/dnsaddr/example.com//x/web", "/dnsaddr/example.com", "/x/web"},
		{"/dnsaddr/example.com/p2p/" + id + "/web", "/dnsaddr/example.com/p2p/" + id, "web"},
		// URLs.
		{"libp2p://" + nodeID + "@h:4001/p2p/" + id + "/web", "libp2p://" + nodeID + "@h:4001/p2p/" + id, "web"},
		{"libp2p://" + nodeID + "@h:4001/udp/quic-v1/p2p/" + id + "//x/a", "libp2p://" + nodeID + "@h:4001/udp/quic-v1/p2p/" + id, "/x/a"},
		{"libp2p:" + nodeID + "/p2p/" + id + "/web", "libp2p:" + nodeID + "/p2p/" + id, "web"},
		{"libp2p://" + id + "@h:4001/web", "libp2p://" + id + "@h:4001", "web"},
		{"libp2p://" + id + "@h:4001/udp/quic-v1/web", "libp2p://" + id + "@h:4001/udp/quic-v1", "web"},
		{"libp2p://" + id + "@h:4001/tcp", "libp2p://" + id + "@h:4001", "tcp"},
		{"libp2p://" + id + "@h:4001/sni/name/web", "libp2p://" + id + "@h:4001/sni/name", "web"},
		{"libp2p:" + nodeID + "/p2p/" + id + "/p2p-circuit/p2p/" + id + "/web", "libp2p:" + nodeID + "/p2p/" + id + "/p2p-circuit/p2p/" + id, "web"},
		// What is nobody's address is split as a peer ID is; the node refuses it.
		{"nobody/web", "nobody", "web"},
	} {
		peer, name, err := splitService(tc.arg)
		if err != nil || peer != tc.peer || name != tc.name {
			t.Errorf("%s: peer %q, name %q, error %v; want %q and %q", tc.arg, peer, name, err, tc.peer, tc.name)
		}
	}
	for _, arg := range []string{
		"http://x/y", "mconn://i@h/web", "https://x", "://x/y", "", "/", "//", id, id + "/", at, at + "/", "/web", "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/1/web", "/p2p", "/p2p/", "/p2p//web",
		"/dnsaddr", "/dnsaddr/", "/dnsaddr//web", "/dnsaddr/example.com", "/dnsaddr/example.com/", "/dnsaddr/example.com/p2p/", "/dnsaddr/example.com/p2p/" + id,
		"libp2p:" + nodeID, "libp2p://" + id + "@h:4001", "libp2p://" + id + "@h:4001/", "libp2p:" + nodeID + "/p2p/" + id, "libp2p:", "libp2p:/",
	} {
		if peer, name, err := splitService(arg); !errors.Is(err, kith.ErrUsage) {
			t.Errorf("%q: peer %q, name %q, error %v", arg, peer, name, err)
		}
	}
}

func FuzzSplitService(f *testing.F) {
	for _, s := range []string{"a/b", "/ip4/1/p2p/x/y", "/dnsaddr/h/n", "libp2p://i@h:1/udp/quic-v1/p2p/x/p2p-circuit/p2p/y/n", "/p2p/a/p2p-circuit/p2p", "//x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		peer, name, err := splitService(arg)
		if err != nil {
			if peer != "" || name != "" {
				t.Errorf("%q: an error and %q, %q", arg, peer, name)
			}
			return
		}
		if peer == "" || name == "" || peer+"/"+name != arg || strings.HasSuffix(peer, "/") && !strings.HasPrefix(arg, "libp2p:") {
			t.Errorf("%q became %q and %q", arg, peer, name)
		}
	})
}
