package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
)

// TestPipe connects standard input and output to services of every temper.
func TestPipe(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	big := make([]byte, 3<<20)
	rand.Read(big)
	services := map[string]func(*net.TCPConn){
		"echo": echo,
		// Answers only after the end of what it is sent.
		"after": func(c *net.TCPConn) {
			n, err := io.Copy(io.Discard, c)
			if err == nil && n == int64(len(big)) {
				c.Write(big)
			}
		},
		// Sends all of its own first, and only then reads.
		"before": func(c *net.TCPConn) {
			c.Write(big)
			c.CloseWrite()
			io.Copy(io.Discard, c)
		},
		"reset": func(c *net.TCPConn) {
			io.ReadFull(c, make([]byte, 1000))
			c.Write([]byte("part of it"))
			c.SetLinger(0)
		},
	}
	for name, do := range services {
		ok(t, server.home, "expose", serve(t, do), "--name", name, "--allow", user.id)
	}
	for _, tc := range []struct {
		service   string
		in, want  []byte
		code      int
		complaint string
	}{
		{"echo", nil, nil, exitDone, ""},
		{"echo", big, big, exitDone, ""},
		{"after", big, big, exitDone, ""},
		{"before", nil, big, exitDone, ""},
		{"before", big, big, exitDone, ""},
		{"reset", big[:1000], nil, exitFailed, "the connection was cut: connection reset"},
	} {
		cmd := command(t, user.home, "connect", server.address+"/"+tc.service, "-")
		cmd.Stdin = bytes.NewReader(tc.in)
		r := finish(t, cmd)
		if r.code != tc.code || !strings.Contains(r.stderr, tc.complaint) || tc.code == exitDone && r.stderr != "" {
			t.Errorf("%s with %d bytes: exit code %d, stderr %q", tc.service, len(tc.in), r.code, r.stderr)
		}
		if tc.want != nil && r.stdout != string(tc.want) {
			t.Errorf("%s with %d bytes: %d bytes came, not the %d", tc.service, len(tc.in), len(r.stdout), len(tc.want))
		}
	}
	// Nothing stays: no mount, no socket.
	if out := ok(t, user.home, "p2p", "ls"); out != "" {
		t.Errorf("left behind: %q", out)
	}
	entries, err := os.ReadDir(user.home)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "p-") {
			t.Errorf("%s stays", e.Name())
		}
	}
}

// TestPipeStops: a signal ends it, and its mount goes.
func TestPipeStops(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	ok(t, server.home, "expose", serve(t, func(c *net.TCPConn) {
		c.Write([]byte("ready\n"))
		io.Copy(io.Discard, c)
	}), "--name", "slow", "--allow", user.id)
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer errors.Join(in.Close(), out.Close())
	p := begin(t, user.home, "connect", server.address+"/slow", "-")
	if p.first != "ready\n" {
		t.Errorf("got %q", p.first)
	}
	_ = p.signal(terminate)
	ok(t, user.home, "ping", server.id, "-c", "1")
}
