// Package state holds what a node remembers: one bbolt file in the home
// directory, opened once by the Node, which lends buckets to the parts.
//
// What Put returned nil for is on disk (fsync) and survives a crash. Each row
// carries a checksum; a damaged row is set aside and reported, never fatal.
// When the file's structure is broken it is kept aside under another name,
// never deleted, and the last good copy (taken once a day) takes its place;
// Report says what happened. The open file is also the lock of the home: two
// nodes cannot share one.
package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterr "go.etcd.io/bbolt/errors"
)

const (
	fileName   = "state.db"
	backupName = "state.db.backup"
	pidName    = "node.pid"

	// Version is the layout this program writes. Files of older versions are
	// migrated when opened, after a copy was kept; newer ones are refused.
	Version = 1

	backupEvery = 24 * time.Hour
	lockWait    = 200 * time.Millisecond
)

var (
	metaBucket    = []byte("meta")
	asideBucket   = []byte("damaged rows")
	versionKey    = []byte("version")
	castagnoli    = crc32.MakeTable(crc32.Castagnoli)
	errBadVersion = errors.New("the version row is missing or damaged")
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
	dir    string
	report []string

	mu     sync.RWMutex // guards the fields below; never held over a transaction's caller code
	db     *bolt.DB
	broken error
}

// Open opens or creates the state file in dir, which must exist. It blocks at
// most a fraction of a second for the lock, then returns an error that wraps
// ErrLocked and names the process that holds it.
func Open(dir string) (*State, error) {
	s := &State{dir: dir}
	db, err := s.open()
	if err != nil && !errors.Is(err, ErrLocked) && !errors.Is(err, ErrNewer) && isDamage(err) {
		db, err = s.restore(err)
	}
	if err != nil {
		return nil, err
	}
	s.db = db
	// Neither of these is worth a node that does not start, on a full disk say.
	_ = os.WriteFile(s.path(pidName), []byte(strconv.Itoa(os.Getpid())), 0o600) // for ErrLocked's text only
	if s.backupDue() {
		if err := s.Backup(); err != nil {
			s.report = append(s.report, fmt.Sprintf("the daily copy of the state file could not be made (%v); see to it that %s has free space", err, dir))
		}
	}
	return s, nil
}

// Report lists what Open had to repair or could not do, one sentence each;
// empty when all was well.
func (s *State) Report() []string { return s.report }

// Bucket lends the named bucket. The name is the owner's, chosen once.
func (s *State) Bucket(name string) *Bucket { return &Bucket{s: s, name: []byte(name)} }

// Close releases the file and the lock of the home. Later calls return nil.
func (s *State) Close() error {
	s.mu.Lock()
	db := s.db
	s.db = nil
	s.mu.Unlock()
	if db == nil {
		return nil
	}
	os.Remove(s.path(pidName))
	return db.Close()
}

// Backup writes a copy beside the file and replaces the previous copy with it.
// It blocks for one pass over the file.
func (s *State) Backup() error {
	tmp := s.path(backupName + ".new")
	defer os.Remove(tmp)
	err := s.transact(false, func(tx *bolt.Tx) error {
		f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if _, err := tx.WriteTo(f); err != nil {
			return errors.Join(err, f.Close())
		}
		return errors.Join(f.Sync(), f.Close())
	})
	if err == nil {
		err = os.Rename(tmp, s.path(backupName))
	}
	if err != nil {
		return fmt.Errorf("state: cannot back up: %w", err)
	}
	return nil
}

func (s *State) path(name string) string { return filepath.Join(s.dir, name) }

func (s *State) backupDue() bool {
	fi, err := os.Stat(s.path(backupName))
	return err != nil || time.Since(fi.ModTime()) >= backupEvery
}

// open opens the file, walks all of it and checks the version.
func (s *State) open() (*bolt.DB, error) {
	var db *bolt.DB
	err := guard(func() (err error) {
		db, err = bolt.Open(s.path(fileName), 0o600, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
		return err
	})
	if errors.Is(err, bolterr.ErrTimeout) {
		return nil, fmt.Errorf("%w: %s is held by %s; stop it, or use another --home", ErrLocked, s.dir, s.holder())
	}
	if err != nil {
		return nil, fmt.Errorf("state: cannot open %s: %w", s.path(fileName), err)
	}
	err = guard(func() error {
		if err := db.View(walk); err != nil {
			return err
		}
		return db.Update(migrate)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("state: %s: %w", s.path(fileName), err), db.Close())
	}
	return db, nil
}

func (s *State) holder() string {
	pid, err := os.ReadFile(s.path(pidName))
	if err != nil || len(pid) == 0 {
		return "another process"
	}
	return "process " + string(pid)
}

// walk touches every page, so that damage shows now and not in mid-use.
func walk(tx *bolt.Tx) error {
	return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			crc32.Checksum(v, castagnoli)
			return nil
		})
	})
}

func migrate(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	row := meta.Get(versionKey)
	if row == nil {
		if k, _ := tx.Cursor().First(); k != nil && string(k) != string(metaBucket) {
			return errBadVersion
		}
		return meta.Put(versionKey, seal(versionKey, []byte{Version}))
	}
	v, ok := unseal(versionKey, row)
	switch {
	case !ok || len(v) != 1:
		return errBadVersion
	case v[0] > Version:
		return fmt.Errorf("%w (layout %d, this program knows %d): install the newer kith, or use another --home", ErrNewer, v[0], Version)
	}
	return nil
}

// restore keeps the damaged file aside and opens the last good copy, or a new
// file when there is none.
func (s *State) restore(cause error) (*bolt.DB, error) {
	aside := s.path(fmt.Sprintf("%s.damaged-%s", fileName, time.Now().UTC().Format("20060102T150405.000000000")))
	if err := os.Rename(s.path(fileName), aside); err != nil {
		return nil, errors.Join(cause, err)
	}
	s.report = append(s.report, fmt.Sprintf("the state file was damaged (%v) and is kept as %s", cause, aside))
	data, err := os.ReadFile(s.path(backupName))
	switch {
	case errors.Is(err, os.ErrNotExist):
		s.report = append(s.report, "there was no copy of it: starting with an empty one")
		return s.open()
	case err != nil:
		return nil, errors.Join(cause, err)
	}
	if err := os.WriteFile(s.path(fileName), data, 0o600); err != nil {
		return nil, errors.Join(cause, err)
	}
	db, err := s.open()
	if err != nil {
		if !isDamage(err) {
			return nil, err
		}
		os.Rename(s.path(backupName), aside+".backup")
		if err := os.Remove(s.path(fileName)); err != nil {
			return nil, err
		}
		s.report = append(s.report, "the copy of it was damaged too: starting with an empty one")
		return s.open()
	}
	age := "of an unknown time"
	if fi, err := os.Stat(s.path(backupName)); err == nil {
		age = "of " + fi.ModTime().UTC().Format(time.RFC3339)
	}
	s.report = append(s.report, "the copy "+age+" took its place: what was saved after that is missing")
	return db, nil
}

// isDamage tells a broken file from a full disk, a missing directory or a
// refused permission.
func isDamage(err error) bool {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return false
	}
	for _, e := range []error{bolterr.ErrInvalid, bolterr.ErrChecksum, bolterr.ErrVersionMismatch, errFault, errBadVersion} {
		if errors.Is(err, e) {
			return true
		}
	}
	return strings.Contains(err.Error(), "file size too small") || // bbolt has no sentinel for this one
		strings.Contains(err.Error(), "invalid page")
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
