package address

import (
	"errors"
	"strings"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

var targets = []struct{ in, multiaddr, human string }{
	{"3000", "/ip4/127.0.0.1/tcp/3000", "127.0.0.1:3000"},
	{" 3000\n", "/ip4/127.0.0.1/tcp/3000", "127.0.0.1:3000"},
	{":3000", "/ip4/127.0.0.1/tcp/3000", "127.0.0.1:3000"},
	{"0", "/ip4/127.0.0.1/tcp/0", "127.0.0.1:0"},
	{"0.0.0.0:3000", "/ip4/0.0.0.0/tcp/3000", "0.0.0.0:3000"},
	{"localhost:3000", "/dns/localhost/tcp/3000", "localhost:3000"},
	{"LocalHost.:03000", "/dns/localhost/tcp/3000", "localhost:3000"},
	{"[::1]:3000", "/ip6/::1/tcp/3000", "[::1]:3000"},
	{"[::ffff:1.2.3.4]:1", "/ip4/1.2.3.4/tcp/1", "1.2.3.4:1"},
	{"tcp:3000", "/ip4/127.0.0.1/tcp/3000", "127.0.0.1:3000"},
	{"tcp::3000", "/ip4/127.0.0.1/tcp/3000", "127.0.0.1:3000"},
	{"tcp:db.local:5432", "/dns/db.local/tcp/5432", "db.local:5432"},
	{"tcp://[::1]:5432", "/ip6/::1/tcp/5432", "[::1]:5432"},
	{"udp:127.0.0.1:53", "/ip4/127.0.0.1/udp/53", "udp:127.0.0.1:53"},
	{"UDP:53", "/ip4/127.0.0.1/udp/53", "udp:127.0.0.1:53"},
	{"udp:tcp:53", "/dns/tcp/udp/53", "udp:tcp:53"},
	{"unix:/run/x.sock", "/unix/run/x.sock", "unix:/run/x.sock"},
	{"unix:///run/x.sock", "/unix/run/x.sock", "unix:/run/x.sock"},
	{"unix:/with space/ü", "/unix/with space/ü", "unix:/with space/ü"},
	{"/unix/run/x.sock", "/unix/run/x.sock", "unix:/run/x.sock"},
	{"/unix//run/x.sock", "/unix/run/x.sock", "unix:/run/x.sock"},
	{"/ip4/127.0.0.1/tcp/3000", "/ip4/127.0.0.1/tcp/3000", "127.0.0.1:3000"},
	{"/ip6/::1/udp/53", "/ip6/::1/udp/53", "udp:[::1]:53"},
	{"/dns/h/tcp/1", "/dns/h/tcp/1", "h:1"},
	{"/dns4/H/tcp/1", "/dns4/h/tcp/1", "/dns4/h/tcp/1"},
	{"/dns6/h/udp/1", "/dns6/h/udp/1", "/dns6/h/udp/1"},
}

func TestTargetMultiaddr(t *testing.T) {
	for _, c := range targets {
		m, err := TargetMultiaddr(c.in)
		if err != nil || m.String() != c.multiaddr {
			t.Errorf("TargetMultiaddr(%q) = %v, %v; want %s", c.in, m, err, c.multiaddr)
			continue
		}
		if h := HumanAddr(m); h != c.human {
			t.Errorf("HumanAddr(%s) = %q, want %q", m, h, c.human)
		}
		for _, s := range []string{HumanAddr(m), m.String()} {
			if back, err := TargetMultiaddr(s); err != nil || !back.Equal(m) {
				t.Errorf("%q reads as %v, %v; want %s", s, back, err, m)
			}
		}
	}
	for _, m := range []string{"/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4/sctp/1", "/p2p/" + peerA, "/dns/1.2.3.4/tcp/1", "/ip4/1.2.3.4"} {
		if h := HumanAddr(mustMultiaddr(t, m)); h != m {
			t.Errorf("HumanAddr(%s) = %q", m, h)
		}
	}
	if h := HumanAddr(nil); h != "" {
		t.Errorf("HumanAddr(nil) = %q", h)
	}
}

func TestTargetDamaged(t *testing.T) {
	for _, c := range []struct{ in, fault string }{
		{"", "empty"},
		{strings.Repeat("1", MaxLength+1), "bytes long"},
		{"65536", "not between"},
		{"000003000", "not between"},
		{"-1", "port is missing"},
		{"localhost", "port is missing; write 3000, host:3000 or unix:/path"},
		{"tcp:", "host and port are missing; write tcp:host:port"},
		{"udp://", "host and port are missing"},
		{":", "port is empty"},
		{"host:", "port is empty"},
		{"host:http", `port "http" is not a number`},
		{"http://h:80", "host and port only"},
		{"::1:3000", "stands in brackets"},
		{"[::1]", "port is missing"},
		{"[fe80::1%eth0]:80", "zone"},
		{"1.2.3:80", "not an IPv4 address"},
		{"a b:80", "space at position 2"},
		{"unix:", "path is missing"},
		{"unix:rel/x.sock", "is relative; write the absolute path"},
		{"unix:@abstract", "is relative"},
		{"unix://run/x.sock", `path "run/x.sock" is relative`},
		{"unix:/", "ends in /"},
		{"unix://///", "ends in /"},
		{"unix:/run/", "ends in /"},
		{"unix:/a\x00b", "NUL"},
		{"unix:/" + strings.Repeat("a", 107), "108 bytes"},
		{"/unix", "path is missing"},
		{"/unix/run/", "ends in /"},
		{"/ip4/127.0.0.1", "port is missing"},
		{"/ip4/127.0.0.300/tcp/1", "invalid value"},
		{"/ip4/127.0.0.1/tcp/70000", "invalid value"},
		{"/dns4/1.2.3.4/tcp/1", "is for names"},
		{"/nonsense", "unknown protocol"},
	} {
		m, err := TargetMultiaddr(c.in)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.fault) || m != nil || len(err.Error()) > 400 {
			t.Errorf("TargetMultiaddr(%.80q) = %v, %v; want %q", c.in, m, err, c.fault)
		}
	}
	for _, c := range []struct{ in, component string }{
		{"/ip4/127.0.0.1/udp/1/quic-v1", "quic-v1"},
		{"/ip4/127.0.0.1/tcp/1/ws", "ws"},
		{"/ip4/127.0.0.1/tcp/1/p2p/" + peerA, "p2p"},
		{"/ip4/127.0.0.1/sctp/1", "sctp"},
		{"/dnsaddr/h/tcp/1", "dnsaddr"},
		{"/p2p/" + peerA, "p2p"},
		{"/ip6zone/eth0/ip6/fe80::1/tcp/1", "ip6zone"},
		{"/memory/1", "memory"},
	} {
		_, err := TargetMultiaddr(c.in)
		var ue *UnsupportedError
		if !errors.As(err, &ue) || ue.Component != c.component {
			t.Errorf("%s: %v, want %q named", c.in, err, c.component)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, c := range targets {
		f.Add(c.in)
	}
	addSeeds(f)
	f.Fuzz(func(t *testing.T, s string) {
		var m ma.Multiaddr
		var err error
		bounded(t, len(s), func() { m, err = TargetMultiaddr(s) })
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: error %v is untyped", s, err)
			}
			return
		}
		for _, printed := range []string{HumanAddr(m), m.String()} {
			if back, err := TargetMultiaddr(printed); err != nil || !back.Equal(m) {
				t.Fatalf("%q is %s, printed %q, which reads as %v, %v", s, m, printed, back, err)
			}
		}
	})
}
