package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/kith-p2p/kith/internal/host"
	"github.com/kith-p2p/kith/stream"
)

const echoID protocol.ID = "/kith-test/echo/1.0.0"

func newHost(tb testing.TB, listen string) corehost.Host {
	tb.Helper()
	key, _, err := crypto.GenerateEd25519Key(nil)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := host.Config{Key: key}
	if listen != "" {
		cfg.Listen = []ma.Multiaddr{ma.StringCast(listen)}
	}
	h, err := host.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { h.Close() })
	return h
}

// networks is what the main behaviours are tested over: a calls, b serves.
var networks = []struct {
	name  string
	hosts func(testing.TB) (a, b corehost.Host)
}{
	{"tcp", tcpHosts},
	{"quic", func(tb testing.TB) (a, b corehost.Host) { return connected(tb, "/ip4/127.0.0.1/udp/0/quic-v1") }},
	{"websocket", func(tb testing.TB) (a, b corehost.Host) { return connected(tb, "/ip4/127.0.0.1/tcp/0/ws") }},
	{"self", func(tb testing.TB) (a, b corehost.Host) {
		h := newHost(tb, "")
		return h, h
	}},
}

func overNetworks(t *testing.T, body func(t *testing.T, a, b corehost.Host)) {
	for _, nw := range networks {
		t.Run(nw.name, func(t *testing.T) {
			a, b := nw.hosts(t)
			body(t, a, b)
		})
	}
}

func tcpHosts(tb testing.TB) (a, b corehost.Host) { return connected(tb, "/ip4/127.0.0.1/tcp/0") }

func connected(tb testing.TB, listen string) (a, b corehost.Host) {
	a, b = newHost(tb, ""), newHost(tb, listen)
	know(a, b)
	if err := a.Connect(tb.Context(), peer.AddrInfo{ID: b.ID()}); err != nil {
		tb.Fatal(err)
	}
	return a, b
}

// know tells a where b is.
func know(a, b corehost.Host) {
	a.Peerstore().AddAddrs(b.ID(), b.Network().ListenAddresses(), peerstore.PermanentAddrTTL)
}

// newServer stops with the test, and nothing of it may be left then.
func newServer(tb testing.TB, h corehost.Host, cfg *ServerConfig) *Server {
	tb.Helper()
	s, err := NewServer(h, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Stop(); err != nil && !errors.Is(err, ErrHandlersRunning) {
			tb.Error(err)
		}
		checkNothingLeft(tb, h)
	})
	return s
}

func newClient(tb testing.TB, h corehost.Host, cfg *ClientConfig) *Client {
	tb.Helper()
	c, err := NewClient(h, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		c.Close()
		if n := c.Stats().Conns; n != 0 {
			tb.Errorf("%d streams left in the client", n)
		}
	})
	return c
}

// pair is a server with an echo, and a client of it, over TCP.
func pair(tb testing.TB, sc *ServerConfig, cc *ClientConfig) (*Client, *Server, peer.ID) {
	tb.Helper()
	a, b := tcpHosts(tb)
	s := newServer(tb, b, sc)
	startEcho(tb, s)
	return newClient(tb, a, cc), s, b.ID()
}

func startEcho(tb testing.TB, s *Server) {
	tb.Helper()
	if err := s.Start(echoID, func(b []byte) ([]byte, error) { return b, nil }); err != nil {
		tb.Fatal(err)
	}
}

// handle starts a handler that must start.
func handle(tb testing.TB, s *Server, id protocol.ID, h Handler, opts ...HandleOption) {
	tb.Helper()
	if err := s.StartHandler(id, h, opts...); err != nil {
		tb.Fatal(err)
	}
}

func handleStream(tb testing.TB, s *Server, id protocol.ID, f func(context.Context, *ServerStream) error, opts ...HandleOption) {
	tb.Helper()
	if err := s.HandleStream(id, f, opts...); err != nil {
		tb.Fatal(err)
	}
}

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

func ctxOf(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	tb.Cleanup(cancel)
	return ctx
}

// eventually polls until ok returns "", and fails with its last complaint.
func eventually(tb testing.TB, ok func() string) {
	tb.Helper()
	var complaint string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if complaint = ok(); complaint == "" {
			return
		}
	}
	tb.Errorf("%s\n%s", complaint, strings.Join(goroutines(), "\n\n"))
}

// await fails the test unless c is closed or gets something soon.
func await[T any](tb testing.TB, what string, c <-chan T) (v T) {
	tb.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		tb.Fatalf("no %s\n%s", what, strings.Join(goroutines(), "\n\n"))
	}
	return v
}

var ours = regexp.MustCompile(`kith/rpc\.\(\*(Server|serverLink|clientLink|Client|ClientStream|ServerStream|flow|reader|gather)\)`)

// checkNothingLeft waits until no stream of ours and no goroutine of a server
// is left on a host.
func checkNothingLeft(tb testing.TB, h corehost.Host) {
	tb.Helper()
	eventually(tb, func() string {
		for _, id := range h.Mux().Protocols() {
			if id == Protocol || strings.HasPrefix(string(id), "/kith-test/") {
				return fmt.Sprintf("%s is still registered", id)
			}
		}
		for _, c := range h.Network().Conns() {
			for _, s := range c.GetStreams() {
				if s.Stat().Direction == network.DirInbound && (s.Protocol() == Protocol || strings.HasPrefix(string(s.Protocol()), "/kith-test/")) {
					return "a stream of " + string(s.Protocol()) + " is left"
				}
			}
		}
		return ""
	})
}

// goroutines returns those that run code of this package, but for tests.
func goroutines() (list []string) {
	buf := make([]byte, 8<<20)
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if ours.MatchString(g) && !strings.Contains(g, "testing.tRunner(") {
			list = append(list, g)
		}
	}
	return list
}

// wantCode fails unless err is an *Error of the code.
func wantCode(tb testing.TB, err error, code Code) *Error {
	tb.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != code || !errors.Is(err, code) {
		tb.Fatalf("error %v (%T), want code %s", err, err, code)
	}
	return e
}

// logs collects what a server logs.
type logs struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// rawStream opens a bare stream of a protocol, with nothing of rpc on it.
func rawStream(tb testing.TB, a corehost.Host, to peer.ID, id protocol.ID) *stream.Conn {
	tb.Helper()
	c, err := stream.Dial(ctxOf(tb), a, to, id)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.(*stream.Conn).Reset() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*stream.Conn)
}
