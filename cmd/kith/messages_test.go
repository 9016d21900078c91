package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// until runs a command until its output has every piece.
func until(t *testing.T, home string, args []string, pieces ...string) string {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out := ok(t, home, args...)
		missing := ""
		for _, piece := range pieces {
			if !strings.Contains(out, piece) {
				missing = piece
			}
		}
		if missing == "" {
			return out
		}
		if time.Now().After(deadline) {
			t.Fatalf("kith %s: never %q in %q", strings.Join(args, " "), missing, out)
		}
	}
}

// TestMessages: two strangers meet by the bootstrap list; then calls, topics, the
// book and the router show it.
func TestMessages(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	if out := ok(t, user.home, "bootstrap", "add", server.address); out != "1 added\n" {
		t.Errorf("bootstrap add: %q", out)
	}
	if out := ok(t, user.home, "bootstrap", "add", server.address); out != "0 added, 1 in the list already\n" {
		t.Errorf("bootstrap add: %q", out)
	}
	until(t, user.home, []string{"bootstrap"}, server.address, "added")
	until(t, user.home, []string{"router"}, "network kith", "outbound", "libp2p://127.0.0.1:", "pex", "bootstrap", "dispatch-normal")
	until(t, user.home, []string{"book"}, server.id, "connected", "tried")
	until(t, user.home, []string{"book", "show", server.id}, server.id)
	until(t, user.home, []string{"find", server.id}, "connection", "yes")

	if out := ok(t, user.home, "call", server.id, "ping", "hello"); out != "hello" {
		t.Errorf("call ping: %q", out)
	}
	in := command(t, user.home, "call", server.id, "ping", "-")
	in.Stdin = strings.NewReader("from standard input")
	if r := finish(t, in); r.stdout != "from standard input" {
		t.Errorf("call ping -: %+v", r)
	}
	var info struct{ Peer string }
	if err := json.Unmarshal([]byte(ok(t, user.home, "call", server.id, "info")), &info); err != nil || info.Peer != server.id {
		t.Errorf("info of %q: %v", info.Peer, err)
	}
	until(t, user.home, []string{"services", server.id}, "/kith/rpc/ping", "every node")
	until(t, server.home, []string{"services"}, "/kith/rpc/ping")

	// A topic, from both sides, lines of a file included.
	sub := command(t, user.home, "sub", "news", "--count", "3", "--raw")
	out, errs := &lockedBuffer{}, &lockedBuffer{}
	sub.Stdout, sub.Stderr = out, errs
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, server.home, []string{"pub", "news", "one"}, "1 connected peer subscribed")
	lines := command(t, server.home, "pub", "news", "--lines")
	lines.Stdin = strings.NewReader("two\nthree\nfour\n")
	if r := finish(t, lines); r.code != exitDone || !strings.Contains(r.stderr, "published 3 messages") {
		t.Errorf("pub --lines: %+v", r)
	}
	if err := sub.Wait(); err != nil {
		t.Error(err)
	}
	if got := strings.Fields(out.String()); len(got) != 3 || got[0] != "one" || !strings.Contains(errs.String(), "subscribed to news") {
		t.Errorf("sub printed %q, %q", out, errs)
	}
	until(t, user.home, []string{"router"}, "news")

	// A ban holds for everything, and over a restart.
	ok(t, server.home, "book", "ban", user.id, "--for", "24h", "--reason", "a test")
	until(t, server.home, []string{"book"}, user.id, "banned for 23h59m: a test")
	until(t, user.home, []string{"router", "--json"}, `"peers": []`)
	fails(t, user.home, exitFailed, []string{"call", server.id, "ping"}, server.id)
	if code := server.signal(os.Interrupt); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	again := up(t, server.home)
	until(t, again.home, []string{"book", "show", user.id}, "banned for 23h59m: a test")
	ok(t, again.home, "book", "unban", user.id)
	until(t, again.home, []string{"book", "unban", user.id}, "it was not banned")
	until(t, user.home, []string{"router", "--json"}, again.id[len(again.id)-6:])

	ok(t, user.home, "bootstrap", "rm", server.address)
	ok(t, user.home, "book", "forget", server.id)
}

// TestMessagesBadInput: each is answered by one line that says what, why and what
// to do next.
func TestMessagesBadInput(t *testing.T) {
	n := up(t, newHome(t))
	for _, tc := range []struct {
		code   int
		args   []string
		pieces []string
	}{
		{exitUsage, []string{"bootstrap", "add"}, []string{"needs an ADDRESS"}},
		{exitUsage, []string{"bootstrap", "add", "nonsense"}, []string{`"nonsense"`}},
		{exitUsage, []string{"bootstrap", "rm", "/dnsaddr/a.example"}, []string{"not in the list", "`kith bootstrap`"}},
		{exitUsage, []string{"bootstrap", "remove", "x"}, []string{`no command "remove"`}},
		{exitUsage, []string{"book", "add", "/ip4/192.0.2.1/tcp/1"}, []string{"/p2p/"}},
		{exitUsage, []string{"book", "add", n.address}, []string{"is this node"}},
		{exitUsage, []string{"book", "ban", stranger, "--for", "-1s"}, []string{"--for is -1s"}},
		{exitUsage, []string{"book", "ban", "nobody"}, []string{`"nobody"`, "not a peer ID"}},
		{exitUsage, []string{"book", "ban", n.id}, []string{"is this node"}},
		{exitFailed, []string{"book", "forget", stranger}, []string{"no address of " + stranger}},
		{exitFailed, []string{"book", "show", stranger}, []string{"not in the address book"}},
		{exitUsage, []string{"find", "nobody"}, []string{"not a peer ID"}},
		{exitUsage, []string{"find", n.id}, []string{"is this node"}},
		{exitUsage, []string{"find", stranger, "--timeout", "0s"}, []string{"--timeout is 0s"}},
		{exitFailed, []string{"find", stranger}, []string{stranger, "no DHT", "give a full address"}},
		{exitUsage, []string{"call", stranger}, []string{"needs a PEER"}},
		{exitFailed, []string{"call", stranger, "ping"}, []string{"no address of " + stranger}},
		{exitUsage, []string{"call", n.id, "ping"}, []string{"is this node"}},
		{exitUsage, []string{"services", "nobody"}, []string{"not a peer ID"}},
		{exitUsage, []string{"pub", "news"}, []string{"needs DATA"}},
		{exitUsage, []string{"pub", "", "x"}, []string{"no topic"}},
		{exitUsage, []string{"pub", strings.Repeat("x", 200), "x"}, []string{"128"}},
		{exitUsage, []string{"pub", "news", "x", "--lines"}, []string{"leave DATA out"}},
		{exitUsage, []string{"sub", "news", "--count", "-1"}, []string{"--count is -1"}},
		{exitUsage, []string{"sub", strings.Repeat("x", 200)}, []string{"128"}},
		{exitUsage, []string{"router", "x"}, []string{"takes no arguments"}},
	} {
		fails(t, n.home, tc.code, tc.args, tc.pieces...)
	}
	ok(t, n.home, "pub", "news", "it works")
}
