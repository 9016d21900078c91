package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// stranger is a peer that no test node has heard of.
const stranger = "12D3KooWEc1pRgsK3VgEbNFAfm5qK5EP4ZPKs6oCMvirLzePy7eJ"

// TestBadInput: each is answered by one line that says what, why and what to do
// next, and the node is none the worse.
func TestBadInput(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	dead := freePort(t)
	ok(t, server.home, "expose", dead, "--name", "dead", "--allow", user.id)
	ok(t, server.home, "expose", dead, "--name", "closed", "--allow", stranger)
	ok(t, user.home, "dial", server.address)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, takenPort, _ := net.SplitHostPort(taken.Addr().String())

	for _, tc := range []struct {
		code   int
		args   []string
		pieces []string
	}{
		// Wrong usage.
		{exitUsage, []string{"exposee"}, []string{`no command "exposee"`, "did you mean `kith expose`", "`kith --help`"}},
		{exitUsage, []string{"nosuch", "--help"}, []string{`no command "nosuch"`, "`kith --help`"}},
		{exitUsage, []string{"-h", "exposee"}, []string{`no command "exposee"`, "did you mean `kith expose`"}},
		{exitUsage, []string{"p2p", "nosuch", "--help"}, []string{`kith p2p has no command "nosuch"`}},
		{exitUsage, []string{"streams", "nosuch", "-h"}, []string{`kith streams has no command "nosuch"`}},
		{exitUsage, []string{"p2p", "open"}, []string{`kith p2p has no command "open"`}},
		{exitUsage, []string{"streams", "cut"}, []string{`no command "cut"`}},
		{exitUsage, []string{"ls", "--nope"}, []string{"unknown flag: --nope", "`kith ls --help`"}},
		{exitUsage, []string{"ls", "more"}, []string{"takes no arguments", `"more"`}},
		{exitUsage, []string{"expose"}, []string{"needs a TARGET"}},
		{exitUsage, []string{"connect"}, []string{"needs PEER/NAME"}},
		{exitUsage, []string{"connect", "a/b", "c", "d"}, []string{"and no more", `"d"`}},
		{exitUsage, []string{"close"}, []string{"needs a NAME"}},
		{exitUsage, []string{"close", "x", "--all"}, []string{"takes no arguments"}},
		{exitUsage, []string{"streams", "close", "x"}, []string{`"x" is no stream ID`, "`kith streams`"}},
		{exitUsage, []string{"ls", "--log-level", "loud"}, []string{"debug, info, warn, error"}},
		{exitUsage, []string{"completion", "tcsh"}, []string{"bash, zsh, fish and powershell"}},
		{exitUsage, []string{"ping", stranger, "-c", "-1"}, []string{"--count is -1"}},
		{exitUsage, []string{"status", "--interval", "1ms"}, []string{"from 100ms"}},
		{exitUsage, []string{"dial", stranger, "--timeout", "0s"}, []string{"--timeout is 0s"}},
		{exitUsage, []string{"connect", stranger + "/x", "--wait", "-1s"}, []string{"--wait is -1s"}},
		{exitUsage, []string{"up", "--local", "--listen", "/ip4/127.0.0.1/tcp/1"}, []string{"contradict"}},
		{exitUsage, []string{"try", "--size", "big"}, []string{`"big" is no size`}},

		// Access is closed unless it is opened.
		{exitUsage, []string{"expose", "3000"}, []string{"closed to every peer", "`kith expose 3000 --allow PEER`", "`kith id`"}},
		{exitUsage, []string{"expose", "unix:/a b", "--name", "it's"}, []string{`kith expose 'unix:/a b' --name 'it'\''s' --allow PEER`}},
		{exitUsage, []string{"p2p", "listen", "/x/a", "/ip4/127.0.0.1/tcp/1"}, []string{"`kith p2p listen /x/a /ip4/127.0.0.1/tcp/1 --allow PEER`"}},
		{exitUsage, []string{"expose", "3000", "--allow-any", "--allow", stranger}, []string{"contradict"}},

		// Malformed addresses and values.
		{exitUsage, []string{"expose", "0", "--allow-any"}, []string{"port can not be 0"}},
		{exitUsage, []string{"expose", "70000", "--allow-any"}, []string{"70000"}},
		{exitUsage, []string{"expose", "/ip4/1.2.3.4/sctp/4", "--allow-any"}, []string{"/sctp is not supported"}},
		{exitUsage, []string{"expose", "3000", "--allow", "nobody"}, []string{`"nobody"`, "not a peer ID"}},
		{exitUsage, []string{"expose", "3000", "--allow-any", "--name", "/web"}, []string{"/x/"}},
		{exitUsage, []string{"expose", "3000", "--allow-any", "--proxy-protocol", "3"}, []string{"versions 1 and 2"}},
		{exitUsage, []string{"expose", "3000", "--allow-any", "--bandwidth", "fast"}, []string{`"fast" is no size`}},
		{exitUsage, []string{"expose", "3000", "--allow-any", "--rate", "-1"}, []string{"--rate is -1"}},
		{exitUsage, []string{"expose", "3000", "--allow-any", "--max-connections", "0"}, []string{"number from 1"}},
		{exitUsage, []string{"expose", "3000", "--allow-any", "--idle-timeout", "0s"}, []string{"--idle-timeout is 0s"}},
		{exitUsage, []string{"expose", "3000", "--allow-any", "--connect-timeout", "-1s"}, []string{"--connect-timeout is -1s"}},
		{exitUsage, []string{"connect", "nobody"}, []string{"names no service", "PEER/NAME"}},
		{exitUsage, []string{"connect", "nobody/web"}, []string{`"nobody"`, "not a peer ID"}},
		{exitUsage, []string{"connect", server.address}, []string{"no service name"}},
		{exitUsage, []string{"connect", server.address + "/web", "nonsense:port"}, []string{"nonsense:port"}},
		{exitUsage, []string{"connect", "http://x/y", "0"}, []string{`"http://x/y"`, "http:// is not how a peer is written", "PEER/NAME, such as 12D3KooW.../web"}},
		{exitUsage, []string{"connect", "/"}, []string{`"/" names no service`, "such as 12D3KooW.../web"}},
		{exitUsage, []string{"dial", "/"}, []string{`"/" names no peer`, "such as 12D3KooW...", "`kith id`"}},
		{exitUsage, []string{"dial", "/ip4/127.0.0.1/tcp/1/http/p2p/" + stranger}, []string{"/http is not supported", "like 12D3KooW..."}},
		{exitUsage, []string{"expose", "/x/y", "--allow-any"}, []string{`"/x/y": unknown protocol x`, "127.0.0.1:3000 or unix:/run/web.sock"}},
		{exitUsage, []string{"dial", "/ip4/127.0.0.1/tcp/1"}, []string{"/p2p/"}},
		{exitUsage, []string{"ping", "nobody"}, []string{"not a peer ID"}},
		{exitUsage, []string{"p2p", "listen", "/its/not/x", "/ip4/127.0.0.1/tcp/1", "--allow-any"}, []string{"protocol name must be within '/x/' namespace"}},
		{exitUsage, []string{"p2p", "listen", "/x/a", "/ip4/127.0.0.1/tcp/0", "--allow-any"}, []string{"port"}},
		{exitUsage, []string{"p2p", "close"}, []string{"no matching options given"}},
		{exitUsage, []string{"p2p", "close", "-a", "-p", "/x/a"}, []string{"can't combine --all"}},
		{exitUsage, []string{"p2p", "close", "-l", "nonsense"}, []string{"nonsense"}},

		// What the world says no to.
		{exitFailed, []string{"dial", stranger}, []string{"no address of " + stranger, "give a full address"}},
		{exitFailed, []string{"connect", stranger + "/web"}, []string{"no address of " + stranger, "give a full address"}},
		{exitFailed, []string{"ping", stranger}, []string{"no address of " + stranger}},
		{exitFailed, []string{"dial", "/ip4/127.0.0.1/tcp/" + dead + "/p2p/" + stranger}, []string{"connection refused"}},
		{exitFailed, []string{"connect", stranger + "/web", "--check"}, []string{"connection refused"}},
		{exitFailed, []string{"connect", server.id + "/nosuch"}, []string{"no such service", "`kith ls` on the machine that serves it", "(said by the peer)"}},
		{exitFailed, []string{"connect", server.id + "/closed"}, []string{"not allowed", "ask its owner to allow this peer"}},
		{exitFailed, []string{"connect", server.id + "/dead", takenPort}, []string{"in use by another program", "choose another port"}},
		{exitFailed, []string{"connect", server.id + "/dead", "-"}, []string{"target refused", "connection refused", "start it on the machine that exposes the service"}},
		{exitFailed, []string{"connect", server.id + "/nosuch", "-"}, []string{"no such service", "`kith ls` on the machine that serves it"}},
		{exitFailed, []string{"connect", server.id + "/closed", "-"}, []string{"not allowed", "ask its owner to allow this peer"}},
		{exitFailed, []string{"connect", server.id + "/dead", "unix:/nonexistent/a.sock"}, []string{"cannot listen on /nonexistent/a.sock", "no directory /nonexistent", "make it first"}},
		{exitFailed, []string{"connect", server.id + "/dead", "unix:" + user.home + "/key"}, []string{"no socket and is left alone", "choose another path"}},
		{exitFailed, []string{"connect", server.id + "/dead", "192.0.2.1:2222"}, []string{"this machine has no such address", "127.0.0.1"}},
		{exitFailed, []string{"p2p", "forward", "/x/dead", "/ip4/192.0.2.1/tcp/2222", "/p2p/" + server.id}, []string{"this machine has no such address", "127.0.0.1"}},
		{exitFailed, []string{"close", "nosuch"}, []string{`"nosuch"`, "`kith ls`"}},
		{exitFailed, []string{"streams", "close", "4711"}, []string{"4711", "`kith streams`"}},
		{exitFailed, []string{"up"}, []string{user.home, fmt.Sprint(user.cmd.Process.Pid), "--home"}},
	} {
		fails(t, user.home, tc.code, tc.args, tc.pieces...)
	}

	// Nothing of that is left, and the node works.
	if out := ok(t, user.home, "p2p", "ls"); out != "" {
		t.Errorf("left behind: %q", out)
	}
	ok(t, user.home, "ping", server.id, "-c", "1")
	entries, err := os.ReadDir(user.home)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".sock") && e.Name() != "control.sock" {
			t.Errorf("%s is left in the home", e.Name())
		}
	}
}

// TestWarnings: what cannot be reached now may be later, so it is bound and the
// reason told.
func TestWarnings(t *testing.T) {
	user := up(t, newHome(t))
	r := run(t, user.home, "connect", stranger+"/web", "--anyway")
	if r.code != exitDone || !strings.HasPrefix(r.stderr, "kith: warning: ") || strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stdout, "127.0.0.1:") {
		t.Errorf("%+v", r)
	}
}

// TestTargetDown: the reason reaches the listing on both sides.
func TestTargetDown(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	ok(t, server.home, "expose", freePort(t), "--name", "dead", "--allow-any")
	local, _, _ := strings.Cut(ok(t, user.home, "connect", server.address+"/dead"), " ")
	c, err := net.Dial("tcp", local) // the reset may come before Dial returns
	if err == nil {
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if n, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("read %d, %v", n, err)
		}
	}
	for _, home := range []string{user.home, server.home} {
		told := func() bool { return strings.Contains(ok(t, home, "ls"), "target refused") }
		for deadline := time.Now().Add(30 * time.Second); !told(); {
			if time.Now().After(deadline) {
				t.Fatalf("no reason in %q", ok(t, home, "ls"))
			}
		}
	}
}

// TestWithoutANode: every command that needs one says how to start it.
func TestWithoutANode(t *testing.T) {
	home := newHome(t)
	for _, args := range [][]string{
		{"id"}, {"expose", "3000", "--allow-any"}, {"connect", stranger + "/web"}, {"connect", stranger + "/web", "-"}, {"ls"}, {"streams"},
		{"streams", "close", "1"}, {"close", "x"}, {"p2p", "listen", "/x/a", "/ip4/127.0.0.1/tcp/1", "--allow-any"},
		{"p2p", "forward", "/x/a", "/ip4/127.0.0.1/tcp/1", "/p2p/" + stranger}, {"p2p", "ls"}, {"p2p", "close", "-a"}, {"p2p", "stream", "ls"},
		{"p2p", "stream", "close", "1"}, {"peers"}, {"dial", stranger}, {"ping", stranger}, {"status"}, {"status", "--watch"}, {"down"},
	} {
		fails(t, home, exitFailed, args, "no kith node is running in "+home, "`kith up`")
	}
	// With --home, the command to run has it too.
	fails(t, "", exitFailed, []string{"ls", "--home", home}, "`kith up --home "+home+"`")
}

// TestBadHome: what keeps a node from starting is told, and nothing is changed.
func TestBadHome(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for _, tc := range []struct {
		name       string
		file, text string
		mode       os.FileMode
		code       int
		args       []string
		pieces     []string
	}{
		{"unknown key", "config.toml", "mdns = true\nlisten_on = []\n", 0o600, exitUsage, nil,
			[]string{"config.toml", "line 2", `unknown key "listen_on"`, `closest known key is "listen"`, "correct the file"}},
		{"two faults", "config.toml", "mdns = 1\nwait = \"never\"\n", 0o600, exitUsage, nil, []string{"line 1: mdns", "line 2: wait"}},
		{"section", "config.toml", "[node]\nwait = \"1s\"\n", 0o600, exitUsage, nil, []string{"line 1", "no sections", "[node]"}},
		{"no toml", "config.toml", "[", 0o600, exitUsage, nil, []string{"config.toml", "line 1"}},
		{"bad listen in the file", "config.toml", "listen = [\"4001\"]\n", 0o600, exitUsage, nil, []string{`"4001" is not a multiaddr`}},
		{"key open to others", "key", "x", 0o644, exitFailed, nil, []string{"0644", "chmod 600"}},
		{"damaged key", "key", "x", 0o600, exitFailed, nil, []string{"key"}},
		{"port taken", "x", "", 0o600, exitFailed, []string{"--listen", "/ip4/127.0.0.1/tcp/" + port}, []string{port, "another program"}},
		{"malformed listen", "x", "", 0o600, exitUsage, []string{"--listen", "4001"}, []string{`"4001"`, "/ip4/"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			home := newHome(t)
			if err := os.Mkdir(home, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(home, tc.file)
			if err := os.WriteFile(path, []byte(tc.text), tc.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tc.mode); err != nil { // whatever the umask
				t.Fatal(err)
			}
			args := append([]string{"up", "--log-level", "error"}, tc.args...)
			if tc.args == nil {
				args = append(args, "--local")
			}
			fails(t, home, tc.code, args, tc.pieces...)
			if data, err := os.ReadFile(path); err != nil || string(data) != tc.text {
				t.Errorf("%s was changed to %q, error %v", tc.file, data, err)
			}
		})
	}
	long := filepath.Join(newHome(t), strings.Repeat("long/", 30))
	fails(t, long, exitUsage, []string{"up", "--local"}, "shorter --home")
}

// TestDamagedState: the node repairs it, and says so.
func TestDamagedState(t *testing.T) {
	home := newHome(t)
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "state.db"), []byte(strings.Repeat("nonsense", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	n := up(t, home)
	var st struct{ Notices []string }
	if err := json.Unmarshal([]byte(n.first), &st); err != nil || len(st.Notices) == 0 {
		t.Errorf("notices %q, error %v", st.Notices, err)
	}
	if out := ok(t, home, "status"); !strings.Contains(out, "notice ") {
		t.Errorf("status printed %q", out)
	}
}

// TestErrorsAsJSON: with --json an error is an object, whatever it is about.
func TestErrorsAsJSON(t *testing.T) {
	user := up(t, newHome(t))
	for _, tc := range []struct {
		home string
		args []string
		exit int
		code string
	}{
		{user.home, []string{"close", "nosuch", "--json"}, exitFailed, "not_found"},
		{user.home, []string{"--json", "connect", "nobody/web"}, exitUsage, "invalid_argument"},
		{user.home, []string{"ls", "--nope", "--json"}, exitUsage, "invalid_argument"},
		{user.home, []string{"nope", "--json"}, exitUsage, "invalid_argument"},
		{user.home, []string{"up", "--json", "--log-level", "error"}, exitFailed, "already_exists"},
		{newHome(t), []string{"ls", "--json"}, exitFailed, "unavailable"},
		{user.home, []string{"dial", "/ip4/127.0.0.1/tcp/" + freePort(t) + "/p2p/" + stranger, "--json"}, exitFailed, "unavailable"},
	} {
		r := run(t, tc.home, tc.args...)
		var e struct{ Error, Code string }
		if err := json.Unmarshal([]byte(r.stderr), &e); err != nil || r.code != tc.exit || e.Code != tc.code || e.Error == "" || r.stdout != "" {
			t.Errorf("%q: %+v, error %v", tc.args, r, err)
		}
	}
}
