package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestMainPath is what a person does: two nodes, a service, a fetch, a look at
// everything, and the end. Every command prints what the next one needs.
func TestMainPath(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello from "+r.URL.Path) }))
	defer web.Close()
	_, port, _ := net.SplitHostPort(web.Listener.Addr().String())
	server, user := up(t, newHome(t)), up(t, newHome(t))

	id := strings.TrimSpace(ok(t, user.home, "id"))
	if id != user.id {
		t.Errorf("id printed %q, the node is %s", id, user.id)
	}
	if nodeID := ok(t, user.home, "id", "--node-id"); !regexp.MustCompile(`^[0-9a-f]{40}\n$`).MatchString(nodeID) {
		t.Errorf("node ID %q", nodeID)
	}
	if addrs := ok(t, server.home, "id", "--addresses"); !strings.HasPrefix(addrs, server.address+"\n") {
		t.Errorf("addresses %q", addrs)
	}

	// expose prints the very command for the other side.
	exposed := ok(t, server.home, "expose", port, "--name", "web", "--allow", id)
	if !strings.Contains(exposed, "To use it from this machine:\n") || !strings.Contains(exposed, "127.0.0.1:"+port) {
		t.Errorf("expose printed %q", exposed)
	}
	found := regexp.MustCompile(`(?m)^  kith (connect \S+)$`).FindStringSubmatch(exposed)
	if found == nil {
		t.Fatalf("no command in %q", exposed)
	}
	bound := ok(t, user.home, strings.Fields(found[1])...)
	local, _, _ := strings.Cut(bound, " -> web on "+server.id)
	if body := get(t, "http://"+local+"/a/page"); body != "hello from /a/page" {
		t.Errorf("fetched %q", body)
	}

	for _, tc := range []struct {
		args []string
		want string // a pattern
	}{
		{[]string{"ls"}, `(?s)^KIND +NAME +LOCAL .*\nconnect +web +` + regexp.QuoteMeta(local) + ` +` + server.id + ` .*\n$`},
		{[]string{"streams"}, `^ID +KIND +NAME .*\n$`},
		{[]string{"peers"}, `(?s)^PEER +STATE .*\n` + server.id + ` +direct +outbound .*\n$`},
		{[]string{"dial", server.address}, `^connected to ` + server.id + ` at /ip4/127.0.0.1/`},
		{[]string{"ping", server.id, "-c", "2", "--interval", "20ms"}, `^seq=1 time=[0-9.]+ ms via /ip4/127.0.0.1/.*\nseq=2 .*\n2 of 2 answered; `},
		{[]string{"status"}, `(?s)peer ID +` + user.id + `\n.*traffic +[1-9].*\nKIND .*\nPEER `},
		{[]string{"p2p", "ls"}, `^web /ip4/127.0.0.1/tcp/\d+ /p2p/` + server.id + `\n$`},
		{[]string{"version"}, `^kith \S+ \(go1`},
		{[]string{"--version"}, `^kith \S+\n$`},
	} {
		if out := ok(t, user.home, tc.args...); !regexp.MustCompile(tc.want).MatchString(out) {
			t.Errorf("%q printed %q, want %s", tc.args, out, tc.want)
		}
	}

	// An open connection is listed and can be cut.
	hold := serve(t, echo)
	ok(t, server.home, "expose", hold, "--allow", id)
	bound = ok(t, user.home, "connect", server.id+"/"+hold)
	local, _, _ = strings.Cut(bound, " ")
	c, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSpace(ok(t, user.home, "streams")), "\n")
	if len(rows) != 2 {
		t.Fatalf("streams %q", rows)
	}
	if out := ok(t, user.home, "streams", "close", strings.Fields(rows[1])[0]); out != "closed 1 stream\n" {
		t.Errorf("streams close printed %q", out)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the cut connection: %v", err)
	}
	if out := ok(t, user.home, "streams", "close", "--all"); out != "closed 0 streams\n" {
		t.Errorf("streams close --all printed %q", out)
	}

	// close by name, by port, by all.
	if out := ok(t, user.home, "close", "web"); !strings.HasPrefix(out, "closed connect web (127.0.0.1:") {
		t.Errorf("close printed %q", out)
	}
	_, localPort, _ := net.SplitHostPort(local)
	if out := ok(t, user.home, "close", localPort, "--streams"); !strings.HasPrefix(out, "closed connect "+hold) {
		t.Errorf("close of a port printed %q", out)
	}
	if out := ok(t, server.home, "close", "--all"); strings.Count(out, "closed expose ") != 2 {
		t.Errorf("close --all printed %q", out)
	}
	if out := ok(t, server.home, "close", "--all"); out != "nothing to close\n" {
		t.Errorf("close --all again printed %q", out)
	}

	// down returns when the home is free.
	if out := ok(t, user.home, "down"); out != "the node in "+user.home+" has stopped\n" {
		t.Errorf("down printed %q", out)
	}
	if again := up(t, user.home); again.id != user.id {
		t.Errorf("was %s, is %s", user.id, again.id)
	}
	if code := user.wait(); code != exitDone {
		t.Errorf("up ended with %d: %s", code, user.stderr)
	}
}

func TestUpSaysHowToGoOn(t *testing.T) {
	home := newHome(t)
	p := begin(t, home, "up", "--local")
	if !strings.HasPrefix(p.first, "kith is up: 12D3KooW") {
		t.Errorf("first line %q", p.first)
	}
	// SIGINT is how a person ends it.
	if code := p.signal(os.Interrupt); code != exitDone {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
	for _, piece := range []string{"node ID", home, "listening  /ip4/127.0.0.1/tcp/", "mDNS       off", "kith expose 3000 --allow PEER", "kith connect PEER/NAME 8080"} {
		if !strings.Contains(p.stdout.String(), piece) {
			t.Errorf("no %q in %q", piece, p.stdout)
		}
	}
}

func TestUpListensWhereTold(t *testing.T) {
	home, port := newHome(t), freePort(t)
	n := begin(t, home, "up", "--no-mdns", "--json", "--listen", "/ip4/127.0.0.1/tcp/"+port)
	var st struct{ Listen []string }
	if err := json.Unmarshal([]byte(n.first), &st); err != nil || !strings.Contains(strings.Join(st.Listen, " "), "/ip4/127.0.0.1/tcp/"+port) {
		t.Errorf("listens at %q, error %v", st.Listen, err)
	}
}

// TestSignals: a signal ends the node in two seconds with its state intact,
// also with live connections and a forward that redials.
func TestSignals(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	port := serve(t, echo)
	ok(t, server.home, "expose", port, "--allow-any")
	bound := ok(t, user.home, "connect", server.address+"/"+port)
	local, _, _ := strings.Cut(bound, " ")
	c, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	watch := begin(t, user.home, "status", "--watch", "--json", "--interval", "100ms")
	if code := server.signal(terminate); code != exitDone {
		t.Errorf("exit code %d: %s", code, server.stderr)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF || os.IsTimeout(err) {
		t.Errorf("the live connection ended with %v, not a reset", err)
	}
	if code := watch.signal(os.Interrupt); code != exitDone {
		t.Errorf("status --watch: exit code %d: %s", code, watch.stderr)
	}
	if code := user.signal(terminate); code != exitDone {
		t.Errorf("exit code %d: %s", code, user.stderr)
	}
	if again := up(t, server.home); again.id != server.id || again.address != server.address {
		t.Errorf("was %s at %s, is %s at %s", server.id, server.address, again.id, again.address)
	}
}

// TestKilledNode: what a killed node leaves is in nobody's way.
func TestKilledNode(t *testing.T) {
	n := up(t, newHome(t))
	n.cmd.Process.Kill()
	n.wait()
	fails(t, n.home, exitFailed, []string{"ls"}, "no kith node is running")
	if again := up(t, n.home); again.id != n.id {
		t.Errorf("was %s, is %s", n.id, again.id)
	}
	ok(t, n.home, "ls")
}

func TestForeground(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	port := serve(t, echo)
	for _, tc := range []struct {
		home string
		args []string
	}{
		{server.home, []string{"expose", port, "--allow-any", "--foreground"}},
		{user.home, []string{"connect", server.address + "/" + port, "--foreground", "--anyway"}},
		{server.home, []string{"p2p", "listen", "/x/fg", "/ip4/127.0.0.1/tcp/" + port, "--allow-any", "-f"}},
		{user.home, []string{"p2p", "forward", "/x/fg", "/ip4/127.0.0.1/tcp/0", "/p2p/" + server.id, "-f"}},
	} {
		p := begin(t, tc.home, tc.args...)
		if out := ok(t, tc.home, "p2p", "ls"); strings.Count(out, "\n") != 1 {
			t.Errorf("%q: %q is listed", tc.args, out)
		}
		if code := p.signal(terminate); code != exitDone {
			t.Errorf("%q: exit code %d: %s", tc.args, code, p.stderr)
		}
		gone := func() bool { return ok(t, tc.home, "p2p", "ls") == "" }
		for deadline := time.Now().Add(30 * time.Second); !gone(); {
			if time.Now().After(deadline) {
				t.Fatalf("%q: still listed", tc.args)
			}
		}
	}

	// Closed by someone else: no failure. The node's end: one.
	p := begin(t, server.home, "expose", port, "--allow-any", "--foreground")
	ok(t, server.home, "close", port)
	if code := p.wait(); code != exitDone || !strings.Contains(p.stderr.String(), "closed by another command") {
		t.Errorf("exit code %d, stderr %q", code, p.stderr)
	}
	p = begin(t, server.home, "expose", port, "--allow-any", "--foreground")
	ok(t, server.home, "down")
	if code := p.wait(); code != exitFailed || !strings.Contains(p.stderr.String(), "shutting down") {
		t.Errorf("exit code %d, stderr %q", code, p.stderr)
	}
}
