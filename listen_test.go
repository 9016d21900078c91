package kith

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	khost "github.com/kith-p2p/kith/internal/host"
	ma "github.com/multiformats/go-multiaddr"
)

// Why a node does not listen, and what to do about it. libp2p keeps the texts of
// its causes only, so two of these were never said.
func TestRegressionListenFaultsWereRaw(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for at, want := range map[string]struct {
		pieces []string
		usage  bool
	}{
		"/ip4/127.0.0.1/tcp/" + port:             {[]string{"another program uses this port", "choose another port"}, false},
		"/ip4/192.0.2.1/tcp/21900":               {[]string{"no such address", "0.0.0.0 for all"}, false},
		"/ip4/192.0.2.1/udp/21900/quic-v1":       {[]string{"no such address", "0.0.0.0 for all"}, false},
		"/unix/tmp/x":                            {[]string{"/ip4/IP/tcp/PORT"}, true},
		"/ip4/127.0.0.1/udp/21900/webrtc-direct": {[]string{"/ip4/IP/tcp/PORT"}, true},
	} {
		n, err := New(Config{Home: t.TempDir(), Listen: []string{at}, LocalOnly: true})
		if err == nil {
			n.Close()
			t.Errorf("%s: it listens", at)
			continue
		}
		for _, piece := range append(want.pieces, at) {
			if !strings.Contains(err.Error(), piece) {
				t.Errorf("%s: no %q in %q", at, piece, err)
			}
		}
		if errors.Is(err, ErrUsage) != want.usage {
			t.Errorf("%s: usage %v, want %v: %v", at, !want.usage, want.usage, err)
		}
	}
	// Ports below 1024 are refused to whoever has no privileges; the tests may
	// have them.
	if _, err := listenErr(nil, listenFault("/ip4/0.0.0.0/tcp/80", "listen tcp4 0.0.0.0:80: bind: permission denied")); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "choose a higher one") {
		t.Error(err)
	}
}

// listenFault is an error of internal/host as it is when libp2p has put the cause
// into words.
func listenFault(at, text string) error {
	return &khost.ListenError{Addr: ma.StringCast(at), Err: fmt.Errorf("failed to listen on any addresses: [%s]", text)}
}
