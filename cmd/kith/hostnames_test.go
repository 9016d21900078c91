package main

import (
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
)

// TestNamesAndIPv6: what is exposed, and where it is bound, may be given by name
// and by IPv6 address.
func TestNamesAndIPv6(t *testing.T) {
	server, user := up(t, newHome(t)), up(t, newHome(t))
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range 2 {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			echo(c.(*net.TCPConn))
			c.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-ended
	})
	_, port6, _ := net.SplitHostPort(ln.Addr().String())
	ok(t, server.home, "expose", "[::1]:"+port6, "--name", "v6", "--allow", user.id)
	ok(t, server.home, "expose", "localhost:"+serve(t, echo), "--name", "named", "--allow", user.id)
	for _, name := range []string{"v6", "named"} {
		for bind, bound := range map[string]string{
			"[::1]:0": `\[::1\]:[1-9]\d*`, "localhost:0": `(127\.0\.0\.1|\[::1\]):[1-9]\d*`,
		} {
			out := ok(t, user.home, "connect", server.address+"/"+name, bind)
			if !regexp.MustCompile(`^` + bound + ` -> ` + name + ` on `).MatchString(out) {
				t.Errorf("connect to %s at %s printed %q", name, bind, out)
			}
			local, _, _ := strings.Cut(out, " ")
			c, err := net.Dial("tcp", local)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 5)
			if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
				t.Errorf("%s at %s: %q, %v", name, local, got, err)
			}
			c.Close()
		}
	}
	out := ok(t, server.home, "ls")
	if !strings.Contains(out, "[::1]:"+port6) || !strings.Contains(out, "localhost:") {
		t.Errorf("ls printed %q", out)
	}
}
