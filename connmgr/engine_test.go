package connmgr

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every fault of a configuration is named, at once.
func TestNewEngineNamesEveryFault(t *testing.T) {
	var none EngineConfig[string, *fakeConn]
	if _, err := NewEngine(none); !errors.Is(err, ErrDialNil) || !errors.Is(err, ErrPolicyNil) {
		t.Errorf("of nothing: %v", err)
	}
	good := func() EngineConfig[string, *fakeConn] {
		return EngineConfig[string, *fakeConn]{
			Policy: &fakePolicy{}, Dial: func(context.Context, string) (*fakeConn, error) { return nil, nil },
			RemoteIP: func(*fakeConn) netip.Addr { return netip.Addr{} }, Identify: func(*fakeConn) string { return "" },
		}
	}
	for field, spoil := range map[string]func(*EngineConfig[string, *fakeConn]){
		"Accept":                    func(c *EngineConfig[string, *fakeConn]) { c.Accept = make([]func() (*fakeConn, error), 1) },
		"DialTimeout":               func(c *EngineConfig[string, *fakeConn]) { c.DialTimeout = -1 },
		"EstablishTimeout":          func(c *EngineConfig[string, *fakeConn]) { c.EstablishTimeout = -1 },
		"MaxDials":                  func(c *EngineConfig[string, *fakeConn]) { c.MaxDials = -1 },
		"Limits.Total":              func(c *EngineConfig[string, *fakeConn]) { c.Limits.Total = -2 },
		"Limits.Inbound.Total":      func(c *EngineConfig[string, *fakeConn]) { c.Limits.Inbound.Total = math.MinInt },
		"Limits.Inbound.PerHost":    func(c *EngineConfig[string, *fakeConn]) { c.Limits.Inbound.PerHost = -2 },
		"Limits.Inbound.PerPrefix":  func(c *EngineConfig[string, *fakeConn]) { c.Limits.Inbound.PerPrefix = -2 },
		"Limits.Inbound.PerGroup":   func(c *EngineConfig[string, *fakeConn]) { c.Limits.Inbound.PerGroup = -2 },
		"Limits.Outbound.Total":     func(c *EngineConfig[string, *fakeConn]) { c.Limits.Outbound.Total = -2 },
		"Limits.Outbound.PerHost":   func(c *EngineConfig[string, *fakeConn]) { c.Limits.Outbound.PerHost = -2 },
		"Limits.Outbound.PerPrefix": func(c *EngineConfig[string, *fakeConn]) { c.Limits.Outbound.PerPrefix = -2 },
		"Limits.Outbound.PerGroup":  func(c *EngineConfig[string, *fakeConn]) { c.Limits.Outbound.PerGroup = -2 },
		"Limits.Pending":            func(c *EngineConfig[string, *fakeConn]) { c.Limits.Pending = -2 },
		"Limits.PendingPerHost":     func(c *EngineConfig[string, *fakeConn]) { c.Limits.PendingPerHost = -2 },
		"Limits.Rate":               func(c *EngineConfig[string, *fakeConn]) { c.Limits.Rate = math.NaN() },
		"Limits.Burst":              func(c *EngineConfig[string, *fakeConn]) { c.Limits.Burst = -1 },
		"Limits.Sources":            func(c *EngineConfig[string, *fakeConn]) { c.Limits.Sources = math.MaxInt },
		"Limits.FloodRate":          func(c *EngineConfig[string, *fakeConn]) { c.Limits.FloodRate = -1 },
		"Limits.FloodMax":           func(c *EngineConfig[string, *fakeConn]) { c.Limits.FloodRate, c.Limits.FloodMax = 5, 5 },
		"RemoteIP": func(c *EngineConfig[string, *fakeConn]) {
			c.RemoteIP, c.Limits.Inbound.PerHost = nil, 1
			c.Limits.Outbound.PerGroup = 1
		},
		"Identify": func(c *EngineConfig[string, *fakeConn]) { c.Identify, c.Limits.RefuseDuplicates = nil, true },
	} {
		cfg := good()
		if _, err := NewEngine(cfg); err != nil {
			t.Fatal(err)
		}
		spoil(&cfg)
		_, err := NewEngine(cfg)
		fault, ok := errors.AsType[*ConfigError](err)
		if !ok || fault.Field != field || fault.Problem == "" {
			t.Errorf("%s: %v", field, err)
		}
	}
	bad := good()
	bad.Limits = Limits{Rate: math.Inf(1), Total: -9, FloodMax: -1}
	bad.MaxDials = -1
	_, err := NewEngine(bad)
	for _, field := range []string{"Limits.Rate", "Limits.Total", "Limits.FloodMax", "MaxDials"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%s is missing in: %v", field, err)
		}
	}
	huge := good()
	huge.Limits = Limits{Total: math.MaxInt, Inbound: Share{Total: math.MaxInt, PerHost: math.MaxInt}, Rate: math.MaxFloat64, Burst: math.MaxInt, FloodRate: math.MaxInt}
	huge.DialTimeout, huge.MaxDials = math.MaxInt64, math.MaxInt
	if _, err := NewEngine(huge); err != nil {
		t.Errorf("huge is not wrong: %v", err)
	}
	if g := newGate(huge.Limits); g.flood.full <= 0 || g.arrive(&permit{origin: originOf(netip.MustParseAddr("192.0.2.1"), AddressGroup)}, epoch, 0) != nil {
		t.Errorf("huge limits refuse: %+v", g.flood)
	}
	if err := DefaultLimits().Validate(); err != nil {
		t.Error(err)
	}
}

// A dial becomes a connection, is announced, closed, told to the policy, and
// announced again, in that order and once each.
func TestLifeOfAnOutboundConnection(t *testing.T) {
	bubble(t, func(r *rig) {
		r.p.onEnd = func(Dial[string], Outcome) {
			if h := r.history(); len(h) != 1 {
				r.t.Errorf("Ended after %q", h)
			}
		}
	}, func(r *rig) {
		r.p.dial("192.0.2.1")
		r.start()
		r.wait()
		c := r.conns()[0]
		if c.ID() != 1 || c.Direction() != Outbound || c.Kind() != KindManual || c.Dial().Tag != 1 || c.RemoteIP().String() != "192.0.2.1" ||
			c.Group() != "192.0.0.0/16" || c.Raw().isClosed() || c.Err() != nil || !c.Since().Equal(time.Now()) {
			t.Errorf("%v: %+v", c, r.e.Inspect().Connections)
		}
		time.Sleep(time.Minute)
		if err := c.CloseWith(errHungUp); err != nil {
			t.Error(err)
		}
		<-c.Done()
		r.wait()
		if err := c.Close(); err != nil || c.Err() != errHungUp {
			t.Errorf("second Close: %v, cause %v", err, c.Err())
		}
		ends := r.p.ends()
		if len(ends) != 1 || !ends[0].Established || ends[0].Lived != time.Minute || ends[0].Cause != errHungUp || ends[0].Tag != 1 || !ends[0].At.Equal(time.Now()) {
			t.Errorf("ended: %+v", ends)
		}
		want := []string{"up connection 1 (outbound, manual, 192.0.2.1)", "down connection 1 (outbound, manual, 192.0.2.1): hung up"}
		if !slices.Equal(r.history(), want) {
			t.Errorf("%q", r.history())
		}
		if n := c.Raw().closes.Load(); n != 1 {
			t.Errorf("closed %d times", n)
		}
		r.stop()
		if s := r.e.Inspect(); s.State != "ended" || s.Counters.Dialled != 1 || s.Counters.Established != 1 || s.Counters.Closed != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Connected may run the connection for all its life; Disconnected waits for it.
func TestConnectedMayBlock(t *testing.T) {
	bubble(t, func(r *rig) {
		connected := r.cfg.Connected
		r.cfg.Connected = func(c *Conn[string, *fakeConn]) {
			connected(c)
			<-c.Raw().closed
			time.Sleep(time.Second)
			r.mu.Lock()
			r.log = append(r.log, "ran "+c.String())
			r.mu.Unlock()
		}
	}, func(r *rig) {
		r.start()
		r.accept <- newFake("192.0.2.1", "")
		r.wait()
		c := r.conns()[0]
		c.Close()
		select {
		case <-c.Done():
		default:
			t.Error("Close does not wait for Connected, Done is closed")
		}
		r.stop()
		want := []string{"up", "ran", "down"}
		for i, h := range r.history() {
			if !strings.HasPrefix(h, want[i]) {
				t.Errorf("%d: %q", i, h)
			}
		}
	})
}

// Stopping cancels, closes and waits; nothing runs afterwards.
func TestStop(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.Dial = func(ctx context.Context, target string) (*fakeConn, error) {
			if target == "hangs" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return newFake(target, ""), nil
		}
		r.cfg.Establish = func(ctx context.Context, c *fakeConn, info EstablishInfo[string]) error {
			if c.id == "mute" {
				<-c.closed // a read that only closing ends
				return io.ErrUnexpectedEOF
			}
			return nil
		}
	}, func(r *rig) {
		r.p.dial("192.0.2.1", "hangs")
		r.start()
		mute, talks := newFake("192.0.2.2", "mute"), newFake("192.0.2.3", "")
		r.accept <- mute
		r.accept <- talks
		r.wait()
		s := r.e.Inspect()
		if len(s.Connections) != 2 || len(s.Dials) != 1 || s.Dials[0].Target != "hangs" || len(s.Handshakes) != 1 || s.Pending != 1 || s.State != "running" {
			t.Errorf("%+v", s)
		}
		r.stop()
		for _, e := range r.p.ends() {
			if e.Cause != ErrStopped {
				t.Errorf("%v: %v", e.Dial, e.Cause)
			}
		}
		if mute.closes.Load() != 1 || talks.closes.Load() != 1 {
			t.Error("left open, or closed twice")
		}
		if h := r.history(); len(h) != 4 {
			t.Errorf("%q", h)
		}
	})
}

// Every method means something before Run, while it stops, and after it.
func TestEveryMethodInEveryPhase(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		all := func(when string, connections int) {
			t.Helper()
			r.e.Wake()
			if n := r.e.Drop(func(Dial[string]) bool { return true }, nil); n != 0 {
				t.Errorf("%s: Drop %d", when, n)
			}
			if r.e.Close(99, nil) {
				t.Errorf("%s: Close of nothing", when)
			}
			if s := r.e.Inspect(); s.State != when || len(s.Connections) != connections {
				t.Errorf("%s: %+v", when, s)
			}
			if text := r.e.Explain(nil); text == "" {
				t.Errorf("%s: no explanation", when)
			}
		}
		all("new", 0)
		early, err := r.e.Admit(r.t.Context(), newFake("192.0.2.1", ""))
		if err != nil {
			r.t.Fatal(err)
		}
		r.wait()
		all("new", 1)
		events := r.e.Subscribe()
		r.start()
		r.wait()
		all("running", 1)
		if err := r.e.Run(r.t.Context()); err != ErrAlreadyRun {
			t.Errorf("second Run: %v", err)
		}
		r.stop()
		if early.Err() != ErrStopped {
			t.Errorf("admitted before Run: %v", early.Err())
		}
		all("ended", 0)
		if err := r.e.Run(r.t.Context()); err != ErrAlreadyRun {
			t.Errorf("Run after the end: %v", err)
		}
		late := newFake("192.0.2.2", "")
		if _, err := r.e.Admit(r.t.Context(), late); err != ErrStopped || !late.isClosed() {
			t.Errorf("Admit after the end: %v, closed %v", err, late.isClosed())
		}
		if ev, err := events.Next(r.t.Context()); err != nil || ev.Type != EventDisconnected {
			t.Errorf("%+v, %v", ev, err)
		}
		if _, err := events.Next(r.t.Context()); err != io.EOF {
			t.Error(err)
		}
		if _, err := r.e.Subscribe().Next(r.t.Context()); err != io.EOF {
			t.Error(err)
		}
	})
}

// A Run whose context is over before it begins still stops what there is.
func TestRunWithAContextThatIsOver(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		r.p.dial("192.0.2.1")
		c, err := r.e.Admit(r.t.Context(), newFake("192.0.2.9", ""))
		if err != nil {
			r.t.Fatal(err)
		}
		r.start()
		r.cancel()
		r.stop()
		if c.Err() != ErrStopped {
			t.Error(c.Err())
		}
	})
}

// A callback that does not return holds Run up, and is named: after 5 s, 15 s,
// 35 s...
func TestRunNamesWhatItWaitsFor(t *testing.T) {
	var out bytes.Buffer
	bubble(t, func(r *rig) {
		r.cfg.Logger = slog.New(slog.NewTextHandler(&out, nil))
		release := make(chan struct{})
		time.AfterFunc(2*time.Minute, func() { close(release) })
		r.cfg.Connected = func(c *Conn[string, *fakeConn]) { <-release }
		r.cfg.Dial = func(context.Context, string) (*fakeConn, error) {
			<-release
			return newFake("192.0.2.9", ""), nil
		}
	}, func(r *rig) {
		r.p.dial("anywhere")
		r.start()
		r.wait() // so that it is number 1
		for range 15 {
			r.accept <- newFake("192.0.2.1", "")
		}
		r.wait()
		start := time.Now()
		r.cancel()
		r.wait()
		if s := r.e.Inspect(); s.State != "stopping" || len(s.Waiting) != 16 || !slices.Contains(s.Waiting, "connection 1 (outbound, manual) in Dial") {
			t.Errorf("%s: %q", s.State, s.Waiting)
		}
		r.stop()
		if took := time.Since(start); took != 2*time.Minute {
			t.Errorf("Run returned after %v", took)
		}
		text := out.String()
		for _, line := range []string{
			`callback="connection 1 (outbound, manual) in Dial" for=5s`, `callback="connection 10 (inbound, 192.0.2.1) in Connected" for=15s`,
			`for=35s`, `for=1m15s`, `msg="connmgr: Run waits for more" callbacks=6`,
		} {
			if !strings.Contains(text, line) {
				t.Errorf("%q is missing in:\n%s", line, text)
			}
		}
		if n := strings.Count(text, "\n"); n != 4*11 {
			t.Errorf("%d lines", n)
		}
		if s := r.e.Inspect(); s.Counters.Late != 1 {
			t.Errorf("%+v", s.Counters)
		}
	})
}

// Config.Stop that blocks is named too, and so is a policy.
func TestRunNamesStopAndPolicy(t *testing.T) {
	bubble(t, func(r *rig) {
		stop := r.cfg.Stop
		r.cfg.Stop = func() { time.Sleep(time.Minute); stop() }
		r.p.onEnd = func(Dial[string], Outcome) { time.Sleep(time.Minute) }
	}, func(r *rig) {
		r.p.dial("192.0.2.1")
		r.start()
		r.wait()
		r.p.onNext = func() { time.Sleep(time.Minute) }
		r.e.Wake()
		r.wait()
		r.cancel()
		r.wait()
		waiting := strings.Join(r.e.Inspect().Waiting, "\n")
		for _, what := range []string{"the engine in Stop", "the dial loop in Policy.Next", "connection 1 (outbound, manual, 192.0.2.1) in Policy.Ended", "an accept loop in Accept"} {
			if !strings.Contains(waiting, what) {
				t.Errorf("%q is missing in %s", what, waiting)
			}
		}
		r.stop()
	})
}

// Callbacks may call whatever they like.
func TestCallbacksMayCallTheEngine(t *testing.T) {
	bubble(t, func(r *rig) {
		r.p.onEnd = func(d Dial[string], _ Outcome) {
			r.e.Drop(nil, nil)
			r.e.Wake()
			r.e.Inspect()
			for _, c := range r.conns() {
				c.Close()
			}
		}
		r.p.onNext = func() { r.e.Inspect(); r.e.Wake() }
		r.cfg.Connected = func(c *Conn[string, *fakeConn]) { c.Close(); r.e.Inspect(); r.e.Close(c.ID(), nil) }
		r.cfg.Disconnected = func(c *Conn[string, *fakeConn], _ error) { c.Close(); r.e.Drop(nil, nil) }
		r.cfg.Admit = func(*fakeConn, EstablishInfo[string]) error { r.e.Inspect(); return nil }
		r.cfg.Now = time.Now
		r.cfg.Group = func(ip netip.Addr) string { return "all" }
	}, func(r *rig) {
		r.p.dial("192.0.2.1", "192.0.2.2", "192.0.2.3")
		// onNext wakes again and again: that must not spin for ever, so once.
		var once bool
		r.p.onNext = func() {
			if !once {
				once = true
				r.e.Inspect()
				r.e.Wake()
			}
		}
		r.start()
		r.accept <- newFake("192.0.2.4", "")
		r.wait()
		r.stop()
		if n := len(r.p.ends()); n != 3 {
			t.Errorf("%d ended", n)
		}
	})
}

// A connection's Close that blocks delays neither the others nor the counts of
// others.
func TestSlowCloseDelaysOnlyItself(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		r.start()
		slow, quick := newFake("192.0.2.1", ""), newFake("192.0.2.2", "")
		slow.slow = func() { time.Sleep(time.Hour) }
		r.accept <- slow
		r.accept <- quick
		r.wait()
		start := time.Now()
		r.cancel()
		r.wait()
		if !quick.isClosed() || !slow.isClosed() || time.Since(start) != 0 {
			t.Error("not closed at once")
		}
		if w := r.e.Inspect().Waiting; len(w) != 1 || !strings.Contains(w[0], "in the connection's Close") {
			t.Errorf("%q", w)
		}
		r.stop()
		if took := time.Since(start); took != time.Hour {
			t.Errorf("Run returned after %v, before the last Close", took)
		}
	})
}
