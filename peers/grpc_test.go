package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/transport"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func mustChannel(t *testing.T, b *book, addr ma.Multiaddr) *grpc.ClientConn {
	t.Helper()
	cc, err := b.GRPCConnection(within(t, time.Minute), addr, false)
	if err != nil {
		t.Fatal(err)
	}
	return cc
}

func awaitState(t *testing.T, cc *grpc.ClientConn, want connectivity.State) {
	t.Helper()
	ctx := within(t, time.Hour)
	for s := cc.GetState(); s != want; s = cc.GetState() {
		if !cc.WaitForStateChange(ctx, s) {
			t.Fatalf("still %v, want %v", s, want)
		}
	}
}

func TestReadyAndIdleAreReturnedAtOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		_, stop := serve(t, f, addr1)
		b := newTestBook(t, f)
		first := mustChannel(t, b, addr1)
		if s := first.GetState(); s != connectivity.Ready {
			t.Fatalf("handed out %v", s)
		}
		if err := check(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		over, cancel := context.WithCancel(t.Context())
		cancel() // whoever does not wait needs no context
		cc, err := b.GRPCConnection(over, addr1, false)
		if err != nil || cc != first {
			t.Errorf("a ready channel: %v", err)
		}
		awaitState(t, first, connectivity.Idle) // after Params.Idle
		cc, err = b.GRPCConnection(over, addr1, false)
		if err != nil || cc != first || cc.GetState() != connectivity.Idle {
			t.Errorf("an idle channel: %v, %v", cc.GetState(), err)
		}
		if n := len(f.dials()); n != 1 {
			t.Errorf("%d dials", n)
		}
		if err := check(t.Context(), cc); err != nil {
			t.Errorf("a call on it: %v", err)
		}
		if n := len(f.dials()); n != 2 {
			t.Errorf("%d dials", n)
		}
		// A context that is over, and a channel that is not there: an error, at once.
		if _, err := b.GRPCConnection(over, addr2, false); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		stop()
		synctest.Wait()
	})
}

func TestWaitsUntilReady(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		b := newTestBook(t, f)
		time.AfterFunc(10*time.Second, func() { serve(t, f, addr1) })
		start := time.Now()
		cc, err := b.GRPCConnection(t.Context(), addr1, false)
		if err != nil || cc.GetState() != connectivity.Ready {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 10*time.Second || d > 20*time.Second {
			t.Errorf("took %v", d)
		}
		// gRPC's backoff, untouched: far fewer dials than look-ups would make.
		if n := len(f.dials()); n < 3 || n > 8 {
			t.Errorf("%d dials", n)
		}
	})
}

func TestWaitLastsLongerThanIdle(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		b := newTestBook(t, f, func(p *Params) { p.Idle, p.Tick = time.Second, time.Second })
		go b.Job(t.Context())
		time.AfterFunc(time.Minute, func() { serve(t, f, addr1) })
		if _, err := b.GRPCConnection(t.Context(), addr1, false); err != nil {
			t.Fatal(err)
		}
	})
}

func TestContextEndsTheWaitWithTheDialsOwnError(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		b := newTestBook(t, f)
		start := time.Now()
		_, err := b.GRPCConnection(within(t, 5*time.Second), addr1, false)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("took %v", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		f.setBefore(forever)
		time.AfterFunc(time.Second, cancel)
		_, err = b.GRPCConnection(ctx, addr2, false)
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// A breaker that opens ends the wait, whichever attempt opened it, with the dial's own error; while it is open look-ups
// end at once, and when it closes the channel recovers by itself.
func TestOpenBreakerEndsTheWait(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		b := newTestBook(t, transport.New(transport.Options{Peers: f, Threshold: 3, Backoff: 10 * time.Second}))
		var wg sync.WaitGroup
		start := time.Now()
		for range 10 {
			wg.Go(func() {
				_, err := b.GRPCConnection(t.Context(), peerB, false)
				if !errors.Is(err, transport.ErrBreakerOpen) || !errors.Is(err, syscall.ECONNREFUSED) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := len(f.dials()); n != 3 {
			t.Errorf("%d dials before it opened", n)
		}
		if d := time.Since(start); d > 3500*time.Millisecond {
			t.Errorf("told after %v: not by the failure that opened it, but by the refusal after that", d)
		}
		start = time.Now()
		_, err := b.GRPCConnection(t.Context(), peerB, false)
		if !errors.Is(err, transport.ErrBreakerOpen) || !errors.Is(err, syscall.ECONNREFUSED) || time.Since(start) != 0 {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		time.Sleep(6 * time.Second) // gRPC has tried again, and was refused
		_, err = b.GRPCConnection(t.Context(), peerB, false)
		if !errors.Is(err, transport.ErrBreakerOpen) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
		if n := len(f.dials()); n != 3 {
			t.Errorf("%d dials while it was open", n)
		}
		serve(t, f, peerB, grpc.Creds(Credentials()))
		time.Sleep(10 * time.Second) // it lets a trial through
		mustChannel(t, b, peerB)
	})
}

// A foreign transport that says no more than ErrBreakerOpen.
func TestOpenBreakerOfAForeignTransport(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		f.before = func(context.Context, visit) error { return fmt.Errorf("mine: %w", transport.ErrBreakerOpen) }
		b := newTestBook(t, f)
		if _, err := b.GRPCConnection(t.Context(), addr1, false); !errors.Is(err, transport.ErrBreakerOpen) {
			t.Error(err)
		}
	})
}

// The fault: with reset, every redial of gRPC reset the breaker, so that it never opened.
func TestRegressionResetOnEveryRedial(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		b := newTestBook(t, f)
		if _, err := b.GRPCConnection(within(t, 20*time.Second), addr1, true); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
		resets := func() (n, of int) {
			for _, d := range f.dials() {
				of++
				if d.reset {
					n++
				}
			}
			return n, of
		}
		if n, of := resets(); n != 1 || of < 4 {
			t.Errorf("%d resets in %d dials", n, of)
		}
		// With a real breaker: it opens in spite of the reset.
		b = newTestBook(t, transport.New(transport.Options{Peers: newFabric(), Threshold: 3}))
		if _, err := b.GRPCConnection(t.Context(), peerB, true); !errors.Is(err, transport.ErrBreakerOpen) {
			t.Error(err)
		}
	})
}

// reset ends the breaker's wait and gRPC's, and the wait begins anew.
func TestResetTriesAgainAtOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		tr := transport.New(transport.Options{Peers: f, Threshold: 2, Backoff: time.Hour, MaxBackoff: time.Hour})
		b := newTestBook(t, tr, func(p *Params) { p.Idle = 24 * time.Hour })
		if _, err := b.GRPCConnection(t.Context(), peerB, false); !errors.Is(err, transport.ErrBreakerOpen) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute) // gRPC waits for 2 minutes by now
		serve(t, f, peerB, grpc.Creds(Credentials()))
		start := time.Now()
		if _, err := b.GRPCConnection(t.Context(), peerB, false); !errors.Is(err, transport.ErrBreakerOpen) {
			t.Error(err)
		}
		before := len(f.dials())
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if _, err := b.GRPCConnection(t.Context(), peerB, true); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d > again {
			t.Errorf("took %v", d)
		}
		if n := len(f.dials()) - before; n != 1 {
			t.Errorf("%d dials", n)
		}
		// Ready: nothing to reset, and nothing is left over for the next dial.
		if _, err := b.GRPCConnection(t.Context(), peerB, true); err != nil {
			t.Error(err)
		}
		if b.channels[channelKeyOf(peerB)].reset {
			t.Error("a reset is left over")
		}
	})
}

// A reset while gRPC dials in vain: the attempt under way does not count, the next follows at once.
func TestResetDuringADial(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		var hang atomic.Bool
		f.before = func(ctx context.Context, _ visit) error {
			if hang.Load() {
				return second(0, forever(ctx, visit{}))
			}
			return nil
		}
		b := newTestBook(t, f, func(p *Params) { p.Idle = 24 * time.Hour })
		b.GRPCConnection(within(t, 10*time.Minute), addr1, false) // fails; gRPC waits for 2 minutes between dials
		hang.Store(true)
		n := len(f.dials())
		for len(f.dials()) == n {
			time.Sleep(time.Second)
		}
		// gRPC's dial hangs, for up to 2 minutes, and then there would be 2 minutes of wait.
		hang.Store(false)
		serve(t, f, addr1)
		if _, err := b.GRPCConnection(within(t, 3*time.Minute), addr1, true); err != nil {
			t.Error(err)
		}
		log := f.dials()
		if last := log[len(log)-1]; !last.reset || len(log) != n+2 {
			t.Errorf("%d dials, the last with reset %v", len(log)-n, last.reset)
		}
	})
}

// Idle: the channel is handed out at once, and its next dial resets the breaker.
func TestResetOfAnIdleChannel(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		serve(t, f, addr1)
		b := newTestBook(t, f)
		cc := mustChannel(t, b, addr1)
		awaitState(t, cc, connectivity.Idle)
		if _, err := b.GRPCConnection(t.Context(), addr1, true); err != nil || len(f.dials()) != 1 {
			t.Errorf("%d dials, %v", len(f.dials()), err)
		}
		if err := check(t.Context(), cc); err != nil {
			t.Error(err)
		}
		if log := f.dials(); len(log) != 2 || !log[1].reset {
			t.Errorf("%v", log)
		}
	})
}

func TestOneChannelPerPeer(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		f.before = func(context.Context, visit) error { time.Sleep(time.Second); return nil }
		serve(t, f, peerB, grpc.Creds(Credentials()))
		serve(t, f, addr1)
		b := newTestBook(t, f)
		var wg sync.WaitGroup
		var all [100]*grpc.ClientConn
		for i := range all {
			addr := peerB
			if i%2 == 1 {
				addr = ma.StringCast(fmt.Sprintf("/ip4/198.51.100.%d/tcp/1/p2p/%s", i%8, idB))
			}
			wg.Go(func() { all[i], _ = b.GRPCConnection(t.Context(), addr, false) })
		}
		wg.Wait()
		for _, cc := range all {
			if cc == nil || cc != all[0] {
				t.Fatal("not the same channel for all")
			}
		}
		if n := len(f.dials()); n != 1 {
			t.Errorf("%d dials for %d callers", n, len(all))
		}
		if mustChannel(t, b, addr1) == all[0] {
			t.Error("an address shares the channel of a peer")
		}
	})
}

// Several addresses of one peer: the latest is tried first, then the others, with a fair share of the time each; at
// most maxAddrs are remembered; those that cannot be dialled are not.
func TestSeveralAddressesOfOnePeer(t *testing.T) {
	virtual(t, func(t *testing.T) {
		at := func(i int) ma.Multiaddr {
			return ma.StringCast(fmt.Sprintf("/ip4/198.51.100.%d/tcp/1/p2p/%s", i, idB))
		}
		f := newFabric()
		bad := at(100)
		f.before = func(ctx context.Context, d visit) error {
			switch d.addr {
			case bad.String():
				return &transport.AddressError{Addr: d.addr, Err: errors.New("no")}
			case at(1).String():
				return nil
			}
			return forever(ctx, d)
		}
		b := newTestBook(t, f)
		for i := range 12 {
			b.GRPCConnection(within(t, time.Nanosecond), at(i), false)
		}
		b.GRPCConnection(within(t, time.Nanosecond), bad, false)
		b.GRPCConnection(within(t, time.Nanosecond), at(11), false)
		c := b.channels[channelKeyOf(peerB)]
		if len(c.addrs) != maxAddrs || !c.addrs[0].Equal(at(11)) || !c.addrs[1].Equal(bad) || !c.addrs[2].Equal(at(10)) {
			t.Errorf("%v", c.addrs)
		}
		serve(t, f, peerB, grpc.Creds(Credentials()))
		b.GRPCConnection(within(t, time.Nanosecond), at(1), false)
		b.GRPCConnection(within(t, time.Nanosecond), at(2), false)
		synctest.Wait()
		start := time.Now()
		before := len(f.dials())
		cc := mustChannel(t, b, at(3))
		if d := time.Since(start); d > time.Minute {
			t.Errorf("took %v", d)
		}
		var order []string
		for _, d := range f.dials()[before:] {
			order = append(order, d.addr)
		}
		want := []string{at(3).String(), at(2).String(), at(1).String()}
		if n := len(order); n < 3 || fmt.Sprint(order[n-3:]) != fmt.Sprint(want) {
			t.Errorf("tried %v", order)
		}
		if err := check(t.Context(), cc); err != nil {
			t.Error(err)
		}
		b = newTestBook(t, f)
		b.GRPCConnection(within(t, time.Nanosecond), at(2), false)
		b.GRPCConnection(within(t, time.Minute), bad, false)
		if addrs := b.all()[0].addrs; len(addrs) != 1 || !addrs[0].Equal(at(2)) {
			t.Errorf("what cannot be dialled is remembered: %v", addrs)
		}

		// The only address cannot be dialled: said at once.
		f.setBefore(func(_ context.Context, d visit) error {
			return &transport.AddressError{Addr: d.addr, Err: errors.New("no")}
		})
		b = newTestBook(t, f)
		if _, err := b.GRPCConnection(t.Context(), at(1), false); !errors.Is(err, transport.ErrAddress) {
			t.Error(err)
		}
		// All fail, in their own ways: all are told.
		f.setBefore(func(_ context.Context, d visit) error {
			if d.addr == at(1).String() {
				return syscall.ENETUNREACH
			}
			return errRefused
		})
		b.GRPCConnection(within(t, time.Minute), at(1), true)
		_, err := b.GRPCConnection(within(t, 5*time.Minute), at(2), false)
		if !errors.Is(err, syscall.ENETUNREACH) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
	})
}

// Who answers must be who was meant.
func TestPinsThePeer(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		serve(t, f, addr1)
		serve(t, f, peerB, grpc.Creds(Credentials()))
		b := newTestBook(t, f)
		if err := check(t.Context(), mustChannel(t, b, peerB)); err != nil {
			t.Fatal(err)
		}
		for what, tc := range map[string]struct {
			says peer.ID
			is   func(error) bool
		}{
			"another peer": {idOf(idA), func(err error) bool {
				e, ok := errors.AsType[*MismatchError](err)
				return ok && e.Want == idOf(idB) && e.Got == idOf(idA)
			}},
			"nobody in particular": {"", func(err error) bool { return errors.Is(err, ErrNoPeer) }},
		} {
			b := newTestBook(t, impostor{f, tc.says})
			start := time.Now()
			if _, err := b.GRPCConnection(t.Context(), peerB, false); !tc.is(err) || time.Since(start) != 0 {
				t.Errorf("%s answers: %v after %v", what, err, time.Since(start))
			}
		}
	})
}

// impostor leads to the right place and proves another peer.
type impostor struct {
	*fabric
	says peer.ID
}

func (i impostor) Dial(ctx context.Context, addr ma.Multiaddr, reset bool) (transport.Connection, error) {
	c, err := i.fabric.Dial(ctx, addr, reset)
	if err == nil {
		c.(*fabricConn).id = i.says
	}
	return c, err
}

// Servers that speak something else, or nothing, or hang up: an error in bounded time, without a breaker or a deadline.
func TestNotAGRPCServer(t *testing.T) {
	for what, serve := range map[string]func(net.Conn){
		"speaks HTTP/1":   func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); io.Copy(io.Discard, c) },
		"hangs up":        func(c net.Conn) { c.Close() },
		"says nothing":    func(c net.Conn) { io.Copy(io.Discard, c) },
		"says one letter": func(c net.Conn) { io.WriteString(c, "x"); io.Copy(io.Discard, c) },
	} {
		t.Run(what, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				f := newFabric()
				l, err := f.Listen(addr1)
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						go func() { serve(c); c.Close() }()
					}
				}()
				b := newTestBook(t, f)
				start := time.Now()
				_, err = b.GRPCConnection(t.Context(), addr1, false)
				if !errors.Is(err, ErrNotGRPC) || time.Since(start) > 2*time.Minute {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				b.Shutdown()
				l.Close()
				synctest.Wait()
				if n := f.open.Load(); n != 0 {
					t.Errorf("%d connections are open", n)
				}
			})
		})
	}
}

// A server that restarts: a connection or two that break are not held against it.
func TestPatienceWithARestartingServer(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		l, err := f.Listen(addr1)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for range 2 {
				c, _ := l.Accept()
				c.Close()
			}
			l.Close()
			serve(t, f, addr1)
		}()
		b := newTestBook(t, f)
		mustChannel(t, b, addr1)
	})
}

func TestChannelClosedByItsUserIsReplaced(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		serve(t, f, addr1)
		b := newTestBook(t, f)
		first := mustChannel(t, b, addr1)
		first.Close()
		second := mustChannel(t, b, addr1)
		if second == first {
			t.Fatal("a closed channel is handed out")
		}
		if err := check(t.Context(), second); err != nil {
			t.Error(err)
		}
		second.Close()
		if err := b.RemoveConnection(addr1); err != nil {
			t.Error(err)
		}
		third := mustChannel(t, b, addr1)
		if err := b.RemoveConnection(addr1); err != nil || third.GetState() != connectivity.Shutdown {
			t.Errorf("%v, %v", third.GetState(), err)
		}
		mustChannel(t, b, addr1).Close()
		if err := b.Shutdown(); err != nil {
			t.Error(err)
		}
	})
}

// Plain text only where it was allowed, and the error says what to set.
func TestCredentialsAreRequired(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		serve(t, f, addr1)
		b := newTestBook(t, f, func(p *Params) { p.Insecure = false })
		_, err := b.GRPCConnection(t.Context(), addr1, false)
		e, ok := errors.AsType[*CredentialsError](err)
		if !ok || !e.Addr.Equal(addr1) || e.Error() == "" {
			t.Error(err)
		}
		if len(b.channels) != 0 || len(f.dials()) != 0 {
			t.Error("something was made or dialled")
		}
		// A unix socket needs neither; its credentials refuse whatever turns out to be none.
		serve(t, f, sock)
		if err := check(t.Context(), mustChannel(t, b, sock)); err != nil {
			t.Error(err)
		}
	})
}

func TestOptionsThatGRPCRefuses(t *testing.T) {
	virtual(t, func(t *testing.T) {
		b := newTestBook(t, newFabric(), func(p *Params) { p.DialOptions = []grpc.DialOption{grpc.WithDefaultServiceConfig("nonsense")} })
		if _, err := b.GRPCConnection(t.Context(), addr1, false); err == nil {
			t.Error("no error")
		}
		if len(b.channels) != 0 {
			t.Error("it is in the book")
		}
	})
}

// Credentials pass through to gRPC and back unharmed.
func TestHandshakeDelegates(t *testing.T) {
	f := newFabric()
	c := &channel{b: newTestBook(t, f)}
	h := (&handshake{insecure.NewCredentials(), c}).Clone().(*handshake)
	if h.c != c || h.Info().SecurityProtocol != "insecure" {
		t.Errorf("%+v", h.Info())
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if conn, _, err := h.ClientHandshake(t.Context(), "", near); err != nil || conn != near {
		t.Errorf("a connection that is not ours: %v", err)
	}
}

// What gRPC calls the server, and any character that an address may hold gets there.
func TestAuthority(t *testing.T) {
	for addr, want := range map[string]string{
		"/ip4/192.0.2.2/tcp/1":              "192.0.2.2:1",
		"/ip6/2001:db8::1/tcp/1":            "[2001:db8::1]:1",
		"/dns4/example.com/tcp/443":         "example.com:443",
		"/ip6zone/eth0/ip6/fe80::1/tcp/1":   "[fe80::1%25eth0]:1",
		"/unix/run/a b?c#d%e":               "localhost",
		"/ip4/192.0.2.2/tcp/1/p2p/" + idB:   idB,
		"/dns/xn--bcher-kva.example./tcp/1": "xn--bcher-kva.example.:1",
	} {
		virtual(t, func(t *testing.T) {
			f := newFabric()
			m := ma.StringCast(addr)
			var got []string
			opts := []grpc.ServerOption{grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
				md, _ := metadata.FromIncomingContext(ctx)
				got = md.Get(":authority")
				return h(ctx, req)
			})}
			if peerOf(m) != "" {
				opts = append(opts, grpc.Creds(Credentials()))
			}
			serve(t, f, m, opts...)
			b := newTestBook(t, f)
			if err := check(t.Context(), mustChannel(t, b, m)); err != nil {
				t.Errorf("%s: %v", addr, err)
			}
			if len(got) != 1 || got[0] != want {
				t.Errorf("%s: authority %q, want %q", addr, got, want)
			}
		})
	}
}

// A call on a channel that the book has just closed fails as any call on a closed channel does.
func TestCallOnARetiredChannel(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		serve(t, f, addr1)
		b := newTestBook(t, f)
		cc := mustChannel(t, b, addr1)
		c := b.channels[channelKeyOf(addr1)]
		c.retired = true
		if err := check(t.Context(), cc); status.Code(err) != codes.Canceled {
			t.Error(err)
		}
		if _, err := healthpb.NewHealthClient(cc).Watch(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Canceled {
			t.Error(err)
		}
		if next := mustChannel(t, b, addr1); next == cc {
			t.Error("it is handed out")
		}
		cc.Close()
		// A channel that is removed before it was made is never made.
		c = &channel{b: b, key: channelKey{addr: "x"}}
		if err := c.close(); err != nil || c.state() != connectivity.Idle {
			t.Error(err)
		}
		c.retired = false
		c.leases = 1
		if _, err := b.use(t.Context(), c, addr1, false); !errors.Is(err, ErrRemoved) {
			t.Error(err)
		}
	})
}

// What an attempt that gRPC has given up reports late says nothing of the one under way.
func TestLateReportsOfAnAttempt(t *testing.T) {
	b := newTestBook(t, newFabric())
	c := &channel{b: b, addrs: []ma.Multiaddr{addr1}}
	c.begin()
	c.begin()
	c.failed(1, failure{err: errRefused, final: true})
	c.broke(1, errRefused)
	c.shaken(1)
	if !c.trying || c.last != nil || c.unanswered != 0 {
		t.Errorf("%+v", c)
	}
	c.failed(2, failure{err: errRefused})
	if c.trying || c.last != errRefused {
		t.Errorf("%+v", c)
	}
}
