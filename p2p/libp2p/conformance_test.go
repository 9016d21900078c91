package libp2p

import (
	"testing"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/p2ptest"
)

// The conformance suite over every network. The hosts are connected before: the
// suite counts goroutines, and libp2p keeps some for each connection.
func TestConformance(t *testing.T) {
	for _, nw := range networks {
		t.Run(nw.name, func(t *testing.T) {
			p := nw.make(t)
			stranger := newNode(t, "")
			p.join(t)
			nowhere := p2p.Endpoint{Protocol: Protocol, IP: []byte{127, 0, 0, 1}, Port: 1, Path: endpointOf(nil, stranger.ID()).Path}
			p2ptest.TestTransport(t, func(tb testing.TB) p2ptest.Harness {
				a, err := New(p.a, Options{})
				if err != nil {
					tb.Fatal(err)
				}
				b, err := New(p.b, Options{})
				if err != nil {
					tb.Fatal(err)
				}
				h := p2ptest.Harness{A: a, B: b, KeyA: p.a.key, KeyB: p.b.key, Endpoint: p.at, Nowhere: nowhere}
				return h
			})
		})
	}
}
