package memory_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
	"github.com/kith-p2p/kith/p2p/p2ptest"
)

// The conformance suite, on an instant network and, in virtual time, on networks
// that are like real ones.
func TestConformance(t *testing.T) {
	slow := memory.Link{Latency: 30 * time.Millisecond, Jitter: 20 * time.Millisecond}
	for name, c := range map[string]struct {
		o      memory.Options
		bubble bool
		byIP   bool
	}{
		"real time":    {},
		"virtual time": {bubble: true},
		"by IP":        {bubble: true, byIP: true, o: memory.Options{Link: slow}},
		"10 Mbit/s":    {bubble: true, o: memory.Options{Link: memory.Link{Latency: time.Millisecond, Bandwidth: 1_250_000}}},
		"large chunks": {bubble: true, o: memory.Options{MaxChunk: 16 << 10, Window: 40 << 10, Link: slow}},
		"tiny window":  {bubble: true, o: memory.Options{MaxChunk: 100, Window: 1, Batch: 300}},
	} {
		t.Run(name, func(t *testing.T) {
			p2ptest.Suite{Bubble: c.bubble, Timeout: time.Hour * 10, New: func(tb testing.TB) p2ptest.Harness {
				network := memory.NewNetwork(c.o)
				h := p2ptest.Harness{KeyA: newKey(tb), KeyB: newKey(tb)}
				var at [2][]netip.AddrPort
				h.Nowhere = p2p.Endpoint{Protocol: memory.Protocol, Path: strings.Repeat("ab", 20)}
				if c.o.Window == 1 {
					h.MaxMessage = 64 << 10 // every chunk is a turn of both sides
				}
				if c.byIP {
					at[0] = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:1000")}
					at[1] = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:1000"), netip.MustParseAddrPort("[2001:db8::1]:2000")}
					h.Endpoint = p2p.Endpoint{Protocol: memory.ProtocolIP, IP: at[1][0].Addr().AsSlice(), Port: 1000}
					h.Nowhere = p2p.Endpoint{Protocol: memory.ProtocolIP, IP: at[1][0].Addr().AsSlice(), Port: 1001}
				}
				h.A = listen(tb, network, h.KeyA.Public().NodeID(), at[0]...)
				h.B = listen(tb, network, h.KeyB.Public().NodeID(), at[1]...)
				return h
			}}.Run(t)
		})
	}
}

func newKey(tb testing.TB) p2p.PrivKey {
	tb.Helper()
	key, err := identity.Generate()
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func listen(tb testing.TB, n *memory.Network, id p2p.NodeID, at ...netip.AddrPort) *memory.Transport {
	tb.Helper()
	t, err := n.Listen(id, at...)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}
