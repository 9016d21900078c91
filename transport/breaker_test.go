package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

var errDown = errors.New("it is down")

// clock is a clock that only tests move.
type clock struct{ now atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Unix(0, c.now.Load()) }
func (c *clock) advance(d time.Duration) { c.now.Add(int64(d)) }

// text is an address that is no multiaddr.
type text string

func (t text) String() string { return string(t) }

// Breakers of tests open at 3 failures for exactly 1 s, 2 s, 4 s, 8 s, 8 s..., and give a trial 20 s.
func testPanel(opts Options) (*Panel, *clock) {
	c := new(clock)
	c.advance(1000 * time.Hour)
	if opts.Threshold == 0 {
		opts.Threshold = 3
	}
	opts.Timeout, opts.Backoff, opts.MaxBackoff = 10*time.Second, time.Second, 8*time.Second
	opts.Now = c.Now
	if opts.Random == nil {
		opts.Random = func() float64 { return 0.5 }
	}
	return newPanel(opts.withDefaults()), c
}

func allow(t testing.TB, b *Breaker) func(error) {
	t.Helper()
	done, err := b.Allow()
	if err != nil || done == nil {
		t.Fatalf("Allow in state %v: done %v, %v", b.State(), done != nil, err)
	}
	return done
}

func refuse(t testing.TB, b *Breaker) *OpenError {
	t.Helper()
	done, err := b.Allow()
	open, ok := errors.AsType[*OpenError](err)
	if !ok || done != nil || !errors.Is(err, ErrBreakerOpen) {
		t.Fatalf("Allow in state %v: done %v, %v; want a refusal", b.State(), done != nil, err)
	}
	return open
}

func fail(t testing.TB, b *Breaker, times int) {
	t.Helper()
	for range times {
		allow(t, b)(errDown)
	}
}

// Each input in each situation: the whole state graph.
func TestEveryEdge(t *testing.T) {
	const trialTime = 20 * time.Second
	type situation struct {
		b    *Breaker
		c    *clock
		done func(error) // of an attempt that is under way
	}
	situations := map[string]func(*situation){
		"closed":           func(*situation) {},
		"closed, 2 failed": func(s *situation) { fail(t, s.b, 2) },
		"closed, attempt":  func(s *situation) { fail(t, s.b, 2); s.done = allow(t, s.b) },
		"open":             func(s *situation) { s.done = allow(t, s.b); fail(t, s.b, 3) },
		"ready":            func(s *situation) { fail(t, s.b, 3); s.c.advance(time.Second) },
		"trial":            func(s *situation) { fail(t, s.b, 3); s.c.advance(time.Second); s.done = allow(t, s.b) },
		"trial given up": func(s *situation) {
			fail(t, s.b, 3)
			s.c.advance(time.Second)
			s.done = allow(t, s.b)
			s.c.advance(trialTime)
		},
		"second trial": func(s *situation) {
			fail(t, s.b, 3)
			s.c.advance(time.Second)
			s.done = allow(t, s.b)
			s.c.advance(trialTime)
			allow(t, s.b)
		},
	}
	const no, yes = "refused", "allowed"
	for _, e := range []struct {
		in, input string
		want      State
		then      string // what Allow says after it
	}{
		{"closed", "allow", Closed, yes},
		{"closed", "trip", Open, no},
		{"closed", "reset", Closed, yes},
		{"closed", "wait", Closed, yes},
		{"closed, 2 failed", "fail", Open, no},
		{"closed, 2 failed", "succeed", Closed, yes},
		{"closed, 2 failed", "reset", Closed, yes},
		{"closed, attempt", "fail", Open, no},
		{"closed, attempt", "succeed", Closed, yes},
		{"closed, attempt", "cancel", Closed, yes},
		{"closed, attempt", "reset", Closed, yes},
		{"closed, attempt", "reset, fail", Closed, yes},
		{"closed, attempt", "trip, succeed", Open, no},
		{"open", "allow", Open, no},
		{"open", "fail", Open, no}, // the results of attempts from before
		{"open", "succeed", Open, no},
		{"open", "cancel", Open, no},
		{"open", "trip", Open, no},
		{"open", "reset", Closed, yes},
		{"open", "wait", HalfOpen, yes},
		{"ready", "allow", HalfOpen, no},
		{"ready", "trip", Open, no},
		{"ready", "reset", Closed, yes},
		{"trial", "allow", HalfOpen, no},
		{"trial", "succeed", Closed, yes},
		{"trial", "fail", Open, no},
		{"trial", "cancel", HalfOpen, yes},
		{"trial", "cancel, fail", HalfOpen, yes}, // done counts once
		{"trial", "fail, succeed", Open, no},
		{"trial", "succeed, fail", Closed, yes},
		{"trial", "trip", Open, no},
		{"trial", "trip, succeed", Open, no},
		{"trial", "reset", Closed, yes},
		{"trial", "reset, fail", Closed, yes},
		{"trial", "wait", HalfOpen, no},
		{"trial given up", "allow", HalfOpen, no}, // to the next
		{"trial given up", "succeed", Closed, yes},
		{"trial given up", "fail", Open, no},
		{"second trial", "fail", HalfOpen, no}, // the first one's result comes too late
		{"second trial", "succeed", HalfOpen, no},
	} {
		t.Run(e.in+"/"+e.input, func(t *testing.T) {
			p, c := testPanel(Options{})
			s := &situation{b: p.Lookup(text("x")), c: c}
			situations[e.in](s)
			inputs := map[string]func(){
				"allow":   func() { _, _ = s.b.Allow() },
				"succeed": func() { s.done(nil) },
				"fail":    func() { s.done(errDown) },
				"cancel":  func() { s.done(fmt.Errorf("dial: %w", context.Canceled)) },
				"trip":    s.b.Trip,
				"reset":   s.b.Reset,
				"wait":    func() { c.advance(time.Second) },
			}
			if s.done == nil {
				s.done = func(err error) { allow(t, s.b)(err) }
			}
			for input := range strings.SplitSeq(e.input, ", ") {
				inputs[input]()
			}
			if got := s.b.State(); got != e.want {
				t.Errorf("state %v, want %v", got, e.want)
			}
			then := yes
			if _, err := s.b.Allow(); err != nil {
				then = no
			}
			if then != e.then {
				t.Errorf("the next attempt is %s, want %s", then, e.then)
			}
		})
	}
}

func TestWaitGrowsAndIsForgotten(t *testing.T) {
	p, c := testPanel(Options{})
	b := p.Lookup(ma.StringCast("/ip4/127.0.0.1/tcp/1"))
	for round := range 2 {
		fail(t, b, 3)
		for i, want := range []time.Duration{1, 2, 4, 8, 8, 8} {
			want *= time.Second
			e := refuse(t, b)
			if e.Wait != want || !e.RetryAt.Equal(c.Now().Add(want)) || e.Trial || e.Name != "/ip4/127.0.0.1/tcp/1" {
				t.Fatalf("round %d, refusal %d: %+v, want a wait of %v", round, i, e, want)
			}
			c.advance(want - 1)
			refuse(t, b)
			c.advance(1) // RetryAt itself is not too early
			done := allow(t, b)
			if e := refuse(t, b); !e.Trial || e.Wait != 20*time.Second {
				t.Fatalf("during the trial: %+v", e)
			}
			if i < 5 {
				done(errDown)
			} else {
				done(nil)
			}
		}
		if s := b.State(); s != Closed {
			t.Fatalf("after a success: %v", s)
		}
	}
}

func TestWaitIsJittered(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	p, _ := testPanel(Options{Random: random.Float64})
	seen := map[time.Duration]bool{}
	for i := range 1000 {
		b := p.Lookup(text(strconv.Itoa(i)))
		b.Trip()
		w := refuse(t, b).Wait
		if w < 750*time.Millisecond || w > 1250*time.Millisecond {
			t.Fatalf("wait %v", w)
		}
		seen[w] = true
	}
	if len(seen) < 990 {
		t.Fatalf("only %d different waits", len(seen))
	}
}

func TestSuccessBetweenFailures(t *testing.T) {
	p, _ := testPanel(Options{})
	b := p.Lookup(text("x"))
	for range 10 {
		fail(t, b, 2)
		allow(t, b)(nil)
	}
	fail(t, b, 2)
	allow(t, b)(context.Canceled) // does not interrupt the row either
	if b.State() != Closed {
		t.Fatal("two in a row are not three")
	}
	fail(t, b, 1)
	if b.State() != Open {
		t.Fatal("three in a row")
	}
}

// A deadline is a failure, whoever set it: an address that swallows packets must be found out.
func TestWhatCountsAsFailure(t *testing.T) {
	for _, c := range []struct {
		err  error
		want State
	}{
		{nil, Closed},
		{context.Canceled, Closed},
		{fmt.Errorf("dial: %w", context.Canceled), Closed},
		{errors.Join(errDown, context.Canceled), Closed},
		{context.DeadlineExceeded, Open},
		{&timeoutError{time.Second}, Open},
		{errDown, Open},
		{&failure{context.Canceled}, Open},
	} {
		p, _ := testPanel(Options{Threshold: 1})
		b := p.Lookup(text("x"))
		allow(t, b)(c.err)
		if got := b.State(); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}

// All attempts of a closed breaker share one done, which cannot know who calls it. Stray calls are bounded.
func TestNeverMoreResultsThanAttempts(t *testing.T) {
	p, _ := testPanel(Options{})
	b := p.Lookup(text("x"))
	done := allow(t, b)
	for range 10 {
		done(errDown)
	}
	if b.State() != Closed {
		t.Fatal("one attempt counted as three")
	}
	fail(t, b, 1)
	if b.State() != Closed {
		t.Fatal("two attempts counted as three")
	}
}

func TestHugeThreshold(t *testing.T) {
	p, _ := testPanel(Options{Threshold: math.MaxInt64})
	b := p.Lookup(text("x"))
	fail(t, b, 1000)
	if b.State() != Closed {
		t.Fatal(b.State())
	}
}

func TestOneTrialAmongMany(t *testing.T) {
	p, c := testPanel(Options{})
	b := p.Lookup(text("x"))
	for range 50 {
		fail(t, b, 3)
		c.advance(time.Second)
		var trials atomic.Int32
		var trial atomic.Value
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				if done, err := b.Allow(); err == nil {
					trials.Add(1)
					trial.Store(done)
				}
			})
		}
		wg.Wait()
		if n := trials.Load(); n != 1 {
			t.Fatalf("%d trials at once", n)
		}
		done := trial.Load().(func(error))
		for range 4 {
			wg.Go(func() { done(nil) })
		}
		wg.Wait()
		if b.State() != Closed {
			t.Fatal(b.State())
		}
	}
}

// Everything at once, for the race detector, and the lists of the panel must still be right after it.
func TestConcurrentUse(t *testing.T) {
	p, c := testPanel(Options{Breakers: 8})
	events := p.Subscribe()
	var readers, wg sync.WaitGroup
	readers.Go(func() {
		for range events {
		}
	})
	for g := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 0))
			for range 2000 {
				b := p.Lookup(text(strconv.Itoa(random.IntN(12))))
				switch random.IntN(8) {
				case 0:
					b.Trip()
				case 1:
					b.Reset()
				case 2:
					_ = b.State()
				case 3:
					c.advance(time.Duration(random.Int64N(int64(time.Second))))
				case 4:
					_ = p.Stats()
				default:
					if done, err := b.Allow(); err == nil {
						done([]error{nil, errDown, errDown, context.Canceled}[random.IntN(4)])
					}
				}
			}
		})
	}
	wg.Wait()
	p.Unsubscribe(events)
	readers.Wait()
	checkPanel(t, p)
}

func TestCall(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Hour} {
		p, _ := testPanel(Options{})
		b := p.Lookup(text("x"))
		if err := b.Call(func() error { return nil }, timeout); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := b.Call(func() error { return errDown }, timeout); err != errDown {
				t.Fatal(err)
			}
		}
		err := b.Call(func() error { t.Error("called"); return nil }, timeout)
		if !errors.Is(err, ErrBreakerOpen) {
			t.Fatal(err)
		}
	}
}

func TestCallTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPanel(Options{Threshold: 1}.withDefaults())
		b := p.Lookup(text("x"))
		ended := false
		start := time.Now()
		err := b.Call(func() error { time.Sleep(time.Minute); ended = true; return nil }, time.Second)
		if took := time.Since(start); took != time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v after %v", err, took)
		}
		var timeout interface{ Timeout() bool }
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatalf("%v is no timeout", err)
		}
		if b.State() != Open {
			t.Fatal("a timeout is a failure")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if !ended || b.State() != HalfOpen {
			t.Fatalf("ended %v, %v: a late success must not count", ended, b.State())
		}
	})
}

func TestCallPanics(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Hour} {
		p, _ := testPanel(Options{Threshold: 1})
		b := p.Lookup(text("x"))
		got := func() (got any) {
			defer func() { got = recover() }()
			return b.Call(func() error { panic("boom") }, timeout)
		}()
		if got != "boom" || b.State() != Open {
			t.Fatalf("timeout %v: %v, %v", timeout, got, b.State())
		}
	}
}

func TestCallExits(t *testing.T) {
	p, _ := testPanel(Options{Threshold: 1})
	b := p.Lookup(text("x"))
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Call(func() error { runtime.Goexit(); return nil }, 0) })
	wg.Wait()
	if b.State() != Open {
		t.Fatal("without a result it is no success")
	}
	b.Reset()
	if err := b.Call(func() error { runtime.Goexit(); return nil }, time.Hour); err != errNotEnded || b.State() != Open {
		t.Fatal(err, b.State())
	}
}

func TestTexts(t *testing.T) {
	for _, c := range []struct {
		got  fmt.Stringer
		want string
	}{
		{Closed, "closed"}, {Open, "open"}, {HalfOpen, "half-open"}, {State(9), "unknown"},
		{Tripped, "tripped"}, {Reset, "reset"}, {Fail, "fail"}, {Ready, "ready"}, {EventKind(0), "unknown"},
	} {
		if c.got.String() != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	for err, want := range map[error]string{
		&OpenError{Name: "/unix/x", Wait: 1500 * time.Millisecond}:              "transport: /unix/x failed repeatedly; next attempt in 1.5s (or dial with reset)",
		&OpenError{Name: "/unix/x", Wait: 1500 * time.Millisecond, Trial: true}: "transport: /unix/x failed repeatedly; another caller is trying it now (wait at most 1.5s, or dial with reset)",
		&AddressError{Err: errEmpty}:                                            "transport: the address is empty",
		&AddressError{Addr: "/x", Err: errDown}:                                 "transport: /x: it is down",
	} {
		if err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
	}
}

// Allow on a held breaker allocates nothing, with and without its done.
func TestAllowAllocatesNothing(t *testing.T) {
	p := New(Options{}).Panel()
	b := p.Lookup(ma.StringCast("/ip4/127.0.0.1/tcp/1"))
	for name, f := range map[string]func(){
		"Allow":         func() { _, _ = b.Allow() },
		"Allow, done":   func() { done, _ := b.Allow(); done(nil) },
		"Allow, failed": func() { done, _ := b.Allow(); done(errDown); done, _ = b.Allow(); done(nil) },
		"State":         func() { _ = b.State() },
		"Reset":         func() { b.Reset() },
	} {
		b.Reset()
		f()
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// breakerAddr is a different address for each i: a place, or with peer a place and a peer ID.
func breakerAddr(i int, withPeer bool) ma.Multiaddr {
	b := binary.BigEndian.AppendUint32([]byte{ma.P_IP4}, uint32(i))
	b = append(b, ma.P_TCP, 0x68, 0x20)
	if withPeer { // the multihash of an Ed25519 key, with varints before it
		b = append(append(b, ma.CodeToVarint(ma.P_P2P)...), "\x26\x00\x24\x08\x01\x12\x20"...)
		b = binary.BigEndian.AppendUint64(append(b, make([]byte, 24)...), uint64(i))
	}
	return must(ma.NewMultiaddrBytes(b))
}

// heapOf100k returns the bytes that 100,000 breakers hold, after use has been made of each.
func heapOf100k(withPeer bool, use func(*Breaker)) (*Panel, float64) {
	const n = 100_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	p := New(Options{Breakers: n}).Panel()
	for i := range n {
		use(p.Lookup(breakerAddr(i, withPeer)))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	return p, float64(after.HeapAlloc) - float64(before.HeapAlloc)
}

// The bound is on bytes and goroutines, not on time.
func Test100kBreakers(t *testing.T) {
	for _, c := range []struct {
		name     string
		withPeer bool
		use      func(*Breaker)
	}{
		{"allowed", false, func(b *Breaker) { done, _ := b.Allow(); done(nil) }},
		{"allowed, with peer ID", true, func(b *Breaker) { done, _ := b.Allow(); done(nil) }},
		{"tripped, with peer ID", true, func(b *Breaker) { done, _ := b.Allow(); done(errDown); b.Trip(); _, _ = b.Allow() }},
	} {
		goroutines := runtime.NumGoroutine()
		p, bytes := heapOf100k(c.withPeer, c.use)
		if n := p.Stats().Breakers; n != 100_000 {
			t.Fatalf("%d breakers", n)
		}
		if bytes > 30<<20 {
			t.Errorf("%s: %.1f MiB", c.name, bytes/(1<<20))
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			t.Errorf("%s: %d goroutines, %d before", c.name, n, goroutines)
		}
		t.Logf("%s: %.0f bytes each", c.name, bytes/100_000)
		runtime.KeepAlive(p)
	}
}
