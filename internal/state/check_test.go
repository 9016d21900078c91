package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// sample is a file of several tables, one of them large enough for branches.
func sample(tb testing.TB, rows int) []byte {
	tb.Helper()
	dir := tb.TempDir()
	s, err := Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var batch []Row
	for n := range rows {
		batch = append(batch, Row{fmt.Sprintf("row %05d", n), bytes.Repeat([]byte{byte(n)}, 100)})
	}
	if err := errors.Join(s.Bucket("large").Save(batch), s.Bucket("small").Put("a", []byte("1")), s.Close()); err != nil {
		tb.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestCheckTakesGoodFiles(t *testing.T) {
	for _, rows := range []int{0, 1, 30, 3000} {
		f, err := check(sample(t, rows))
		if err != nil || f.badHead || f.undated || f.badCheck {
			t.Fatalf("%d rows: %+v, %v", rows, f, err)
		}
		if f.tables["small"].rows.count != 1 || rows > 0 && f.tables["large"].rows.count != uint64(rows) {
			t.Fatalf("%d rows: %+v", rows, f.tables)
		}
	}
}

func TestCheckTakesFilesInUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for n := range 200 {
		key := fmt.Sprint("row ", n*7919%101)
		if n%3 == 0 {
			if err := s.Bucket("test").Delete(key); err != nil {
				t.Fatal(err)
			}
		} else {
			put(t, s, key, strings.Repeat("x", n*13))
		}
		data, err := os.ReadFile(filepath.Join(dir, fileName))
		if err != nil {
			t.Fatal(err)
		}
		if f, err := check(data); err != nil || f.badHead || f.badCheck {
			t.Fatalf("after change %d: %+v, %v", n, f, err)
		}
	}
}

// A file from before tables had digests gets them, and keeps its rows.
func TestFileWithoutDigests(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a", "1")
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket(digestBucket) }); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for range 2 {
		s = open(t, dir)
		if get(t, s, "a") != "1" || len(s.Report()) != 0 {
			t.Fatalf("%q", s.Report())
		}
		s.Close()
	}
	data, _ := os.ReadFile(filepath.Join(dir, fileName))
	if f, err := check(data); err != nil || f.undated {
		t.Fatalf("%+v %v", f, err)
	}
}

// What the digests are for: rows that are gone, old, or gone with their table,
// in a file whose structure is whole.
func TestRowsThatVanishAreMissed(t *testing.T) {
	for name, damage := range map[string]func(*bolt.Tx) error{
		"a row": func(tx *bolt.Tx) error { return tx.Bucket([]byte("test")).Delete([]byte("a")) },
		"an old row": func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("test")).Put([]byte("a"), seal([]byte("a"), []byte("older")))
		},
		"a table":         func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("test")) },
		"a table's count": func(tx *bolt.Tx) error { return tx.Bucket(digestBucket).Delete([]byte("test")) },
	} {
		dir := t.TempDir()
		s := open(t, dir)
		put(t, s, "a", "1")
		if err := s.Backup(); err != nil {
			t.Fatal(err)
		}
		put(t, s, "b", "2")
		if err := s.db.Update(damage); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = open(t, dir)
		if r := strings.Join(s.Report(), "\n"); !strings.Contains(r, "took its place") || get(t, s, "a") != "1" {
			t.Errorf("%s: report %q, a is %q", name, r, get(t, s, "a"))
		}
		s.Close()
	}
}

func TestDamagedRowsAndCountsAreRepairedAtOpen(t *testing.T) {
	for name, damage := range map[string]func(*bolt.Tx) error{
		"is made anew": func(tx *bolt.Tx) error { return tx.Bucket(digestBucket).Put([]byte("test"), []byte("?")) },
		"1 of 2 rows":  func(tx *bolt.Tx) error { return tx.Bucket([]byte("test")).Put([]byte("a"), []byte("??????")) },
	} {
		dir := t.TempDir()
		s := open(t, dir)
		put(t, s, "a", "1")
		put(t, s, "b", "2")
		if err := s.db.Update(damage); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = open(t, dir)
		if r := strings.Join(s.Report(), "\n"); !strings.Contains(r, name) || get(t, s, "b") != "2" {
			t.Errorf("%s: report %q", name, r)
		}
		s.Close()
		if s = open(t, dir); len(s.Report()) != 0 {
			t.Errorf("%s: again: %q", name, s.Report())
		}
		s.Close()
	}
}

// FuzzCheck damages a good file: whatever check accepts, bbolt can read.
func FuzzCheck(f *testing.F) {
	good := sample(f, 60)
	f.Add(0, []byte{1}, len(good))
	f.Add(16, []byte{0, 0, 0, 0}, 4096)
	f.Add(5000, []byte{255, 255}, len(good))
	f.Fuzz(func(t *testing.T, at int, with []byte, size int) {
		data := bytes.Clone(good[:max(0, min(size, len(good)))])
		if at >= 0 && at < len(data) {
			copy(data[at:], with)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := check(data)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(4*len(data)+64<<10) {
			t.Fatalf("%d bytes allocated for %d", n, len(data))
		}
		if err != nil {
			if !errors.Is(err, errStructure) {
				t.Fatalf("untyped: %v", err)
			}
			return
		}
		// The state can be read and written, all of it, without a fault.
		path := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenFile(path)
		if err != nil {
			if errors.Is(err, ErrNewer) {
				return
			}
			t.Fatal(err)
		}
		defer s.Close()
		var rows []Row
		if _, err := s.Bucket("large").Each(func(k, v []byte) { rows = append(rows, Row{Key: string(k)}) }); err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			rows = append(rows, Row{fmt.Sprintf("row %05d x", i), make([]byte, 200)})
		}
		if err := errors.Join(s.Bucket("large").Save(rows), s.Bucket("small").Put("b", nil), s.Bucket("small").Delete("a"), s.Backup()); err != nil {
			t.Fatal(err)
		}
	})
}
