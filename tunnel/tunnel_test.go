package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	khost "github.com/kith-p2p/kith/internal/host"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// TestMain fails the run when goroutines of this package are left behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		deadline := time.Now().Add(10 * time.Second)
		for left := leaked(); left != ""; left = leaked() {
			if time.Now().After(deadline) {
				fmt.Printf("FAIL: goroutines left behind:\n%s\n", left)
				code = 1
				break
			}
			runtime.Gosched()
			time.Sleep(10 * time.Millisecond) // polling, with a deadline
		}
	}
	os.Exit(code)
}

// leaked returns the stacks that are in this package, but the caller's own.
func leaked() string {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var out []string
	for i, g := range strings.Split(string(buf), "\n\n") {
		if i > 0 && strings.Contains(g, "kith/tunnel.") {
			out = append(out, g)
		}
	}
	return strings.Join(out, "\n\n")
}

func newHost(t testing.TB, listen ...string) host.Host {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := khost.Config{Key: key}
	for _, l := range listen {
		cfg.Listen = append(cfg.Listen, ma.StringCast(l))
	}
	h, err := khost.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

type node struct {
	*P2P
	h host.Host
}

func newNode(t testing.TB, listen ...string) node {
	t.Helper()
	return nodeOver(t, newHost(t, listen...))
}

// nodeOver is a node on a host of the test's.
func nodeOver(t testing.TB, h host.Host) node {
	t.Helper()
	p := NewP2P(h.ID(), h, nil, WithLogger(slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))))
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return node{p, h}
}

func (n node) addr() ma.Multiaddr {
	return n.h.Addrs()[0].Encapsulate(ma.StringCast("/p2p/" + n.id.String()))
}

const (
	overTCP  = "/ip4/127.0.0.1/tcp/0"
	overQUIC = "/ip4/127.0.0.1/udp/0/quic-v1"
)

// transports are the ways two nodes reach each other here.
var transports = []struct{ name, listen string }{
	{"tcp", overTCP},
	{"quic", overQUIC},
	{"ws", "/ip4/127.0.0.1/tcp/0/ws"},
}

// service runs a TCP server whose connections are handled by serve.
func service(t testing.TB, serve func(net.Conn)) ma.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, serve)
}

func serveOn(t testing.TB, l net.Listener, serve func(net.Conn)) ma.Multiaddr {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards conns
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	if u, ok := l.Addr().(*net.UnixAddr); ok {
		return ma.StringCast("/unix" + u.Name)
	}
	return ma.StringCast("/ip4/127.0.0.1/tcp/" + fmt.Sprint(l.Addr().(*net.TCPAddr).Port))
}

func portOf(l net.Listener) string { return fmt.Sprint(l.Addr().(*net.TCPAddr).Port) }

func echo(c net.Conn) { io.Copy(c, c) }

// forwardTo binds a local port of from to a service of to.
func forwardTo(t testing.TB, from, to node, name string, opts ...DialOption) string {
	t.Helper()
	info, err := from.Dial(context.Background(), to.addr(), to.id, name, ma.StringCast("/ip4/127.0.0.1/tcp/0"), opts...)
	if err != nil {
		t.Fatal(err)
	}
	p, err := info.Address.ValueForProtocol(ma.P_TCP)
	if err != nil || p == "0" {
		t.Fatalf("bound %v: %v", info.Address, err)
	}
	return "127.0.0.1:" + p
}

func expose(t testing.TB, n node, name string, target ma.Multiaddr, opts ...ListenOption) *ListenerInfo {
	t.Helper()
	info, err := n.NewListener(context.Background(), name, target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c.(*net.TCPConn)
}

func roundTrip(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("sent %q, got %q, %v", text, got, err)
	}
}

// eventually polls for a state that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(2 * time.Millisecond) // polling, with a deadline
	}
}

// wantReset reads until an error and wants it to be a reset, as over TCP.
func wantReset(t testing.TB, c net.Conn) {
	t.Helper()
	n, err := io.Copy(io.Discard, c)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("after %d bytes: %v, want a reset", n, err)
	}
}

// wantRefused connects, speaks, and wants a reset: already while connecting,
// when the refusal is quick.
func wantRefused(t testing.TB, addr string) {
	t.Helper()
	c, err := net.Dial("tcp4", addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, "hello"); errors.Is(err, syscall.ECONNRESET) {
		return // the system tells it once
	}
	wantReset(t, c)
}

func TestEchoOverEveryTransport(t *testing.T) {
	for _, tr := range transports {
		for _, name := range []string{"echo", "/x/echo"} {
			t.Run(tr.name+name, func(t *testing.T) {
				a, b := newNode(t, tr.listen), newNode(t)
				expose(t, a, name, service(t, echo), AllowPeers(b.id))
				addr := forwardTo(t, b, a, name)
				for i := range 5 {
					c := dial(t, addr)
					roundTrip(t, c, fmt.Sprintf("connection %d", i))
					c.Close()
				}
				big := make([]byte, 3<<20)
				rand.Read(big)
				c := dial(t, addr)
				go func() { c.Write(big); c.CloseWrite() }()
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, big) {
					t.Fatalf("%d of %d bytes came back, %v", len(got), len(big), err)
				}
				eventually(t, "all streams end", func() bool { return a.Streams.Len() == 0 && b.Streams.Len() == 0 })
				li := a.Listeners.List()[0]
				if li.Accepted != 6 || li.Refused != 0 || li.BytesIn < uint64(len(big)) || li.BytesOut < uint64(len(big)) || li.LastError != nil {
					t.Errorf("listing: %+v", li)
				}
			})
		}
	}
}

func TestUnixSocketsAtBothEnds(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "target"))
	if err != nil {
		t.Fatal(err)
	}
	expose(t, a, "echo", serveOn(t, l, echo), AllowAny())
	bind := filepath.Join(dir, "bind")
	info, err := b.Dial(t.Context(), a.addr(), a.id, "echo", ma.StringCast("/unix"+bind))
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(bind); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v: a bound unix socket is private", fi.Mode(), err)
	}
	c, err := net.Dial("unix", bind)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	roundTrip(t, c, "hello")
	c.(*net.UnixConn).CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
		t.Fatalf("%q %v", rest, err)
	}
	info.Closer.Close()
	if _, err := os.Stat(bind); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the socket file is left behind: %v", err)
	}
}

// A socket file that a killed process left is replaced; one that is in use,
// and a file that is no socket, are not.
func TestStaleUnixSocket(t *testing.T) {
	a := newNode(t)
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := a.Dial(t.Context(), nil, a.id, "x", ma.StringCast("/unix"+stale)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Dial(t.Context(), nil, a.id, "x", ma.StringCast("/unix"+stale)); !errors.Is(err, ErrExists) {
		t.Fatalf("in use: %v", err)
	}
	file := filepath.Join(dir, "file")
	os.WriteFile(file, []byte("precious"), 0o600)
	if _, err := a.Dial(t.Context(), nil, a.id, "x", ma.StringCast("/unix"+file)); err == nil {
		t.Fatal("bound over a file")
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Fatal("a file was overwritten")
	}
}

// The reference is a direct TCP connection: whatever a scenario shows there it
// must show through a tunnel, over every transport, by name and raw.
func TestSameAsDirectTCP(t *testing.T) {
	type outcome struct {
		clientGot, serverGot int
		client, server       string
	}
	end := func(err error) string {
		switch {
		case err == nil, err == io.EOF:
			return "EOF"
		case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			return "reset"
		}
		return err.Error()
	}
	readAll := func(c net.Conn) (int, string) {
		n, err := io.Copy(io.Discard, c)
		return int(n), end(err)
	}
	payload := func(n int) []byte { return bytes.Repeat([]byte{'x'}, n) }
	scenarios := []struct {
		name           string
		client, server func(c *net.TCPConn) (int, string)
	}{
		{"the server answers 1 MiB after EOF", func(c *net.TCPConn) (int, string) {
			c.Write(payload(100_000))
			c.CloseWrite()
			return readAll(c)
		}, func(c *net.TCPConn) (int, string) {
			n, e := readAll(c)
			c.Write(payload(1 << 20))
			return n, e
		}},
		{"the client answers 1 MiB after EOF", func(c *net.TCPConn) (int, string) {
			n, e := readAll(c)
			c.Write(payload(1 << 20))
			return n, e
		}, func(c *net.TCPConn) (int, string) {
			c.Write(payload(100_000))
			c.CloseWrite()
			return readAll(c)
		}},
		{"the server speaks first", func(c *net.TCPConn) (int, string) {
			b := make([]byte, 5)
			n, err := io.ReadFull(c, b)
			if err != nil {
				return n, end(err)
			}
			c.Write(payload(10))
			c.CloseWrite()
			m, e := readAll(c)
			return n + m, e
		}, func(c *net.TCPConn) (int, string) {
			c.Write([]byte("hello"))
			return readAll(c)
		}},
		{"nothing is said", func(c *net.TCPConn) (int, string) {
			c.CloseWrite()
			return readAll(c)
		}, func(c *net.TCPConn) (int, string) { return readAll(c) }},
		{"both half-close at once", func(c *net.TCPConn) (int, string) {
			c.Write(payload(7))
			c.CloseWrite()
			return readAll(c)
		}, func(c *net.TCPConn) (int, string) {
			c.Write(payload(9))
			c.CloseWrite()
			return readAll(c)
		}},
		{"the server closes at once", func(c *net.TCPConn) (int, string) {
			return readAll(c)
		}, func(c *net.TCPConn) (int, string) { return 0, "EOF" }},
		{"the client resets", func(c *net.TCPConn) (int, string) {
			io.ReadFull(c, make([]byte, 2)) // the server is reading
			c.SetLinger(0)
			return 2, "EOF"
		}, func(c *net.TCPConn) (int, string) {
			c.Write([]byte("go"))
			return readAll(c)
		}},
		{"the server resets", func(c *net.TCPConn) (int, string) {
			c.Write([]byte("go"))
			return readAll(c)
		}, func(c *net.TCPConn) (int, string) {
			io.ReadFull(c, make([]byte, 2))
			c.SetLinger(0)
			return 2, "EOF"
		}},
		{"the server resets after half of an answer", func(c *net.TCPConn) (int, string) {
			c.Write([]byte("go"))
			io.ReadFull(c, make([]byte, 50_000))
			c.Write([]byte("ok"))
			return readAll(c)
		}, func(c *net.TCPConn) (int, string) {
			io.ReadFull(c, make([]byte, 2))
			c.Write(payload(50_000))
			io.ReadFull(c, make([]byte, 2)) // the client has it all
			c.SetLinger(0)
			return 4, "EOF"
		}},
		{"the client resets after its half-close", func(c *net.TCPConn) (int, string) {
			c.CloseWrite()
			io.ReadFull(c, make([]byte, 100_000))
			c.SetLinger(0)
			return 100_000, "EOF"
		}, func(c *net.TCPConn) (int, string) {
			n, e := readAll(c)
			if e != "EOF" {
				return n, e
			}
			for { // until the reset arrives
				if _, err := c.Write(payload(64 << 10)); err != nil {
					return n, end(err)
				}
			}
		}},
	}
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			run := func(t *testing.T, connect func(target ma.Multiaddr) string) outcome {
				var o outcome
				done := make(chan struct{})
				target := service(t, func(c net.Conn) {
					defer close(done)
					c.SetDeadline(time.Now().Add(20 * time.Second))
					o.serverGot, o.server = sc.server(c.(*net.TCPConn))
				})
				c := dial(t, connect(target))
				o.clientGot, o.client = sc.client(c)
				c.Close()
				select {
				case <-done:
				case <-time.After(30 * time.Second):
					t.Fatalf("the server never ended; the client: %+v", o)
				}
				return o
			}
			want := run(t, func(target ma.Multiaddr) string {
				p, _ := target.ValueForProtocol(ma.P_TCP)
				return "127.0.0.1:" + p
			})
			for _, way := range ways {
				for _, name := range []string{"svc", "/x/svc"} {
					got := run(t, func(target ma.Multiaddr) string {
						a, b := way.nodes(t)
						expose(t, a, name, target, AllowPeers(b.id))
						if name[0] == '/' { // as a node that speaks no kith tunnels
							return rawForward(t, b, a, name)
						}
						return forwardTo(t, b, a, name)
					})
					if got != want {
						t.Errorf("%s %s: %+v; direct TCP: %+v", way.name, name, got, want)
					}
				}
			}
		})
	}
}

// rawForward forwards as kubo would: nothing but the service's own protocol.
func rawForward(t testing.TB, from, to node, name string) string {
	t.Helper()
	if err := from.h.Connect(context.Background(), peer.AddrInfo{ID: to.id, Addrs: to.h.Addrs()}); err != nil {
		t.Fatal(err)
	}
	from.ps.RemoveProtocols(to.id, Protocol)
	return forwardTo(t, from, to, name)
}

func TestRefusalsHaveReasons(t *testing.T) {
	a := newNode(t, overTCP)
	b := newNode(t)
	down, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", down.Addr().(*net.TCPAddr).Port))
	down.Close()
	hold := service(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	expose(t, a, "closed", hold)
	expose(t, a, "down", target, AllowAny())
	expose(t, a, "gone", ma.StringCast("/unix/nonexistent/socket"), AllowAny())
	expose(t, a, "one", hold, AllowAny(), func(c *ServiceConfig) { c.Limits.MaxConnections = 1 })
	expose(t, a, "slow", hold, AllowAny(), func(c *ServiceConfig) { c.Limits.ConnectionRate = 0.001 })
	for _, name := range []string{"one", "slow"} {
		c, err := b.Open(t.Context(), a.id, name, func(c *ForwardConfig) { b.Remember(a.id, a.addr()) })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for _, tc := range []struct {
		service string
		want    Reason
		says    string
	}{
		{"none", ReasonNoService, "none"},
		{"closed", ReasonNotAllowed, b.id.String()},
		{"down", ReasonTarget, "connection refused"},
		{"gone", ReasonTarget, "does not exist"},
		{"one", ReasonLimit, "1 connections at once"},
		{"slow", ReasonLimit, "new connections a second"},
	} {
		t.Run(tc.service, func(t *testing.T) {
			before := a.Stats().Refused[tc.want]
			_, err := b.Open(t.Context(), a.id, tc.service)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Reason != tc.want || !e.Remote || !strings.Contains(e.Error(), tc.says) {
				t.Fatalf("Open: %v", err)
			}
			addr := forwardTo(t, b, a, tc.service)
			wantRefused(t, addr)
			// The reason is on both sides.
			i := slices.IndexFunc(b.Listeners.List(), func(i ListenerInfo) bool { return i.Protocol == tc.service })
			eventually(t, "the reason is listed", func() bool {
				e := b.Listeners.List()[i].LastError
				return e != nil && e.Reason == tc.want
			})
			eventually(t, "the server counts", func() bool { return a.Stats().Refused[tc.want] == before+2 })
			if n := b.Stats().Refused[tc.want]; n < 2 {
				t.Errorf("the client counted %d", n)
			}
		})
	}
}

// A peer that speaks only the raw protocol learns the reason from the reset.
func TestRawRefusalsHaveReasons(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "/x/closed", ma.StringCast("/ip4/127.0.0.1/tcp/9"))
	expose(t, a, "/x/down", ma.StringCast("/unix/nonexistent/socket"), AllowAny())
	for name, want := range map[string]Reason{"/x/closed": ReasonNotAllowed, "/x/down": ReasonTarget, "/x/none": ReasonNoService} {
		wantRefused(t, rawForward(t, b, a, name))
		eventually(t, name, func() bool { return b.Stats().Refused[want] > 0 })
	}
}

func TestUnreachablePeer(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	addr := a.addr()
	a.P2P.Close()
	a.h.Close()
	for name, tc := range map[string]struct {
		addr ma.Multiaddr
		id   peer.ID
		says string
	}{
		"down":       {addr, a.id, "connection refused"},
		"no address": {nil, newHost(t).ID(), "/p2p/"},
	} {
		info, err := b.Dial(t.Context(), tc.addr, tc.id, "x", ma.StringCast("/ip4/127.0.0.1/tcp/0"), func(c *ForwardConfig) { c.Wait = -1 })
		if err != nil {
			t.Fatal(err)
		}
		p, _ := info.Address.ValueForProtocol(ma.P_TCP)
		wantRefused(t, "127.0.0.1:"+p)
		eventually(t, name, func() bool {
			for _, i := range b.Listeners.List() {
				if i.ID == info.ID && i.LastError != nil {
					return i.LastError.Reason == ReasonUnreachable && strings.Contains(i.LastError.Error(), tc.says) && !strings.Contains(i.LastError.Error(), "\n")
				}
			}
			return false
		})
	}
}

// The peer goes away and comes back at the same address: the forward finds it
// again by itself, and a connection made meanwhile waits and then works.
func TestForwardSurvivesRestartOfThePeer(t *testing.T) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	target := service(t, echo)
	listen := ma.StringCast(overTCP)
	up := func() (host.Host, *P2P) {
		h, err := khost.New(khost.Config{Key: key, Listen: []ma.Multiaddr{listen}})
		if err != nil {
			t.Fatal(err)
		}
		p := NewP2P(h.ID(), h, nil)
		if _, err := p.NewListener(t.Context(), "echo", target, AllowAny()); err != nil {
			t.Fatal(err)
		}
		return h, p
	}
	h, p := up()
	listen = h.Addrs()[0]
	b := newNode(t)
	addr := forwardTo(t, b, node{p, h}, "echo")
	c := dial(t, addr)
	roundTrip(t, c, "before")
	p.Close()
	h.Close()
	wantReset(t, c)
	eventually(t, "the connection's end is noticed", func() bool { return b.h.Network().Connectedness(p.id) != network.Connected })
	c = dial(t, addr) // nobody is there
	eventually(t, "a redial has failed", func() bool {
		b.dials.mu.Lock()
		defer b.dials.mu.Unlock()
		d := b.dials.peers[p.id]
		return d != nil && d.err != nil
	})
	h, p = up()
	defer h.Close()
	defer p.Close()
	roundTrip(t, c, "waited for the peer")
	roundTrip(t, dial(t, addr), "after")
	if n := len(b.dials.peers); n != 0 {
		t.Errorf("%d redials are left behind", n)
	}
}

// After a bulk transfer over QUIC a deadline was left behind: the first pause of
// 200 ms in what followed ended the connection with "timed out".
func TestRegressionPauseAfterABulkTransfer(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			a, b := newNode(t, tr.listen), newNode(t)
			const bulk = 1 << 20
			expose(t, a, "x", service(t, func(c net.Conn) {
				c.Write(make([]byte, bulk))
				for range 8 { // so that the buffer shrinks again
					time.Sleep(bulkPause / 10)
					c.Write([]byte("x"))
				}
				time.Sleep(2 * bulkPause)
				c.Write([]byte("end"))
			}), AllowAny())
			c := dial(t, forwardTo(t, b, a, "x"))
			got, err := io.ReadAll(c)
			if err != nil || len(got) != bulk+8+3 {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// The address given to a forward stays, however long it is unused: libp2p's
// own temporary addresses end after two minutes.
func TestAddressOfAForwardIsKept(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	forwardTo(t, b, a, "x")
	if ttl := b.ps.Addrs(a.id); len(ttl) != 1 {
		t.Fatalf("addresses %v", ttl)
	}
	b.ps.UpdateAddrs(a.id, 2*time.Minute, time.Nanosecond)
	if got := b.ps.Addrs(a.id); len(got) != 1 {
		t.Fatal("the address was a temporary one")
	}
}

func TestShutdownResetsWithReason(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	addr := forwardTo(t, b, a, "echo")
	var conns []net.Conn
	for range 10 {
		c := dial(t, addr)
		roundTrip(t, c, "x")
		conns = append(conns, c)
	}
	start := time.Now()
	a.P2P.Close()
	if d := time.Since(start); d > time.Second {
		t.Errorf("Close took %v", d)
	}
	for _, c := range conns {
		wantReset(t, c)
	}
	eventually(t, "the other side knows why", func() bool { return b.Stats().Refused[ReasonShutdown] == 10 })
	if _, err := a.NewListener(t.Context(), "late", ma.StringCast("/ip4/127.0.0.1/tcp/9")); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := a.Dial(t.Context(), nil, b.id, "late", ma.StringCast("/ip4/127.0.0.1/tcp/0")); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := a.P2P.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// Over QUIC the end of the connection overtook the resets and their reason.
func TestShutdownReasonSurvivesTheHostsEnd(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			a, b := newNode(t, tr.listen), newNode(t)
			expose(t, a, "echo", service(t, echo), AllowAny())
			c := dial(t, forwardTo(t, b, a, "echo"))
			roundTrip(t, c, "x")
			a.P2P.Close()
			a.h.Close()
			wantReset(t, c)
			eventually(t, "the other side knows", func() bool {
				s := b.Stats().Refused
				return s[ReasonShutdown]+s[ReasonLost]+s[ReasonReset] == 1
			})
			if s := b.Stats().Refused; s[ReasonShutdown] != 1 {
				t.Errorf("the other side heard %v", s)
			}
		})
	}
}

// An address that leads to somebody else can never work.
func TestWrongPeerAtAnAddress(t *testing.T) {
	a, b, other := newNode(t, overTCP), newNode(t), newHost(t)
	b.Remember(other.ID(), a.h.Addrs()...)
	err := b.Connect(t.Context(), other.ID())
	if !WrongPeer(err) || !strings.Contains(err.Error(), a.id.String()) || WrongPeer(b.Connect(t.Context(), newHost(t).ID())) {
		t.Fatalf("%v", err)
	}
}

func TestCloseOneStream(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	addr := forwardTo(t, b, a, "echo")
	one := dial(t, addr)
	roundTrip(t, one, "1")
	two := dial(t, addr)
	roundTrip(t, two, "2")
	list := b.Streams.List()
	if len(list) != 2 || list[0].RemotePeer != a.id || list[0].Protocol != "echo" || list[0].Path == nil || list[0].Relayed {
		t.Fatalf("%+v", list)
	}
	if !b.Streams.Reset(list[0].ID) || b.Streams.Reset(12345) {
		t.Fatal("reset")
	}
	wantReset(t, one)
	roundTrip(t, two, "still there")
	eventually(t, "the other side knows why", func() bool { return a.Stats().Refused[ReasonClosed] == 1 })
}

// Live tunnels protect the peer from trimming, to the last one.
func TestLiveTunnelsAreProtected(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	addr := forwardTo(t, b, a, "echo")
	one, two := dial(t, addr), dial(t, addr)
	roundTrip(t, one, "1")
	roundTrip(t, two, "2")
	protected := func() bool {
		return a.h.ConnManager().IsProtected(b.id, protectTag) && b.h.ConnManager().IsProtected(a.id, protectTag)
	}
	one.Close()
	eventually(t, "one stream is left", func() bool { return a.Streams.Len() == 1 && b.Streams.Len() == 1 })
	if !protected() {
		t.Fatal("a live tunnel is not protected")
	}
	a.h.ConnManager().TrimOpenConns(t.Context())
	roundTrip(t, two, "still there")
	two.Close()
	eventually(t, "protection ends", func() bool {
		return !a.h.ConnManager().IsProtected(b.id, protectTag) && !b.h.ConnManager().IsProtected(a.id, protectTag)
	})
}

func TestSelf(t *testing.T) {
	a := newNode(t, overTCP)
	expose(t, a, "echo", service(t, echo)) // closed to others
	addr := forwardTo(t, a, a, "echo")
	c := dial(t, addr)
	roundTrip(t, c, "hello me")
	c.CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
		t.Fatal(rest, err)
	}
}

func TestNamesAndAddresses(t *testing.T) {
	a := newNode(t, overTCP)
	tcp := ma.StringCast("/ip4/127.0.0.1/tcp/3000")
	custom := func(c *ServiceConfig) { c.AllowCustomProtocol = true }
	for name, want := range map[string]error{
		"": ErrName, "a b": ErrName, "a\nb": ErrName, strings.Repeat("x", 129): ErrName, "/other": ErrName, "\xff": ErrName,
		"web": nil, "/x/": nil, "/x/a/b": nil, strings.Repeat("x", 128): nil, "ünï": nil,
	} {
		info, err := a.NewListener(t.Context(), name, tcp)
		if !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%q: %v", name, err)
		}
		if err == nil {
			if _, err := a.NewListener(t.Context(), name, tcp); !errors.Is(err, ErrExists) {
				t.Errorf("%q again: %v", name, err)
			}
			info.Closer.Close()
			if a.CheckProtoExists(name) {
				t.Errorf("%q is still there", name)
			}
		}
	}
	expose(t, a, "/other", tcp, custom)
	// libp2p's own protocols cannot be taken over.
	for _, name := range []string{"/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", string(Protocol)} {
		if _, err := a.NewListener(t.Context(), name, tcp, custom); !errors.Is(err, ErrExists) {
			t.Errorf("%s: %v", name, err)
		}
		if a.CheckProtoExists(name) {
			t.Errorf("%s is claimed", name)
		}
	}
	for addr, says := range map[string]string{
		"/ip4/127.0.0.1/udp/53":             "UDP",
		"/ip4/127.0.0.1/tcp/0":              "port",
		"/ip4/127.0.0.1/tcp/80/ws":          "ws",
		"/ip4/127.0.0.1/tcp/80/http":        "http",
		"/ip4/127.0.0.1":                    "neither",
		"/p2p/" + a.id.String():             "neither",
		"/ip4/127.0.0.1/udp/4001/quic-v1":   "UDP",
		"/ip4/1.2.3.4/ip4/127.0.0.1/tcp/80": "neither",
	} {
		_, err := a.NewListener(t.Context(), "t", ma.StringCast(addr))
		if !errors.Is(err, ErrAddress) || !strings.Contains(err.Error(), says) {
			t.Errorf("target %s: %v", addr, err)
		}
		if addr == "/ip4/127.0.0.1/tcp/0" {
			continue // fine to bind
		}
		if _, err := a.Dial(t.Context(), nil, a.id, "t", ma.StringCast(addr)); !errors.Is(err, ErrAddress) {
			t.Errorf("bind %s: %v", addr, err)
		}
	}
	if _, err := a.NewListener(t.Context(), "t", nil); !errors.Is(err, ErrAddress) {
		t.Errorf("no target: %v", err)
	}
	if _, err := a.Dial(t.Context(), nil, "", "t", ma.StringCast("/ip4/127.0.0.1/tcp/0")); !errors.Is(err, ErrAddress) {
		t.Errorf("no peer: %v", err)
	}
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = a.Dial(t.Context(), nil, a.id, "t", ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", taken.Addr().(*net.TCPAddr).Port)))
	if !errors.Is(err, ErrExists) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("port taken: %v", err)
	}
	if n := len(a.Listeners.List()); n != 1 {
		t.Errorf("%d mounts are listed, want 1", n)
	}
}

func TestClosingRegistry(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	addr := forwardTo(t, b, a, "echo")
	forwardTo(t, b, a, "other")
	c := dial(t, addr)
	roundTrip(t, c, "x")
	closed := b.Listeners.Close(func(i ListenerInfo) bool { return i.Protocol == "echo" })
	if len(closed) != 1 || closed[0].Running || len(b.Listeners.List()) != 1 {
		t.Fatalf("%+v", closed)
	}
	select {
	case <-closed[0].Done:
	default:
		t.Error("Done is open")
	}
	roundTrip(t, c, "live connections go on")
	if _, err := net.Dial("tcp4", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the port is still open: %v", err)
	}
	if err := closed[0].Closer.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	// The same name and port can be taken again.
	if _, err := b.Dial(t.Context(), nil, a.id, "echo", closed[0].Address); err != nil {
		t.Error(err)
	}
	roundTrip(t, dial(t, addr), "again")
}

func TestOnce(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	addr := forwardTo(t, b, a, "echo", func(c *ForwardConfig) { c.Once = true })
	c := dial(t, addr)
	roundTrip(t, c, "x")
	eventually(t, "the mount is gone", func() bool { return len(b.Listeners.List()) == 0 })
	roundTrip(t, c, "the connection is not")
}
