package connmgr

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// dialsHang makes every dial wait for its context.
func dialsHang(r *rig) {
	r.cfg.Dial = func(ctx context.Context, _ string) (*fakeConn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
}

// The policy is asked when it said, when it is woken, and not otherwise.
func TestPolicyIsAskedWhenItSaid(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		asked := func() int {
			r.wait()
			return r.p.asks()
		}
		r.p.wake = time.Now().Add(time.Minute)
		r.start()
		time.Sleep(59 * time.Second)
		if n := asked(); n != 1 {
			t.Errorf("asked %d times before the time", n)
		}
		r.p.mu.Lock()
		r.p.wake = time.Time{}
		r.p.mu.Unlock()
		time.Sleep(2 * time.Second)
		if n := asked(); n != 2 {
			t.Errorf("asked %d times at the time", n)
		}
		time.Sleep(24 * time.Hour)
		if n := asked(); n != 2 {
			t.Errorf("asked %d times in a day without a time", n)
		}
		r.e.Wake()
		r.e.Wake()
		if n := asked(); n < 3 || n > 4 {
			t.Errorf("asked %d times after two wake-ups", n)
		}
		r.stop()
	})
}

// A time in the past does not make the loop spin.
func TestPolicyWithATimeInThePast(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		r.p.wake = time.Now().Add(-time.Hour)
		r.start()
		time.Sleep(time.Second)
		r.wait()
		if n := r.p.asks(); n > 1001 {
			t.Errorf("asked %d times in a second", n)
		}
		r.stop()
	})
}

// At most MaxDials at a time; the next begins when one ends.
func TestMaxDials(t *testing.T) {
	bubble(t, func(r *rig) {
		dialsHang(r)
		r.cfg.MaxDials, r.cfg.DialTimeout = 3, time.Second
	}, func(r *rig) {
		r.p.dial("a", "b", "c", "d", "e")
		r.start()
		r.wait()
		if n := len(r.e.Inspect().Dials); n != 3 || r.p.asks() != 3 {
			t.Errorf("%d dials, asked %d times", n, r.p.asks())
		}
		time.Sleep(1500 * time.Millisecond)
		r.wait()
		if n := len(r.e.Inspect().Dials); n != 2 {
			t.Errorf("%d dials", n)
		}
		time.Sleep(time.Second)
		r.wait()
		ends := r.p.ends()
		for _, e := range ends {
			if e.Established || !errors.Is(e.Cause, context.DeadlineExceeded) || e.Lived != 0 {
				t.Errorf("%+v", e)
			}
		}
		if len(ends) != 5 {
			t.Errorf("%d ended", len(ends))
		}
		r.stop()
	})
}

// A handshake of an outbound connection is one of MaxDials, an established
// connection is not.
func TestHandshakesAreDials(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.MaxDials, r.cfg.EstablishTimeout = 1, time.Second
		r.cfg.Establish = func(ctx context.Context, c *fakeConn, i EstablishInfo[string]) error {
			if i.Dial.Tag == 1 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
	}, func(r *rig) {
		r.p.dial("192.0.2.1", "192.0.2.2", "192.0.2.3")
		r.start()
		r.wait()
		if s := r.e.Inspect(); len(s.Dials) != 1 || s.Dials[0].Target != "192.0.2.2" || s.Dials[0].IP.String() != "192.0.2.2" || s.Outbound != 2 {
			t.Errorf("%+v", s)
		}
		r.stop()
	})
}

// While Limits.Outbound or Total leave no place the policy is not asked; it is
// when one is free.
func TestPolicyIsNotAskedWithoutAPlace(t *testing.T) {
	bubble(t, func(r *rig) { r.cfg.Limits = Limits{Total: 2, Outbound: Share{Total: 2}} }, func(r *rig) {
		r.p.dial("192.0.2.1", "192.0.2.2", "192.0.2.3")
		r.start()
		r.wait()
		if r.p.asks() != 2 || len(r.conns()) != 2 {
			t.Errorf("asked %d times, %d connections", r.p.asks(), len(r.conns()))
		}
		r.conns()[0].Close()
		r.wait()
		if len(r.conns()) != 3 || r.e.Inspect().Outbound != 2 {
			t.Errorf("%d connections", len(r.conns()))
		}
		r.stop()
	})
}

// A dial that the gate refuses is ended with the refusal; Dial is not called.
func TestGateRefusesDials(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.Limits = Limits{Outbound: Share{PerHost: 1}}
		r.cfg.TargetIP = func(target string) netip.Addr {
			ip, _ := netip.ParseAddr(target)
			return ip
		}
		dial := r.cfg.Dial
		r.cfg.Dial = func(ctx context.Context, target string) (*fakeConn, error) {
			if target == "name" {
				target = "192.0.2.1" // known only now
			}
			return dial(ctx, target)
		}
	}, func(r *rig) {
		r.p.dial("192.0.2.1", "192.0.2.1", "name", "192.0.2.2")
		r.start()
		r.wait()
		if len(r.conns()) != 2 || len(r.p.ends()) != 2 {
			r.t.Fatalf("%d connections, %d ended", len(r.conns()), len(r.p.ends()))
		}
		for _, e := range r.p.ends() {
			refusal, ok := errors.AsType[*Refusal](e.Cause)
			if !ok || refusal.Rule != RuleHost || !errors.Is(e.Cause, ErrRefused) || e.Established || r.e.Explain(refusal) == "" {
				t.Errorf("%+v", e)
			}
		}
		if s := r.e.Inspect(); s.Refused[RuleHost] != 2 || s.Counters.Dialled != 3 || s.Counters.DialsFailed != 2 || s.InboundRejected != 0 {
			t.Errorf("%+v", s)
		}
		r.stop()
	})
}

// Drop ends what matches, in whatever phase it is, with the cause.
func TestDrop(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.Dial = func(ctx context.Context, target string) (*fakeConn, error) {
			if target == "hangs" {
				<-ctx.Done()
				return nil, errors.New("cancelled")
			}
			return newFake(target, ""), nil
		}
		r.cfg.Establish = func(ctx context.Context, c *fakeConn, i EstablishInfo[string]) error {
			if c.ip.String() == "192.0.2.2" {
				<-c.closed
				return errors.New("closed under the handshake")
			}
			return nil
		}
	}, func(r *rig) {
		r.p.dial("hangs", "192.0.2.2", "192.0.2.3", "192.0.2.4")
		r.start()
		r.wait()
		r.accept <- newFake("192.0.2.9", "")
		r.wait()
		if n := r.e.Drop(func(d Dial[string]) bool { return d.Tag <= 3 }, errHungUp); n != 3 {
			t.Errorf("dropped %d", n)
		}
		r.wait()
		ends := r.p.ends()
		if len(ends) != 3 {
			r.t.Fatalf("%d ended", len(ends))
		}
		for _, e := range ends {
			if e.Cause != errHungUp || e.Established != (e.Tag == 3) || e.Tag > 3 {
				t.Errorf("%+v", e)
			}
		}
		if n := r.e.Drop(nil, nil); n != 1 {
			t.Errorf("dropped %d of the rest", n)
		}
		r.wait()
		if e := r.p.ends()[3]; e.Cause != ErrDropped {
			t.Errorf("%+v", e)
		}
		if s := r.e.Inspect(); len(s.Connections) != 1 || s.Connections[0].Direction != Inbound {
			t.Errorf("the inbound one is gone: %+v", s.Connections)
		}
		r.stop()
	})
}

// A dial that the policy named, but that has not begun when Drop is called, is
// dropped all the same.
func TestDropWhileThePolicyIsNaming(t *testing.T) {
	bubble(t, func(r *rig) { dialsHang(r) }, func(r *rig) {
		r.p.dial("a")
		r.p.onNext = func() {
			r.p.onNext = nil
			if n := r.e.Drop(func(d Dial[string]) bool { return d.Target == "a" }, errHungUp); n != 0 {
				t.Errorf("dropped %d", n)
			}
		}
		r.start()
		r.wait()
		if ends := r.p.ends(); len(ends) != 1 || ends[0].Cause != errHungUp {
			t.Errorf("%+v", ends)
		}
		// The order is over with the answer, also if that was nobody: the next
		// one is not dropped.
		r.p.onNext = func() {
			r.p.onNext = nil
			r.e.Drop(nil, errHungUp)
		}
		r.e.Wake()
		r.wait()
		r.p.dial("a")
		r.e.Wake()
		r.wait()
		if n := len(r.e.Inspect().Dials); n != 1 {
			t.Errorf("%d dials", n)
		}
		r.stop()
	})
}

// Close by number reaches dials, handshakes and connections.
func TestCloseByNumber(t *testing.T) {
	bubble(t, func(r *rig) { dialsHang(r) }, func(r *rig) {
		r.p.dial("a")
		r.start()
		r.wait()
		r.accept <- newFake("192.0.2.9", "")
		r.wait()
		for _, id := range []uint64{1, 2} {
			if !r.e.Close(id, errHungUp) {
				t.Errorf("%d is not there", id)
			}
			r.wait()
			if r.e.Close(id, errHungUp) {
				t.Errorf("%d is still there", id)
			}
		}
		if e := r.p.ends(); len(e) != 1 || e[0].Cause != errHungUp {
			t.Errorf("%+v", e)
		}
		if c := r.conns()[0]; c.Err() != errHungUp {
			t.Errorf("%v", c.Err())
		}
		r.stop()
	})
}

// A Dial that does not mind its context is over for the policy all the same,
// at once; its place among the dials is not free before it returns, and what it
// brings then is closed.
func TestDialThatCannotBeCancelled(t *testing.T) {
	late := newFake("192.0.2.1", "")
	bubble(t, func(r *rig) {
		r.cfg.MaxDials, r.cfg.DialTimeout = 2, 10*time.Second
		r.cfg.Dial = func(ctx context.Context, target string) (*fakeConn, error) {
			time.Sleep(time.Minute)
			if target == "late" {
				late.closed = make(chan struct{}) // of this bubble
				return late, nil
			}
			return nil, errors.New("no answer")
		}
	}, func(r *rig) {
		r.p.dial("late", "fails", "waits")
		r.start()
		time.Sleep(time.Second)
		r.e.Drop(func(d Dial[string]) bool { return d.Target == "late" }, nil)
		r.wait()
		if ends := r.p.ends(); len(ends) != 1 || ends[0].Cause != ErrDropped {
			t.Errorf("%+v", ends)
		}
		time.Sleep(20 * time.Second)
		r.wait()
		if ends := r.p.ends(); len(ends) != 2 || !errors.Is(ends[1].Cause, context.DeadlineExceeded) || ends[1].At.Sub(ends[0].At) != 9*time.Second {
			t.Errorf("%+v", ends)
		}
		if s := r.e.Inspect(); s.Hung != 2 || len(s.Dials) != 0 || s.Outbound != 0 || s.Counters.Dialled != 2 {
			t.Errorf("%+v", s)
		}
		time.Sleep(40 * time.Second)
		r.wait()
		if s := r.e.Inspect(); s.Hung != 0 || len(s.Dials) != 1 || s.Counters.Late != 1 {
			t.Errorf("%+v", s)
		}
		if late.closes.Load() != 1 || len(r.conns()) != 0 {
			t.Error("what came late was kept")
		}
		r.stop()
	})
}

// Neither a connection nor an error is an error.
func TestDialThatReturnsNothing(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.Dial = func(context.Context, string) (*fakeConn, error) { return nil, nil }
	}, func(r *rig) {
		r.p.dial("a")
		r.start()
		r.wait()
		if e := r.p.ends(); len(e) != 1 || e[0].Cause != ErrNoConnection {
			t.Errorf("%+v", e)
		}
		r.stop()
	})
}

// Without callbacks there is still a life.
func TestWithoutCallbacks(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.Connected, r.cfg.Disconnected, r.cfg.Identify, r.cfg.RemoteIP, r.cfg.Stop = nil, nil, nil, nil, nil
		r.cfg.Accept = nil
	}, func(r *rig) {
		r.p.dial("192.0.2.1", "192.0.2.2")
		r.start()
		r.wait()
		s := r.e.Inspect()
		if len(s.Connections) != 2 || s.Connections[0].IP.IsValid() || s.Connections[0].Target != "192.0.2.1" {
			t.Errorf("%+v", s)
		}
		r.e.Close(1, nil)
		r.wait()
		r.stop()
		causes := []error{r.p.ends()[0].Cause, r.p.ends()[1].Cause}
		if !slices.Equal(causes, []error{ErrDropped, ErrStopped}) {
			t.Error(causes)
		}
	})
}
