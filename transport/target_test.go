package transport

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/kith-p2p/kith/address"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	somePeer  = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
	otherPeer = "12D3KooWBnext8yTfZmGBP3zHPNbJ5Xg7wBmGKfDJYNnwVuXKRHX"
)

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ addr, component, text string }{
		{"/ip4/127.0.0.1/udp/9090/quic", "quic", "udp"},
		{"/ip4/127.0.0.1/udp/9090/quic-v1", "quic-v1", "/p2p/ID"},
		{"/udp/9090/quic", "udp", "/ip4"},
		{"/ip4/127.0.0.1/udp/9090", "udp", "packets"},
		{"/dns4/localhost/udp/9090", "udp", "packets"},
		{"/udp/9090", "udp", ""},
		{"/tcp/9090", "tcp", ""},
		{"/ip4/127.0.0.1", "ip4", "port"},
		{"/ip6/::1", "ip6", "port"},
		{"/dns/localhost", "dns", "port"},
		{"/ip4/127.0.0.1/tcp/80/ws", "ws", "not be honoured"},
		{"/ip4/127.0.0.1/tcp/80/wss", "wss", ""},
		{"/ip4/127.0.0.1/tcp/80/tls", "tls", ""},
		{"/ip4/127.0.0.1/tcp/80/http", "http", ""},
		{"/ip4/127.0.0.1/tcp/80/tcp/81", "tcp", ""},
		{"/dns/localhost/tcp/80/tls/sni/x/ws", "tls", ""},
		{"/ws", "ws", ""},
		{"/ip4/127.0.0.1/sctp/80", "sctp", ""},
		{"/ip4/127.0.0.1/ip4/127.0.0.1/tcp/80", "ip4", ""},
		{"/ip4/10.0.0.0/ipcidr/8", "ipcidr", ""},
		{"/dnsaddr/bootstrap.libp2p.io", "dnsaddr", ""},
		{"/dnsaddr/bootstrap.libp2p.io/tcp/80", "dnsaddr", ""},
		{"/memory/1", "memory", ""},
		{"/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234", "onion3", ""},
		{"/ip6zone/lo/ip4/127.0.0.1/tcp/80", "ip6zone", "before /ip6"},
		{"/ip6zone/lo", "ip6zone", ""},
		{"/ip6zone/a/ip6zone/b/ip6/fe80::1/tcp/80", "ip6zone", ""},
		{"/ip6zone/lo/ip6/2001:db8::1/tcp/80", "ip6zone", "link-local"},
		{"/ip6zone/lo/ip6/::1/tcp/80", "ip6zone", "link-local"},
		// Peers: what a libp2p host does not dial, and what is no peer at the end.
		{"/p2p/" + somePeer + "/p2p-circuit", "p2p", ""},
		{"/p2p-circuit/p2p/" + somePeer, "p2p-circuit", "relay"},
		{"/ip4/1.2.3.4/udp/9090/quic/p2p/" + somePeer, "quic", "quic-v1"},
		{"/ip4/1.2.3.4/udp/9090/p2p/" + somePeer, "udp", ""},
		{"/ip4/1.2.3.4/tcp/9090/http/p2p/" + somePeer, "http", ""},
		{"/memory/7/p2p/" + somePeer, "memory", ""},
		{"/ip6zone/lo/ip6/fe80::1/tcp/80/p2p/" + somePeer, "ip6zone", ""},
		{"/ip4/1.2.3.4/tcp/1/p2p/" + otherPeer + "/p2p/" + somePeer, "p2p", ""},
		{"/ip4/1.2.3.4/tcp/1/p2p/" + somePeer + "/tcp/80", "p2p", ""},
	} {
		_, err := parse(ma.StringCast(c.addr))
		ue, ok := errors.AsType[*address.UnsupportedError](err)
		if !ok || ue.Component != c.component {
			t.Errorf("%s: %v; want /%s to be named", c.addr, err, c.component)
			continue
		}
		ae, ok := errors.AsType[*AddressError](err)
		if !ok || !errors.Is(err, ErrAddress) || ae.Addr != c.addr {
			t.Errorf("%s: %#v", c.addr, err)
		}
		if !strings.Contains(err.Error(), c.text) || !strings.HasPrefix(err.Error(), "transport: "+c.addr+": ") {
			t.Errorf("%s: %v; want %q in it", c.addr, err, c.text)
		}
	}
}

func component(t *testing.T, name, value string) *ma.Component {
	t.Helper()
	c, err := ma.NewComponent(name, value)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseRefusesOddValues(t *testing.T) {
	unix := func(path string) ma.Multiaddr { return component(t, "unix", path).Multiaddr() }
	for name, c := range map[string]struct {
		addr ma.Multiaddr
		text string
	}{
		"nil":                  {nil, "empty"},
		"empty":                {ma.Multiaddr{}, "empty"},
		"empty component":      {ma.Multiaddr{{}}, "component 1 is empty"},
		"empty one in between": {append(ma.StringCast("/ip4/1.2.3.4/tcp/80"), ma.Component{}), "component 3 is empty"},
		"empty one before a peer": {append(ma.Multiaddr{{}}, ma.StringCast("/p2p/"+somePeer)...),
			"component 1 is empty"},
		"something after a unix path": {append(unix("/tmp/x"), ma.StringCast("/tcp/80")...), "/tcp is not supported"},
		"a peer after a unix path":    {append(unix("/tmp/x"), ma.StringCast("/p2p/"+somePeer)...), "/p2p is not supported"},
		"unix with NUL":               {unix("/tmp/a\x00b"), "NUL"},
		"unix too long":               {unix("/" + strings.Repeat("x", 107)), "108 bytes"},
		"IPv6 as a name":              {ma.StringCast("/dns6/::1/tcp/80"), "':'"},
		"name in another script":      {ma.StringCast("/dns/b\u00fccher.example/tcp/80"), "xn--"},
		"name with a space":           {ma.StringCast("/dns/a b/tcp/80"), "' '"},
		"name too long":               {ma.StringCast("/dns/" + strings.Repeat("x", 255) + "/tcp/80"), "255 characters"},
		"peer text too long": {ma.StringCast("/ip4/1.2.3.4/tcp/1" + strings.Repeat("/ws", 2000) + "/p2p/" + somePeer),
			"at most 4096"},
		"too many components": {ma.StringCast(strings.Repeat("/ws", 5000)), "more than 4096 bytes"},
		"huge peer ID":        {peerMultiaddr(peer.ID("\x00\x80\x10" + strings.Repeat("x", 2048))), "/p2p, has 2051 bytes"},
		"peer at port 0":      {ma.StringCast("/ip4/1.2.3.4/tcp/0/p2p/" + somePeer), "port 0"},
	} {
		_, err := parse(c.addr)
		if !errors.Is(err, ErrAddress) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v; want %q", name, err, c.text)
		}
		if err != nil && len(err.Error()) > 600 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestHostPort(t *testing.T) {
	for addr, want := range map[string]string{
		"/ip4/1.2.3.4/tcp/80":                 "1.2.3.4:80",
		"/ip4/1.2.3.4/tcp/0":                  "1.2.3.4:0",
		"/ip6/::1/tcp/65535":                  "[::1]:65535",
		"/ip6/::ffff:1.2.3.4/tcp/80":          "1.2.3.4:80",
		"/ip6zone/eth0/ip6/fe80::1/tcp/80":    "[fe80::1%eth0]:80",
		"/dns/example.com/tcp/80":             "example.com:80",
		"/dns4/example.com/tcp/80":            "example.com:80",
		"/dns6/example.com/tcp/80":            "example.com:80",
		"/unix/tmp/x":                         "",
		"/p2p/" + somePeer:                    "",
		"/ip4/1.2.3.4/tcp/80/p2p/" + somePeer: "",
		"/ip4/1.2.3.4/udp/80":                 "",
		"/ip4/1.2.3.4":                        "",
	} {
		got, err := HostPort(ma.StringCast(addr))
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrAddress) {
			t.Errorf("%s: %q, %v; want %q", addr, got, err, want)
		}
	}
	if _, err := HostPort(nil); !errors.Is(err, ErrAddress) {
		t.Errorf("nil: %v", err)
	}
}

// Whatever parse accepts it must honour to the last component: what it would dial, written down again from the target
// alone, is the address. It must not panic, and must be right about what it names as unsupported.
func FuzzMultiaddrDial(f *testing.F) {
	for _, s := range []string{
		"/ip4/127.0.0.1/tcp/80", "/ip6/::1/tcp/0", "/dns/x/tcp/1", "/dns4/x/tcp/1", "/dns6/x./tcp/1", "/unix/tmp/x",
		"/ip4/127.0.0.1/udp/9090/quic", "/ip4/127.0.0.1/udp/9090", "/ip4/127.0.0.1", "/ip4/127.0.0.1/tcp/80/ws",
		"/ip6zone/lo/ip6/fe80::1/tcp/80", "/p2p/" + somePeer, "/ip4/1.2.3.4/udp/1/quic-v1/p2p/" + somePeer,
		"/ip4/1.2.3.4/tcp/1/p2p/" + otherPeer + "/p2p-circuit/p2p/" + somePeer, "/dnsaddr/x/p2p/" + somePeer,
		"/ip4/1.2.3.4/tcp/1/tls/sni/x/ws/p2p/" + somePeer, "/ip6/::ffff:1.2.3.4/tcp/80",
	} {
		f.Add(ma.StringCast(s).Bytes())
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, err := ma.NewMultiaddrBytes(b)
		if err != nil {
			return
		}
		to, err := parse(addr)
		if err != nil {
			if !errors.Is(err, ErrAddress) || len(err.Error()) > 1200 {
				t.Fatalf("%s: %v", addr, err)
			}
			if ue, ok := errors.AsType[*address.UnsupportedError](err); ok &&
				!slices.ContainsFunc(addr, func(c ma.Component) bool { return c.Protocol().Name == ue.Component }) {
				t.Fatalf("%s has no /%s", addr, ue.Component)
			}
			return
		}
		switch {
		case to.path != "":
			if c, err := ma.NewComponent("unix", to.path); err != nil || !c.Multiaddr().Equal(addr) {
				t.Fatalf("%s became %q", addr, to.path)
			}
		case to.peer.ID != "":
			// Canonical spelling may differ; what is there may not.
			var codes []int
			for _, m := range append(slices.Clone(to.peer.Addrs), peerMultiaddr(to.peer.ID)) {
				for _, c := range m {
					codes = append(codes, c.Code())
				}
			}
			if len(codes) != len(addr) {
				t.Fatalf("%s became %v", addr, to.peer)
			}
		default:
			if len(addr) != 2 && !(len(addr) == 3 && addr[0].Code() == ma.P_IP6ZONE) || addr[len(addr)-1].Code() != ma.P_TCP {
				t.Fatalf("%s was accepted", addr)
			}
			hp, err := HostPort(addr)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := net.SplitHostPort(hp); err != nil {
				t.Fatalf("%s became %q: %v", addr, hp, err)
			}
		}
	})
}
