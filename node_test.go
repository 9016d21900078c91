package kith

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/stream"
	"github.com/kith-p2p/kith/tunnel"
)

// start runs a node on 127.0.0.1 until the test ends.
func start(t *testing.T) *Node {
	t.Helper()
	return startAt(t, t.TempDir())
}

func startAt(t *testing.T, home string) *Node {
	t.Helper()
	n, err := New(Config{Home: home, LocalOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return n
}

func TestExposeAndForward(t *testing.T) {
	a, b := start(t), start(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello ", r.URL.Path) }))
	defer web.Close()
	if _, err := a.Expose(t.Context(), Expose{Target: web.Listener.Addr().String(), Name: "web", Allow: []string{b.ID().String()}}); err != nil {
		t.Fatal(err)
	}
	m, err := b.Forward(t.Context(), Forward{Peer: a.Addrs()[0], Name: "web", Check: true})
	if err != nil || m.Warning != "" {
		t.Fatal(err, m.Warning)
	}
	for i := range 3 {
		resp, err := http.Get(fmt.Sprintf("http://%s/%d", m.Local, i))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != fmt.Sprintf("hello /%d", i) {
			t.Fatalf("got %q", body)
		}
	}
	if s := a.Status(); s.Served != 1 || s.Mounts != 1 || s.Streams != 1 {
		t.Fatalf("status: %+v", s)
	}
}

func TestDialAndListen(t *testing.T) {
	a, b := start(t), start(t)
	l, err := a.Listen("greeter", b.ID().String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			id, _ := stream.PeerOf(c)
			fmt.Fprintf(c, "hello %s", id)
			c.Close()
		}
	}()
	c, err := b.Dial(t.Context(), a.Addrs()[0], "greeter")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "hello "+b.ID().String() {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := start(t).Dial(t.Context(), a.Addrs()[0], "greeter"); !errors.Is(err, &tunnel.Error{Reason: tunnel.ReasonNotAllowed}) {
		t.Fatalf("a stranger got in: %v", err)
	}
}

func TestIdentityAndPortSurviveRestart(t *testing.T) {
	home := t.TempDir()
	n, err := New(Config{Home: home, LocalOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	id, addrs := n.ID(), fmt.Sprint(n.Addrs())
	if _, err := New(Config{Home: home, LocalOnly: true}); !errors.Is(err, ErrHomeInUse) {
		t.Fatalf("two nodes on one home: %v", err)
	}
	n.Close()
	n = startAt(t, home)
	if n.ID() != id || fmt.Sprint(n.Addrs()) != addrs {
		t.Fatalf("%s %v is now %s %v", id, addrs, n.ID(), n.Addrs())
	}
}

func TestUsageErrors(t *testing.T) {
	n := start(t)
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const someone = "12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV"
	for name, c := range map[string]struct {
		do   func() error
		want error
		says string
	}{
		"malformed peer": {func() error {
			_, err := n.Forward(t.Context(), Forward{Peer: "nonsense", Name: "web"})
			return err
		}, ErrUsage, "nonsense"},
		"unknown peer": {func() error {
			_, err := n.Forward(t.Context(), Forward{Peer: someone, Name: "web"})
			return err
		}, ErrUnknownPeer, "no address of " + someone},
		"unknown node ID": {func() error {
			_, err := n.Connect(t.Context(), strings.Repeat("ab", 20))
			return err
		}, ErrUnknownPeer, "12D3KooW"},
		"UDP": {func() error {
			_, err := n.Expose(t.Context(), Expose{Target: "udp:127.0.0.1:53", Name: "dns"})
			return err
		}, ErrUsage, "UDP"},
		"port 0": {func() error {
			_, err := n.Expose(t.Context(), Expose{Target: "127.0.0.1:0", Name: "x"})
			return err
		}, ErrUsage, "port"},
		"no name": {func() error {
			_, err := n.Expose(t.Context(), Expose{Target: "3000"})
			return err
		}, ErrUsage, "name"},
		"name outside /x/": {func() error {
			_, err := n.Expose(t.Context(), Expose{Target: "3000", Name: "/other"})
			return err
		}, ErrUsage, "/x/"},
		"port taken": {func() error {
			_, err := n.Forward(t.Context(), Forward{Peer: someone, Name: "web", Listen: taken.Addr().String(), Anyway: true})
			return err
		}, tunnel.ErrExists, "in use"},
		"self":          {func() error { _, err := n.Connect(t.Context(), n.ID().String()); return err }, ErrUsage, "this node"},
		"close nothing": {func() error { _, err := n.CloseMounts(Match{}); return err }, ErrUsage, ""},
		"no stream":     {func() error { return n.CloseStream(7) }, ErrNoSuchStream, "7"},
		"no mount":      {func() error { return n.Hold(t.Context(), 7) }, ErrNoSuchMount, "7"},
		"bad listen":    {func() error { _, err := New(Config{Home: t.TempDir(), Listen: []string{"4001"}}); return err }, ErrUsage, "4001"},
		"bad DNS":       {func() error { _, err := New(Config{Home: t.TempDir(), DNSServer: "x"}); return err }, ErrUsage, "DNS"},
		"no home":       {func() error { _, err := New(Config{}); return err }, ErrUsage, "home"},
	} {
		err := c.do()
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %q, want %v with %q", name, err, c.want, c.says)
		}
	}
}

func TestForwardChecksTheService(t *testing.T) {
	a, b := start(t), start(t)
	if _, err := a.Expose(t.Context(), Expose{Target: "9", Name: "closed"}); err != nil {
		t.Fatal(err)
	}
	for service, want := range map[string]tunnel.Reason{"closed": tunnel.ReasonNotAllowed, "none": tunnel.ReasonNoService} {
		_, err := b.Forward(t.Context(), Forward{Peer: a.Addrs()[0], Name: service})
		if !errors.Is(err, &tunnel.Error{Reason: want}) {
			t.Errorf("%s: %v", service, err)
		}
		m, err := b.Forward(t.Context(), Forward{Peer: a.Addrs()[0], Name: service, Anyway: true})
		if err != nil || m.Warning == "" {
			t.Errorf("%s unchecked: %v, warning %q", service, err, m.Warning)
		}
	}
	if n := len(b.Mounts()); n != 2 {
		t.Errorf("%d mounts, want the two unchecked ones", n)
	}
	// A peer that is only away is a warning, unless it is to be checked.
	away := a.Addrs()[0]
	a.Close()
	if m, err := b.Forward(t.Context(), Forward{Peer: away, Name: "closed"}); err != nil || m.Warning == "" {
		t.Errorf("away: %v, warning %q", err, m.Warning)
	}
	if _, err := b.Forward(t.Context(), Forward{Peer: away, Name: "closed", Check: true}); !errors.Is(err, &tunnel.Error{Reason: tunnel.ReasonUnreachable}) {
		t.Errorf("away, checked: %v", err)
	}
}

// Close did not wait for what Run had started.
func TestRegressionCloseWaitsForChores(t *testing.T) {
	n, err := New(Config{Home: t.TempDir(), LocalOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	n.chore(func(ctx context.Context) {
		<-ctx.Done()
		time.Sleep(100 * time.Millisecond) // what takes its time
		if _, err := n.state.Bucket("node").Get("port"); err != nil {
			t.Errorf("the state was closed first: %v", err)
		}
		done.Store(true)
	})
	ran := make(chan error)
	go func() { ran <- n.Run(context.Background()) }()
	if err := n.Close(); err != nil || !done.Load() {
		t.Fatalf("%v, chore ended: %v", err, done.Load())
	}
	n.chore(func(context.Context) { t.Error("a chore of a closed node") })
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
}

// A forward that the peer refuses was bound for as long as that took to find
// out: who connected meanwhile was accepted and cut.
func TestRegressionRefusedForwardNeverBinds(t *testing.T) {
	a, b := start(t), start(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	refused := make(chan struct{})
	connected := make(chan int)
	go func() {
		n := 0
		for done := false; !done; {
			select {
			case <-refused:
				done = true
			default:
			}
			if c, err := net.Dial("tcp4", at); err == nil {
				c.Close()
				n++
			}
		}
		connected <- n
	}()
	for range 20 {
		if _, err := b.Forward(t.Context(), Forward{Peer: a.Addrs()[0], Name: "none", Listen: at}); !errors.Is(err, &tunnel.Error{Reason: tunnel.ReasonNoService}) {
			t.Errorf("got %v", err)
		}
	}
	close(refused)
	if n := <-connected; n > 0 {
		t.Errorf("%d connections were accepted", n)
	}
}

// The addresses given with a connected peer were taken down and never tried.
func TestRegressionConnectTriesTheNewAddressOfAConnectedPeer(t *testing.T) {
	a, b, other := start(t), start(t), start(t)
	id := "/p2p/" + a.ID().String()
	first, err := b.Connect(t.Context(), a.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Addrs()) < 2 {
		t.Fatal(a.Addrs())
	}
	for _, addr := range a.Addrs() { // the one in use, and the ones that also work
		if p, err := b.Connect(t.Context(), addr); err != nil || p.Address != first.Address {
			t.Errorf("%s: %v, now at %s", addr, err, p.Address)
		}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port)
	l.Close()
	somebody, _, _ := strings.Cut(other.Addrs()[0], "/p2p/")
	for addr, says := range map[string]string{nobody: "connection refused", somebody: "another peer"} {
		_, err := b.Connect(t.Context(), addr+id)
		if !errors.Is(err, &tunnel.Error{Reason: tunnel.ReasonUnreachable}) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), first.Address) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if p, err := b.Connect(t.Context(), a.ID().String()); err != nil || p.Address != first.Address || slices.Contains(p.Known, nobody) {
		t.Errorf("%+v, %v", p, err)
	}
	if n := len(b.host.Network().ConnsToPeer(a.ID())); n != 1 {
		t.Errorf("%d connections, want the first one", n)
	}
}

// Each says what to do next.
func TestRegressionHomeErrorsSayWhatToDo(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.Mkdir(key, 0o700); err != nil {
		t.Fatal(err)
	}
	_, isDir := identity.Load(key)
	plainErr := errors.New("else")
	for err, piece := range map[error]string{
		&fs.PathError{Op: "open", Path: "/h/state.db", Err: syscall.EACCES}: "is not this user's",
		&fs.PathError{Op: "mkdir", Path: "/h", Err: syscall.ENOTDIR}:        "a home is a directory",
		isDir:    "move it elsewhere",
		plainErr: "else",
	} {
		if got := homeError("/h", err); !errors.Is(got, err) || !strings.Contains(got.Error(), piece) {
			t.Errorf("%v", got)
		}
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Home: filepath.Join(file, "home")}); err == nil || !strings.Contains(err.Error(), "choose another with --home") {
		t.Errorf("a home in a file: %v", err)
	}
}

// A connection that waits for its peer is listed as such.
func TestWaitingStreams(t *testing.T) {
	a, b := start(t), start(t)
	addr := a.Addrs()[0]
	a.Close()
	m, err := b.Forward(t.Context(), Forward{Peer: addr, Name: "x", Wait: time.Hour, Anyway: true})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp4", m.Local)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s, ms := b.Streams(), b.Mounts()
		if len(s) == 1 && s[0].Waiting && s[0].LastError != "" && s[0].Path == "" && ms[0].Waiting == 1 && ms[0].Connections == 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("streams %+v, mounts %+v", s, ms)
		}
	}
	if n := b.CloseStreams(); n != 1 {
		t.Errorf("closed %d", n)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the close: %v", err)
	}
}

func TestPing(t *testing.T) {
	a, b := start(t), start(t)
	n := 0
	for pong, err := range b.Ping(t.Context(), a.Addrs()[0], time.Millisecond) {
		if err != nil || pong.RTT <= 0 || pong.Address == "" {
			t.Fatalf("%+v %v", pong, err)
		}
		if n++; n == 5 {
			break
		}
	}
	peers := b.Peers()
	if len(peers) != 1 || !peers[0].Connected || peers[0].RTT <= 0 || peers[0].NodeID != a.NodeID() {
		t.Fatalf("%+v", peers)
	}
}

func TestHold(t *testing.T) {
	n := start(t)
	m, err := n.Expose(t.Context(), Expose{Target: "unix:" + filepath.Join(t.TempDir(), "s"), Name: "held"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Hold(ctx, m.ID) }()
	cancel()
	if err := <-done; err != nil || len(n.Mounts()) != 0 {
		t.Fatal(err, n.Mounts())
	}
}

// A closed node resets live connections at once, and Close does not wait for
// peers.
func TestCloseIsQuick(t *testing.T) {
	a, b := start(t), start(t)
	l, err := a.Listen("hang", "*")
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for range 20 {
		c, err := b.Dial(t.Context(), a.Addrs()[0], "hang")
		if err == nil {
			conns = append(conns, c)
			_, err = l.Accept()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	a.Close()
	if d := time.Since(start); d > 2*time.Second {
		t.Fatalf("Close took %v", d)
	}
	for _, c := range conns {
		if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Fatalf("a cut connection ended with %v", err)
		}
	}
}
