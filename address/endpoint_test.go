package address

import (
	"errors"
	"net"
	"strings"
	"testing"
)

func TestEndpoint(t *testing.T) {
	v4 := net.IPv4(1, 2, 3, 4) // 16 bytes
	for _, c := range []struct {
		e                       Endpoint
		str, address, multiaddr string
	}{
		{Endpoint{MConn, v4, 80, ""}, "mconn://1.2.3.4:80", "mconn://<a>@1.2.3.4:80", "/ip4/1.2.3.4/tcp/80"},
		{Endpoint{MConn, v4.To4(), 80, "/x"}, "mconn://1.2.3.4:80/x", "mconn://<a>@1.2.3.4:80/x", ""},
		{Endpoint{MConn, net.IPv6loopback, 80, ""}, "mconn://[::1]:80", "mconn://<a>@[::1]:80", "/ip6/::1/tcp/80"},
		{Endpoint{Memory, nil, 0, string(nodeA)}, "memory:<a>", "memory:<a>", ""},
		{Endpoint{Libp2p, v4, 4001, expand("/udp/quic-v1/p2p/<A>")}, "libp2p://1.2.3.4:4001/udp/quic-v1/p2p/<A>", "libp2p://<a>@1.2.3.4:4001/udp/quic-v1/p2p/<A>", "/ip4/1.2.3.4/udp/4001/quic-v1/p2p/<A>"},
		{Endpoint{Libp2p, nil, 0, expand("/p2p/<A>")}, "libp2p:/p2p/<A>", "libp2p:<a>/p2p/<A>", "/p2p/<A>"},
		{Endpoint{Libp2p, nil, 0, expand("/dnsaddr/h/p2p/<A>")}, "libp2p:/dnsaddr/h/p2p/<A>", "libp2p://<a>@h/dnsaddr/p2p/<A>", "/dnsaddr/h/p2p/<A>"},
		{Endpoint{Libp2p, v4, 4001, ""}, "libp2p://1.2.3.4:4001", "libp2p://<a>@1.2.3.4:4001", ""},
		{Endpoint{"pigeon", nil, 0, "coop 3"[:4]}, "pigeon:coop", "", ""},
	} {
		if err := c.e.Validate(); err != nil {
			t.Errorf("%s: %v", c.e, err)
		}
		if c.e.String() != expand(c.str) {
			t.Errorf("String = %s, want %s", c.e, expand(c.str))
		}
		if a := c.e.NodeAddress(nodeA); c.address != "" && (a.String() != expand(c.address) || a.Validate() != nil) {
			t.Errorf("%s: address %s (%v), want %s", c.e, a, a.Validate(), expand(c.address))
		}
		m, err := c.e.Multiaddr()
		if c.multiaddr == "" {
			if !errors.Is(err, ErrNoMultiaddr) && !errors.Is(err, ErrPeerIDRequired) {
				t.Errorf("%s: multiaddr %v, %v", c.e, m, err)
			}
		} else if err != nil || m.String() != expand(c.multiaddr) {
			t.Errorf("%s: multiaddr %v, %v; want %s", c.e, m, err, expand(c.multiaddr))
		}
	}
	for fault, e := range map[string]Endpoint{
		"protocol is empty":     {"", v4, 1, ""},
		"IP has 5 bytes":        {MConn, net.IP("12345"), 1, ""},
		"neither IP nor path":   {MConn, nil, 0, ""},
		"port without an IP":    {Memory, nil, 1, "x"},
		"does not begin with /": {MConn, v4, 1, "x"},
		"control character":     {Memory, nil, 0, "a\n"},
		"path has":              {Memory, nil, 0, strings.Repeat("a", maxPath+1)},
		"is for names":          {Libp2p, v4, 1, expand("/dns4/p2p/<A>")},
		"/noise":                {Libp2p, v4, 1, expand("/tcp/noise/p2p/<A>")},
		"multiaddr":             {Libp2p, nil, 0, "/x"},
	} {
		if err := e.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), fault) {
			t.Errorf("%#v: %v, want %q", e, err, fault)
		}
	}
}
