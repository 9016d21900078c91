package addrbook

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/internal/state"
)

// Store is where a book keeps its rows. The book calls Load once, when it is
// opened, then Save from one goroutine at a time, and never under a lock.
type Store interface {
	// Load calls row for every intact row; row keeps neither key nor value.
	// What was damaged, repaired or lost it says in notices, a sentence each:
	// damage is not an error.
	Load(row func(key string, value []byte)) (notices []string, err error)
	// Save makes all changes or none, and returns when they will survive the
	// end of the process. It keeps nothing of them.
	Save([]Change) error
}

// Change is a new value for a row; nil deletes it.
type Change struct {
	Key   string
	Value []byte
}

// MemoryStore is a store that ends with the process. Books opened on it one
// after the other see the same rows. It is safe for concurrent use.
type MemoryStore struct {
	mu   sync.Mutex // guards rows
	rows map[string][]byte
}

// NewMemoryStore returns an empty store.
func NewMemoryStore() *MemoryStore { return &MemoryStore{rows: map[string][]byte{}} }

// Load calls row for every row, in the order of the keys.
func (m *MemoryStore) Load(row func(key string, value []byte)) ([]string, error) {
	m.mu.Lock()
	rows := maps.Clone(m.rows)
	m.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		row(key, rows[key])
	}
	return nil, nil
}

// Save makes the changes.
func (m *MemoryStore) Save(changes []Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range changes {
		if c.Value == nil {
			delete(m.rows, c.Key)
		} else {
			m.rows[c.Key] = slices.Clone(c.Value)
		}
	}
	return nil
}

// NewStateStore returns a store in a bucket that internal/state lent; what
// becomes of the file, its copies and its lock is the business of its owner.
func NewStateStore(b *state.Bucket) Store { return stateStore{b} }

type stateStore struct{ b *state.Bucket }

func (s stateStore) Load(row func(key string, value []byte)) ([]string, error) {
	damaged, err := s.b.Each(func(key, value []byte) { row(string(key), value) })
	if damaged == 0 || err == nil {
		return nil, err
	}
	return []string{fmt.Sprintf("address book: %d damaged rows are left out, and could not be set aside: %v", damaged, err)}, nil
}

func (s stateStore) Save(changes []Change) error {
	rows := make([]state.Row, len(changes))
	for i, c := range changes {
		rows[i] = state.Row(c)
	}
	slices.SortFunc(rows, func(a, b state.Row) int { return cmp.Compare(a.Key, b.Key) }) // the tree likes it
	return s.b.Save(rows)
}

// FileStore is a store in a file of its own, for a program without a Node. It
// is safe for concurrent use.
type FileStore struct {
	stateStore
	s      *state.State
	copied atomic.Int64 // Unix nanoseconds of the last daily copy
}

// copyEvery is how old the copy of the file may be.
const copyEvery = 24 * time.Hour

// OpenStore opens or creates the store in the file at path, whose directory
// must exist. It locks the file: a second process gets an error that names the
// first. Beside the file stand PATH.backup, its copy of at most a day ago, and
// PATH.damaged-TIME when one had to be set aside; Load says so. A file that is
// missing or empty while one of these is there is restored: to start afresh,
// remove all of them.
func OpenStore(path string) (*FileStore, error) {
	s, err := state.OpenFile(path)
	if err != nil {
		return nil, fmt.Errorf("addrbook: %w", err)
	}
	f := &FileStore{stateStore: stateStore{s.Bucket("book")}, s: s}
	f.copied.Store(time.Now().UnixNano())
	return f, nil
}

// Load calls row for every intact row and says what had to be repaired.
func (f *FileStore) Load(row func(key string, value []byte)) ([]string, error) {
	notices, err := f.stateStore.Load(row)
	return slices.Concat(f.s.Report(), notices), err
}

// Save makes the changes, all or none, and returns when they are on disk. Once
// a day it makes the copy of the file after that.
func (f *FileStore) Save(changes []Change) error {
	if err := f.stateStore.Save(changes); err != nil {
		return err
	}
	now := time.Now().UnixNano()
	if last := f.copied.Load(); now-last >= int64(copyEvery) && f.copied.CompareAndSwap(last, now) {
		_ = f.s.Backup() // the rows are safe; the next day tries again
	}
	return nil
}

// Close closes the file and gives the lock back. Close the book before.
func (f *FileStore) Close() error { return f.s.Close() }
