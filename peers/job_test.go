package peers

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// startJob runs the book's Job, and returns what ends it.
func startJob(t *testing.T, b *book) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { b.Job(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// rows counts the rows of the tables: channels and plain connections.
func (b *book) rows() (channels, conns int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.channels), len(b.conns)
}

func (b *book) has(c *channel) bool { return slices.Contains(b.all(), c) }

func (c *channel) users() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leases
}

func brief(p *Params) { p.Idle, p.Tick = time.Minute, 10*time.Second }

// The fault: idle was counted from the last look-up, and a connection was closed under its streams.
func TestRegressionLiveStreamClosedAsIdle(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		serve(t, f, addr1)
		b := newTestBook(t, f, brief)
		startJob(t, b)
		cc := mustChannel(t, b, addr1)
		c := b.all()[0]
		s, err := echo(t.Context(), cc)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(time.Hour) // without a byte
			msg, got := []byte("still there"), []byte(nil)
			if err := s.SendMsg(&msg); err != nil {
				t.Fatal(err)
			}
			if err := s.RecvMsg(&got); err != nil || string(got) != string(msg) {
				t.Fatalf("%q, %v", got, err)
			}
		}
		if again := mustChannel(t, b, addr1); again != cc {
			t.Error("another channel is handed out")
		}
		s.CloseSend()
		if err := s.RecvMsg(new([]byte)); err != io.EOF {
			t.Fatal(err)
		}
		// From here on it is idle.
		time.Sleep(b.Idle - time.Second)
		if !b.has(c) {
			t.Error("closed before its time")
		}
		time.Sleep(b.Tick + time.Second)
		synctest.Wait()
		if b.has(c) || cc.GetState() != connectivity.Shutdown {
			t.Error("not closed")
		}
		if mustChannel(t, b, addr1) == cc {
			t.Error("handed out after that")
		}
	})
}

// However a call ends, it is no longer counted; while it lasts, it is.
func TestLeasesAreCountedByCalls(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		f.self = idOf(idA)
		hold := make(chan struct{})
		_, stop := serve(t, f, addr1, grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			select {
			case <-hold:
			case <-ctx.Done():
			}
			return h(ctx, req)
		}))
		b := newTestBook(t, f, brief)
		startJob(t, b)
		cc := mustChannel(t, b, addr1)
		c := b.all()[0]
		want := func(what string, n int) {
			t.Helper()
			synctest.Wait()
			if got := c.users(); got != n {
				t.Errorf("%s: %d are counted, want %d", what, got, n)
			}
		}
		want("none", 0)

		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := check(t.Context(), cc); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Hour)
		want("unary calls", 3)
		close(hold)
		wg.Wait()
		want("unary calls that ended", 0)

		open := func(ctx context.Context) grpc.ClientStream {
			s, err := echo(ctx, cc)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		ctx, cancel := context.WithCancel(t.Context())
		open(ctx)
		want("a stream", 1)
		cancel()
		want("a stream that was cancelled", 0)

		deadline, cancel2 := context.WithTimeout(t.Context(), time.Hour)
		defer cancel2()
		open(deadline)
		want("a stream with a deadline", 1)
		time.Sleep(time.Hour)
		want("a stream whose deadline passed", 0)

		over, cancel3 := context.WithCancel(t.Context())
		cancel3()
		if _, err := echo(over, cc); err == nil {
			t.Error("opened")
		}
		want("a stream that was never opened", 0)

		watch, err := healthpb.NewHealthClient(cc).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		want("a server's stream", 1)
		if _, err := watch.Recv(); err != nil {
			t.Error(err)
		}
		want("a server's stream after a message", 1)
		s := open(t.Context())
		want("two streams", 2)
		stop()
		want("streams whose server is gone, which nobody has read", 2) // they are live for gRPC too
		if err := s.RecvMsg(new([]byte)); err == nil {
			t.Error("received")
		}
		if _, err := watch.Recv(); err == nil {
			t.Error("received")
		}
		want("the same, read", 0)

		// A call that waits for the server holds the channel too.
		ctx, cancel = context.WithCancel(t.Context())
		wg.Go(func() { check(ctx, cc, grpc.WaitForReady(true)) })
		time.Sleep(time.Hour)
		want("a call that waits for ready", 1)
		if !b.has(c) {
			t.Error("the channel was closed under it")
		}
		cancel()
		wg.Wait()
		want("the same, cancelled", 0)
		time.Sleep(b.Idle + b.Tick)
		synctest.Wait()
		if b.has(c) {
			t.Error("an idle channel in transient failure is kept")
		}
	})
}

func TestJobRemovesTheDead(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		serve(t, f, addr1)
		accepting(t, f, addr2)
		b := newTestBook(t, f, func(p *Params) { p.Tick = 10 * time.Second })
		startJob(t, b)
		live := mustChannel(t, b, addr1)
		mustChannel(t, b, addr1)
		mustConnect(t, b, addr2).Close()
		live.Close()
		if channels, conns := b.rows(); channels != 1 || conns != 1 {
			t.Fatal("nothing to remove")
		}
		time.Sleep(b.Tick)
		synctest.Wait()
		if channels, conns := b.rows(); channels != 0 || conns != 0 {
			t.Error("the dead are in the book")
		}
		kept := mustConnect(t, b, addr2)
		time.Sleep(time.Hour)
		if again := mustConnect(t, b, addr2); again != kept {
			t.Error("a live connection was removed")
		}
		// Who waits is not idle.
		f.setBefore(forever)
		go b.GRPCConnection(t.Context(), sock, false)
		time.Sleep(time.Hour)
		if len(b.all()) != 1 {
			t.Error("a channel was removed from under a look-up")
		}
		b.Shutdown()
	})
}

// A look-up counts as use, so that there is time to begin a call.
func TestLookUpKeepsAChannel(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		serve(t, f, addr1)
		b := newTestBook(t, f, brief)
		startJob(t, b)
		cc := mustChannel(t, b, addr1)
		for range 20 {
			time.Sleep(b.Idle - time.Second)
			if mustChannel(t, b, addr1) != cc {
				t.Fatal("another channel")
			}
		}
		if err := check(t.Context(), cc); err != nil {
			t.Error(err)
		}
	})
}

func TestJobTellsTheStates(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		serve(t, f, addr1)
		serve(t, f, sock)
		var mu sync.Mutex
		var told []States
		var at []time.Duration
		start := time.Now()
		b := newTestBook(t, f, func(p *Params) {
			p.MetricsTimeout, p.Idle, p.Tick = 7*time.Second, time.Minute, time.Hour
			p.Metrics = func(s States) {
				mu.Lock()
				defer mu.Unlock()
				told, at = append(told, s), append(at, time.Since(start))
			}
		})
		stop := startJob(t, b)
		time.Sleep(8 * time.Second) // 7 s: nothing
		mustChannel(t, b, addr1)
		mustChannel(t, b, sock).Close()
		f.setBefore(func(ctx context.Context, d visit) error {
			if d.addr == peerB.String() {
				return forever(ctx, d)
			}
			return nil
		})
		b.GRPCConnection(within(t, time.Second), addr2, false)
		b.GRPCConnection(within(t, time.Second), peerB, false)
		time.Sleep(5 * time.Second) // 14 s
		time.Sleep(2 * time.Minute)
		stop()
		time.Sleep(time.Hour)
		mu.Lock()
		defer mu.Unlock()
		if told[0] != (States{}) || at[0] != 7*time.Second {
			t.Errorf("%+v at %v", told[0], at[0])
		}
		if want := (States{Ready: 1, Shutdown: 1, TransientFailure: 1, Connecting: 1}); told[1] != want || at[1] != 14*time.Second {
			t.Errorf("%+v at %v", told[1], at[1])
		}
		last := told[len(told)-1]
		if want := (States{Idle: 3, Shutdown: 1}); last != want {
			t.Errorf("%+v at the end", last)
		}
		if n := len(told); n < 18 || n > 20 {
			t.Errorf("told %d times", n)
		}
	})
}

// Job ends with its context, and with the book.
func TestJobEnds(t *testing.T) {
	virtual(t, func(t *testing.T) {
		b := newTestBook(t, newFabric(), func(p *Params) { p.Metrics = func(States) {} })
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { b.Job(ctx) })
		synctest.Wait()
		cancel()
		wg.Wait()
		wg.Go(func() { b.Job(context.Background()) })
		synctest.Wait()
		b.Shutdown()
		wg.Wait()
	})
}

// The fault, of another book: two goroutines for each address that was ever dialled. Here nothing but the maps' rows is
// left of 1,000 failed dials, and after Shutdown nothing at all.
func TestRegressionGoroutinesPerAddress(t *testing.T) {
	noLeaks(t)
	virtual(t, func(t *testing.T) {
		f := newFabric()
		b := newTestBook(t, f)
		before := runtime.NumGoroutine()
		for i := range 1000 {
			if _, err := b.Connect(t.Context(), spotOf(i)); !errors.Is(err, errRefused) {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := runtime.NumGoroutine() - before; n > 10 {
			t.Errorf("%d goroutines for 1,000 addresses", n)
		}
		if len(b.conns)+len(b.dials) != 0 {
			t.Error("rows are left")
		}
	})
}
