// Package state holds what a node remembers: one bbolt file in the home
// directory, opened once by the Node, which lends buckets to the parts.
//
// What Put and Save returned nil for is on disk (fsync) and survives a crash.
// Each row carries a checksum; a damaged row is set aside and reported, never
// fatal. The structure of the file is checked before it is used, and each
// table is counted, so that rows which damage made invisible are missed. A
// broken file is kept aside under another name, never deleted, and the last
// good copy (taken once a day) takes its place; Report says what happened. A
// file that is missing or empty beside a copy, or beside one that was set
// aside, is broken: who wants to start afresh removes all of them. The open
// file is also the lock of the home: two nodes cannot share one.
package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterr "go.etcd.io/bbolt/errors"
)

const (
	fileName  = "state.db"
	backupEnd = ".backup"
	asideMid  = ".damaged-"
	newEnd    = ".new"
	noteEnd   = ".report"
	pidName   = "node.pid"

	// Version is the layout this program writes. Files of older versions are
	// migrated when opened, after a copy was kept; newer ones are refused.
	Version = 1

	backupEvery = 24 * time.Hour
	lockWait    = 200 * time.Millisecond
	restoreWait = 3 * time.Second
)

var (
	metaBucket    = []byte("meta")
	asideBucket   = []byte("damaged rows")
	versionKey    = []byte("version")
	castagnoli    = crc32.MakeTable(crc32.Castagnoli)
	errBadVersion = errors.New("the version row is missing or damaged")
	errMissing    = errors.New("it is missing")
	errEmpty      = errors.New("it is empty")
)

// Errors a caller can decide on.
var (
	// ErrLocked says that another process holds this home.
	ErrLocked = errors.New("state: home in use by another node")
	// ErrNewer says that a newer kith wrote the file.
	ErrNewer = errors.New("state: written by a newer version of kith")
	// ErrDamaged says that the file broke while in use; reopening restores it.
	ErrDamaged = errors.New("state: file damaged")
	// ErrClosed is returned by every call after Close.
	ErrClosed = errors.New("state: closed")
)

// State is an open state file. It is safe for concurrent use; a write blocks
// until it is on disk.
type State struct {
	dir, file, pid string
	report         []string
	restored       bool              // by this start
	step           func(done string) // for tests: called after each step that a kill can follow

	mu     sync.RWMutex // guards the fields below; never held over a transaction's caller code
	db     *bolt.DB
	handle *os.File // of db
	broken error
}

// Open opens or creates the state file in dir, which must exist. It blocks at
// most a fraction of a second for the lock (some seconds, if another process is
// restoring a file there), then returns an error that wraps
// ErrLocked and names the process that holds it.
func Open(dir string) (*State, error) {
	return (&State{dir: dir, file: fileName, pid: pidName}).start()
}

// OpenFile is Open for a file that is not a node's: its copy, its lock's note
// (PATH.pid) and damaged files are named after it. Its directory must exist.
func OpenFile(path string) (*State, error) {
	name := filepath.Base(path)
	return (&State{dir: filepath.Dir(path), file: name, pid: name + ".pid"}).start()
}

func (s *State) start() (*State, error) {
	db, err := s.open()
	if err != nil && isDamage(err) {
		db, err = s.restore()
	}
	if err != nil {
		return nil, err
	}
	s.db = db
	s.recall()
	// Neither of these is worth a node that does not start, on a full disk say.
	_ = os.WriteFile(s.path(s.pid), []byte(strconv.Itoa(os.Getpid())), 0o600) // for ErrLocked's text only
	// What had to be repaired may be less than what the copy holds.
	if len(s.report) == 0 && s.backupDue() {
		if err := s.Backup(); err != nil {
			s.report = append(s.report, fmt.Sprintf("the daily copy of the state file could not be made (%v); see to it that %s has free space", err, s.dir))
		}
	}
	for _, left := range []string{newEnd, noteEnd + newEnd, noteEnd} {
		os.Remove(s.path(s.file + left))
	}
	return s, nil
}

func (s *State) did(what string) {
	if s.step != nil {
		s.step(what)
	}
}

// Report lists what Open had to repair or could not do, one sentence each;
// empty when all was well.
func (s *State) Report() []string { return s.report }

// Bucket lends the named bucket. The name is the owner's, chosen once.
func (s *State) Bucket(name string) *Bucket { return &Bucket{s: s, name: []byte(name)} }

// Close releases the file and the lock of the home. Later calls return nil.
func (s *State) Close() error {
	s.mu.Lock()
	db, broken := s.db, s.broken
	s.db = nil
	s.mu.Unlock()
	if db == nil {
		return nil
	}
	os.Remove(s.path(s.pid))
	if broken != nil {
		unlock(s.handle) // db.Close may wait for ever for a lock that the fault left held
		return s.handle.Close()
	}
	return db.Close()
}

func (s *State) path(name string) string { return filepath.Join(s.dir, name) }

// open checks the file, opens it and brings it to this program's layout. It
// creates the file if it is new.
func (s *State) open() (*bolt.DB, error) {
	isNew, err := s.isNew()
	if err != nil {
		return nil, err
	}
	if isNew {
		return s.finish(nil)
	}
	var found *findings
	err = s.locked(true, func(*bolt.DB) error {
		data, err := os.ReadFile(s.path(s.file))
		if err == nil {
			found, err = check(data)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.finish(found)
}

// finish opens the file for use after it was checked; nil: it is to be created.
func (s *State) finish(found *findings) (*bolt.DB, error) {
	var db *bolt.DB
	err := s.locked(false, func(opened *bolt.DB) error {
		db = opened
		s.did("opened")
		err := s.prepare(db, found)
		if err == nil && found == nil {
			err = syncDir(s.dir) // its name is there to stay
		}
		return err
	})
	if err != nil {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
		return nil, err
	}
	s.did("prepared")
	return db, nil
}

// locked runs fn with the file opened and locked: shared, only to be looked
// at, and closed after; or for us alone, and left open.
func (s *State) locked(look bool, fn func(*bolt.DB) error) error {
	path := s.path(s.file)
	var db *bolt.DB
	err := guard(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType, ReadOnly: look, NoStatistics: true,
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				f, err = os.OpenFile(name, flag, mode)
				s.handle = f
				return f, err
			}})
		return err
	})
	if errors.Is(err, bolterr.ErrTimeout) {
		return fmt.Errorf("%w: %s is held by %s; stop it, or use another %s", ErrLocked, s.place(), s.holder(), s.kind())
	}
	if errors.Is(err, errFault) && s.handle != nil {
		unlock(s.handle)
		s.handle.Close()
	}
	if err != nil {
		return fmt.Errorf("state: cannot open %s: %w", path, err)
	}
	err = guard(func() error { return fn(db) })
	if look {
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		return fmt.Errorf("state: %s: %w", path, err)
	}
	return nil
}

// prepare writes what the file lacks and sets aside what is damaged in it.
func (s *State) prepare(db *bolt.DB, found *findings) error {
	if found == nil {
		found = &findings{undated: true}
	}
	if found.badHead {
		s.tell("one of the two heads of %s was damaged and the other is used: the last change before the damage may be missing", s.path(s.file))
	}
	stale := found.undated || found.badCheck
	for _, name := range slices.Sorted(maps.Keys(found.tables)) {
		if n := len(found.tables[name].damaged); n > 0 {
			stale = true
			s.tell("%d of %d rows of the table %q in %s were damaged and are set aside", n, found.tables[name].rows.count, name, s.path(s.file))
		}
	}
	current := false
	if err := db.View(func(tx *bolt.Tx) (err error) {
		current, err = version(tx)
		return err
	}); err != nil || current && !stale {
		return err
	}
	return db.Update(func(tx *bolt.Tx) error {
		s.did("said")
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err == nil {
			err = meta.Put(versionKey, seal(versionKey, []byte{Version}))
		}
		if err == nil && found.badCheck {
			s.tell("the count of rows was damaged and is made anew")
			err = tx.DeleteBucket(digestBucket)
		}
		if err == nil {
			_, err = tx.CreateBucketIfNotExists(digestBucket)
		}
		for name, t := range found.tables {
			switch {
			case err != nil:
			case len(t.damaged) > 0:
				err = setAside(tx, []byte(name), t.damaged)
			case stale:
				err = recount(tx, []byte(name))
			}
		}
		return err
	})
}

// place and kind name the thing that is locked, for a person.
func (s *State) place() string {
	if s.file == fileName {
		return s.dir
	}
	return s.path(s.file)
}

func (s *State) kind() string {
	if s.file == fileName {
		return "--home"
	}
	return "file"
}

func (s *State) holder() string {
	pid, err := os.ReadFile(s.path(s.pid))
	if err != nil || len(pid) == 0 {
		return "another process"
	}
	return "process " + string(pid)
}

// version reads the layout of the file; current says that it is this
// program's, false that the file is new.
func version(tx *bolt.Tx) (current bool, err error) {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		if k, _ := tx.Cursor().First(); k != nil {
			return false, errBadVersion
		}
		return false, nil
	}
	v, ok := unseal(versionKey, meta.Get(versionKey))
	switch {
	case !ok || len(v) != 1:
		return false, errBadVersion
	case v[0] > Version:
		return false, fmt.Errorf("%w (layout %d, this program knows %d): install the newer kith, or use another --home", ErrNewer, v[0], Version)
	}
	return v[0] == Version, nil
}

var errFault = errors.New("a page of the file cannot be read")

// guard turns a panic or memory fault on a damaged page into errFault: bbolt
// reads a memory map and asserts by panic.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errFault, r)
		}
	}()
	return fn()
}

// transact runs fn in a transaction. After a fault the file's locks are in an
// unknown state, so every later call is refused.
func (s *State) transact(write bool, fn func(*bolt.Tx) error) error {
	s.mu.RLock()
	db, broken := s.db, s.broken
	s.mu.RUnlock()
	switch {
	case broken != nil:
		return broken
	case db == nil:
		return ErrClosed
	}
	run := db.View
	if write {
		run = db.Update
	}
	err := guard(func() error { return run(fn) })
	if errors.Is(err, errFault) {
		err = fmt.Errorf("%w: %w; restart the node to restore the last copy", ErrDamaged, err)
		s.mu.Lock()
		s.broken = err
		s.mu.Unlock()
	}
	if errors.Is(err, bolterr.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// A row is the CRC-32C of its key and value, then the value.
func seal(key, v []byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, len(v)+4), checksum(key, v)), v...)
}

func unseal(key, row []byte) ([]byte, bool) {
	if len(row) < 4 {
		return nil, false
	}
	v := row[4:]
	return v, binary.BigEndian.Uint32(row) == checksum(key, v)
}

func checksum(key, v []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, v)
}
