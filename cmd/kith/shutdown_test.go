package main

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"
)

// TestShutdownOfTheServerIsTold: when the serving node gets SIGTERM under live
// connections, whoever uses them is told that it was shut down: in the listing of
// the other node, and by the command that holds one.
func TestShutdownOfTheServerIsTold(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	over := make(chan struct{})
	port := serve(t, func(c *net.TCPConn) {
		c.Write([]byte("ready\n"))
		<-over // whatever the other end does
	})
	t.Cleanup(func() { close(over) })
	ok(t, server.home, "expose", port, "--name", "held", "--allow", user.id)
	local, _, _ := strings.Cut(ok(t, user.home, "connect", server.address+"/held"), " ")
	c, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	pipe := begin(t, user.home, "connect", server.address+"/held", "-")
	if pipe.first != "ready\n" {
		t.Fatalf("the service said %q", pipe.first)
	}
	streams := func() (open int) {
		var list struct{ Streams []struct{ LastError string } }
		if err := json.Unmarshal([]byte(ok(t, user.home, "streams", "--json")), &list); err != nil {
			t.Fatal(err)
		}
		return len(list.Streams)
	}
	if n := streams(); n != 2 {
		t.Fatalf("%d connections are open, want 2", n)
	}

	if err := server.cmd.Process.Signal(terminate); err != nil {
		t.Fatal(err)
	}
	if code := server.wait(); code != exitDone {
		t.Errorf("the server ended with %d: %s", code, server.stderr)
	}
	if code := pipe.wait(); code != exitFailed || !strings.Contains(pipe.stderr.String(), "kith: the connection was cut: shutting down") {
		t.Errorf("the pipe ended with %d: %s", code, pipe.stderr)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("read %d, %v from a connection whose service is gone", n, err)
	}
	soon(t, "the connections are over", func() bool { return streams() == 0 })
	var list struct {
		Mounts []struct{ Name, LastError string }
	}
	if err := json.Unmarshal([]byte(ok(t, user.home, "ls", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Mounts) != 1 || list.Mounts[0].Name != "held" || !strings.HasPrefix(list.Mounts[0].LastError, "shutting down") {
		t.Errorf("%+v", list.Mounts)
	}
	if out := ok(t, user.home, "ls"); !strings.Contains(out, "shutting down") {
		t.Errorf("ls printed %q", out)
	}
}
