package main

import (
	"os"
	"strings"
	"testing"
)

// That the shells take them is shown in interop, where there are shells.
func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		script := ok(t, newHome(t), "completion", shell)
		if !strings.Contains(script, "kith") {
			t.Errorf("%s: %q", shell, script)
		}
	}
}

// TestCompletionAsksTheNode: what a Tab key offers.
func TestCompletionAsksTheNode(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	port := serve(t, echo)
	ok(t, server.home, "expose", port, "--name", "web", "--allow-any")
	ok(t, user.home, "bootstrap", "add", "/dnsaddr/nodes.invalid")
	sub := command(t, user.home, "sub", "weather")
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	defer sub.Wait()
	defer sub.Process.Kill()
	until(t, user.home, []string{"router"}, "weather")
	local, _, _ := strings.Cut(ok(t, user.home, "connect", server.address+"/web"), " ")
	for _, tc := range []struct {
		args  []string
		offer string // the first word of a line
	}{
		{[]string{"close", ""}, "web"},
		{[]string{"close", "127"}, local},
		{[]string{"ping", ""}, server.id},
		{[]string{"dial", server.id[:10]}, server.id},
		{[]string{"connect", ""}, server.id + "/"},
		{[]string{"expose", "3000", "--allow", ""}, server.id},
		{[]string{"expo"}, "expose"},
		{[]string{"p2p", "s"}, "stream"},
		{[]string{"completion", "f"}, "fish"},
		{[]string{"ls", "--log-level", ""}, "debug"},
		{[]string{"call", server.id, "in"}, "info"},
		{[]string{"bootstrap", "rm", "/"}, "/dnsaddr/nodes.invalid"},
		{[]string{"pub", "wea"}, "weather"},
		{[]string{"sub", ""}, "weather"},
		{[]string{"expose", "--proxy-protocol", ""}, "2"},
	} {
		out := ok(t, user.home, append([]string{"__complete"}, tc.args...)...)
		found := false
		for line := range strings.Lines(out) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			found = found || word == tc.offer
		}
		if !found {
			t.Errorf("%q: no %q in %q", tc.args, tc.offer, out)
		}
	}
	// The home of the line being completed counts.
	if out := ok(t, "", "__complete", "--home", user.home, "close", ""); !strings.HasPrefix(out, "web") {
		t.Errorf("with --home: %q", out)
	}
	// Without a node there is nothing to offer, and no fuss.
	for _, args := range [][]string{{"close", ""}, {"streams", "close", ""}, {"ping", ""}} {
		if out := ok(t, newHome(t), append([]string{"__complete"}, args...)...); out != ":4\n" {
			t.Errorf("%q without a node: %q", args, out)
		}
	}
}

// TestStreamCompletion offers the open connections.
func TestStreamCompletion(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	ok(t, server.home, "expose", serve(t, echo), "--name", "web", "--allow-any")
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := command(t, user.home, "connect", server.address+"/web", "-")
	cmd.Stdin = in
	answer, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := answer.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	words := ok(t, user.home, "__complete", "streams", "close", "")
	if !strings.Contains(words, "\tweb with "+server.id) {
		t.Errorf("offered %q", words)
	}
	out.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
