package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// checkGoroutines fails unless the test leaves as many goroutines as it found.
func checkGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func listen(t testing.TB, tr Transport, addr string) manet.Listener {
	t.Helper()
	l, err := tr.Listen(ma.StringCast(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// pair returns both ends of a connection to a listener on addr.
func pair(t testing.TB, tr Transport, addr string) (dialled, accepted Connection) {
	t.Helper()
	l := listen(t, tr, addr)
	type result struct {
		c   manet.Conn
		err error
	}
	accepts := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		accepts <- result{c, err}
	}()
	dialled, err := tr.Dial(t.Context(), l.Multiaddr(), false)
	if err != nil {
		t.Fatal(err)
	}
	a := <-accepts
	if a.err != nil {
		t.Fatal(a.err)
	}
	accepted, ok := a.c.(Connection)
	if !ok {
		t.Fatalf("accepted a %T, which is no Connection", a.c)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled, accepted
}

// exchange sends a line each way.
func exchange(t testing.TB, a, b net.Conn) {
	t.Helper()
	for _, ends := range [][2]net.Conn{{a, b}, {b, a}} {
		if _, err := ends[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(ends[1], got); err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

type resolverFunc func(ctx context.Context, host string) ([]net.IPAddr, error)

func (f resolverFunc) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	return f(ctx, host)
}

func resolvesTo(ips ...string) resolverFunc {
	return func(context.Context, string) (out []net.IPAddr, _ error) {
		for _, ip := range ips {
			out = append(out, net.IPAddr{IP: net.ParseIP(ip)})
		}
		return out, nil
	}
}

// peersFunc is a PeerNetwork that only dials.
type peersFunc func(ctx context.Context, info peer.AddrInfo) (net.Conn, error)

func (f peersFunc) DialPeer(ctx context.Context, info peer.AddrInfo) (net.Conn, error) {
	return f(ctx, info)
}

func (f peersFunc) ListenPeer() (net.Listener, error) { return nil, errDown }

// watchedConn is a connection that says when it was closed, and who is there.
type watchedConn struct {
	net.Conn
	closed chan struct{}
	remote peer.ID
}

func newWatchedConn(remote peer.ID) *watchedConn {
	c, far := net.Pipe()
	_ = far
	return &watchedConn{Conn: c, closed: make(chan struct{}), remote: remote}
}

func (c *watchedConn) Close() error        { close(c.closed); return c.Conn.Close() }
func (c *watchedConn) RemotePeer() peer.ID { return c.remote }

func decode(t testing.TB, id string) peer.ID {
	t.Helper()
	p, err := peer.Decode(id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDialAndListen(t *testing.T) {
	resolver := Options{Resolver: resolvesTo("127.0.0.1", "::1")}
	for _, c := range []struct {
		opts Options
		addr string
	}{
		{Options{}, "/ip4/127.0.0.1/tcp/0"},
		{Options{}, "/ip6/::1/tcp/0"},
		{Options{}, "/ip6/::ffff:127.0.0.1/tcp/0"},
		{Options{}, "/unix" + filepath.Join(t.TempDir(), "s")},
		{Options{}, "/dns/localhost/tcp/0"},
		{resolver, "/dns/some.name/tcp/0"},
		{resolver, "/dns4/some.name/tcp/0"},
		{resolver, "/dns6/some.name/tcp/0"},
	} {
		t.Run(c.addr, func(t *testing.T) {
			checkGoroutines(t)
			tr := New(c.opts)
			a, b := pair(t, tr, c.addr)
			exchange(t, a, b)
			if a.Closed() || b.Closed() {
				t.Error("closed already")
			}
			if strings.HasPrefix(c.addr, "/unix") {
				if a.RemoteMultiaddr().String() != c.addr || b.LocalMultiaddr().String() != c.addr ||
					a.LocalMultiaddr() != nil || b.RemoteMultiaddr() != nil {
					t.Errorf("%v %v %v %v", a.LocalMultiaddr(), a.RemoteMultiaddr(), b.LocalMultiaddr(), b.RemoteMultiaddr())
				}
				return
			}
			if !a.LocalMultiaddr().Equal(b.RemoteMultiaddr()) || !b.LocalMultiaddr().Equal(a.RemoteMultiaddr()) {
				t.Errorf("%v %v %v %v", a.LocalMultiaddr(), a.RemoteMultiaddr(), b.LocalMultiaddr(), b.RemoteMultiaddr())
			}
		})
	}
}

// A name keeps its port through Listen's multiaddr only as an IP: dialling the name itself.
func TestDialName(t *testing.T) {
	for _, family := range []string{"dns", "dns4", "dns6"} {
		tr := New(Options{Resolver: resolvesTo("::1", "127.0.0.1")})
		on := map[string]string{"dns": "/ip6/::1/tcp/0", "dns6": "/ip6/::1/tcp/0", "dns4": "/ip4/127.0.0.1/tcp/0"}[family]
		l := listen(t, tr, on)
		port, err := l.Multiaddr().ValueForProtocol(ma.P_TCP)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tr.Dial(t.Context(), ma.StringCast("/"+family+"/some.name/tcp/"+port), false)
		if err != nil {
			t.Fatal(err)
		}
		if !c.RemoteMultiaddr().Equal(l.Multiaddr()) {
			t.Errorf("/%s: %v instead of %v", family, c.RemoteMultiaddr(), l.Multiaddr())
		}
		c.Close()
	}
}

func TestNameWithoutAddresses(t *testing.T) {
	notFound := resolverFunc(func(_ context.Context, host string) ([]net.IPAddr, error) {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	})
	broken := resolverFunc(func(context.Context, string) ([]net.IPAddr, error) { return nil, errDown })
	zoned := resolverFunc(func(context.Context, string) ([]net.IPAddr, error) {
		return []net.IPAddr{{IP: net.ParseIP("fe80::1"), Zone: "lo"}, {IP: net.IP{1}}}, nil
	})
	for _, c := range []struct {
		resolver resolverFunc
		addr     string
		want     error
	}{
		{notFound, "/dns/nobody/tcp/80", address.ErrNoAddresses},
		{resolvesTo(), "/dns/nobody/tcp/80", address.ErrNoAddresses},
		{resolvesTo("::1"), "/dns4/nobody/tcp/80", address.ErrNoAddresses},
		{resolvesTo("127.0.0.1"), "/dns6/nobody/tcp/80", address.ErrNoAddresses},
		{zoned, "/dns/nobody/tcp/80", address.ErrNoAddresses},
		{broken, "/dns/nobody/tcp/80", errDown},
	} {
		tr := New(Options{Resolver: c.resolver, Threshold: 1})
		if _, err := tr.Listen(ma.StringCast(c.addr)); !errors.Is(err, c.want) {
			t.Errorf("listen on %s: %v", c.addr, err)
		}
		_, err := tr.Dial(t.Context(), ma.StringCast(c.addr), false)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.addr) {
			t.Errorf("%s: %v", c.addr, err)
		}
		if _, err = tr.Dial(t.Context(), ma.StringCast(c.addr), false); !errors.Is(err, ErrBreakerOpen) {
			t.Errorf("%s: a name without addresses must count as a failure: %v", c.addr, err)
		}
	}
	err := func() error {
		_, err := New(Options{Resolver: notFound}).Dial(t.Context(), ma.StringCast("/dns/nobody/tcp/80"), false)
		return err
	}()
	if dns, ok := errors.AsType[*net.DNSError](err); !ok || dns.Name != "nobody" {
		t.Errorf("%v hides the resolver's error", err)
	}
}

// Bad addresses fail the same way in Dial and Listen, and no breaker is made for them.
func TestBadAddresses(t *testing.T) {
	tr := New(Options{})
	for _, addr := range []ma.Multiaddr{
		nil, {}, {{}},
		ma.StringCast("/ip4/127.0.0.1/udp/9090/quic"),
		ma.StringCast("/udp/9090/quic"),
		ma.StringCast("/ip4/127.0.0.1/tcp/9090/ws"),
		ma.StringCast("/ip4/127.0.0.1/udp/9090"),
		ma.StringCast("/ip4/127.0.0.1"),
		ma.StringCast("/p2p/" + somePeer),
		ma.StringCast("/ip4/127.0.0.1/tcp/9090/p2p/" + somePeer),
		ma.StringCast("/ip6zone/no-such-zone/ip6/fe80::1/tcp/80"),
	} {
		if c, err := tr.Dial(t.Context(), addr, true); c != nil || !errors.Is(err, ErrAddress) {
			t.Errorf("dial %v: %v, %v", addr, c, err)
		}
		if l, err := tr.Listen(addr); l != nil || !errors.Is(err, ErrAddress) {
			t.Errorf("listen on %v: %v, %v", addr, l, err)
		}
	}
	if _, err := tr.Dial(t.Context(), ma.StringCast("/ip4/127.0.0.1/tcp/0"), false); !errors.Is(err, ErrAddress) {
		t.Errorf("port 0: %v", err)
	}
	_, err := tr.Dial(t.Context(), ma.StringCast("/p2p/"+somePeer), false)
	if ue, ok := errors.AsType[*address.UnsupportedError](err); !ok || ue.Component != "p2p" {
		t.Errorf("without a PeerNetwork: %v", err)
	}
	if n := tr.Panel().Stats().Breakers; n != 0 {
		t.Errorf("%d breakers", n)
	}
}

// The document that this package comes from had this as its example, and its original dialled plain UDP.
func TestRegressionQuicIsNotDialledAsUDP(t *testing.T) {
	tr := New(Options{})
	tr.dialIP = func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialled")
		return nil, errDown
	}
	_, err := tr.Dial(t.Context(), ma.StringCast("/ip4/127.0.0.1/udp/9090/quic"), false)
	if ue, ok := errors.AsType[*address.UnsupportedError](err); !ok || ue.Component != "quic" {
		t.Fatal(err)
	}
}

func TestZone(t *testing.T) {
	tr := New(Options{})
	var got string
	tr.dialIP = func(_ context.Context, network, addr string) (net.Conn, error) {
		got = network + " " + addr
		return nil, errDown
	}
	for _, zone := range []string{"1", "lo"} {
		_, err := tr.Dial(t.Context(), ma.StringCast("/ip6zone/"+zone+"/ip6/fe80::1/tcp/80"), false)
		if _, no := net.InterfaceByName(zone); zone != "1" && no != nil {
			if !errors.Is(err, ErrAddress) {
				t.Errorf("zone %s, which is not here: %v", zone, err)
			}
			continue
		}
		if want := "tcp6 [fe80::1%" + zone + "]:80"; !errors.Is(err, errDown) || got != want {
			t.Errorf("zone %s: %v, dialled %q, want %q", zone, err, got, want)
		}
	}
}

// closedPort is a port of 127.0.0.1 that refuses.
func closedPort(t testing.TB) ma.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m, err := manet.FromNetAddr(l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestBreakerOfAnAddress(t *testing.T) {
	c := new(clock)
	tr := New(Options{Now: c.Now, Random: func() float64 { return 0.5 }})
	bad, good := closedPort(t), listen(t, tr, "/ip4/127.0.0.1/tcp/0").Multiaddr()
	events := tr.Panel().Subscribe()
	for i := range DefaultThreshold {
		_, err := tr.Dial(t.Context(), bad, false)
		if !errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, ErrBreakerOpen) {
			t.Fatalf("dial %d: %v", i, err)
		}
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" {
			t.Fatalf("%v is no *net.OpError", err)
		}
	}
	dials := 0
	real := tr.dialIP
	tr.dialIP = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials++
		return real(ctx, network, addr)
	}
	for range 100 {
		_, err := tr.Dial(t.Context(), bad, false)
		open, ok := errors.AsType[*OpenError](err)
		if !ok || open.Name != bad.String() || open.Wait != DefaultBackoff || !open.RetryAt.Equal(c.Now().Add(DefaultBackoff)) {
			t.Fatal(err)
		}
	}
	if dials != 0 {
		t.Fatalf("%d dials while open", dials)
	}
	conn, err := tr.Dial(t.Context(), good, false) // another address is not concerned
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	c.advance(DefaultBackoff)
	if _, err := tr.Dial(t.Context(), bad, false); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("no trial: %v", err)
	}
	if _, err := tr.Dial(t.Context(), bad, false); !errors.Is(err, ErrBreakerOpen) {
		t.Fatalf("after the trial: %v", err)
	}
	if _, err := tr.Dial(t.Context(), bad, true); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("with reset: %v", err)
	}
	if s := tr.Panel().Lookup(bad).State(); s != Closed {
		t.Fatalf("%v: one failure after the reset", s)
	}
	count := map[EventKind]int{}
	for _, e := range drain(events) {
		if count[e.Kind]++; e.Kind == Fail && !errors.Is(e.Err, syscall.ECONNREFUSED) {
			t.Errorf("%+v", e)
		}
	}
	if count[Fail] != DefaultThreshold+2 || count[Tripped] != 2 || count[Ready] != 1 || count[Reset] != 1 {
		t.Fatalf("%v", count)
	}
	bad2 := ma.StringCast("/ip4/127.0.0.1/tcp/" + must(bad.ValueForProtocol(ma.P_TCP)))
	l, err := tr.Listen(bad2)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if conn, err = tr.Dial(t.Context(), bad, false); err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// How dials end when their time does, in virtual time: over a PeerNetwork, a resolver and a place that do not answer,
// each heeding its context or not.
func TestDialEndsInTime(t *testing.T) {
	deaf := func(context.Context) { time.Sleep(time.Hour) }
	heeds := func(ctx context.Context) { <-ctx.Done() }
	where := map[string]func(stall func(context.Context)) (*Multiaddr, string){
		"peer": func(stall func(context.Context)) (*Multiaddr, string) {
			return New(Options{Peers: peersFunc(func(ctx context.Context, _ peer.AddrInfo) (net.Conn, error) {
				stall(ctx)
				return nil, errDown
			})}), "/p2p/" + somePeer
		},
		"resolver": func(stall func(context.Context)) (*Multiaddr, string) {
			return New(Options{Resolver: resolverFunc(func(ctx context.Context, _ string) ([]net.IPAddr, error) {
				stall(ctx)
				return nil, errDown
			})}), "/dns/x/tcp/80"
		},
		"place": func(stall func(context.Context)) (*Multiaddr, string) {
			tr := New(Options{})
			tr.dialIP = func(ctx context.Context, _, _ string) (net.Conn, error) {
				stall(ctx)
				return nil, ctx.Err()
			}
			return tr, "/ip4/1.2.3.4/tcp/80"
		},
		"name": func(stall func(context.Context)) (*Multiaddr, string) {
			tr := New(Options{Resolver: resolvesTo("1.2.3.4", "1.2.3.5")})
			tr.dialIP = func(ctx context.Context, _, _ string) (net.Conn, error) {
				stall(ctx)
				return nil, ctx.Err()
			}
			return tr, "/dns/x/tcp/80"
		},
	}
	ends := map[string]struct {
		ctx     func(context.Context) (context.Context, context.CancelFunc)
		want    error
		after   time.Duration
		counted bool
	}{
		"cancelled by the caller": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, context.Canceled, time.Second, false},
		"the caller's deadline": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 2*time.Second)
		}, context.DeadlineExceeded, 2 * time.Second, true},
		"our timeout": {context.WithCancel, context.DeadlineExceeded, DefaultTimeout, true},
	}
	for name, make := range where {
		for how, stall := range map[string]func(context.Context){"deaf": deaf, "heeds": heeds} {
			for end, e := range ends {
				t.Run(name+"/"+how+"/"+end, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						tr, addr := make(stall)
						events := tr.Panel().Subscribe()
						ctx, cancel := e.ctx(t.Context())
						defer cancel()
						start := time.Now()
						c, err := tr.Dial(ctx, ma.StringCast(addr), false)
						if took := time.Since(start); c != nil || took != e.after || !errors.Is(err, e.want) {
							t.Errorf("%v, %v after %v", c, err, took)
						}
						var netErr net.Error
						if e.want == context.DeadlineExceeded && (!errors.As(err, &netErr) || !netErr.Timeout()) {
							t.Errorf("%v is no timeout", err)
						}
						if n := len(drain(events)); n == 1 != e.counted {
							t.Errorf("%d failures counted", n)
						}
						time.Sleep(2 * time.Hour) // until the deaf ones are done: the bubble wants all goroutines gone
					})
				})
			}
		}
	}
}

// A timed-out dial of the original went on, and its connection was owned by nobody.
func TestRegressionLateConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := newWatchedConn("")
		peers := New(Options{Peers: peersFunc(func(context.Context, peer.AddrInfo) (net.Conn, error) {
			time.Sleep(time.Hour) // deaf to the context
			return made, nil
		})})
		if _, err := peers.Dial(t.Context(), ma.StringCast("/p2p/"+somePeer), false); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		<-made.closed // or the bubble deadlocks
		made = newWatchedConn("")
		places := New(Options{Resolver: resolvesTo("1.2.3.4")})
		places.dialIP = func(context.Context, string, string) (net.Conn, error) {
			time.Sleep(time.Hour)
			return made, nil
		}
		for _, addr := range []string{"/dns/x/tcp/80", "/ip4/1.2.3.4/tcp/80", "/unix/x"} {
			if _, err := places.Dial(t.Context(), ma.StringCast(addr), false); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			<-made.closed
			made = newWatchedConn("")
		}
		_ = made.Close()
	})
}

// Dials that are over before they begin say nothing about the address.
func TestContextOverBeforehand(t *testing.T) {
	tr := New(Options{Threshold: 1})
	tr.dialIP = func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialled")
		return nil, errDown
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	for want, ctx := range map[error]context.Context{context.Canceled: cancelled, context.DeadlineExceeded: late} {
		if _, err := tr.Dial(ctx, ma.StringCast("/ip4/127.0.0.1/tcp/80"), false); !errors.Is(err, want) {
			t.Error(err)
		}
	}
	if n := tr.Panel().Stats().Breakers; n != 0 {
		t.Errorf("%d breakers", n)
	}
}

// A PeerNetwork that gives up by itself, with whatever error, has failed.
func TestCancelledByTheNetworkIsAFailure(t *testing.T) {
	tr := New(Options{Threshold: 1, Peers: peersFunc(func(context.Context, peer.AddrInfo) (net.Conn, error) {
		return nil, fmt.Errorf("swarm: %w", context.Canceled)
	})})
	addr := ma.StringCast("/p2p/" + somePeer)
	events := tr.Panel().Subscribe()
	if _, err := tr.Dial(t.Context(), addr, false); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if tr.Panel().Lookup(addr).State() != Open {
		t.Fatal("not counted")
	}
	if e := <-events; e.Kind != Fail || !errors.Is(e.Err, context.Canceled) {
		t.Fatalf("%+v", e)
	}
}

// A trial that its caller cancels leaves the next one free.
func TestCancelledTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := New(Options{Threshold: 1})
		var stall atomic.Bool
		tr.dialIP = func(ctx context.Context, _, _ string) (net.Conn, error) {
			if stall.Load() {
				<-ctx.Done()
			}
			return nil, errDown
		}
		addr := ma.StringCast("/ip4/1.2.3.4/tcp/80")
		if _, err := tr.Dial(t.Context(), addr, false); !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		stall.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			synctest.Wait()
			if _, err := tr.Dial(t.Context(), addr, false); !errors.Is(err, ErrBreakerOpen) {
				t.Errorf("a second trial beside the first: %v", err)
			}
			cancel()
		}()
		if _, err := tr.Dial(ctx, addr, false); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		stall.Store(false)
		if _, err := tr.Dial(t.Context(), addr, false); !errors.Is(err, errDown) {
			t.Fatalf("the next trial: %v", err)
		}
	})
}

func TestFaultyPeerNetworks(t *testing.T) {
	wrong := newWatchedConn(decode(t, otherPeer))
	withError := newWatchedConn("")
	for name, c := range map[string]struct {
		conn   net.Conn
		err    error
		want   error
		closed chan struct{}
	}{
		"another peer":      {wrong, nil, ErrWrongPeer, wrong.closed},
		"an error, and yet": {withError, errDown, errDown, withError.closed},
		"nothing at all":    {nil, nil, nil, nil},
	} {
		tr := New(Options{Peers: peersFunc(func(context.Context, peer.AddrInfo) (net.Conn, error) { return c.conn, c.err })})
		conn, err := tr.Dial(t.Context(), ma.StringCast("/p2p/"+somePeer), false)
		if conn != nil || err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v", name, conn, err)
		}
		if c.closed != nil {
			select {
			case <-c.closed:
			default:
				t.Errorf("%s: the connection was not closed", name)
			}
		}
	}
}

// What the PeerNetwork is asked for.
func TestDialPeer(t *testing.T) {
	for addr, at := range map[string]string{
		"/p2p/" + somePeer:                                                     "",
		"/ip4/1.2.3.4/tcp/80/p2p/" + somePeer:                                  "/ip4/1.2.3.4/tcp/80",
		"/dns/x/udp/4001/quic-v1/p2p/" + somePeer:                              "/dns/x/udp/4001/quic-v1",
		"/ip4/1.2.3.4/tcp/80/ws/p2p/" + somePeer:                               "/ip4/1.2.3.4/tcp/80/ws",
		"/ip4/1.2.3.4/tcp/1/p2p/" + otherPeer + "/p2p-circuit/p2p/" + somePeer: "/ip4/1.2.3.4/tcp/1/p2p/" + otherPeer + "/p2p-circuit",
	} {
		made := newWatchedConn("") // it does not say who is there
		tr := New(Options{Peers: peersFunc(func(_ context.Context, info peer.AddrInfo) (net.Conn, error) {
			if info.ID != decode(t, somePeer) || len(info.Addrs) > 1 || len(info.Addrs) == 1 != (at != "") || at != "" && info.Addrs[0].String() != at {
				t.Errorf("%s: asked for %v", addr, info)
			}
			return made, nil
		})})
		c, err := tr.Dial(t.Context(), ma.StringCast(addr), false)
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		if c.RemoteMultiaddr().String() != "/p2p/"+somePeer || c.LocalMultiaddr() != nil {
			t.Errorf("%v %v", c.RemoteMultiaddr(), c.LocalMultiaddr())
		}
		if p, ok := c.(interface{ RemotePeer() peer.ID }); !ok || p.RemotePeer() != decode(t, somePeer) {
			t.Errorf("%s: no RemotePeer", addr)
		}
		if _, ok := c.(halfCloser); ok {
			t.Error("what cannot be half-closed must not say that it can")
		}
		if n, ok := c.(interface{ NetConn() net.Conn }); !ok || n.NetConn() != net.Conn(made) {
			t.Error("no NetConn")
		}
		c.Close()
	}
}
