package connmgr

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Loads over real sockets. On Linux, where 127.0.0.0/8 is all local and open
// descriptors can be counted.

func openFiles(tb testing.TB) int {
	tb.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(files)
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers held
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A countingPolicy names one target a number of times.
type countingPolicy struct {
	target string
	left   atomic.Int64
	ended  atomic.Int64
	failed atomic.Int64
}

func (p *countingPolicy) Next(time.Time) (Dial[string], time.Time, bool) {
	if p.left.Add(-1) < 0 {
		p.left.Add(1)
		return Dial[string]{}, time.Time{}, false
	}
	return Dial[string]{Target: p.target, Kind: KindAutomatic}, time.Time{}, true
}

func (p *countingPolicy) Ended(_ Dial[string], o Outcome) {
	if !o.Established {
		p.failed.Add(1)
	}
	p.ended.Add(1)
}

func (p *countingPolicy) Victim(c []Candidate) (uint64, bool) { return LeastUseful(c) }

// Ten thousand connections over TCP, dialled and accepted by one engine, leave
// goroutines, descriptors and heap as they were.
func TestTenThousandCycles(t *testing.T) {
	l := listen(t)
	p := &countingPolicy{target: l.Addr().String()}
	cfg := tcpConfig(p, l)
	cfg.MaxDials = 16
	cfg.Establish = func(_ context.Context, c net.Conn, i EstablishInfo[string]) error {
		b := []byte{0}
		if i.Direction == Outbound {
			if _, err := c.Write(b); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if i.Direction == Inbound {
			_, err := c.Write(b)
			return err
		}
		return nil
	}
	read := cfg.Connected
	cfg.Connected = func(c *Conn[string, net.Conn]) {
		if c.Direction() == Outbound {
			c.Raw().(*net.TCPConn).SetLinger(0) // leaves no port in TIME_WAIT
			c.Close()
			return
		}
		read(c)
	}
	cfg.Limits = DefaultLimits()
	cfg.Limits.Rate, cfg.Limits.FloodRate, cfg.Limits.ExemptLoopback, cfg.Limits.RefuseDuplicates = 0, 0, true, false
	e, err := NewEngine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	over := make(chan error)
	go func() { over <- e.Run(ctx) }()
	cycle := func(n int64) {
		p.left.Add(n)
		want := p.ended.Load() + n
		e.Wake()
		eventually(t, "all cycles", func() bool {
			s := e.Inspect()
			return p.ended.Load() == want && s.Inbound+s.Outbound+s.Pending == 0 && s.Counters.Closed == s.Counters.Established
		})
	}
	cycle(500) // warm
	goroutines, files, bytes := runtime.NumGoroutine(), openFiles(t), heap()
	for range 10 {
		cycle(1000)
	}
	eventually(t, "the goroutines of before", func() bool { return runtime.NumGoroutine() <= goroutines })
	eventually(t, "the descriptors of before", func() bool { return openFiles(t) <= files })
	grown := heap() - bytes
	if grown > 1<<20 || grown < -1<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	s := e.Inspect()
	t.Logf("%d goroutines, %d descriptors, heap %+d bytes, %d dials of which %d failed", goroutines, files, grown, s.Counters.Dialled, p.failed.Load())
	if s.Counters.Established < 2*10_000 {
		t.Errorf("only %d connections", s.Counters.Established)
	}
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
	eventually(t, "no goroutine left", func() bool { return runtime.NumGoroutine() <= before })
}

// A flooded engine: who is up, by address, and what honest ones see.
type flooded struct {
	mu                   sync.Mutex
	hosts, prefixes      map[netip.Prefix]int
	up, mostUp, mostHost int
	mostPrefix           int
}

func (f *flooded) add(ip netip.Addr, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ip.As4()[1] != 0 {
		return // honest
	}
	host, prefix := within(ip, 32, 128), within(ip, 24, 56)
	f.hosts[host] += n
	f.prefixes[prefix] += n
	f.up += n
	f.mostUp = max(f.mostUp, f.up)
	f.mostHost = max(f.mostHost, f.hosts[host])
	f.mostPrefix = max(f.mostPrefix, f.prefixes[prefix])
}

// floodRun lets 64 addresses in 16 /24s make 20,000 connections, each held as
// long as the engine lets it up to a little while, against one engine with
// caps, while honest clients connect and the engine dials an honest peer. It
// returns how long each honest connection took.
func floodRun(tb testing.TB) []time.Duration {
	const (
		perHost, perPrefix, perGroup = 3, 8, 100
		attempts                     = 20_000
	)
	l, honest := listen(tb), listen(tb)
	p := &countingPolicy{target: honest.Addr().String()}
	f := &flooded{hosts: map[netip.Prefix]int{}, prefixes: map[netip.Prefix]int{}}
	cfg := tcpConfig(p, l)
	cfg.Limits = Limits{
		Total: 200, Inbound: Share{Total: 150, PerHost: perHost, PerPrefix: perPrefix, PerGroup: perGroup}, Outbound: Share{Total: 50},
		Pending: 64, PendingPerHost: 2,
	}
	cfg.Group = func(ip netip.Addr) string { return within(ip, 16, 32).String() } // loopback is one group otherwise
	cfg.Establish = func(ctx context.Context, c net.Conn, i EstablishInfo[string]) error {
		_, err := c.Write([]byte("welcome!")) // before it: somebody is shaking hands
		return err
	}
	var dialled []time.Duration
	var mu sync.Mutex
	dial := cfg.Dial
	cfg.Dial = func(ctx context.Context, to string) (net.Conn, error) {
		start := time.Now()
		c, err := dial(ctx, to)
		mu.Lock()
		defer mu.Unlock()
		dialled = append(dialled, time.Since(start))
		return c, err
	}
	cfg.Connected = func(c *Conn[string, net.Conn]) {
		if c.Direction() == Outbound {
			c.Raw().(*net.TCPConn).SetLinger(0)
			c.Close()
			return
		}
		f.add(c.RemoteIP(), 1)
		io.Copy(io.Discard, c.Raw())
		f.add(c.RemoteIP(), -1) // before the place is free
		c.CloseWith(io.EOF)
	}
	e, err := NewEngine(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(tb.Context())
	defer cancel()
	over := make(chan error)
	go func() { over <- e.Run(ctx) }()

	connect := func(from string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
		c, err := d.Dial("tcp4", l.Addr().String())
		if err != nil {
			return nil, err
		}
		c.(*net.TCPConn).SetLinger(0)
		if _, err := io.ReadFull(c, make([]byte, 8)); err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
	var attackers, friends sync.WaitGroup
	var made, welcome atomic.Int64
	var held sync.Map
	for k := range 16 {
		for n := range 4 {
			from := fmt.Sprintf("127.0.%d.%d", k+1, n+1)
			attackers.Go(func() {
				var mine []net.Conn
				for i := 0; made.Add(1) <= attempts; i++ {
					if c, err := connect(from); err == nil {
						welcome.Add(1)
						mine = append(mine, c)
					}
					if i%50 == 0 { // let go, so that places change hands
						for _, c := range mine {
							c.Close()
						}
						mine = nil
					}
				}
				for _, c := range mine {
					held.Store(c, true)
				}
			})
		}
	}
	flood := make(chan struct{})
	var took []time.Duration
	friends.Go(func() { // an honest client, and an honest peer of ours, over and over
		for i := 0; ; i++ { // each from another network
			select {
			case <-flood:
				return
			default:
			}
			start := time.Now()
			c, err := connect(fmt.Sprintf("127.%d.0.1", 1+i%200))
			if err != nil {
				tb.Errorf("an honest client was refused: %v; %+v", err, e.Inspect().Refused)
				return
			}
			took = append(took, time.Since(start))
			c.Close()
			p.left.Add(1)
			e.Wake()
			time.Sleep(time.Millisecond)
		}
	})
	friends.Go(func() {
		for {
			c, err := honest.Accept()
			if err != nil {
				return
			}
			friends.Go(func() { io.Copy(io.Discard, c); c.Close() })
		}
	})
	attackers.Wait()
	close(flood)
	// What is held by attackers now goes on top until the caps are reached.
	for range 20 {
		for k := range 16 {
			for n := range 4 {
				if c, err := connect(fmt.Sprintf("127.0.%d.%d", k+1, n+1)); err == nil {
					held.Store(c, true)
				}
			}
		}
		if s := e.Inspect(); s.Inbound >= perGroup {
			break
		}
	}
	f.mu.Lock()
	if f.mostUp != perGroup || f.mostHost != perHost || f.mostPrefix != perPrefix || f.up != perGroup {
		tb.Errorf("at most %d up, %d of one host, %d of one prefix; now %d; caps %d, %d, %d", f.mostUp, f.mostHost, f.mostPrefix, f.up, perGroup, perHost, perPrefix)
	}
	f.mu.Unlock()
	s := e.Inspect()
	if s.Refused[RuleHost] == 0 || s.Refused[RulePrefix] == 0 || s.Refused[RuleGroup] == 0 || int(s.Counters.Accepted) < attempts {
		tb.Errorf("the flood did not reach the caps: %v of %d", s.Refused, s.Counters.Accepted)
	}
	if p.failed.Load() > 0 {
		tb.Errorf("%d of our own dials failed", p.failed.Load())
	}
	held.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
	cancel()
	honest.Close()
	if err := <-over; err != nil {
		tb.Error(err)
	}
	friends.Wait()
	tb.Logf("%d attempts, %d welcome; %d honest clients, %d dials of ours; refused %v", s.Counters.Accepted, welcome.Load(), len(took), len(dialled), s.Refused)
	return append(took, dialled...)
}

// Twenty thousand connections from few places: the caps hold exactly, honest
// ones are served, memory is bounded, nothing is left.
func TestTwentyThousandConnects(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	if took := floodRun(t); len(took) == 0 {
		t.Error("nobody honest was served")
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.Sys) - int64(before.Sys); grown > 64<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	} else {
		t.Logf("memory grew by %.1f MiB, clients included", float64(grown)/(1<<20))
	}
	eventually(t, "the goroutines of before", func() bool { return runtime.NumGoroutine() <= goroutines })
	eventually(t, "the descriptors of before", func() bool { return openFiles(t) <= files })
}

// What an honest connection takes while 20,000 others come.
func BenchmarkHonestDialInFlood(b *testing.B) {
	var took []time.Duration
	for b.Loop() {
		took = append(took, floodRun(b)...)
	}
	slices.Sort(took)
	if len(took) == 0 {
		b.Fatal("nobody")
	}
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(len(took))/float64(b.N), "honest/op")
}

// What an idle connection costs beside what it wraps.
func BenchmarkIdleConnection(b *testing.B) {
	const n = 10_000
	for b.Loop() {
		e, err := NewEngine(EngineConfig[string, *fakeConn]{
			Policy: &fakePolicy{}, Dial: func(context.Context, string) (*fakeConn, error) { return nil, errHungUp },
			RemoteIP:  func(c *fakeConn) netip.Addr { return c.ip },
			Connected: func(*Conn[string, *fakeConn]) {},
		})
		if err != nil {
			b.Fatal(err)
		}
		raw := make([]*fakeConn, n)
		for i := range raw {
			raw[i] = newFake("", "")
			raw[i].ip = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		goroutines := runtime.NumGoroutine()
		for _, c := range raw {
			if _, err := e.Admit(context.Background(), c); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "heap-B/conn")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/n, "stack-B/conn")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/n, "goroutines/conn")
		for _, c := range e.Inspect().Connections {
			e.Close(c.ID, nil)
		}
		eventually(b, "all gone", func() bool { return runtime.NumGoroutine() <= goroutines })
	}
}
