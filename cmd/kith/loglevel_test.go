package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// soon polls until ok, for as long as a busy machine may need.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// TestLogLevel: --log-level says what a node logs, before its configuration. The
// words come from the node itself: that it is up, and, for who wants to know more,
// that a peer of its configuration is not there.
func TestLogLevel(t *testing.T) {
	for _, tc := range []struct {
		flag, file string
		want       []string // in the log
		never      []string
	}{
		{"debug", "", []string{"level=DEBUG msg=running", `level=DEBUG msg="connmgr: no connection"`, `level=INFO msg="node is up"`}, nil},
		{"", "", []string{`level=INFO msg="node is up"`}, []string{"level=DEBUG"}},
		{"", "debug", []string{`level=DEBUG msg="connmgr: no connection"`, `level=INFO msg="node is up"`}, nil},
		{"error", "debug", nil, []string{"level=DEBUG", "level=INFO", "level=WARN"}},
	} {
		t.Run(fmt.Sprintf("flag %q file %q", tc.flag, tc.file), func(t *testing.T) {
			home := newHome(t)
			if err := os.Mkdir(home, 0o700); err != nil {
				t.Fatal(err)
			}
			config := fmt.Sprintf("persistent_peers = [%q]\n", "/ip4/127.0.0.1/tcp/"+freePort(t)+"/p2p/"+stranger)
			var args []string
			if tc.file != "" {
				config += fmt.Sprintf("log_level = %q\n", tc.file)
			}
			if tc.flag != "" {
				args = []string{"--log-level", tc.flag}
			}
			if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			n := up(t, home, args...)
			for _, line := range tc.want {
				soon(t, line, func() bool { return strings.Contains(n.stderr.String(), line) })
			}
			if err := n.cmd.Process.Signal(terminate); err != nil {
				t.Fatal(err)
			}
			if code := n.wait(); code != exitDone {
				t.Errorf("exit code %d", code)
			}
			for _, word := range tc.never {
				if strings.Contains(n.stderr.String(), word) {
					t.Errorf("%s in %q", word, n.stderr)
				}
			}
		})
	}
}

// TestRefusalIsLogged: both nodes log a refusal by default, with the reason and
// the other peer.
func TestRefusalIsLogged(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	ok(t, server.home, "expose", serve(t, echo), "--name", "closed", "--allow", stranger)
	local, _, _ := strings.Cut(ok(t, user.home, "connect", server.address+"/closed", "--anyway"), " ")
	c, err := net.Dial("tcp", local) // the reset may come before Dial returns
	if err == nil {
		defer c.Close()
	}
	for _, n := range []struct{ node, other *node }{{server, user}, {user, server}} {
		soon(t, "the refusal is logged", func() bool {
			for line := range strings.Lines(n.node.stderr.String()) {
				if strings.Contains(line, `level=INFO msg="connection refused"`) && strings.Contains(line, "service=closed") &&
					strings.Contains(line, `reason="not allowed"`) && strings.Contains(line, "peer="+n.other.id) {
					return true
				}
			}
			return false
		})
	}
}
