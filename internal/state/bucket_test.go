package state

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSaveIsAllOrNothing(t *testing.T) {
	s := open(t, t.TempDir())
	b := s.Bucket("test")
	if err := b.Save([]Row{{"a", []byte("1")}, {"b", []byte{}}, {"c", []byte("3")}, {"c", nil}, {"never", nil}}); err != nil {
		t.Fatal(err)
	}
	if err := b.Save(nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Save([]Row{{"d", []byte("4")}, {"", []byte("a row without a key")}}); err == nil || !strings.Contains(err.Error(), fileName) {
		t.Fatalf("got %v", err)
	}
	rows, damaged, err := b.All()
	if err != nil || damaged != 0 || len(rows) != 2 || string(rows["a"]) != "1" || rows["b"] == nil {
		t.Fatalf("%q %d %v", rows, damaged, err)
	}
}

func TestEachIsInOrder(t *testing.T) {
	s := open(t, t.TempDir())
	b := s.Bucket("test")
	if n, err := b.Each(func(k, v []byte) { t.Errorf("%q in an empty table", k) }); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if err := b.Save([]Row{{"b", []byte("2")}, {"a", []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	var seen string
	if _, err := b.Each(func(k, v []byte) { seen += string(k) + string(v) }); err != nil || seen != "a1b2" {
		t.Fatalf("%q %v", seen, err)
	}
}

func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "book.db")
	s, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another file") {
		t.Fatalf("got %v", err)
	}
	other, err := OpenFile(filepath.Join(dir, "other.db"))
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	if err := s.Bucket("x").Put("k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Bucket("x").Backup(), s.Close()); err != nil || len(s.Bucket("x").Report()) != 0 {
		t.Fatal(err)
	}
	for _, f := range []string{path, path + ".backup"} {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path + ".pid"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// The file is cut under a node that runs: the memory map faults. The node goes
// on, says what to do, and can end.
func TestFileCutWhileOpen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a", "1")
	if err := s.Backup(); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		put(t, s, strings.Repeat("b", i+1), strings.Repeat("x", 3000))
	}
	if err := os.Truncate(filepath.Join(dir, fileName), 4096); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 3 {
		err = errors.Join(err, s.Bucket("test").Put("c", []byte("3")))
		_, _, e := s.Bucket("test").All()
		err = errors.Join(err, e)
	}
	if !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v", err)
	}
	done := make(chan error)
	go func() { done <- s.Close() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("Close hangs")
	}
	s = open(t, dir)
	if get(t, s, "a") != "1" || len(s.Report()) == 0 {
		t.Fatalf("report %q", s.Report())
	}
}
