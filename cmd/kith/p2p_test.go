package main

import (
	"io"
	"net"
	"strings"
	"testing"
)

// TestP2P holds the output of the kubo words, byte by byte.
func TestP2P(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	port := serve(t, echo)
	target := "/ip4/127.0.0.1/tcp/" + port
	local := "/ip4/127.0.0.1/tcp/" + freePort(t)
	for _, tc := range []struct {
		home string
		args []string
		want string
	}{
		{server.home, []string{"p2p", "ls"}, ""},
		{server.home, []string{"p2p", "ls", "-v"}, ""},
		{server.home, []string{"p2p", "stream", "ls", "-v"}, ""},
		{server.home, []string{"p2p", "listen", "/x/echo", target, "--allow", user.id}, ""},
		{server.home, []string{"p2p", "listen", "/x/1234", target, "--allow-any", "-r"}, ""},
		{server.home, []string{"p2p", "listen", "--allow-custom-protocol", "/custom", target, "--allow-any"}, ""},
		{server.home, []string{"p2p", "ls", "--headers"}, "Protocol Listen Address                                            Target Address\n" +
			"/x/echo  /p2p/" + server.id + " " + target + "\n" +
			"/x/1234  /p2p/" + server.id + " " + target + "\n" +
			"/custom  /p2p/" + server.id + " " + target + "\n"},
		{server.home, []string{"p2p", "close", "-p", "/x/1234"}, "Closed 1 stream(s)\n"},
		{server.home, []string{"p2p", "close", "-p", "/x/echo", "-t", "/ip4/127.0.0.1/tcp/1"}, "Closed 0 stream(s)\n"},
		{server.home, []string{"p2p", "close", "-p", "/custom", "-t", target}, "Closed 1 stream(s)\n"},
		{server.home, []string{"p2p", "ls"}, "/x/echo /p2p/" + server.id + " " + target + "\n"},
		{user.home, []string{"p2p", "forward", "/x/echo", local, server.address}, ""},
		{user.home, []string{"p2p", "ls"}, "/x/echo " + local + " /p2p/" + server.id + "\n"},
	} {
		if out := ok(t, tc.home, tc.args...); out != tc.want {
			t.Errorf("%q printed\n%swant\n%s", tc.args, out, tc.want)
		}
	}
	fails(t, server.home, exitFailed, []string{"p2p", "listen", "/x/echo", target, "--allow-any"}, "already")

	c, err := net.Dial("tcp", "127.0.0.1:"+local[strings.LastIndex(local, "/")+1:])
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
	rows := strings.SplitAfter(ok(t, server.home, "p2p", "stream", "ls", "-v"), "\n")
	if len(rows) != 3 || strings.Join(strings.Fields(rows[0]), " ") != "ID Protocol Origin Target" {
		t.Fatalf("%q", rows)
	}
	cells := strings.Fields(rows[1])
	if len(cells) != 4 || cells[1] != "/x/echo" || cells[2] != "/p2p/"+user.id || cells[3] != target {
		t.Errorf("%q", cells)
	}
	// close keeps the open connection; stream close cuts it.
	if out := ok(t, server.home, "p2p", "close", "--all"); out != "Closed 1 stream(s)\n" {
		t.Errorf("%q", out)
	}
	if out := ok(t, server.home, "p2p", "stream", "close", cells[0]); out != "" {
		t.Errorf("%q", out)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("still open")
	}
	if out := ok(t, server.home, "p2p", "stream", "close", "-a"); out != "" {
		t.Errorf("%q", out)
	}
	if out := ok(t, user.home, "p2p", "close", "-l", local); out != "Closed 1 stream(s)\n" {
		t.Errorf("%q", out)
	}
}
