package addrbook

import (
	"context"
	"sync"
	"time"

	"github.com/kith-p2p/kith/internal/backoff"
)

// chunk is how many rows are encoded under one hold of the book's lock.
const chunk = 256

// How long a save that failed waits before it is tried again.
const (
	retryFirst = time.Second
	retryMost  = time.Minute
)

// writer saves behind the book: one goroutine, started by Open and waited for
// by Close, that alone calls Store.Save.
type writer struct {
	b      *Book
	dirty  chan struct{} // something changed since the last save; holds one
	asked  chan struct{} // somebody waits in flush; holds one
	quit   chan struct{}
	done   chan struct{}
	close1 sync.Once
	last   error // of the final save; written before done is closed

	mu      sync.Mutex // guards the fields below
	waiting []chan error
	stats   SaveStats
}

func (w *writer) start(b *Book) {
	w.b = b
	w.dirty, w.asked = make(chan struct{}, 1), make(chan struct{}, 1)
	w.quit, w.done = make(chan struct{}), make(chan struct{})
	if b.c.dirty.len() > 0 {
		w.changed()
	}
	go w.run()
}

// changed says that there is something to save. It never blocks.
func (w *writer) changed() {
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

func (w *writer) run() {
	defer close(w.done)
	var due <-chan time.Time // nil: nothing is to be saved
	failures := 0
	for {
		select {
		case <-w.dirty:
			if due == nil {
				due = time.After(w.b.o.WriteDelay)
			}
			continue
		case <-due:
		case <-w.asked:
		case <-w.quit:
			w.last = w.save()
			return
		}
		due = nil
		if err := w.save(); err != nil {
			failures++
			due = time.After(backoff.Jittered(failures, retryFirst, retryMost))
			w.b.o.Logger.Error("address book not saved; it goes on in memory", "err", err, "failures", failures)
		} else {
			failures = 0
		}
	}
}

// save writes all that had changed when it was called, in one transaction, and
// answers who waited for that. What could not be written is dirty again.
func (w *writer) save() error {
	w.mu.Lock()
	waiting := w.waiting
	w.waiting = nil
	w.mu.Unlock()
	select {
	case <-w.dirty:
	default:
	}

	b := w.b
	b.mu.Lock()
	dirty := b.c.dirty
	b.c.dirty = newChanged()
	b.mu.Unlock()
	var changes []Change
	for dirty.len() > 0 {
		b.mu.Lock()
		more := b.c.collect(&dirty, chunk)
		b.mu.Unlock()
		changes = append(changes, more...)
	}
	var err error
	if len(changes) > 0 {
		err = b.store.Save(changes)
	}
	if err != nil {
		b.mu.Lock()
		b.c.uncollect(changes)
		b.mu.Unlock()
	}

	w.mu.Lock()
	if w.stats.Err = err; err != nil {
		w.stats.Failed++
	} else if len(changes) > 0 {
		w.stats.Saves++
		w.stats.Rows += uint64(len(changes))
	}
	w.mu.Unlock()
	for _, c := range waiting {
		c <- err
	}
	return err
}

func (w *writer) flush(ctx context.Context) error {
	answer := make(chan error, 1)
	w.mu.Lock()
	w.waiting = append(w.waiting, answer)
	w.mu.Unlock()
	select {
	case w.asked <- struct{}{}:
	default:
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-w.done:
	}
	select {
	case err := <-answer: // the final save was for us too
		return err
	default:
		return ErrClosed
	}
}

func (w *writer) close() error {
	w.close1.Do(func() { close(w.quit) })
	<-w.done
	return w.last
}
