package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

// idleWatch calls a function when nothing was touched for a time. The zero
// value watches nothing.
type idleWatch struct {
	last atomic.Int64 // of the last touch, unix nanoseconds

	mu    sync.Mutex // guards timer and over
	timer *time.Timer
	over  bool
}

// touch says that something moved.
func (w *idleWatch) touch() { w.last.Store(time.Now().UnixNano()) }

// start begins to watch; cut is called once at most, on a goroutine of its own.
// The returned function stops watching. A limit of 0 watches nothing.
func (w *idleWatch) start(limit time.Duration, cut func()) (stop func()) {
	w.touch()
	if limit <= 0 {
		return func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(limit, func() {
		quiet := time.Since(time.Unix(0, w.last.Load()))
		w.mu.Lock()
		if !w.over && quiet < limit {
			w.timer.Reset(limit - quiet)
			w.mu.Unlock()
			return
		}
		over := w.over
		w.over = true
		w.mu.Unlock()
		if !over {
			cut()
		}
	})
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.over = true
		w.timer.Stop()
	}
}
