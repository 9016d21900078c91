package p2ptest

import (
	"errors"
	"sync"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/p2p"
)

// ErrStore is what a FaultyStore returns that was told to fail.
var ErrStore = errors.New("p2ptest: the store cannot write, as ordered")

// FaultyStore is a p2p.Store in memory whose writes can be made to fail, and whose
// process can be made to die. All methods are safe for concurrent use.
type FaultyStore struct {
	rows *addrbook.MemoryStore // what is on the disk

	mu     sync.Mutex // guards the rest; held over writes, so that none overtakes Kill
	until  time.Time  // writes fail before
	failed uint64
	opened uint64 // number of the handle that may write
}

// NewFaultyStore returns an empty store.
func NewFaultyStore() *FaultyStore { return &FaultyStore{rows: addrbook.NewMemoryStore()} }

// Open returns a store for one PeerManager: what it saves lasts, until the next
// Open or Kill. After that its writes fail and change nothing, as those of
// a process that is dead.
func (f *FaultyStore) Open() p2p.Store {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	return &storeHandle{f, f.opened}
}

// Kill ends the writes of whoever has opened the store: what was not saved by then
// is lost.
func (f *FaultyStore) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
}

// FailFor makes writes return ErrStore for a time.
func (f *FaultyStore) FailFor(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if until := time.Now().Add(d); until.After(f.until) {
		f.until = until
	}
}

// Heal makes writes succeed again.
func (f *FaultyStore) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.until = time.Time{}
}

// Failed is how many writes failed by order.
func (f *FaultyStore) Failed() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// storeHandle is a FaultyStore as one process has it open.
type storeHandle struct {
	f      *FaultyStore
	number uint64
}

func (h *storeHandle) Load(row func(key string, value []byte)) ([]string, error) {
	return h.f.rows.Load(row)
}

func (h *storeHandle) Save(changes []addrbook.Change) error {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if h.f.opened != h.number {
		return errors.New("p2ptest: this process is dead")
	}
	if time.Now().Before(h.f.until) {
		h.f.failed++
		return ErrStore
	}
	return h.f.rows.Save(changes)
}
