package connmgr

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The faults of other connection managers that live in an engine. A failing
// listener that is called without end, and a Run that never returns because
// there is no handler, are in accept_test.go.

// tcpConfig makes an engine over real sockets that dials addresses, without
// limits. The accepted connections are read until they end.
func tcpConfig(p Policy[string], l net.Listener) EngineConfig[string, net.Conn] {
	cfg := EngineConfig[string, net.Conn]{
		Policy: p,
		Dial: func(ctx context.Context, to string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", to)
		},
		RemoteIP: func(c net.Conn) netip.Addr {
			ip, _ := netip.ParseAddrPort(c.RemoteAddr().String())
			return ip.Addr()
		},
		Connected: func(c *Conn[string, net.Conn]) {
			io.Copy(io.Discard, c.Raw())
			c.CloseWith(io.EOF)
		},
	}
	if l != nil {
		cfg.Accept = []func() (net.Conn, error){l.Accept}
		cfg.Stop = func() { l.Close() }
	}
	return cfg
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

// eventually polls until the condition holds, for at most 20 s.
func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within 20 s: %s", what)
		}
	}
}

// When Run has returned, every socket is closed, whatever it was doing: the
// other ends see it, and nothing listens.
func TestRegressionSocketsAliveAfterStop(t *testing.T) {
	l, peers := listen(t), listen(t)
	p := &fakePolicy{}
	cfg := tcpConfig(p, l)
	cfg.Establish = func(ctx context.Context, c net.Conn, i EstablishInfo[string]) error {
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil || b[0] == 'u' { // u: up
			return err
		}
		_, err := io.ReadFull(c, b) // for ever
		return err
	}
	e, err := NewEngine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.dial(peers.Addr().String(), peers.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error)
	go func() { over <- e.Run(ctx) }()
	var others []net.Conn
	for i := range 4 {
		var c net.Conn
		if i < 2 {
			c, err = peers.Accept()
		} else {
			c, err = net.Dial("tcp", l.Addr().String())
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		others = append(others, c)
		c.Write([]byte("hu")[i%2 : i%2+1])
	}
	eventually(t, "two connections and two handshakes", func() bool {
		s := e.Inspect()
		return len(s.Connections) == 2 && len(s.Dials) == 1 && len(s.Handshakes) == 1
	})
	cancel()
	if err := <-over; err != nil {
		t.Fatal(err)
	}
	for i, c := range others {
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, err := c.Read(make([]byte, 1))
		if ne, ok := errors.AsType[net.Error](err); err == nil || ok && ne.Timeout() {
			t.Errorf("socket %d is alive: %v", i, err)
		}
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}

// A dial that comes back after the stop is closed, and Run waits for it.
func TestRegressionLateDialAfterStopLeaks(t *testing.T) {
	late := make(chan *fakeConn, 1)
	bubble(t, func(r *rig) {
		r.cfg.Dial = func(context.Context, string) (*fakeConn, error) {
			time.Sleep(time.Minute) // does not mind the context
			c := newFake("192.0.2.1", "")
			late <- c
			return c, nil
		}
	}, func(r *rig) {
		r.p.dial("a")
		r.start()
		r.wait()
		start := time.Now()
		r.stop()
		if took := time.Since(start); took != time.Minute {
			t.Errorf("Run returned after %v", took)
		}
		if c := <-late; c.closes.Load() != 1 || len(r.history()) != 0 {
			t.Error("a connection that nobody owns")
		}
		if e := r.p.ends(); e[0].Cause != ErrStopped || e[0].At != start {
			t.Errorf("%+v", e)
		}
	})
}

// A connection that is closed in the moment in which it is announced is
// announced up before it is announced down, always.
func TestRegressionDisconnectedBeforeConnected(t *testing.T) {
	var r2 *rig
	bubble(t, func(r *rig) {
		r2 = r
		r.cfg.Establish = func(_ context.Context, _ *fakeConn, i EstablishInfo[string]) error {
			go func() { // whoever is quicker
				for range 3 {
					r2.e.Close(i.ID, errHungUp)
					time.Sleep(time.Nanosecond)
				}
			}()
			time.Sleep(time.Duration(i.ID%3) * time.Nanosecond)
			return nil
		}
		r.cfg.Connected = func(c *Conn[string, *fakeConn]) {
			time.Sleep(time.Duration(c.ID()%5) * time.Nanosecond)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.log = append(r.log, "up "+c.String())
		}
	}, func(r *rig) {
		r.start()
		for range 1000 {
			r.accept <- newFake("192.0.2.1", "")
		}
		time.Sleep(time.Second)
		r.stop()
		up := map[string]bool{}
		for _, h := range r.history() {
			if who, ok := strings.CutPrefix(h, "up "); ok {
				up[who] = true
			} else if who, _, _ := strings.Cut(strings.TrimPrefix(h, "down "), ":"); !up[who] {
				t.Errorf("%s went down before it was up", who)
			}
		}
		if len(up) < 100 {
			t.Errorf("only %d came up: the test is empty", len(up))
		}
	})
}

// Counts are given back once, however often and from wherever a connection is
// closed: the next one finds exactly one place.
func TestRegressionDoubleCloseFreesTwoPlaces(t *testing.T) {
	bubble(t, func(r *rig) { r.cfg.Limits.Inbound.Total = 2 }, func(r *rig) {
		r.start()
		for range 2 {
			r.accept <- newFake("192.0.2.1", "")
		}
		r.wait()
		c := r.conns()[0]
		for range 5 {
			c.Close()
			r.e.Close(c.ID(), nil)
		}
		more := []*fakeConn{newFake("192.0.2.1", ""), newFake("192.0.2.1", "")}
		for _, m := range more {
			r.accept <- m
		}
		r.wait()
		if open := slices.DeleteFunc(more, (*fakeConn).isClosed); len(open) != 1 {
			t.Errorf("%d came in", len(open))
		}
		r.stop()
	})
}

// Bursts do not slip between check and count: 500 arrive at the same moment,
// by two listeners and by Admit, and exactly as many as there are places are up.
func TestRegressionBurstExceedsLimit(t *testing.T) {
	var up, most atomic.Int64
	p := &fakePolicy{}
	e, err := NewEngine(EngineConfig[string, *fakeConn]{
		Policy: p, Dial: func(context.Context, string) (*fakeConn, error) { return nil, errHungUp },
		RemoteIP: func(c *fakeConn) netip.Addr { return c.ip },
		Limits:   Limits{Total: 20, Inbound: Share{Total: 16, PerHost: 8}},
		Connected: func(c *Conn[string, *fakeConn]) {
			for n := up.Add(1); ; {
				if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var admitted atomic.Int64
	start := make(chan struct{})
	done := make(chan struct{})
	for i := range 500 {
		go func() {
			<-start
			if _, err := e.Admit(context.Background(), newFake([]string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}[i%3], "")); err == nil {
				admitted.Add(1)
			} else if !errors.Is(err, ErrRefused) {
				t.Error(err)
			}
			done <- struct{}{}
		}()
	}
	close(start)
	for range 500 {
		<-done
	}
	s := e.Inspect()
	if admitted.Load() != 16 || s.Inbound != 16 || s.InboundRejected != 484 {
		t.Errorf("%d admitted, %+v", admitted.Load(), s)
	}
	e.Drop(nil, nil)
	for _, c := range s.Connections {
		e.Close(c.ID, nil)
	}
	eventually(t, "all gone", func() bool { s := e.Inspect(); return s.Inbound == 0 && len(s.Connections) == 0 })
	if most.Load() > 16 {
		t.Errorf("%d up at a time", most.Load())
	}
}
