package kubo

import (
	"fmt"
	"strings"
	"testing"
)

// bulkSize is what goes each way, with its SHA-256 compared at the other end.
const bulkSize = 100 << 20

// tunnel mounts a service on one node under a name and returns a local port of
// another node that leads there. Flags go to the mounting command.
type tunnel func(t *testing.T, name string, s *service, flags ...string) (port int)

// checkTraffic is what every pair of nodes has to do well. client is the peer
// ID that a target is told.
func checkTraffic(t *testing.T, open tunnel, client string) {
	t.Run("echo", func(t *testing.T) {
		checkEcho(t, open(t, "/x/echo", serve(t, echo)))
	})
	t.Run("push", func(t *testing.T) {
		service, reports := sink(t)
		push(t, open(t, "/x/sink", service), 5, bulkSize)
		next(t, reports).check(t, "service", 5, bulkSize)
	})
	t.Run("pull", func(t *testing.T) {
		port := open(t, "/x/source", source(t, 6, bulkSize))
		pull(t, port).check(t, "client", 6, bulkSize)
	})
	t.Run("report peer id", func(t *testing.T) {
		service, lines := firstLines(t)
		push(t, open(t, "/x/who", service, "--report-peer-id"), 7, 10)
		if got := next(t, lines); got != client {
			t.Errorf("the target was told %q, want %s", got, client)
		}
	})
	t.Run("question before half-close", func(t *testing.T) {
		service, questions := lateAnswerer(t)
		got := halfClose(t, open(t, "/x/late", service))
		next(t, questions).check(t, "service", 1, questionSize)
		t.Logf("of the answer the client got %d of %d bytes, error %v", got.size, answerSize, got.err)
	})
}

// TestKithUsesKubo: kubo mounts, kith connects. The answer after a half-close
// is lost inside kubo (see TestKuboLosesHalfClose); all else must arrive.
func TestKithUsesKubo(t *testing.T) {
	kubo, kith := startKubo(t, "kubo", true), startKith(t, "kith")
	listen := func(t *testing.T, name string, s *service, flags []string) {
		t.Helper()
		kubo.do(t, append([]string{"p2p", "listen", name, s.maddr()}, flags...)...)
		t.Cleanup(func() { kubo.do(t, "p2p", "close", "-p", name) })
	}

	t.Run("connect", func(t *testing.T) {
		checkTraffic(t, func(t *testing.T, name string, s *service, flags ...string) int {
			t.Helper()
			listen(t, name, s, flags)
			port := freePort(t)
			kith.do(t, "connect", kubo.addr+"/"+name, fmt.Sprintf("127.0.0.1:%d", port))
			return port
		}, kith.id)
	})
	t.Run("p2p forward", func(t *testing.T) {
		checkTraffic(t, func(t *testing.T, name string, s *service, flags ...string) int {
			t.Helper()
			listen(t, name, s, flags)
			port := freePort(t)
			kith.do(t, "p2p", "forward", name, tcpMaddr(port), kubo.addr)
			t.Cleanup(func() { kith.do(t, "p2p", "close", "-l", tcpMaddr(port)) })
			return port
		}, kith.id)
	})
	t.Run("no such service", func(t *testing.T) {
		port := freePort(t)
		kith.do(t, "p2p", "forward", "/x/absent", tcpMaddr(port), kubo.addr)
		refused(t, port, serve(t, echo))
	})
}

// TestKuboUsesKith: kith mounts, kubo forwards.
func TestKuboUsesKith(t *testing.T) {
	kubo, kith := startKubo(t, "kubo", true), startKith(t, "kith")
	forward := func(t *testing.T, name string) int {
		t.Helper()
		port := freePort(t)
		kubo.do(t, "p2p", "forward", name, tcpMaddr(port), kith.addr)
		t.Cleanup(func() { kubo.do(t, "p2p", "close", "-l", tcpMaddr(port)) })
		return port
	}
	expose := func(t *testing.T, name string, s *service, flags ...string) {
		t.Helper()
		target := fmt.Sprintf("tcp:127.0.0.1:%d", s.port)
		kith.do(t, append([]string{"expose", target, "--name", name}, flags...)...)
		t.Cleanup(func() { kith.do(t, "close", name) })
	}

	t.Run("expose to any", func(t *testing.T) {
		checkTraffic(t, func(t *testing.T, name string, s *service, flags ...string) int {
			t.Helper()
			expose(t, name, s, append(flags, "--allow-any")...)
			return forward(t, name)
		}, kubo.id)
	})
	t.Run("expose to this peer", func(t *testing.T) {
		checkTraffic(t, func(t *testing.T, name string, s *service, flags ...string) int {
			t.Helper()
			expose(t, name, s, append(flags, "--allow", kubo.id)...)
			return forward(t, name)
		}, kubo.id)
	})
	t.Run("p2p listen", func(t *testing.T) {
		checkTraffic(t, func(t *testing.T, name string, s *service, flags ...string) int {
			t.Helper()
			kith.do(t, append([]string{"p2p", "listen", name, s.maddr(), "--allow", kubo.id}, flags...)...)
			t.Cleanup(func() { kith.do(t, "p2p", "close", "-p", name) })
			return forward(t, name)
		}, kubo.id)
	})

	t.Run("not allowed", func(t *testing.T) {
		friend := startKubo(t, "kubo-friend", true)
		service := serve(t, echo)
		expose(t, "/x/friends", service, "--allow", friend.id)
		refused(t, forward(t, "/x/friends"), service)
		port := freePort(t)
		friend.do(t, "p2p", "forward", "/x/friends", tcpMaddr(port), kith.addr)
		checkEcho(t, port)
	})
	t.Run("listen without a word on access", func(t *testing.T) {
		service := serve(t, echo)
		r := kith.run(t, "p2p", "listen", "/x/closed", service.maddr())
		if r.code == 0 || !strings.Contains(r.stderr, "--allow") {
			t.Errorf("exit code %d, %q; want a refusal that names the flag", r.code, r.stderr)
		}
		refused(t, forward(t, "/x/closed"), service)
	})
	t.Run("target down, then up", func(t *testing.T) {
		down := &service{port: freePort(t)}
		expose(t, "/x/late-riser", down, "--allow-any")
		port := forward(t, "/x/late-riser")
		refused(t, port, down)
		serveOn(t, down.port, echo)
		checkEcho(t, port)
	})
	t.Run("closed again", func(t *testing.T) {
		service := serve(t, echo)
		kith.do(t, "p2p", "listen", "/x/brief", service.maddr(), "--allow-any")
		port := forward(t, "/x/brief")
		checkEcho(t, port)
		kith.do(t, "p2p", "close", "-p", "/x/brief")
		refused(t, port, service)
	})
}

// TestKithToKith gives kubo's words to two kith nodes: what kubo loses must
// arrive here.
func TestKithToKith(t *testing.T) {
	far, near := startKith(t, "kith-far"), startKith(t, "kith-near")
	open := func(t *testing.T, name string, s *service, flags ...string) int {
		t.Helper()
		far.do(t, append([]string{"p2p", "listen", name, s.maddr(), "--allow", near.id}, flags...)...)
		t.Cleanup(func() { far.do(t, "p2p", "close", "-p", name) })
		port := freePort(t)
		near.do(t, "p2p", "forward", name, tcpMaddr(port), far.addr)
		t.Cleanup(func() { near.do(t, "p2p", "close", "-p", name) })
		return port
	}
	checkTraffic(t, open, near.id)
	t.Run("answer after half-close", func(t *testing.T) {
		service, questions := lateAnswerer(t)
		halfClose(t, open(t, "/x/late", service)).check(t, "client", 2, answerSize)
		next(t, questions).check(t, "service", 1, questionSize)
	})
}
