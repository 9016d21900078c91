package connmgr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// acceptWith makes the only accept loop call f.
func acceptWith(f func(stopped <-chan struct{}) (*fakeConn, error)) func(*rig) {
	return func(r *rig) {
		stopped := make(chan struct{})
		r.cfg.Stop = func() { close(stopped) }
		r.cfg.Accept = []func() (*fakeConn, error){func() (*fakeConn, error) { return f(stopped) }}
	}
}

// A listener that fails is tried again, at most 20 times a second, however it
// fails, and works again when it does.
func TestRegressionFailingListenerSpins(t *testing.T) {
	emfile := errors.New("accept: too many open files")
	for _, c := range []struct {
		name string
		fail func(call int64) bool
		rand float64
	}{
		{"always", func(int64) bool { return true }, 0},
		{"every other call", func(n int64) bool { return n%2 == 0 }, 0},
		{"always, other jitter", func(int64) bool { return true }, 0.999},
		{"returns nothing", nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var calls, failed, good atomic.Int64
			bubble(t, func(r *rig) {
				acceptWith(func(stopped <-chan struct{}) (*fakeConn, error) {
					n := calls.Add(1)
					select {
					case <-stopped:
						return nil, net.ErrClosed
					default:
					}
					if c.fail == nil {
						failed.Add(1)
						return nil, nil
					}
					if c.fail(n) {
						failed.Add(1)
						return nil, emfile
					}
					good.Add(1)
					return newFake("192.0.2.1", ""), nil
				})(r)
				r.cfg.Rand = func() float64 { return c.rand }
			}, func(r *rig) {
				r.start()
				for second := range 10 {
					before := failed.Load()
					time.Sleep(time.Second)
					r.wait()
					if n := failed.Load() - before; n > 20 || n < 1 {
						t.Errorf("second %d: %d failing calls", second, n)
					}
				}
				if c.name == "every other call" && good.Load() < 100 {
					t.Errorf("only %d connections beside the failures", good.Load())
				}
				if s := r.e.Inspect(); s.Counters.AcceptErrors != uint64(failed.Load()) || s.Counters.Accepted != uint64(good.Load()) {
					t.Errorf("%+v", s.Counters)
				}
				r.stop()
			})
		})
	}
}

// io.EOF and net.ErrClosed, wrapped or not, end the loop; Run goes on.
func TestAcceptLoopEnds(t *testing.T) {
	for _, end := range []error{io.EOF, net.ErrClosed, fmt.Errorf("accept tcp: %w", net.ErrClosed)} {
		var calls atomic.Int64
		bubble(t, acceptWith(func(<-chan struct{}) (*fakeConn, error) {
			calls.Add(1)
			return nil, end
		}), func(r *rig) {
			r.start()
			time.Sleep(time.Minute)
			r.wait()
			if calls.Load() != 1 {
				t.Errorf("%v: called %d times", end, calls.Load())
			}
			if r.e.Inspect().State != "running" {
				t.Error("Run is over")
			}
			r.p.dial("192.0.2.1")
			r.e.Wake()
			r.wait()
			if len(r.conns()) != 1 {
				t.Error("no dial")
			}
			r.stop()
		})
	}
}

// With listeners and nobody to hand connections to, nothing is accepted, Stop
// is called, and Run returns.
func TestRegressionRunWithoutHandlerReturns(t *testing.T) {
	var calls atomic.Int64
	var stopped atomic.Bool
	bubble(t, func(r *rig) {
		r.cfg.Connected = nil
		r.cfg.Accept = []func() (*fakeConn, error){func() (*fakeConn, error) { calls.Add(1); select {} }}
		r.cfg.Stop = func() { stopped.Store(true) }
	}, func(r *rig) {
		r.start()
		r.wait()
		r.stop()
		if calls.Load() != 0 || !stopped.Load() {
			t.Errorf("accepted %d times, stopped %v", calls.Load(), stopped.Load())
		}
	})
}

// Over the limits connections are accepted and closed at once: the loop goes
// on, and who comes when there is a place again gets it.
func TestShedding(t *testing.T) {
	bubble(t, func(r *rig) { r.cfg.Limits.Inbound.Total = 2 }, func(r *rig) {
		r.start()
		var all []*fakeConn
		for range 1000 {
			c := newFake("192.0.2.1", "")
			r.accept <- c
			all = append(all, c)
		}
		r.wait()
		open := slices.DeleteFunc(slices.Clone(all), (*fakeConn).isClosed)
		if len(open) != 2 || len(r.conns()) != 2 {
			t.Errorf("%d open, %d announced", len(open), len(r.conns()))
		}
		s := r.e.Inspect()
		if s.Refused[RuleDirection] != 998 || s.Inbound != 2 || s.InboundActive != 2 || s.InboundRejected != 998 || s.Counters.Accepted != 1000 {
			t.Errorf("%+v", s)
		}
		r.conns()[0].Close()
		r.accept <- newFake("192.0.2.2", "")
		r.wait()
		if len(r.conns()) != 3 {
			t.Error("no place for the next one")
		}
		r.stop()
	})
}

// Admit is the same door: the same limits, the same callbacks, before Run too.
func TestAdmit(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.Limits.Inbound.Total = 1
		r.cfg.Establish = func(ctx context.Context, c *fakeConn, _ EstablishInfo[string]) error {
			switch c.id {
			case "slow":
				<-c.closed
				return errors.New("closed")
			case "bad":
				return errHungUp
			}
			return nil
		}
	}, func(r *rig) {
		if _, err := r.e.Admit(r.t.Context(), nil); err != ErrNoConnection {
			t.Error(err)
		}
		c, err := r.e.Admit(r.t.Context(), newFake("192.0.2.1", ""))
		if err != nil {
			r.t.Fatal(err)
		}
		r.wait()
		if got := r.conns(); len(got) != 1 || got[0] != c || c.Direction() != Inbound || c.Kind() != KindInbound {
			t.Errorf("%v", got)
		}
		refused := newFake("192.0.2.1", "")
		_, err = r.e.Admit(r.t.Context(), refused)
		if refusal, ok := errors.AsType[*Refusal](err); !ok || refusal.Rule != RuleDirection || refused.closes.Load() != 1 {
			t.Error(err)
		}
		c.Close()
		c.Close()
		r.wait()
		r.holdsNothing()
		if len(r.history()) != 2 {
			t.Errorf("%q", r.history())
		}
		r.start()
		bad := newFake("192.0.2.1", "bad")
		if _, err := r.e.Admit(r.t.Context(), bad); err != errHungUp || bad.closes.Load() != 1 {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
		defer cancel()
		slow, start := newFake("192.0.2.1", "slow"), time.Now()
		if _, err := r.e.Admit(ctx, slow); err != context.DeadlineExceeded || slow.closes.Load() != 1 || time.Since(start) != time.Second {
			t.Error(err)
		}
		// Stop waits for an Admit in progress, and ends it.
		got := make(chan error)
		go func() {
			_, err := r.e.Admit(context.Background(), newFake("192.0.2.1", "slow"))
			got <- err
		}()
		r.wait()
		r.cancel()
		if err := <-got; err != ErrStopped {
			t.Error(err)
		}
		r.stop()
	})
}
