package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestJSON: every command with --json prints JSON and nothing else, and every
// field that the schema has is there.
func TestJSON(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	port := serve(t, echo)
	for _, tc := range []struct {
		home   string
		args   []string
		lines  int // JSON objects, one a line; 0: one object over many lines
		fields []string
	}{
		{server.home, []string{"expose", port, "--allow", user.id}, 0, []string{"mount", "connectCommands"}},
		{user.home, []string{"connect", server.address + "/" + port}, 0, []string{"mount", "warning"}},
		{user.home, []string{"ls"}, 0, []string{"mounts"}},
		{user.home, []string{"streams"}, 0, []string{"streams"}},
		{user.home, []string{"streams", "close", "--all"}, 0, []string{"closed"}},
		{user.home, []string{"peers"}, 0, []string{"peers"}},
		{user.home, []string{"dial", server.address}, 0, []string{"peer"}},
		{user.home, []string{"ping", server.id, "-c", "3", "--interval", "20ms"}, 3, []string{"seq", "rtt", "address", "relayed"}},
		{user.home, []string{"status"}, 0, []string{"peerId", "addresses", "mdns", "counters", "notices"}},
		{user.home, []string{"id"}, 0, []string{"peerId", "nodeId"}},
		{server.home, []string{"p2p", "listen", "/x/a", "/ip4/127.0.0.1/tcp/" + port, "--allow-any"}, 1, []string{"mount"}},
		{user.home, []string{"p2p", "forward", "/x/a", "/ip4/127.0.0.1/tcp/0", "/p2p/" + server.id}, 1, []string{"mount"}},
		{user.home, []string{"p2p", "ls"}, 0, []string{"mounts"}},
		{user.home, []string{"p2p", "stream", "ls"}, 0, []string{"streams"}},
		{user.home, []string{"p2p", "stream", "close", "-a"}, 0, []string{"closed"}},
		{user.home, []string{"p2p", "close", "-p", "/x/a"}, 0, []string{"closed"}},
		{user.home, []string{"close", port}, 0, []string{"closed"}},
		{user.home, []string{"close", "--all"}, 0, []string{"closed"}},
		{user.home, []string{"bootstrap", "add", server.address}, 0, []string{"added"}},
		{user.home, []string{"bootstrap"}, 0, []string{"entries"}},
		{user.home, []string{"bootstrap", "rm", server.address}, 0, []string{"removed"}},
		{user.home, []string{"find", server.id}, 0, []string{"peerId", "nodeId", "places"}},
		{user.home, []string{"book"}, 0, []string{"peers", "networks"}},
		{user.home, []string{"book", "show", server.id}, 0, []string{"peers"}},
		{user.home, []string{"book", "unban", server.id}, 0, []string{"changed"}},
		{user.home, []string{"book", "add", "/ip4/127.0.0.1/tcp/1/p2p/" + stranger}, 0, []string{"changed"}},
		{user.home, []string{"book", "forget", stranger}, 0, []string{"changed"}},
		{user.home, []string{"book", "ban", stranger, "--reason", "a test"}, 0, []string{"changed"}},
		{user.home, []string{"router"}, 0, []string{"network", "peers", "channels", "sources", "topics"}},
		{user.home, []string{"call", server.id, "ping", "x"}, 0, []string{"data"}},
		{user.home, []string{"services", server.id}, 0, []string{"services"}},
		{user.home, []string{"services"}, 0, []string{"services"}},
		{user.home, []string{"pub", "news", "x"}, 0, []string{"peers"}},
		{user.home, []string{"version"}, 1, []string{"version", "go"}},
		{user.home, []string{"try", "--size", "1MiB"}, 1, []string{"steps", "latency_p50_ms", "send_mib_s"}},
		{user.home, []string{"down"}, 0, nil},
	} {
		r := run(t, tc.home, append(tc.args, "--json")...)
		if r.code != exitDone || r.stderr != "" {
			t.Errorf("%q: exit code %d, stderr %q", tc.args, r.code, r.stderr)
			continue
		}
		objects := []string{r.stdout}
		if tc.lines > 0 {
			if objects = strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n"); len(objects) != tc.lines {
				t.Errorf("%q: %d lines, want %d", tc.args, len(objects), tc.lines)
			}
		}
		for _, object := range objects {
			var fields map[string]any
			if err := json.Unmarshal([]byte(object), &fields); err != nil {
				t.Errorf("%q: %v in %q", tc.args, err, object)
			}
			for _, field := range tc.fields {
				if v, ok := fields[field]; !ok || v == nil {
					t.Errorf("%q: no %q in %s", tc.args, field, object)
				}
			}
		}
	}
}

// TestJSONSub: with --json each message is one line of JSON, and what else there is
// to say goes to standard error.
func TestJSONSub(t *testing.T) {
	n := up(t, newHome(t))
	sub := command(t, n.home, "sub", "news", "--count", "2", "--json")
	out, errs := &lockedBuffer{}, &lockedBuffer{}
	sub.Stdout, sub.Stderr = out, errs
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(errs.String(), "subscribed to news"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not subscribed: %q", errs)
		}
	}
	sent := []string{"one", "\xff two\n"}
	for _, data := range sent {
		ok(t, n.home, "pub", "news", data)
	}
	if err := sub.Wait(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != len(sent) {
		t.Fatalf("%d lines in %q", len(lines), out)
	}
	for i, line := range lines {
		var got struct {
			Message *struct {
				Author string
				Data   []byte
			}
			Lost *string
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil || got.Message == nil || got.Lost == nil {
			t.Fatalf("%q: %v", line, err)
		}
		if string(got.Message.Data) != sent[i] || got.Message.Author == "" {
			t.Errorf("line %d is %q", i+1, line)
		}
	}
}
