package daemon

import (
	"slices"
	"testing"
)

func TestReachOf(t *testing.T) {
	for addr, want := range map[string]Reach{
		"/ip4/127.0.0.1/tcp/1/p2p/X":           ReachMachine,
		"/ip6/::1/tcp/1/p2p/X":                 ReachMachine,
		"/ip4/192.168.1.2/udp/1/quic-v1/p2p/X": ReachLAN,
		"/ip4/10.0.0.1/tcp/1":                  ReachLAN,
		"/ip6/fe80::1/tcp/1":                   ReachLAN,
		"/ip6/fd00::1/tcp/1":                   ReachLAN,
		"/ip4/8.8.8.8/tcp/1":                   ReachAnywhere,
		"/ip6/2001:db8::1/tcp/1":               ReachAnywhere,
		"/dns4/example.com/tcp/1":              ReachAnywhere,
		"":                                     ReachAnywhere,
		"/ip4":                                 ReachAnywhere,
		"/ip4/nonsense/tcp/1":                  ReachAnywhere,
		"ip4/127.0.0.1/tcp/1":                  ReachAnywhere,
		"/ip4/127.0.0.1/tcp/1/p2p/R/p2p-circuit/p2p": ReachMachine,
	} {
		if got := ReachOf(addr); got != want {
			t.Errorf("%q: %s, want %s", addr, got, want)
		}
	}
}

func TestConnectCommands(t *testing.T) {
	got := connectCommands([]string{
		"/ip4/8.8.8.8/tcp/1/p2p/X", "/ip4/8.8.8.8/udp/1/quic-v1/p2p/X", "/dns4/a.example/tcp/1/p2p/X",
		"/ip4/8.8.8.8/tcp/1/p2p/R/p2p-circuit/p2p/X", "/ip4/127.0.0.1/tcp/1/p2p/X",
	}, "my web")
	want := []string{
		"kith connect '/ip4/8.8.8.8/tcp/1/p2p/X/my web'", "kith connect '/dns4/a.example/tcp/1/p2p/X/my web'",
		"kith connect '/ip4/8.8.8.8/tcp/1/p2p/R/p2p-circuit/p2p/X/my web'", "kith connect '/ip4/127.0.0.1/tcp/1/p2p/X/my web'",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := connectCommands(nil, "x"); got == nil || len(got) != 0 {
		t.Errorf("no addresses: %q", got)
	}
}

// The command for the node's own machine named the home of the node that exposes:
// whoever pasted it had that node connect to itself.
func TestRegressionConnectCommandIsForTheOtherSide(t *testing.T) {
	t.Setenv(HomeVariable, "/default")
	got := connectCommands([]string{"/ip4/8.8.8.8/tcp/1/p2p/X", "/ip4/127.0.0.1/tcp/1/p2p/X"}, "web")
	want := []string{"kith connect /ip4/8.8.8.8/tcp/1/p2p/X/web", "kith connect /ip4/127.0.0.1/tcp/1/p2p/X/web"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestShellQuote(t *testing.T) {
	for s, want := range map[string]string{
		"":             "''",
		"web":          "web",
		"/ip4/1/a-b_c": "/ip4/1/a-b_c",
		"a b":          "'a b'",
		"it's":         `'it'\''s'`,
		"$(rm)":        "'$(rm)'",
		"a[b]":         "'a[b]'",
		"~x":           "'~x'",
		"naïve":        "'naïve'",
	} {
		if got := ShellQuote(s); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}
