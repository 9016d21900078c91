package peers

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/transport"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// accepting keeps accepting on an address and drops nothing, until the test ends.
func accepting(t *testing.T, f *fabric, addr ma.Multiaddr) <-chan manet.Conn {
	t.Helper()
	l, err := f.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan manet.Conn, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			got <- c
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for len(got) > 0 {
			(<-got).Close()
		}
	})
	return got
}

func mustConnect(t *testing.T, b *book, addr ma.Multiaddr) manet.Conn {
	t.Helper()
	c, err := b.Connect(within(t, time.Minute), addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConnectReusesTheLiveAndReplacesTheClosed(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		got := accepting(t, f, addr1)
		accepting(t, f, addr2)
		b := newTestBook(t, f)
		first := mustConnect(t, b, addr1)
		far := <-got
		go far.Write([]byte("x"))
		if _, err := io.ReadFull(first, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if again := mustConnect(t, b, addr1); again != first {
			t.Error("a live connection is not reused")
		}
		if other := mustConnect(t, b, addr2); other == first {
			t.Error("two addresses share a connection")
		}
		first.Close() // by a user: closed for all
		second := mustConnect(t, b, addr1)
		if second == first {
			t.Error("a closed connection is handed out")
		}
		(<-got).Close() // by the other side: noticed when read
		second.Read(make([]byte, 1))
		if third := mustConnect(t, b, addr1); third == second {
			t.Error("a connection that ended is handed out")
		}
		if n := len(f.dials()); n != 4 {
			t.Errorf("%d dials", n)
		}
	})
}

// The fault: look, see nothing, dial, and so did somebody else.
func TestRegressionDoubleDial(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		f.before = func(context.Context, visit) error { time.Sleep(time.Second); return nil }
		accepting(t, f, addr1)
		b := newTestBook(t, f)
		var wg sync.WaitGroup
		var conns [100]manet.Conn
		for i := range conns {
			wg.Go(func() { conns[i] = mustConnect(t, b, addr1) })
		}
		wg.Wait()
		for _, c := range conns {
			if c == nil || c != conns[0] {
				t.Fatal("not the same connection for all")
			}
		}
		if n := len(f.dials()); n != 1 {
			t.Errorf("%d dials for %d callers", n, len(conns))
		}
	})
}

// The fault: a caller's timeout left a dial running, and its connection to nobody.
func TestRegressionConnectionsOwnedByNobody(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		f.before = func(context.Context, visit) error { time.Sleep(time.Second); return nil } // heeds no context
		accepting(t, f, addr1)
		b := newTestBook(t, f)
		for range 10 {
			if _, err := b.Connect(within(t, time.Millisecond), addr1); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := f.open.Load(); n != 0 {
			t.Errorf("%d connections are open that nobody knows", n)
		}
		if len(b.conns) != 0 || len(b.dials) != 0 {
			t.Error("the book holds what nobody waits for")
		}
	})
}

func TestConnectWaitersComeAndGo(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		var ended atomic.Pointer[error]
		f.before = func(ctx context.Context, _ visit) error {
			select {
			case <-ctx.Done():
				ended.Store(&[]error{ctx.Err()}[0])
				return ctx.Err()
			case <-time.After(10 * time.Second):
				return nil
			}
		}
		accepting(t, f, addr1)
		b := newTestBook(t, f)
		// Who begins the flight cancels; the others still get their connection, of the same flight.
		first, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := b.Connect(first, addr1); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		wg.Go(func() { mustConnect(t, b, addr1) })
		synctest.Wait()
		cancel()
		wg.Wait()
		if n := len(f.dials()); n != 1 {
			t.Errorf("%d dials", n)
		}
		b.RemoveConnection(addr1)

		// All cancel: the dial ends at once, as cancelled, which no breaker counts.
		all, cancel := context.WithCancel(t.Context())
		for range 3 {
			wg.Go(func() { b.Connect(all, addr1) })
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		synctest.Wait()
		if err := *ended.Load(); err != context.Canceled {
			t.Errorf("the dial ended with %v", err)
		}

		// All run out of time: the dial did too, which a breaker counts.
		start := time.Now()
		for range 3 {
			wg.Go(func() { b.Connect(within(t, 3*time.Second), addr1) })
		}
		wg.Wait()
		synctest.Wait()
		if err := *ended.Load(); err != context.DeadlineExceeded || time.Since(start) != 3*time.Second {
			t.Errorf("the dial ended with %v after %v", err, time.Since(start))
		}

		// A flight has the deadline of who began it; the more patient dial on.
		before := len(f.dials())
		wg.Go(func() { b.Connect(within(t, time.Second), addr1) })
		synctest.Wait()
		wg.Go(func() { mustConnect(t, b, addr1) })
		wg.Wait()
		if n := len(f.dials()) - before; n != 2 {
			t.Errorf("%d dials", n)
		}

		// A context that is over: no dial, but a live connection is still found.
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Connect(over, addr1); err != nil {
			t.Error(err)
		}
		if _, err := b.Connect(over, addr2); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestConnectReturnsTheTransportsError(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		b := newTestBook(t, f)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := b.Connect(t.Context(), addr1); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		// The breaker of a real transport.
		net := newFabric()
		b = newTestBook(t, transport.New(transport.Options{Peers: net, Threshold: 2}))
		for i, want := range []error{syscall.ECONNREFUSED, syscall.ECONNREFUSED, transport.ErrBreakerOpen} {
			if _, err := b.Connect(t.Context(), peerB); !errors.Is(err, want) {
				t.Errorf("dial %d: %v", i, err)
			}
		}
		if n := len(net.dials()); n != 2 {
			t.Errorf("%d dials", n)
		}
	})
}

func TestRemoveConnection(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		accepting(t, f, addr1)
		b := newTestBook(t, f)
		if err := b.RemoveConnection(addr1); err != nil {
			t.Errorf("an unknown address: %v", err)
		}
		c := mustConnect(t, b, addr1)
		if err := b.RemoveConnection(addr1); err != nil {
			t.Error(err)
		}
		if !c.(*fabricConn).Closed() {
			t.Error("the connection is open")
		}
		c = mustConnect(t, b, addr1)
		c.Close()
		if err := b.RemoveConnection(addr1); err != nil {
			t.Errorf("a closed connection: %v", err)
		}
		f.closeErr = errors.New("no")
		mustConnect(t, b, addr1)
		if err := b.RemoveConnection(addr1); !errors.Is(err, f.closeErr) {
			t.Errorf("an error of closing: %v", err)
		}
		f.closeErr = nil

		// While it is being dialled, plain and for gRPC.
		f.setBefore(forever)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if _, err := b.Connect(t.Context(), addr1); !errors.Is(err, ErrRemoved) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := b.GRPCConnection(t.Context(), addr1, false); !errors.Is(err, ErrRemoved) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if err := b.RemoveConnection(addr1); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// oneName resolves every name to one IP.
type fixedTransport struct {
	transport.Transport
	remote ma.Multiaddr
}

type remoteConn struct {
	transport.Connection
	remote ma.Multiaddr
}

func (c remoteConn) RemoteMultiaddr() ma.Multiaddr { return c.remote }

func (f fixedTransport) Dial(ctx context.Context, addr ma.Multiaddr, reset bool) (transport.Connection, error) {
	c, err := f.Transport.Dial(ctx, addr, reset)
	if err != nil {
		return nil, err
	}
	return remoteConn{c, f.remote}, nil
}

func TestSelfDialIsRefused(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		us := ma.StringCast("/ip4/192.0.2.1/tcp/1/p2p/" + idA)
		b := newTestBook(t, f, func(p *Params) { p.Address = us })
		for _, s := range []string{us.String(), "/p2p/" + idA, "/ip4/192.0.2.1/tcp/1", "/ip6/::ffff:192.0.2.1/tcp/1", "/dns/example.com/tcp/9/p2p/" + idA} {
			if _, err := b.Connect(t.Context(), ma.StringCast(s)); !errors.Is(err, ErrDialToSelf) {
				t.Errorf("Connect %s: %v", s, err)
			}
			if _, err := b.GRPCConnection(t.Context(), ma.StringCast(s), false); !errors.Is(err, ErrDialToSelf) {
				t.Errorf("GRPCConnection %s: %v", s, err)
			}
		}
		if n := len(f.dials()); n != 0 {
			t.Errorf("%d dials", n)
		}
		if !b.Address().Equal(us) {
			t.Error(b.Address())
		}
		// A name that leads back is found out by where the connection went.
		name := ma.StringCast("/dns/me.example.com/tcp/1")
		accepting(t, f, name)
		b = newTestBook(t, fixedTransport{f, own})
		if _, err := b.Connect(t.Context(), name); !errors.Is(err, ErrDialToSelf) {
			t.Error(err)
		}
		if _, err := b.GRPCConnection(t.Context(), name, false); !errors.Is(err, ErrDialToSelf) {
			t.Error(err)
		}
		b.Shutdown()
	})
}

// The fault: /udp/9090/quic was dialled as plain UDP.
func TestRegressionUnsupportedAddressIsNotDialled(t *testing.T) {
	noLeaks(t)
	for _, s := range []string{"/ip4/127.0.0.1/udp/9090/quic", "/ip4/127.0.0.1/udp/9090", "/ip4/127.0.0.1", "/ip4/127.0.0.1/tcp/80/ws", "/p2p/" + idB,
		"/ip4/127.0.0.1/tcp/80/p2p/" + idB, "/ip4/127.0.0.1/udp/9090/quic-v1/p2p/" + idB} {
		b := newTestBook(t, transport.New(transport.Options{}))
		m := ma.StringCast(s)
		if _, err := b.Connect(t.Context(), m); !errors.Is(err, transport.ErrAddress) {
			t.Errorf("Connect %s: %v", s, err)
		}
		if _, err := b.GRPCConnection(t.Context(), m, false); !errors.Is(err, transport.ErrAddress) {
			t.Errorf("GRPCConnection %s: %v", s, err)
		}
		if _, err := b.Listen(m); !errors.Is(err, transport.ErrAddress) {
			t.Errorf("Listen %s: %v", s, err)
		}
	}
}

func TestEmptyAddress(t *testing.T) {
	b := newTestBook(t, newFabric())
	for _, m := range []ma.Multiaddr{nil, {}} {
		if _, err := b.Connect(t.Context(), m); !errors.Is(err, ErrEmptyAddress) {
			t.Error(err)
		}
		if _, err := b.GRPCConnection(t.Context(), m, true); !errors.Is(err, ErrEmptyAddress) {
			t.Error(err)
		}
		if _, err := b.Listen(m); !errors.Is(err, ErrEmptyAddress) {
			t.Error(err)
		}
		if err := b.RemoveConnection(m); !errors.Is(err, ErrEmptyAddress) {
			t.Error(err)
		}
	}
	hollow := ma.Multiaddr{ma.Component{}}
	real := newTestBook(t, transport.New(transport.Options{}))
	if _, err := real.Connect(t.Context(), hollow); !errors.Is(err, transport.ErrAddress) {
		t.Error(err)
	}
	if _, err := real.GRPCConnection(t.Context(), hollow, false); !errors.Is(err, transport.ErrAddress) {
		t.Error(err)
	}
	if err := real.RemoveConnection(hollow); err != nil {
		t.Error(err)
	}
}

func TestRealConnect(t *testing.T) {
	noLeaks(t)
	a := newTestBook(t, transport.New(transport.Options{}))
	b := newTestBook(t, transport.New(transport.Options{}))
	for _, at := range []string{"/ip4/127.0.0.1/tcp/0", "/unix" + t.TempDir() + "/s"} {
		l, err := a.Listen(ma.StringCast(at))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err == nil {
				io.Copy(c, c)
				c.Close()
			}
		}()
		c, err := b.Connect(t.Context(), l.Multiaddr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}

// late is a context whose deadline has passed and whose timer has not fired yet.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

// The last caller leaves at the deadline, an instant before the flight's own timer: the dial must see that its time is
// over, not that it was cancelled, or the breaker would never hear of addresses that swallow packets.
func TestLeavingAtTheDeadlineIsNoCancellation(t *testing.T) {
	b := newTestBook(t, newFabric())
	cancelled := false
	d := &dial{key: "x", done: make(chan struct{}), waiters: 1, cancel: func(error) { cancelled = true }}
	d.ctx = late{t.Context()}
	if !b.leave(d) || cancelled {
		t.Error("cancelled")
	}
	d.ctx, d.waiters = t.Context(), 1
	if !b.leave(d) || !cancelled {
		t.Error("not cancelled")
	}
}
