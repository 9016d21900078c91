package peers

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// hanging makes n addresses of the fabric hang in dialling, half of them for Connect and half for gRPC, with somebody
// waiting for each.
func hanging(tb testing.TB, f *fabric, b *book, n int) (stop func()) {
	tb.Helper()
	stuck := make(map[string]bool)
	for i := range n {
		stuck[spotOf(i).String()] = true
	}
	f.setBefore(func(ctx context.Context, d visit) error {
		if stuck[d.addr] {
			return forever(ctx, d)
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	before := len(f.dials())
	for i := range n {
		wg.Go(func() {
			if i%2 == 0 {
				b.Connect(ctx, spotOf(i))
			} else {
				b.GRPCConnection(ctx, spotOf(i), false)
			}
		})
	}
	for len(f.dials()) < before+n {
		runtime.Gosched()
	}
	return func() { cancel(); wg.Wait() }
}

// The fault: one slow dial held a lock that every look-up needed, as soon as the metrics were due. Here 1,000 dials hang,
// the metrics are due, and whatever does not need those addresses takes no (virtual) time.
func TestRegressionSlowDialStallsLookUps(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		serve(t, f, addr1)
		accepting(t, f, addr2)
		told := make(chan States, 1000)
		b := newTestBook(t, f, func(p *Params) {
			p.Tick, p.MetricsTimeout, p.Metrics = time.Second, time.Second, func(s States) { told <- s }
		})
		cc, conn := mustChannel(t, b, addr1), mustConnect(t, b, addr2)
		stop := hanging(t, f, b, 1000)
		job := startJob(t, b)
		time.Sleep(3500 * time.Millisecond) // three ticks, three metrics
		start := time.Now()
		if got, err := b.GRPCConnection(t.Context(), addr1, false); err != nil || got != cc {
			t.Error(err)
		}
		if err := check(t.Context(), cc); err != nil {
			t.Error(err)
		}
		if got, err := b.Connect(t.Context(), addr2); err != nil || got != conn {
			t.Error(err)
		}
		if err := b.RemoveConnection(addr2); err != nil {
			t.Error(err)
		}
		mustConnect(t, b, addr2) // anew
		if l, err := b.Listen(peerB); err != nil {
			t.Error(err)
		} else {
			l.Close()
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("look-ups took %v", d)
		}
		if s := <-told; s.Connecting != 500 || s.Ready != 1 {
			t.Errorf("%+v", s)
		}
		job()
		stop()
		b.Shutdown()
	})
}

// BenchmarkLookUp is GRPCConnection of a healthy peer while 1,000 others hang in dialling, and Job works all the time.
// The time of each look-up is taken, so the figures include two readings of the clock.
func BenchmarkLookUp(b *testing.B) {
	for _, n := range []int{0, 1000} {
		b.Run(fmt.Sprintf("hanging=%d", n), func(b *testing.B) {
			f := newFabric()
			serve(b, f, addr1)
			bk := newTestBook(b, f, func(p *Params) {
				p.Tick, p.MetricsTimeout, p.Metrics = 10*time.Millisecond, 10*time.Millisecond, func(States) {}
			})
			if _, err := bk.GRPCConnection(b.Context(), addr1, false); err != nil {
				b.Fatal(err)
			}
			stop := hanging(b, f, bk, n)
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			wg.Go(func() { bk.Job(ctx) })
			var took []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				if _, err := bk.GRPCConnection(ctx, addr1, false); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
			b.ReportMetric(float64(took[len(took)-1].Nanoseconds()), "max-ns")
			cancel()
			wg.Wait()
			stop()
			bk.Shutdown()
		})
	}
}

// idleCost makes n channels to as many addresses, uses each once, and lets them become idle. It returns what one costs,
// after settle if that is not nil.
func idleCost(tb testing.TB, n int, settle func(*book), dial func(*fabric, *book, ma.Multiaddr) (*grpc.ClientConn, error)) (goroutines, bytes float64) {
	tb.Helper()
	f := newFabric()
	_, stop := serve(tb, f, anywhere)
	b := newTestBook(tb, f, func(p *Params) { p.Idle = soonIdle })
	before, heap := inUse()
	all := make([]*grpc.ClientConn, n)
	for i := range all {
		cc, err := dial(f, b, spotOf(i))
		if err != nil {
			tb.Fatal(err)
		}
		if err := check(context.Background(), cc); err != nil {
			tb.Fatal(err)
		}
		all[i] = cc
	}
	for _, cc := range all {
		for s := cc.GetState(); s != connectivity.Idle; s = cc.GetState() {
			cc.WaitForStateChange(context.Background(), s)
		}
	}
	f.mu.Lock()
	f.log = nil
	f.mu.Unlock()
	if settle != nil {
		settle(b)
		clear(all)
	}
	after, used := inUse()
	for _, cc := range all {
		if cc != nil {
			cc.Close()
		}
	}
	b.Shutdown()
	stop()
	return float64(after-before) / float64(n), (used - heap) / float64(n)
}

const soonIdle = 100 * time.Millisecond

// inUse waits until goroutines have stopped ending, and says what is left, their stacks among the bytes.
func inUse() (goroutines int, bytes float64) {
	for same, last := 0, -1; same < 5; {
		time.Sleep(10 * time.Millisecond)
		runtime.GC()
		if n := runtime.NumGoroutine(); n == last {
			same++
		} else {
			same, last = 0, n
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), float64(m.HeapAlloc + m.StackInuse)
}

func fromBook(_ *fabric, b *book, addr ma.Multiaddr) (*grpc.ClientConn, error) {
	return b.GRPCConnection(context.Background(), addr, false)
}

// fromGRPC makes a channel of gRPC's alone, with the options of the book.
func fromGRPC(f *fabric, b *book, addr ma.Multiaddr) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr.String(), grpc.WithIdleTimeout(b.Idle),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: b.KeepAlive, Timeout: b.PingTTL, PermitWithoutStream: true}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return f.Dial(ctx, addr, false) }))
}

// swept is what Job does at its next tick: it takes channels out that have been idle.
func swept(b *book) {
	for len(b.all()) > 0 {
		b.sweep()
		time.Sleep(time.Millisecond)
	}
}

// An idle channel costs nothing from the next tick of Job on, when the book has let it go; gRPC's own keep their three
// goroutines. Until then it costs what gRPC's own does, and the book's row of less than 1 KiB. The heap of a process tells bytes only roughly, so one of several readings must show it.
func TestIdleChannelCostsWhatGRPCsOwnDoes(t *testing.T) {
	const n = 200
	idleCost(t, n, nil, fromBook) // the runtime keeps what it made for each goroutine that ever was
	for reading := 1; ; reading++ {
		ours, bytes := idleCost(t, n, nil, fromBook)
		later, laterBytes := idleCost(t, n, swept, fromBook)
		plain, plainBytes := idleCost(t, n, nil, fromGRPC)
		if ours <= plain+0.05 && bytes <= plainBytes+1024 && later <= 0.05 && laterBytes < plainBytes/2 {
			return
		}
		if reading == 8 {
			t.Fatalf("%.2f goroutines and %.0f bytes, then %.2f and %.0f; grpc-go's own has %.2f and %.0f", ours, bytes, later, laterBytes, plain, plainBytes)
		}
	}
}

// BenchmarkIdleChannel reports what one of 1,000 channels costs that have been used and are idle. Its time says nothing.
func BenchmarkIdleChannel(b *testing.B) {
	idleCost(b, 1000, nil, fromBook)
	for _, of := range []struct {
		name   string
		settle func(*book)
		dial   func(*fabric, *book, ma.Multiaddr) (*grpc.ClientConn, error)
	}{{"book", nil, fromBook}, {"book-after-a-tick", swept, fromBook}, {"grpc", nil, fromGRPC}} {
		b.Run(of.name, func(b *testing.B) {
			goroutines, bytes := idleCost(b, 1000, of.settle, of.dial)
			for b.Loop() {
			}
			b.ReportMetric(goroutines, "goroutines/channel")
			b.ReportMetric(bytes, "bytes/channel")
			b.ReportMetric(0, "ns/op")
		})
	}
}
