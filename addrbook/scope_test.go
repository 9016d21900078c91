package addrbook

import (
	"net/netip"
	"testing"

	"github.com/kith-p2p/kith/address"
)

func ip(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func TestScopesAndGroups(t *testing.T) {
	for _, c := range []struct {
		ip    string
		scope Scope
		group string
	}{
		{"8.8.8.8", ScopeGlobal, "8.8.0.0/16"},
		{"100.63.0.1", ScopeGlobal, "100.63.0.0/16"},
		{"172.32.0.1", ScopeGlobal, "172.32.0.0/16"},
		{"192.0.1.1", ScopeGlobal, "192.0.0.0/16"},
		{"10.1.2.3", ScopePrivate, "10.1.2.3"},
		{"172.16.0.1", ScopePrivate, "172.16.0.1"},
		{"172.31.255.255", ScopePrivate, "172.31.255.255"},
		{"192.168.1.1", ScopePrivate, "192.168.1.1"},
		{"100.64.0.1", ScopePrivate, "100.64.0.1"},
		{"127.0.0.1", ScopeLoopback, "127.0.0.1"},
		{"127.255.0.1", ScopeLoopback, "127.255.0.1"},
		{"169.254.1.1", ScopeLink, "169.254.1.1"},
		{"0.0.0.0", ScopeNone, "0.0.0.0/16"},
		{"0.1.2.3", ScopeNone, "0.1.0.0/16"},
		{"192.0.0.5", ScopeNone, "192.0.0.0/16"},
		{"192.0.2.1", ScopeNone, "192.0.0.0/16"},
		{"198.51.100.1", ScopeNone, "198.51.0.0/16"},
		{"203.0.113.1", ScopeNone, "203.0.0.0/16"},
		{"192.88.99.1", ScopeNone, "192.88.0.0/16"},
		{"198.18.0.1", ScopeNone, "198.18.0.0/16"},
		{"198.19.255.1", ScopeNone, "198.19.0.0/16"},
		{"224.0.0.1", ScopeNone, "224.0.0.0/16"},
		{"240.0.0.1", ScopeNone, "240.0.0.0/16"},
		{"255.255.255.255", ScopeNone, "255.255.0.0/16"},
		{"2a00:1450::1", ScopeGlobal, "2a00:1450::/32"},
		{"2001:470:1::1", ScopeGlobal, "2001:470::/32"},
		{"::1", ScopeLoopback, "::1"},
		{"::", ScopeNone, "::/32"},
		{"fe80::1", ScopeLink, "fe80::1"},
		{"fe80::1%eth0", ScopeLink, "fe80::1"},
		{"fd12:3456:789a::1", ScopePrivate, "fd12:3456:789a::1"},
		{"fec0::1", ScopeNone, "fec0::/32"},
		{"ff02::1", ScopeNone, "ff02::/32"},
		{"100::1", ScopeNone, "100::/32"},
		{"2001:db8::1", ScopeNone, "2001:db8::/32"},
		{"3fff:1::1", ScopeNone, "3fff:1::/32"},
		{"2001:2::1", ScopeNone, "2001:2::/32"},
		{"2001:10::1", ScopeNone, "2001:10::/32"},
		{"2001:20::1", ScopeNone, "2001:20::/32"},
		{"5f00::1", ScopeNone, "5f00::/32"},
		{"4000::1", ScopeNone, "4000::/32"},
		{"::ffff:8.8.8.8", ScopeGlobal, "8.8.0.0/16"},
		{"::ffff:10.0.0.1", ScopePrivate, "10.0.0.1"},
		{"::ffff:127.0.0.1", ScopeLoopback, "127.0.0.1"},
		{"2002:808:808::1", ScopeGlobal, "8.8.0.0/16"},
		{"2002:a00:1::1", ScopeNone, "10.0.0.1"},
		{"2001:0:4136:e378:8000:63bf:3fff:fdd2", ScopeNone, "192.0.0.0/16"},
		{"2001:0:4136:e378:8000:63bf:f7f7:f7f7", ScopeGlobal, "8.8.0.0/16"},
		{"64:ff9b::808:808", ScopeGlobal, "8.8.0.0/16"},
		{"64:ff9b::a00:1", ScopeNone, "10.0.0.1"},
		{"64:ff9b:1::1", ScopePrivate, "64:ff9b:1::1"},
	} {
		if s := ScopeOf(ip(c.ip)); s != c.scope {
			t.Errorf("%s is %v, want %v", c.ip, s, c.scope)
		}
		if g := Group(ip(c.ip)); g != c.group {
			t.Errorf("%s is in %q, want %q", c.ip, g, c.group)
		}
	}
	if ScopeOf(netip.Addr{}) != ScopeNone || Group(netip.Addr{}) != "" {
		t.Error("no IP")
	}
	if ScopeGlobal.String() != "global" || Scope(77).String() != "scope 77" {
		t.Error("names of scopes")
	}
}

func TestGroupsOfAddresses(t *testing.T) {
	mem := address.NodeAddress{NodeID: id(1), Protocol: address.Memory}
	for _, c := range []struct{ a, b address.NodeAddress }{
		{at(1, "127.0.0.1"), address.NodeAddress{NodeID: id(1), Protocol: address.MConn, Hostname: "127.0.0.1", Port: 1}},
		{at(1, "10.0.0.1"), at(1, "10.0.0.2")},
		{at(1, "a.example"), at(1, "b.example")},
		{mem, address.NodeAddress{NodeID: id(2), Protocol: address.Memory}},
		{at(1, "8.8.8.8"), at(1, "8.9.8.8")},
	} {
		if groupOf(c.a) == groupOf(c.b) {
			t.Errorf("%s and %s are one group", c.a, c.b)
		}
	}
	if groupOf(at(1, "8.8.8.8")) != groupOf(at(2, "8.8.9.9")) {
		t.Error("one network, two groups")
	}
}

func TestMayTell(t *testing.T) {
	mem := address.NodeAddress{NodeID: id(1), Protocol: address.Memory}
	bare := address.NodeAddress{NodeID: id(1), Protocol: address.Libp2p, Path: "/p2p/x"}
	for _, c := range []struct {
		a    address.NodeAddress
		to   string // IP, or a protocol
		want bool
	}{
		{at(1, "8.8.8.8"), "9.9.9.9", true},
		{at(1, "8.8.8.8"), "10.0.0.1", true},
		{at(1, "8.8.8.8"), "127.0.0.1", true},
		{at(1, "8.8.8.8"), "", true},
		{at(1, "2a00::1"), "9.9.9.9", true},
		{at(1, "10.0.0.1"), "9.9.9.9", false},
		{at(1, "10.0.0.1"), "10.200.0.1", true},
		{at(1, "10.0.0.1"), "::ffff:10.200.0.1", true},
		{at(1, "10.0.0.1"), "192.168.0.1", false},
		{at(1, "10.0.0.1"), "127.0.0.1", true},
		{at(1, "10.0.0.1"), "", false},
		{at(1, "192.168.7.1"), "192.168.1.9", true},
		{at(1, "172.16.0.1"), "172.31.0.1", true},
		{at(1, "100.64.0.1"), "100.127.0.1", true},
		{at(1, "100.64.0.1"), "8.8.8.8", false},
		{at(1, "fd00:1:2::1"), "fd00:1:2:3::9", true},
		{at(1, "fd00:1:2::1"), "fd00:1:3::9", false},
		{at(1, "fd00:1:2::1"), "10.0.0.1", false},
		{at(1, "127.0.0.1"), "127.0.0.9", true},
		{at(1, "127.0.0.1"), "::1", true},
		{at(1, "127.0.0.1"), "10.0.0.1", false},
		{at(1, "127.0.0.1"), "8.8.8.8", false},
		{at(1, "169.254.1.1"), "169.254.9.9", true},
		{at(1, "169.254.1.1"), "127.0.0.1", false},
		{at(1, "fe80::1"), "fe80::2", true},
		{at(1, "fe80::1"), "fe80:0:0:1::2", false},
		{at(1, "192.0.2.1"), "8.8.8.8", false},
		{at(1, "224.0.0.1"), "127.0.0.1", false},
		{at(1, "host.example"), "8.8.8.8", false},
		{at(1, "host.example"), "127.0.0.1", false},
		{mem, "memory", true},
		{mem, "mconn", false},
		{mem, "8.8.8.8", false},
		{bare, "libp2p", true},
	} {
		to := Audience{}
		if addr, err := netip.ParseAddr(c.to); err == nil {
			to.IP, to.Protocol = addr, address.MConn
		} else {
			to.Protocol = address.Protocol(c.to)
		}
		if got := MayTell(c.a, to); got != c.want {
			t.Errorf("%s told to %q: %v", c.a, c.to, got)
		}
		if !MayTell(c.a, Audience{AnyScope: true}) {
			t.Errorf("%s is kept back without scopes", c.a)
		}
	}
}

func TestMayLearn(t *testing.T) {
	mem := address.NodeAddress{NodeID: id(1), Protocol: address.Memory}
	for _, c := range []struct {
		a    address.NodeAddress
		from Source
		want bool
	}{
		{at(1, "10.0.0.1"), Source{Kind: Manual}, true},
		{at(1, "224.0.0.1"), Source{Kind: Bootstrap}, true},
		{at(1, "10.0.0.1"), Source{Kind: MDNS}, true},
		{at(1, "8.8.8.8"), Source{Kind: MDNS}, true},
		{at(1, "fe80::1"), Source{Kind: MDNS}, true},
		{at(1, "127.0.0.1"), Source{Kind: MDNS}, false},
		{at(1, "127.0.0.1"), Source{Kind: MDNS, IP: ip("127.0.0.1")}, true},
		{at(1, "10.0.0.1"), pex(9, "8.8.8.8"), false},
		{at(1, "10.0.0.1"), pex(9, "10.9.9.9"), true},
		{at(1, "127.0.0.1"), pex(9, "8.8.8.8"), false},
		{at(1, "127.0.0.1"), pex(9, "127.0.0.1"), true},
		{at(1, "8.8.8.8"), pex(9, "9.9.9.9"), true},
		{at(1, "0.0.0.0"), pex(9, "127.0.0.1"), false},
		{at(1, "8.8.8.8"), Source{Kind: DHT}, true},
		{at(1, "10.0.0.1"), Source{Kind: DHT}, false},
		{at(1, "10.0.0.1"), Source{Kind: DNS, Name: "seed.example"}, false},
		{mem, Source{Kind: PEX, Peer: id(2), Protocol: address.Memory}, true},
		{mem, pex(2, "8.8.8.8"), false},
	} {
		if got := MayLearn(c.a, c.from); got != c.want {
			t.Errorf("%s learnt from %v: %v", c.a, c.from, got)
		}
	}
}
