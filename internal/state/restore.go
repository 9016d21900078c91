package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterr "go.etcd.io/bbolt/errors"
)

// Backup writes a copy beside the file and replaces the previous copy with it.
// It blocks for one pass over the file.
func (s *State) Backup() error {
	tmp := s.path(s.file + backupEnd + newEnd)
	defer os.Remove(tmp)
	err := s.transact(false, func(tx *bolt.Tx) error {
		return writeSynced(tmp, func(f *os.File) error {
			s.did("the copy begun")
			_, err := tx.WriteTo(f)
			return err
		})
	})
	if err == nil {
		s.did("the copy written")
		err = s.replace(tmp, s.path(s.file+backupEnd))
	}
	if err != nil {
		return fmt.Errorf("state: cannot back up: %w", err)
	}
	return nil
}

// writeSynced fills a new file and returns when it is on disk.
func writeSynced(path string, fill func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := fill(f); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

// replace renames a file and returns when that is on disk.
func (s *State) replace(from, to string) error {
	err := os.Rename(from, to)
	if err == nil {
		s.did("renamed " + filepath.Base(from))
		err = syncDir(s.dir)
	}
	return err
}

func (s *State) backupDue() bool {
	fi, err := os.Stat(s.path(s.file + backupEnd))
	return err != nil || time.Since(fi.ModTime()) >= backupEvery
}

// isNew reports that there is no file yet, or one with nothing in it. When
// what stands beside it says that there was one, it is lost: errMissing or
// errEmpty.
func (s *State) isNew() (bool, error) {
	lost := errEmpty
	switch fi, err := os.Stat(s.path(s.file)); {
	case errors.Is(err, os.ErrNotExist):
		lost = errMissing
	case err != nil || fi.Size() > 0:
		return false, nil // whoever opens it sees why it cannot be read
	}
	beside, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("state: cannot see whether there was a file before: %w", err)
	}
	for _, e := range beside {
		if e.Name() == s.file+backupEnd || strings.HasPrefix(e.Name(), s.file+asideMid) {
			return false, fmt.Errorf("state: %s: %w", s.path(s.file), lost)
		}
	}
	return true, nil
}

// restore keeps the damaged file aside and opens the last good copy, or a new
// file when there is none. It may be killed after any step: the next start
// finds the copy or what was set aside, and begins again.
func (s *State) restore() (*bolt.DB, error) {
	release, ok := holdDir(s.dir, restoreWait)
	if !ok {
		return nil, fmt.Errorf("%w: another process restores a file in %s, or holds that directory's lock; start again when it is done", ErrLocked, s.dir)
	}
	defer release()
	s.report = nil
	db, cause := s.open() // another process may have restored it meanwhile, and use it
	if cause == nil || !isDamage(cause) {
		return db, cause
	}
	s.report, s.restored = nil, true
	path, backup := s.path(s.file), s.path(s.file+backupEnd)
	data, err := os.ReadFile(backup)
	hasCopy := err == nil
	if !hasCopy && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(cause, err)
	}
	if hasCopy {
		if err := writeSynced(path+newEnd, func(f *os.File) error {
			s.did("the new file begun")
			_, err := f.Write(data)
			return err
		}); err != nil {
			return nil, errors.Join(cause, err)
		}
		s.did("the new file written")
	}
	aside := s.path(fmt.Sprint(s.file, asideMid, time.Now().UTC().Format("20060102T150405.000000000")))
	if errors.Is(cause, errMissing) {
		s.tell("the state file %s is missing", path)
	} else {
		if err := s.replace(path, aside); err != nil {
			return nil, errors.Join(cause, err)
		}
		s.tell("the state file was damaged (%v) and is kept as %s", cause, aside)
	}
	if !hasCopy {
		s.tell("there was no copy of it: starting with an empty one")
		return s.finish(nil)
	}
	age, afresh := "of an unknown time", ""
	if fi, err := os.Stat(backup); err == nil {
		age = "of " + fi.ModTime().UTC().Format(time.RFC3339)
	}
	if errors.Is(cause, errMissing) || errors.Is(cause, errEmpty) {
		afresh = fmt.Sprintf("; if you removed it to start afresh, stop the program and remove %s, %s and, if there are any, %s*", path, backup, path+asideMid)
	}
	before := s.report
	s.tell("the copy %s took its place: what was saved after that is missing%s", age, afresh)
	if err := s.replace(path+newEnd, path); err != nil {
		return nil, errors.Join(cause, err)
	}
	if db, err = s.open(); err == nil {
		return db, nil
	}
	if !isDamage(err) {
		return nil, err
	}
	s.report = before
	s.tell("the copy of it was damaged too and is kept as %s: starting with an empty one", aside+backupEnd)
	if err := s.replace(backup, aside+backupEnd); err != nil {
		return nil, errors.Join(cause, err)
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	s.did("the bad copy removed")
	return s.finish(nil)
}

// tell adds a sentence to the report, and to a note beside the file: a start
// that is killed after it repaired the file has told nobody.
func (s *State) tell(format string, args ...any) {
	s.report = append(slices.Clip(s.report), fmt.Sprintf(format, args...))
	note := s.path(s.file + noteEnd)
	if err := writeSynced(note+newEnd, func(f *os.File) error {
		_, err := f.WriteString(strings.Join(s.report, "\n"))
		return err
	}); err == nil { // the repair is worth more than the note
		_ = s.replace(note+newEnd, note)
	}
}

// recall reports what an earlier start, which was killed, repaired.
func (s *State) recall() {
	note, err := os.ReadFile(s.path(s.file + noteEnd))
	if err != nil || s.restored {
		return
	}
	for said := range strings.Lines(string(note)) {
		if said = strings.TrimSpace(said); said != "" && !slices.Contains(s.report, said) {
			s.report = append(s.report, said)
		}
	}
}

// isDamage tells a broken file from a full disk, a missing directory or a
// refused permission.
func isDamage(err error) bool {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return false
	}
	if errors.Is(err, ErrLocked) || errors.Is(err, ErrNewer) {
		return false
	}
	for _, e := range []error{bolterr.ErrInvalid, bolterr.ErrChecksum, bolterr.ErrVersionMismatch, errFault, errBadVersion, errStructure, errMissing, errEmpty} {
		if errors.Is(err, e) {
			return true
		}
	}
	return strings.Contains(err.Error(), "file size too small") // bbolt has no sentinel for this one
}
