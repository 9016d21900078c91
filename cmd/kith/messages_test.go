package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// What a shell hands over may be no text; it was answered by "the node went away".
func TestRegressionNotUTF8(t *testing.T) {
	n := up(t, newHome(t))
	for _, args := range [][]string{
		{"find", "\xff"}, {"call", "\xff", "ping"}, {"call", stranger, "\xff"}, {"services", "\xff"}, {"dial", "\xff"}, {"ping", "\xff"},
		{"connect", "\xff/web"}, {"expose", "unix:/tmp/\xff", "--allow-any"}, {"expose", "3000", "--name", "\xff", "--allow-any"},
		{"pub", "\xff", "x"}, {"sub", "\xff"}, {"bootstrap", "add", "\xff"}, {"bootstrap", "rm", "\xff"}, {"book", "add", "\xff"},
		{"book", "show", "\xff"}, {"book", "ban", stranger, "--reason", "\xff"}, {"p2p", "listen", "/x/\xff", "/ip4/127.0.0.1/tcp/1", "--allow-any"},
	} {
		fails(t, n.home, exitUsage, args, `\xff`, "is not UTF-8 text")
	}
	fails(t, n.home, exitUsage, []string{"\xff"}, `no command "\xff"`)
	r := run(t, n.home, "find", "\xff", "--json")
	var e struct{ Error, Code string }
	if err := json.Unmarshal([]byte(r.stderr), &e); err != nil || r.code != exitUsage || e.Code != "invalid_argument" {
		t.Errorf("%+v, %v", r, err)
	}
	ok(t, n.home, "pub", "news", "\xff") // a message may be any bytes
}

// The same word twice was counted twice.
func TestRegressionBootstrapTwice(t *testing.T) {
	n := up(t, newHome(t))
	const name = "/dnsaddr/nodes.invalid"
	for _, tc := range []struct{ verb, want string }{{"add", "1 added\n"}, {"rm", "1 removed\n"}} {
		if out := ok(t, n.home, "bootstrap", tc.verb, name, name); out != tc.want {
			t.Errorf("%s: %q", tc.verb, out)
		}
	}
	fails(t, n.home, exitUsage, []string{"bootstrap", "rm", name}, "not in the list")
	fails(t, n.home, exitUsage, []string{"bootstrap", "add", ""}, "no address was given")
}

// A reason of any length was taken and cut.
func TestRegressionBanReason(t *testing.T) {
	n := up(t, newHome(t))
	fails(t, n.home, exitUsage, []string{"book", "ban", stranger, "--reason", strings.Repeat("x", 257)}, "257 bytes", "at most 256")
	ok(t, n.home, "book", "ban", stranger, "--reason", strings.Repeat("x", 256))
	// A key of another kind has a ban, too.
	const rsa = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
	ok(t, n.home, "book", "ban", rsa, "--reason", "a test")
	if out := ok(t, n.home, "book", "show", rsa); !strings.Contains(out, rsa) || !strings.Contains(out, "banned: a test") {
		t.Errorf("book show: %q", out)
	}
	if out := ok(t, n.home, "book", "unban", rsa); out != rsa+": unbanned\n" {
		t.Errorf("unban: %q", out)
	}
}

// What `kith call --help` gives for examples works as it stands there, with the
// address of a node that runs examples/kv.
func TestRegressionCallExamples(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "kv"), "../../examples/kv").CombinedOutput(); err != nil {
		t.Fatalf("building examples/kv: %v\n%s", err, out)
	}
	kv := exec.CommandContext(t.Context(), filepath.Join(dir, "kv"), "-local", "-home", filepath.Join(dir, "h"), "serve")
	out := &lockedBuffer{}
	kv.Stdout, kv.Stderr, kv.WaitDelay = out, out, 5*time.Second
	if err := kv.Start(); err != nil {
		t.Fatal(err)
	}
	defer kv.Wait()
	defer kv.Process.Kill()
	at := ""
	for deadline := time.Now().Add(20 * time.Second); at == ""; time.Sleep(10 * time.Millisecond) {
		if at = regexp.MustCompile(`/ip4/\S+`).FindString(out.String()); time.Now().After(deadline) {
			t.Fatalf("kv said %q", out)
		}
	}
	n := up(t, newHome(t))
	help := ok(t, n.home, "call", "--help")
	answers := map[string]string{"info": server(at), "ping -": "hello", "kv/put": "", "kv/get": `{"Key":"name","Value":"satoshi"}`}
	ran := 0
	for line := range strings.Lines(help) {
		if !strings.Contains(line, "12D3KooWFw4...") {
			continue
		}
		line, _, _ = strings.Cut(strings.TrimSpace(line), "    ") // a word about it
		sh := command(t, n.home)
		sh.Args = []string{"sh", "-c", strings.Replace(strings.ReplaceAll(line, "12D3KooWFw4...", at), "kith call", sh.Path+" call", 1)}
		sh.Path = "/bin/sh"
		r := finish(t, sh)
		for what, want := range answers {
			if strings.Contains(line, what) && (r.code != exitDone || !strings.Contains(r.stdout, want)) {
				t.Errorf("%s: %+v", line, r)
			}
		}
		ran++
	}
	if ran != len(answers) {
		t.Errorf("%d examples in %q", ran, help)
	}
	// The code of an answer is told, and is none of the command line's.
	r := run(t, n.home, "call", at, "kv/get", "nosuch", "--json")
	if r.code != exitFailed || !strings.Contains(r.stderr, `"code":"not_found"`) {
		t.Errorf("%+v", r)
	}
	r = run(t, n.home, "call", at, "kv/put", "{", "--json")
	if r.code != exitFailed || !strings.Contains(r.stderr, `"code":"invalid_argument"`) {
		t.Errorf("%+v", r)
	}
	r = run(t, n.home, "call", at, "nosuch", "--json")
	if r.code != exitFailed || !strings.Contains(r.stderr, `"code":"unimplemented"`) {
		t.Errorf("%+v", r)
	}
}

// server is the peer ID at the end of an address.
func server(at string) string { return at[strings.LastIndex(at, "/")+1:] }

// What expose prints for the other side named the home of this one: whoever pasted
// it had this node connect to itself. And the command with --allow that it gives
// had lost the flags.
func TestRegressionExposeHints(t *testing.T) {
	n := up(t, newHome(t))
	out := ok(t, "", "--home", n.home, "expose", "3000", "--allow-any")
	if strings.Contains(out, n.home) || !strings.Contains(out, "\n  kith connect "+n.address+"/3000\n") {
		t.Errorf("expose printed %q", out)
	}
	fails(t, n.home, exitUsage, []string{"expose", "3000", "--name", "web", "--http", "--bandwidth", "10MiB"},
		"`kith expose 3000 --name web --http --bandwidth 10MiB --allow PEER`")
}

// `kith book forget` left the addresses that were given to other commands.
func TestRegressionBookForget(t *testing.T) {
	n := up(t, newHome(t))
	fails(t, n.home, exitFailed, []string{"dial", "/ip4/127.0.0.1/tcp/1/p2p/" + stranger}, stranger)
	if r := run(t, n.home, "dial", stranger); r.code != exitFailed || strings.Contains(r.stderr, "no address of") {
		t.Errorf("before it is forgotten: %+v", r)
	}
	if out := ok(t, n.home, "book", "forget", stranger); out != stranger+": forgotten\n" {
		t.Errorf("forget: %q", out)
	}
	fails(t, n.home, exitFailed, []string{"dial", stranger}, "no address of "+stranger)
	fails(t, n.home, exitFailed, []string{"book", "forget", stranger}, "no address of "+stranger)
}
