package kith

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/tunnel"
)

// Malformed addresses were answered in the words of the parser: what was given,
// and not what to write instead.
func TestRegressionMalformedAddressesSayWhatToWrite(t *testing.T) {
	n := startWith(t, Config{})
	id := n.ID().String()
	const aPeerIs = "; write its peer ID, such as 12D3KooW... (`kith id` prints it there), or an address that ends in one, such as /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."
	const like = " (a peer is written like 12D3KooW... or /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..., as `kith id` and `kith status` print it there)"
	for in, want := range map[string]string{
		"/":                                   `"/" names no peer` + aPeerIs,
		"//":                                  `"//" names no peer` + aPeerIs,
		"http://x/y":                          `"http://x/y": a web address names no peer` + aPeerIs,
		"/x/y":                                `"/x/y": unknown protocol x` + like,
		"/ip4/1.2.3/tcp":                      `"/ip4/1.2.3/tcp": `,
		"/ip4/127.0.0.1/tcp/1/http/p2p/" + id: `"/ip4/127.0.0.1/tcp/1/http/p2p/` + id + `": /http is not supported: not known in this place` + like,
		"http:":                               `"http:": `,
	} {
		_, err := n.Connect(t.Context(), in)
		if !errors.Is(err, ErrUsage) || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "12D3KooW...") || strings.Contains(err.Error(), "multiaddr: ") {
			t.Errorf("%s:\n got %v\nwant %s", in, err, want)
		}
	}
	const socket = " (a local socket is written like 3000, 127.0.0.1:3000 or unix:/run/web.sock)"
	for in, want := range map[string]string{
		"/x/y":              `"/x/y": unknown protocol x` + socket,
		"/":                 `"/": empty multiaddr` + socket,
		"unix:/a/":          `"unix:/a/": path ends in /, a socket is no folder` + socket,
		"/ip4/1.2.3.4/ws":   `"/ip4/1.2.3.4/ws": /ws is not supported: after the host comes /tcp/PORT or /udp/PORT` + socket,
		"http://x.example/": `"http://x.example/": a web address is no socket; write its host and port only, such as 127.0.0.1:3000` + socket,
	} {
		_, err := n.Expose(t.Context(), Expose{Target: in, Name: "x", AllowAny: true})
		if !errors.Is(err, ErrUsage) || err.Error() != want {
			t.Errorf("target %s:\n got %v\nwant %s", in, err, want)
		}
		_, err = n.Forward(t.Context(), Forward{Peer: id, Name: "x", Listen: in, Anyway: true})
		if !errors.Is(err, ErrUsage) || err.Error() != want {
			t.Errorf("local %s:\n got %v\nwant %s", in, err, want)
		}
	}
	_, err := n.CloseMounts(Match{ListenAddress: "nonsense"})
	if want := "\"nonsense\" is not a multiaddr; write one like /ip4/127.0.0.1/tcp/3000, as `kith p2p ls` prints them"; !errors.Is(err, ErrUsage) || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// What the machine says no to is no wrong usage.
func TestRegressionAForwardThatCannotBeBoundIsNoWrongUsage(t *testing.T) {
	n := startWith(t, Config{})
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for listen, want := range map[string]string{
		"unix:/nonexistent/a.sock": "there is no directory /nonexistent; make it first, or choose another path",
		"unix:" + file:             "which is no socket",
		"192.0.2.1:2222":           "this machine has no such address",
	} {
		_, err := n.Forward(t.Context(), Forward{Peer: n.ID().String(), Name: "x", Listen: listen, Anyway: true})
		if err == nil || errors.Is(err, ErrUsage) || !strings.HasPrefix(err.Error(), "cannot listen on ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", listen, err)
		}
	}
}

// The owner of a service sees in the listing why its target cannot be reached;
// who uses it is told that the owner does.
func TestRegressionOwnListingSaysWhyTheTargetCannotBeReached(t *testing.T) {
	server, user := startWith(t, Config{}), startWith(t, Config{})
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Expose(t.Context(), Expose{Target: "unix:" + file + "/s", Name: "lost", AllowAny: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := user.Connect(t.Context(), server.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	c, err := user.Dial(t.Context(), server.ID().String(), "lost")
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, &tunnel.Error{Reason: tunnel.ReasonTarget}) || strings.Contains(err.Error(), "directory") || !strings.Contains(err.Error(), "`kith ls`") {
		t.Errorf("the user: %v", err)
	}
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) { // polling, with a deadline
		said := server.Mounts()[0].LastError
		if said == "target refused: the service's target cannot be reached: not a directory; correct the target, or what is in its way" {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("the owner: %q", said)
		}
	}
}
