package tunnel

import (
	"crypto/rand"
	"testing"

	khost "github.com/kith-p2p/kith/internal/host"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/protocol"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	ma "github.com/multiformats/go-multiaddr"
)

// ways are all the ways in which b reaches a.
var ways = []struct {
	name  string
	nodes func(t testing.TB) (a, b node)
}{
	{"tcp and noise", func(t testing.TB) (a, b node) { return secured(t, noise.ID) }},
	{"tcp and tls", func(t testing.TB) (a, b node) { return secured(t, libp2ptls.ID) }},
	{"quic", func(t testing.TB) (a, b node) { return newNode(t, "/ip4/127.0.0.1/udp/0/quic-v1"), newNode(t) }},
	{"ws", func(t testing.TB) (a, b node) { return newNode(t, "/ip4/127.0.0.1/tcp/0/ws"), newNode(t) }},
	{"relay", func(t testing.TB) (a, b node) { return newHidden(t, circuit.WithInfiniteLimits()), newNode(t) }},
}

// secured are two nodes that speak one security protocol only, over TCP.
func secured(t testing.TB, id protocol.ID) (a, b node) {
	t.Helper()
	one := func(listen ...ma.Multiaddr) node {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		h, err := khost.New(khost.Config{Key: key, Security: []protocol.ID{id}, Listen: listen})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		return nodeOver(t, h)
	}
	return one(ma.StringCast(overTCP)), one()
}
