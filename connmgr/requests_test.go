package connmgr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The requests as a user of the manager sees them, in virtual time.

func states(cm *ConnManager) (all []string) {
	for _, r := range cm.Inspect().Requests {
		all = append(all, fmt.Sprintf("%d %s %s", r.ID, r.Kind, r.State))
	}
	return all
}

func TestAPermanentRequestComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d dialer
		var log []string // callbacks of one connection follow one another; see below for two
		var mu sync.Mutex
		note := func(what string, r *ConnReq) {
			mu.Lock()
			defer mu.Unlock()
			log = append(log, fmt.Sprintf("%s %s %s", what, r, r.State()))
		}
		cm := newManager(t, Config{
			Dial:            d.dial,
			OnConnection:    func(r *ConnReq, _ net.Conn) { note("up", r) },
			OnDisconnection: func(r *ConnReq) { note("down", r) },
		})
		req := &ConnReq{Addr: peerName("alice"), Permanent: true}
		cm.Connect(req)
		cm.Start()
		synctest.Wait()
		time.Sleep(time.Minute)
		cm.Disconnect(req.ID())
		synctest.Wait()
		if req.State() != ConnPending || d.open(t) != 0 {
			t.Errorf("after Disconnect: %v, %d open", req.State(), d.open(t))
		}
		time.Sleep(defaultRetry - time.Nanosecond)
		synctest.Wait()
		if d.count() != 1 {
			t.Error("dialled before RetryDuration")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		cm.Remove(req.ID())
		synctest.Wait()
		want := []string{"up alice (reqid 1) established", "down alice (reqid 1) pending", "up alice (reqid 1) established", "down alice (reqid 1) disconnected"}
		if !slices.Equal(log, want) {
			t.Errorf("%q, want %q", log, want)
		}
		stopped(t, cm, &d)
	})
}

// The figure of the contract, through the whole stack: at most 40 dials in an
// hour for a peer that accepts and drops, at the default RetryDuration.
func TestRegressionAcceptAndDropCostsAtMost40DialsAnHour(t *testing.T) {
	for name, drop := range map[string]func(*ConnManager, *ConnReq, net.Conn){
		"closed":                    func(_ *ConnManager, _ *ConnReq, c net.Conn) { c.Close() },
		"disconnected":              func(cm *ConnManager, r *ConnReq, _ net.Conn) { cm.Disconnect(r.ID()) },
		"closed, then disconnected": func(cm *ConnManager, r *ConnReq, c net.Conn) { c.Close(); cm.Disconnect(r.ID()) },
	} {
		for _, automatic := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				var d dialer
				var cm *ConnManager
				cfg := Config{Dial: d.dial, OnConnection: func(r *ConnReq, c net.Conn) { drop(cm, r, c) }}
				if automatic {
					cfg.GetNewAddress = func() (net.Addr, error) { return peerName("mallory"), nil }
				}
				cm = newManager(t, cfg)
				if !automatic {
					cm.Connect(&ConnReq{Addr: peerName("mallory"), Permanent: true})
				}
				cm.Start()
				time.Sleep(time.Hour)
				synctest.Wait()
				t.Logf("%s, automatic %v: %d dials in a virtual hour", name, automatic, d.count())
				if d.count() > 40 || d.count() < 20 {
					t.Errorf("%s, automatic %v: %d dials in an hour, at most 40", name, automatic, d.count())
				}
				stopped(t, cm, &d)
			})
		}
	}
}

// In btcd three become two, and one.
func TestRegressionAutomaticConnectionsAreRefilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d dialer
		cm := newManager(t, Config{Dial: d.dial, TargetOutbound: 3, GetNewAddress: addresses()})
		for i := range 2 {
			cm.Connect(&ConnReq{Addr: peerName(fmt.Sprint("friend", i)), Permanent: true})
		}
		cm.Start()
		synctest.Wait()
		for range 5 {
			for _, r := range cm.Inspect().Requests {
				if r.Kind == KindAutomatic {
					cm.Disconnect(r.ID)
					synctest.Wait()
				}
			}
			if n := d.open(t); n != 5 {
				t.Fatalf("%d connections, want 3 and 2: %q", n, states(cm))
			}
		}
		cm.NewConnReq()
		synctest.Wait()
		if n := d.open(t); n != 6 {
			t.Errorf("%d connections after NewConnReq, want 6", n)
		}
		stopped(t, cm, &d)
	})
}

// A TCP accept alone is no success; in btcd OnDisconnection may even come first.
func TestRegressionConnectedComesBeforeDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d dialer
		var cm *ConnManager
		var out atomic.Int64
		cm = newManager(t, Config{
			Dial: d.dial, TargetOutbound: 4, GetNewAddress: addresses(),
			OnConnection: func(r *ConnReq, c net.Conn) {
				cm.Disconnect(r.ID()) // from a callback
				time.Sleep(time.Second)
				if n := out.Add(1); n < 0 {
					t.Errorf("%v: balance %d", r, n)
				}
			},
			OnDisconnection: func(r *ConnReq) {
				if n := out.Add(-1); n < 0 {
					t.Errorf("%v disconnected before it was connected", r)
				}
			},
		})
		cm.Start()
		time.Sleep(10 * time.Second)
		stopped(t, cm, &d)
	})
}

// btcd writes Addr while others may read it; run with -race.
func TestRegressionAddrIsReadWithoutRace(t *testing.T) {
	var d dialer
	connected := make(chan string, 100)
	cm := newManager(t, Config{
		Dial: d.dial, TargetOutbound: 50, GetNewAddress: addresses(),
		OnConnection: func(r *ConnReq, _ net.Conn) { connected <- r.Addr.String() + r.String() },
	})
	cm.Start()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 100 {
			for _, r := range cm.Inspect().Connections {
				_ = r.Target
			}
			_ = states(cm)
		}
	}()
	for range 50 {
		<-connected
	}
	<-done
	stopped(t, cm, &d)
}

func TestRemoveCancelsADial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancelled := make(chan error, 1)
		cm := newManager(t, Config{DialContext: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
			<-ctx.Done()
			cancelled <- context.Cause(ctx)
			return nil, ctx.Err()
		}})
		cm.Start()
		req := &ConnReq{Addr: peerName("alice"), Permanent: true}
		cm.Connect(req)
		synctest.Wait()
		if req.ID() == 0 || req.State() != ConnPending {
			t.Errorf("id %d, %v", req.ID(), req.State())
		}
		cm.Remove(req.ID())
		if req.State() != ConnCanceled {
			t.Errorf("after Remove: %v", req.State())
		}
		if err := <-cancelled; !errors.Is(err, ErrDropped) {
			t.Errorf("the dial ended with %v", err)
		}
		cm.Connect(req) // refused: it was cancelled
		if len(states(cm)) != 0 {
			t.Errorf("%q", states(cm))
		}

		// And the timeout of a dial that hangs.
		slow := &ConnReq{Addr: peerName("bob")}
		cm.Connect(slow)
		time.Sleep(defaultDialTimeout + time.Second)
		<-cancelled
		if r := cm.Inspect().Requests; len(r) != 1 || r[0].State != ConnFailing || !errors.Is(r[0].Cause, context.DeadlineExceeded) {
			t.Errorf("%+v", r)
		}
		stopped(t, cm, nil)
	})
}

// btcd's Dial takes as long as it likes; nothing else may wait for it, and what
// comes of it after Remove is closed without a word.
func TestADialThatCannotBeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d dialer
		release := make(chan struct{})
		var announced atomic.Int32
		cm := newManager(t, Config{
			Dial: func(a net.Addr) (net.Conn, error) {
				if a.String() == "slow" {
					<-release
				}
				return d.dial(a)
			},
			OnConnection: func(r *ConnReq, _ net.Conn) { announced.Add(1) },
		})
		cm.Start()
		slow := &ConnReq{Addr: peerName("slow")}
		cm.Connect(slow)
		time.Sleep(24 * time.Hour) // no timeout of ours
		if slow.State() != ConnPending {
			t.Errorf("%v after a day", slow.State())
		}
		cm.Remove(slow.ID())
		quick := &ConnReq{Addr: peerName("quick")}
		cm.Connect(quick)
		synctest.Wait()
		if slow.State() != ConnCanceled || quick.State() != ConnEstablished {
			t.Errorf("%v, %v", slow.State(), quick.State())
		}
		close(release)
		synctest.Wait()
		if announced.Load() != 1 || d.open(t) != 1 || d.count() != 2 {
			t.Errorf("%d announced, %d open of %d", announced.Load(), d.open(t), d.count())
		}
		stopped(t, cm, &d)
	})
}

// The address source is the caller's: it blocks and fails as it likes, and
// nothing that others call waits for it.
func TestAnAddressSourceThatHangsAndFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d dialer
		var asked atomic.Int32
		release := make(chan struct{})
		var cm *ConnManager
		cm = newManager(t, Config{Dial: d.dial, TargetOutbound: 2, GetNewAddress: func() (net.Addr, error) {
			cm.Inspect() // no lock is held
			switch asked.Add(1) {
			case 1:
				<-release
			case 2:
				return nil, errNoAnswer
			case 3:
				return nil, nil
			}
			return peerName("late"), nil
		}})
		cm.Start()
		synctest.Wait()
		req := &ConnReq{Addr: peerName("alice")}
		cm.Connect(req)
		synctest.Wait()
		if req.State() != ConnEstablished || d.count() != 2 || asked.Load() != 4 {
			t.Errorf("%v, %d dials, %d asked: %q", req.State(), d.count(), asked.Load(), states(cm))
		}
		cm.Stop()
		waited := make(chan struct{})
		go func() { cm.Wait(); close(waited) }()
		synctest.Wait()
		select {
		case <-waited:
			t.Error("Wait returned while the source was being asked")
		default:
		}
		close(release)
		<-waited
		if d.count() != 2 {
			t.Error("dialled after Stop")
		}
	})
}

// btcd's own use of it: the peer closes its connection, and then the server
// says that it should be dialled once more.
func TestTriggerReconnect(t *testing.T) {
	for _, closedFirst := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var d dialer
			conns := make(chan net.Conn, 10)
			cm := newManager(t, Config{Dial: d.dial, OnConnection: func(_ *ConnReq, c net.Conn) { conns <- c }})
			cm.Start()
			req := &ConnReq{Addr: peerName("alice")}
			cm.Connect(req)
			c := <-conns
			time.Sleep(time.Minute)
			if closedFirst {
				c.Close()
			}
			cm.Disconnect(req.ID(), WithTriggerReconnect())
			synctest.Wait()
			if req.State() != ConnPending || req.ID() != 1 {
				t.Errorf("id %d, %v", req.ID(), req.State())
			}
			time.Sleep(defaultRetry)
			<-conns
			cm.Disconnect(req.ID())
			time.Sleep(time.Hour)
			if req.State() != ConnDisconnected || d.count() != 2 {
				t.Errorf("%v after %d dials", req.State(), d.count())
			}
			stopped(t, cm, &d)
		})
	}
}

func TestDialNowAndResetBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		cm := newManager(t, Config{RetryDuration: time.Hour, MaxRetryDuration: 24 * time.Hour, Dial: func(net.Addr) (net.Conn, error) {
			dials.Add(1)
			return nil, errNoAnswer
		}})
		req := &ConnReq{Addr: peerName("alice"), Permanent: true}
		cm.Connect(req)
		cm.Start()
		expect := func(what string, n int32) {
			t.Helper()
			synctest.Wait()
			if dials.Load() != n {
				t.Errorf("%s: %d dials, want %d", what, dials.Load(), n)
			}
		}
		expect("Start", 1)
		cm.Connect(req)
		expect("Connect again", 2)
		if !cm.DialNow(req.ID()) || cm.DialNow(77) {
			t.Error("DialNow does not know what is listed")
		}
		expect("DialNow", 3)
		cm.ResetBackoff()
		expect("ResetBackoff", 4)
		if r := cm.Inspect().Requests[0]; r.Retries != 1 || time.Until(r.Next) != time.Hour {
			t.Errorf("%+v", r)
		}
		stopped(t, cm, nil)
	})
}

func TestAnchorsAndFeelers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d dialer
		var mu sync.Mutex
		var order []Kind
		feelers := 0
		cm := newManager(t, Config{
			Dial: d.dial, MaxDials: 1, TargetOutbound: 1, GetNewAddress: addresses(),
			Anchors:          []net.Addr{peerName("old1"), peerName("old2")},
			FeelerInterval:   2 * time.Minute,
			GetFeelerAddress: func() (net.Addr, error) { return peerName("untested"), nil },
			OnConnection: func(r *ConnReq, c net.Conn) {
				mu.Lock()
				defer mu.Unlock()
				if order = append(order, r.Kind()); r.Kind() == KindFeeler {
					feelers++
					if r.Addr.String() != "untested" {
						t.Errorf("a feeler to %v", r.Addr)
					}
				}
			},
		})
		cm.Connect(&ConnReq{Addr: peerName("alice"), Permanent: true})
		cm.Start()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		want := []Kind{KindAnchor, KindAnchor, KindPermanent, KindAutomatic, KindFeeler}
		if !slices.Equal(order[:5], want) {
			t.Errorf("%v, want %v", order[:5], want)
		}
		if feelers < 40 || feelers > 120 {
			t.Errorf("%d feelers in two hours, want about 60", feelers)
		}
		if n := d.open(t); n != 4 {
			t.Errorf("%d connections, want 4: %q", n, states(cm))
		}
		stopped(t, cm, &d)
	})
}

func TestInboundLimits(t *testing.T) {
	number := func(n uint32) *uint32 { return &n }
	for _, c := range []struct {
		name  string
		limit *uint32
		came  int // of ten
	}{{"none said", nil, 10}, {"zero", number(0), 0}, {"three", number(3), 3}} {
		cm := newManager(t, Config{Dial: new(dialer).dial, MaxInbound: c.limit})
		var wg sync.WaitGroup
		var mu sync.Mutex
		var in []net.Conn
		for i := range 10 {
			wg.Go(func() {
				if conn, ok := cm.Admit(newPipe(&net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(i)), Port: 1})); ok {
					mu.Lock()
					in = append(in, conn)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		s := cm.Inspect()
		if len(in) != c.came || s.InboundActive != c.came || s.InboundRejected != uint64(10-c.came) {
			t.Errorf("%s: %d came in; %d active, %d rejected", c.name, len(in), s.InboundActive, s.InboundRejected)
		}
		for _, conn := range in {
			for range 2 {
				if err := conn.Close(); err != nil {
					t.Errorf("%s: Close: %v", c.name, err)
				}
			}
		}
		if n := cm.Inspect().InboundActive; n != 0 {
			t.Errorf("%s: %d active after all closed", c.name, n)
		}
		stopped(t, cm, nil)
	}
}

func TestAccepting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	one := uint32(1)
	accepted := make(chan net.Conn)
	cm := newManager(t, Config{
		Dial: new(dialer).dial, Listeners: []net.Listener{l}, MaxInbound: &one,
		OnAccept: func(c net.Conn) { accepted <- c },
	})
	cm.Start()
	defer stopped(t, cm, nil)
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for range 3 {
		a := dial()
		c := <-accepted
		b := dial()
		if _, err := b.Read(make([]byte, 1)); err == nil {
			t.Error("a second connection was let in")
		}
		b.Close()
		if _, ok := c.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn); !ok {
			t.Errorf("NetConn is a %T", c.(interface{ NetConn() net.Conn }).NetConn())
		}
		if c.RemoteAddr().String() != a.LocalAddr().String() {
			t.Errorf("from %v, want %v", c.RemoteAddr(), a.LocalAddr())
		}
		c.Close()
		a.Close()
	}
	if s := cm.Inspect(); s.InboundRejected != 3 || s.InboundActive != 0 {
		t.Errorf("%d rejected, %d active", s.InboundRejected, s.InboundActive)
	}
	p := newPipe(peerName("guest"))
	c, ok := cm.Admit(p)
	if !ok || c.(interface{ NetConn() net.Conn }).NetConn() != net.Conn(p) {
		t.Errorf("admitted: %v, %v", c, ok)
	}
}

// Limits of the engine's gate apply to what the table wants, too.
func TestLimitsAreTheEngines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d dialer
		cm := newManager(t, Config{Dial: d.dial, Limits: Limits{Outbound: Share{PerHost: 1}}})
		cm.Start()
		for i := range 2 {
			cm.Connect(&ConnReq{Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1000 + i}})
		}
		synctest.Wait()
		r := cm.Inspect().Requests
		var refusal *Refusal
		if r[0].State != ConnEstablished || r[1].State != ConnFailing || !errors.As(r[1].Cause, &refusal) || refusal.Rule != RuleHost {
			t.Errorf("%+v", r)
		}
		if d.count() != 1 {
			t.Errorf("%d dials: a refusal costs none", d.count())
		}
		stopped(t, cm, &d)
	})
}

// Who goes when the house is full is the least useful.
func TestAFullHouseEvicts(t *testing.T) {
	cm := newManager(t, Config{Dial: new(dialer).dial, Limits: Limits{Inbound: Share{Total: 20}, Evict: true}})
	for i := range 30 {
		cm.Admit(newPipe(&net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(i)), Port: 1}))
	}
	if s := cm.Inspect(); s.InboundActive != 20 || s.Counters.Evicted == 0 {
		t.Errorf("%d active, %d evicted", s.InboundActive, s.Counters.Evicted)
	}
	stopped(t, cm, nil)
}

func TestRunAndStopFromElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cm := newManager(t, Config{Dial: new(dialer).dial})
		errs := make(chan error)
		for range 2 { // also twice
			go func() { errs <- cm.Run(t.Context()) }()
		}
		synctest.Wait()
		cm.Stop()
		for range 2 {
			if err := <-errs; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	})
}

func TestIPOf(t *testing.T) {
	for _, c := range []struct {
		addr net.Addr
		want string
	}{
		{nil, "invalid IP"},
		{&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1).To4(), Port: 1}, "192.0.2.1"},
		{&net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1}, "2001:db8::1"},
		{(*net.TCPAddr)(nil), "invalid IP"},
		{peerName("192.0.2.7:8333"), "192.0.2.7"},
		{peerName("192.0.2.8"), "192.0.2.8"},
		{peerName("alice"), "invalid IP"},
		{&net.UnixAddr{Name: "/run/x"}, "invalid IP"},
	} {
		got := ipOf(c.addr)
		if got.IsValid() {
			got = got.Unmap()
		}
		if got.String() != c.want {
			t.Errorf("%v: %v, want %s", c.addr, got, c.want)
		}
	}
}

func TestStatesHaveNames(t *testing.T) {
	for s, want := range map[ConnState]string{ConnPending: "pending", ConnDisconnected: "disconnected", 9: "state 9"} {
		if s.String() != want {
			t.Errorf("%d is %q, want %q", uint8(s), s.String(), want)
		}
	}
	req := &ConnReq{Permanent: true}
	if req.String() != "reqid 0" || req.Kind() != KindPermanent || req.State() != ConnPending || req.ID() != 0 {
		t.Errorf("%v, %v, %v", req, req.Kind(), req.State())
	}
}
