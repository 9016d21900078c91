package connmgr

import (
	"sync"
	"testing"
	"time"
)

// However many close at once, everything happens once.
func TestConcurrentCloseHappensOnce(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		r.p.dial("192.0.2.1")
		r.start()
		r.wait()
		c := r.conns()[0]
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { c.Close() })
			wg.Go(func() { r.e.Drop(nil, nil) })
			wg.Go(func() { r.e.Close(1, nil) })
		}
		wg.Wait()
		<-c.Done()
		r.wait()
		if s := r.e.Inspect(); len(r.p.ends()) != 1 || len(r.history()) != 2 || c.Raw().closes.Load() != 1 || s.Counters.Closed != 1 || s.Outbound != 0 {
			t.Errorf("%d ended, %q, %+v", len(r.p.ends()), r.history(), s)
		}
		r.stop()
	})
}

// The error of the connection's own Close is passed on.
func TestCloseReturnsTheConnectionsError(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		r.start()
		raw := newFake("192.0.2.1", "")
		r.accept <- raw
		r.wait()
		raw.Close() // against the rules
		if err := r.conns()[0].CloseWith(nil); err != errTwice {
			t.Error(err)
		}
		if err := r.conns()[0].Err(); err != ErrClosed {
			t.Error(err)
		}
		r.stop()
	})
}

// Lived is never negative, whatever the clock does.
func TestClockThatGoesBack(t *testing.T) {
	now := epoch
	bubble(t, func(r *rig) { r.cfg.Now = func() time.Time { return now } }, func(r *rig) {
		r.p.dial("192.0.2.1")
		r.start()
		r.wait()
		now = now.Add(-time.Hour)
		r.conns()[0].Close()
		r.wait()
		if e := r.p.ends(); len(e) != 1 || e[0].Lived != 0 || !e[0].Established {
			t.Errorf("%+v", e)
		}
		r.stop()
	})
}
