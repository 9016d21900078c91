package peers

import (
	"errors"
	"net"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

const (
	idA = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
	idB = "12D3KooWBpeAEVT9Z2iVBMDGR8q7MMqKFBwTKfBzSNQQUhBDhwTx"
)

func TestRegressionSelfDialInAnySpelling(t *testing.T) {
	interfaces := func() ([]net.Addr, error) {
		return []net.Addr{
			&net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: net.CIDRMask(24, 32)},
			&net.IPNet{IP: net.ParseIP("fe80::7"), Mask: net.CIDRMask(64, 128)},
			&net.UnixAddr{Name: "not an IP"},
		}, nil
	}
	for _, tc := range []struct {
		own           string
		itself, other []string
	}{
		{"/ip4/127.0.0.1/tcp/9000",
			[]string{"/ip4/127.0.0.1/tcp/9000", "/ip6/::ffff:127.0.0.1/tcp/9000", "/dns/localhost/tcp/9000", "/dns4/LocalHost./tcp/9000",
				"/ip4/0.0.0.0/tcp/9000", "/ip6/::/tcp/9000", "/ip4/127.0.0.1/tcp/9000/p2p/" + idA},
			[]string{"/ip4/127.0.0.1/tcp/9001", "/ip4/127.0.0.2/tcp/9000", "/ip4/127.0.0.1/udp/9000/quic-v1", "/dns/example.com/tcp/9000",
				"/unix/tmp/x", "/p2p/" + idA, "/ip4/127.0.0.1/tcp/9000/p2p/" + idA + "/p2p-circuit/p2p/" + idB, "/ip4/127.0.0.1"}},
		{"/ip4/127.0.0.1/tcp/9000/p2p/" + idA,
			[]string{"/ip4/127.0.0.1/tcp/9000", "/p2p/" + idA, "/ip4/198.51.100.1/tcp/1/p2p/" + idA,
				"/ip4/198.51.100.1/udp/1/quic-v1/p2p/" + idB + "/p2p-circuit/p2p/" + idA, "/ip4/127.0.0.1/tcp/9000/p2p/" + idA},
			[]string{"/p2p/" + idB, "/ip4/127.0.0.1/tcp/9000/p2p/" + idB, "/ip4/127.0.0.1/tcp/9000/p2p/" + idA + "/p2p-circuit/p2p/" + idB}},
		{"/p2p/" + idA,
			[]string{"/p2p/" + idA, "/dns/example.com/tcp/1/p2p/" + idA},
			[]string{"/p2p/" + idB, "/ip4/127.0.0.1/tcp/9000", "/unix/tmp/x"}},
		{"/ip4/198.51.100.1/tcp/4001/p2p/" + idB + "/p2p-circuit/p2p/" + idA,
			[]string{"/p2p/" + idA},
			[]string{"/ip4/198.51.100.1/tcp/4001", "/ip4/198.51.100.1/tcp/4001/p2p/" + idB}},
		{"/ip4/0.0.0.0/tcp/9000",
			[]string{"/ip4/0.0.0.0/tcp/9000", "/ip4/127.0.0.1/tcp/9000", "/ip4/127.0.0.2/tcp/9000", "/dns/localhost/tcp/9000", "/ip4/192.0.2.7/tcp/9000", "/ip6/::ffff:192.0.2.7/tcp/9000", "/ip6/::/tcp/9000"},
			[]string{"/ip4/192.0.2.8/tcp/9000", "/ip6/::1/tcp/9000", "/ip4/127.0.0.1/tcp/9001", "/dns/example.com/tcp/9000", "/ip6/fe80::7/tcp/9000"}},
		{"/ip6/::/tcp/9000",
			[]string{"/ip6/::1/tcp/9000", "/ip4/127.0.0.1/tcp/9000", "/ip4/192.0.2.7/tcp/9000", "/ip6/fe80::7/tcp/9000", "/ip6zone/eth0/ip6/fe80::7/tcp/9000"},
			[]string{"/ip6/fe80::8/tcp/9000"}},
		{"/dns4/Node.example.com/tcp/9000",
			[]string{"/dns/node.example.com./tcp/9000", "/dns6/NODE.EXAMPLE.COM/tcp/9000"},
			[]string{"/dns4/node.example.com/tcp/9001", "/dns4/example.com/tcp/9000", "/ip4/127.0.0.1/tcp/9000"}},
		{"/dns/localhost/tcp/9000",
			[]string{"/ip4/127.0.0.1/tcp/9000", "/ip6/::1/tcp/9000", "/ip4/0.0.0.0/tcp/9000"},
			[]string{"/ip4/127.0.0.2/tcp/9000", "/dns/example.com/tcp/9000"}},
		{"/unix/run/kith/../kith/s",
			[]string{"/unix/run/kith/s", "/unix/run/./kith/s"},
			[]string{"/unix/run/kith/s2", "/ip4/127.0.0.1/tcp/9000"}},
		{"/ip4/127.0.0.1/tcp/0", nil, []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/1"}},
	} {
		s := self{placeOf(ma.StringCast(tc.own)), interfaces}
		for _, m := range tc.itself {
			if !s.is(ma.StringCast(m)) {
				t.Errorf("%s is not seen as %s itself", m, tc.own)
			}
		}
		for _, m := range tc.other {
			if s.is(ma.StringCast(m)) {
				t.Errorf("%s is taken for %s itself", m, tc.own)
			}
		}
	}
	broken := self{placeOf(ma.StringCast("/ip4/0.0.0.0/tcp/9000")), func() ([]net.Addr, error) { return nil, errors.New("no") }}
	if broken.is(ma.StringCast("/ip4/192.0.2.7/tcp/9000")) {
		t.Error("self without a list of interfaces")
	}
}

// Whatever bytes parse as a multiaddr: no panic, the relation is reflexive
// unless there is nothing to tell by, and an address with a peer ID at its end
// is that peer.
func FuzzSelf(f *testing.F) {
	for _, s := range []string{"/ip4/127.0.0.1/tcp/9000", "/ip6zone/eth0/ip6/fe80::7/tcp/1", "/dns4/localhost./tcp/1/p2p/" + idA,
		"/unix/tmp/x", "/p2p/" + idA + "/p2p-circuit/p2p/" + idB, "/ip4/1.2.3.4/tcp/0", "/ip4/1.2.3.4/udp/1/quic-v1"} {
		f.Add(ma.StringCast(s).Bytes(), ma.StringCast("/ip4/0.0.0.0/tcp/9000").Bytes())
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, err := ma.NewMultiaddrBytes(a)
		if err != nil {
			return
		}
		y, err := ma.NewMultiaddrBytes(b)
		if err != nil {
			return
		}
		s := self{placeOf(x), func() ([]net.Addr, error) { return nil, nil }}
		s.is(y)
		p := s.place
		telling := p.id != "" || !p.circuit && (p.unix != "" || p.port != "" && (p.ip.IsValid() || p.name != ""))
		if s.is(x) != telling {
			t.Errorf("%s: is itself %v, tells %v", x, s.is(x), telling)
		}
	})
}
