package main

import (
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

// TestStatusWatch: off a terminal, one look follows the other.
func TestStatusWatch(t *testing.T) {
	n := up(t, newHome(t))
	p := begin(t, n.home, "status", "--watch", "--interval", "100ms")
	if !strings.HasPrefix(p.first, "  peer ID    "+n.id) {
		t.Errorf("first line %q", p.first)
	}
	for deadline := time.Now().Add(30 * time.Second); strings.Count(p.stdout.String(), "\n\n  peer ID ") < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("printed %q", p.stdout)
		}
	}
	if strings.Contains(p.stdout.String(), "\x1b") {
		t.Error("escape sequences off a terminal")
	}
	ok(t, n.home, "down")
	if code := p.wait(); code != exitFailed || strings.Count(p.stderr.String(), "\n") != 1 {
		t.Errorf("when the node stopped: exit code %d, stderr %q", code, p.stderr)
	}
}

func TestPrintStatus(t *testing.T) {
	st := &controlv1.StatusResponse{
		PeerId: "12D3", NodeId: "ab", Home: "/h", Version: "1", Pid: 7, Listen: []string{"/a", "/b"}, Addresses: []string{"/c"}, Mdns: true,
		Peers: 1, Mounts: 2, Streams: 0, Notices: []string{"the state was restored"},
		Counters: &controlv1.Counters{ConnectionsOpened: 3, ConnectionsServed: 4, Refused: map[string]uint64{"not allowed": 2, "limit reached": 1}},
	}
	begun := time.Now()
	last := &screen{at: begun, in: 0, out: 1024}
	now := &screen{at: begun.Add(2 * time.Second), in: 4 << 20, out: 1024}
	var b strings.Builder
	printStatus(&b, st, now, last)
	for _, line := range []string{
		"  listening  /a\n             /b\n", "  mDNS       on\n", "  carries    2 mounts, 0 streams, 1 peer\n",
		"  traffic    4.0 MiB in, 1.0 KiB out (now 2.0 MiB/s in, 0 B/s out)\n", "  since up   3 connections opened, 4 served\n",
		"  cut short  1 limit reached, 2 not allowed\n", "  notice     the state was restored\n",
	} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("no %q in %q", line, b.String())
		}
	}
}
