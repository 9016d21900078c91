package peers

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

func TestListenSharesOneListenerPerAddress(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		b := newTestBook(t, f)
		first, err := b.Listen(addr1)
		if err != nil {
			t.Fatal(err)
		}
		second, err := b.Listen(addr1)
		if err != nil || second != first {
			t.Errorf("a second Listen: %v", err)
		}
		if other, err := b.Listen(addr2); err != nil || other == first {
			t.Errorf("another address: %v", err)
		}
		if first.Close() != nil || second.Close() != nil {
			t.Error("Close")
		}
		third, err := b.Listen(addr1)
		if err != nil || third == first {
			t.Errorf("a closed listener is not replaced: %v", err)
		}
		// It ends by itself: also replaced.
		third.(*listener).Listener.Close()
		if _, err := third.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if fourth, err := b.Listen(addr1); err != nil || fourth == third {
			t.Errorf("an ended listener is not replaced: %v", err)
		}
		f.Listen(ma.StringCast("/ip4/192.0.2.2/tcp/3"))
		if _, err := b.Listen(ma.StringCast("/ip4/192.0.2.2/tcp/3")); !errors.Is(err, syscall.EADDRINUSE) {
			t.Error(err)
		}
	})
}

func TestPort0IsNeverShared(t *testing.T) {
	virtual(t, func(t *testing.T) {
		b := newTestBook(t, newFabric())
		any := ma.StringCast("/ip4/127.0.0.1/tcp/0")
		first, err := b.Listen(any)
		if err != nil {
			t.Fatal(err)
		}
		second, err := b.Listen(any)
		if err != nil || second == first {
			t.Fatalf("shared: %v", err)
		}
		if len(b.loose) != 2 {
			t.Error("not in the book")
		}
		first.Close()
		if len(b.loose) != 1 {
			t.Error("closed, and in the book")
		}
		if err := b.Shutdown(); err != nil {
			t.Error(err)
		}
		if _, err := second.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// slowListen binds slowly.
type slowListen struct {
	*fabric
	binds atomic.Int32
}

func (s *slowListen) Listen(addr ma.Multiaddr) (manet.Listener, error) {
	s.binds.Add(1)
	time.Sleep(time.Second)
	return s.fabric.Listen(addr)
}

func TestListenBindsOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		s := &slowListen{fabric: newFabric()}
		b := newTestBook(t, s)
		var wg sync.WaitGroup
		var all [50]manet.Listener
		for i := range all {
			wg.Go(func() { all[i], _ = b.Listen(addr1) })
		}
		wg.Wait()
		for _, l := range all {
			if l == nil || l != all[0] {
				t.Fatal("not the same listener for all")
			}
		}
		if n := s.binds.Load(); n != 1 {
			t.Errorf("bound %d times", n)
		}
		// Who asks while it is being closed waits for that.
		slow := &slowClose{Listener: all[0].(*listener).Listener}
		all[0].(*listener).Listener = slow
		wg.Go(func() { all[0].Close() })
		synctest.Wait()
		l, err := b.Listen(addr1)
		if err != nil || l == all[0] {
			t.Error(err)
		}
		wg.Wait()

		// A bind that ends after Shutdown is undone.
		wg.Go(func() {
			if _, err := b.Listen(addr2); !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
		synctest.Wait()
		b.Shutdown()
		wg.Wait()
		if _, err := s.fabric.Listen(addr2); err != nil {
			t.Errorf("it is bound: %v", err)
		}
	})
}

type slowClose struct{ manet.Listener }

func (s *slowClose) Close() error { time.Sleep(time.Second); return s.Listener.Close() }

func TestEveryCallAfterShutdown(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		got := accepting(t, f, addr1)
		_, stop := serve(t, f, addr2)
		b := newTestBook(t, f)
		conn := mustConnect(t, b, addr1)
		far := <-got
		l, err := b.Listen(ma.StringCast("/ip4/192.0.2.2/tcp/3"))
		if err != nil {
			t.Fatal(err)
		}
		cc, err := b.GRPCConnection(t.Context(), addr2, false)
		if err != nil {
			t.Fatal(err)
		}
		job := make(chan struct{})
		go func() { b.Job(context.Background()); close(job) }()
		if err := b.Shutdown(); err != nil {
			t.Error(err)
		}
		<-job
		if !conn.(*fabricConn).Closed() {
			t.Error("a connection is open")
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if err := check(t.Context(), cc); err == nil {
			t.Error("a channel is open")
		}
		for name, err := range map[string]error{
			"Connect":          second(b.Connect(t.Context(), addr1)),
			"Listen":           second(b.Listen(addr1)),
			"GRPCConnection":   second(b.GRPCConnection(t.Context(), addr2, true)),
			"RemoveConnection": b.RemoveConnection(addr1),

			"Connect to ourselves":        second(b.Connect(t.Context(), own)),
			"GRPCConnection to ourselves": second(b.GRPCConnection(t.Context(), own, false)),
			"Connect to nothing":          second(b.Connect(t.Context(), nil)),
			"Listen on nothing":           second(b.Listen(nil)),
			"RemoveConnection of nothing": b.RemoveConnection(nil),
		} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if !b.Address().Equal(own) {
			t.Error(b.Address())
		}
		b.Job(context.Background()) // returns
		if err := b.Shutdown(); err != nil {
			t.Errorf("a second time: %v", err)
		}
		far.Close()
		stop()
		synctest.Wait()
		if n := f.open.Load(); n != 0 {
			t.Errorf("%d connections are open", n)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// The fault: the first error left the rest open.
func TestRegressionShutdownStopsAtFirstError(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		b := newTestBook(t, f)
		var conns []manet.Conn
		var errs []error
		for i := range 5 {
			addr := ma.StringCast("/ip4/192.0.2.3/tcp/" + string(rune('1'+i)))
			accepting(t, f, addr)
			f.closeErr = errors.New(addr.String())
			errs = append(errs, f.closeErr)
			conns = append(conns, mustConnect(t, b, addr))
		}
		l, err := b.Listen(addr1)
		if err != nil {
			t.Fatal(err)
		}
		l.(*listener).Listener.(*fabricListener).err = syscall.EIO
		err = b.Shutdown()
		for _, want := range append(errs, syscall.EIO) {
			if !errors.Is(err, want) {
				t.Errorf("%v is not reported in %v", want, err)
			}
		}
		for _, c := range conns {
			if !c.(*fabricConn).Closed() {
				t.Error("a connection is open")
			}
		}
		if err := b.Shutdown(); err != nil {
			t.Error(err)
		}
	})
}

func TestShutdownDuringDialling(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		f.before = forever
		b := newTestBook(t, f)
		var wg sync.WaitGroup
		for i := range 20 {
			addr := ma.StringCast("/ip4/192.0.2.3/tcp/1").Encapsulate(ma.StringCast("/p2p/" + idB))
			if i%2 == 0 {
				addr = addr1
			}
			wg.Go(func() {
				if _, err := b.Connect(t.Context(), addr); !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := b.GRPCConnection(t.Context(), addr, i%3 == 0); !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		for range 4 {
			wg.Go(func() {
				if err := b.Shutdown(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d != 0 {
			t.Errorf("took %v", d)
		}
		if n := f.open.Load(); n != 0 {
			t.Errorf("%d connections are open", n)
		}
	})
}

// Shutdown waits for what it has ended, and undoes what comes of it.
func TestShutdownWaitsForDials(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric()
		f.before = func(ctx context.Context, _ visit) error {
			<-ctx.Done()
			time.Sleep(time.Second)
			return nil
		}
		accepting(t, f, addr1)
		b := newTestBook(t, f)
		go b.Connect(t.Context(), addr1)
		go b.GRPCConnection(t.Context(), addr1, false)
		synctest.Wait()
		start := time.Now()
		if err := b.Shutdown(); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("took %v", d)
		}
		synctest.Wait()
		if n := f.open.Load(); n != 0 {
			t.Errorf("%d connections are open", n)
		}
	})
}
