package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func open(t *testing.T, dir string) *State {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t *testing.T, s *State, key, value string) {
	t.Helper()
	if err := s.Bucket("test").Put(key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s *State, key string) string {
	t.Helper()
	v, err := s.Bucket("test").Get(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(v)
}

func TestRowsSurviveReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a", "1")
	put(t, s, "b", "")
	put(t, s, "c", "3")
	if err := s.Bucket("test").Delete("c"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir)
	if len(s.Report()) != 0 {
		t.Fatalf("report: %v", s.Report())
	}
	rows, damaged, err := s.Bucket("test").All()
	if err != nil || damaged != 0 || len(rows) != 2 || string(rows["a"]) != "1" {
		t.Fatalf("%v %d %v", rows, damaged, err)
	}
	if fi, _ := os.Stat(filepath.Join(dir, fileName)); fi.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v", fi.Mode())
	}
}

func TestHomeHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := Open(dir)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Fatalf("got %v", err)
	}
	s.Close()
	open(t, dir)
}

func TestAfterClose(t *testing.T) {
	s := open(t, t.TempDir())
	s.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Bucket("x").Put("k", nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestDamagedRowIsSetAside(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "good", "1")
	put(t, s, "bad", "2")
	if err := s.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("test")).Put([]byte("bad"), []byte{1, 2, 3, 4, 5})
	}); err != nil {
		t.Fatal(err)
	}
	rows, damaged, err := s.Bucket("test").All()
	if err != nil || damaged != 1 || len(rows) != 1 {
		t.Fatalf("%v %d %v", rows, damaged, err)
	}
	if v := get(t, s, "bad"); v != "" {
		t.Fatalf("damaged row returned as %q", v)
	}
	s.db.View(func(tx *bolt.Tx) error {
		if v := tx.Bucket(asideBucket).Get([]byte("test/bad")); !bytes.Equal(v, []byte{1, 2, 3, 4, 5}) {
			t.Errorf("not kept aside: %v", v)
		}
		return nil
	})
}

func TestNewerVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(metaBucket).Put(versionKey, seal(versionKey, []byte{Version + 1}))
	}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(dir); !errors.Is(err, ErrNewer) {
		t.Fatal(err)
	}
	if m, _ := filepath.Glob(filepath.Join(dir, "*.damaged-*")); len(m) != 0 {
		t.Fatalf("a newer file was set aside: %v", m)
	}
}

// Every truncation and a flip in every page byte step: the node starts, says
// what happened, keeps the bad file, and never returns a wrong value.
func TestDamagedFile(t *testing.T) {
	base := t.TempDir()
	s := open(t, base)
	put(t, s, "old", "in the copy")
	if err := s.Backup(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "new", "after the copy")
	s.Close()
	good, err := os.ReadFile(filepath.Join(base, fileName))
	if err != nil {
		t.Fatal(err)
	}
	backup, err := os.ReadFile(filepath.Join(base, fileName+backupEnd))
	if err != nil {
		t.Fatal(err)
	}
	restored, aside := 0, 0
	try := func(name string, data []byte) {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, fileName), data, 0o600)
		os.WriteFile(filepath.Join(dir, fileName+backupEnd), backup, 0o600)
		s, err := Open(dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer s.Close()
		for key, want := range map[string]string{"old": "in the copy", "new": "after the copy"} {
			v, err := s.Bucket("test").Get(key)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if len(v) != 0 && string(v) != want {
				t.Fatalf("%s: silent corruption: %s is %q", name, key, v)
			}
			if len(v) == 0 && len(s.Report()) == 0 {
				t.Fatalf("%s: %s is gone and nobody says so", name, key)
			}
		}
		kept, _ := filepath.Glob(filepath.Join(dir, "*.damaged-*"))
		switch said := strings.Join(s.Report(), " "); {
		case strings.Contains(said, "set aside"), strings.Contains(said, "heads"), strings.Contains(said, "made anew"):
			aside++
		case said != "":
			restored++
			if len(kept) == 0 {
				t.Fatalf("%s: the damaged file is gone: %s", name, said)
			}
		}
		if put(t, s, "later", "3"); get(t, s, "later") != "3" {
			t.Fatalf("%s: the state cannot be written", name)
		}
	}
	for n := 0; n < len(good); n += 1021 {
		try(fmt.Sprintf("cut at %d", n), good[:n])
	}
	for i := 0; i < len(good); i += 61 {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		try(fmt.Sprintf("flip in byte %d", i), bad)
	}
	if restored == 0 || aside == 0 {
		t.Fatalf("%d files were restored, %d repaired", restored, aside)
	}
	t.Logf("%d of the damaged files were restored from the copy, %d repaired", restored, aside)
}

func TestDamagedWithoutCopy(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, fileName), bytes.Repeat([]byte("garbage!"), 8192), 0o600)
	s := open(t, dir)
	if len(s.Report()) != 2 {
		t.Fatalf("report: %q", s.Report())
	}
	put(t, s, "a", "1")
}

func TestConcurrentUse(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 20 {
				key := fmt.Sprint(i, "-", n)
				if err := s.Bucket("test").Put(key, []byte(key)); err != nil {
					t.Error(err)
				}
				if v, _ := s.Bucket("test").Get(key); string(v) != key {
					t.Errorf("%s is %q", key, v)
				}
			}
		})
	}
	wg.Wait()
}

// TestKilledWriter kills a process that writes numbered rows and says each one
// after it was saved: whatever it said must be there.
func TestKilledWriter(t *testing.T) {
	if dir := os.Getenv("KITH_STATE_WRITER"); dir != "" {
		s, err := Open(dir)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		for n := 0; ; n++ {
			if err := s.Bucket("test").Put(fmt.Sprint(n), []byte("x")); err != nil {
				os.Exit(1)
			}
			fmt.Println("saved", n)
		}
	}
	for round := range 5 {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$")
		cmd.Env = append(os.Environ(), "KITH_STATE_WRITER="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := -1
		for said < 10+7*round {
			if _, err := fmt.Fscanf(out, "saved %d\n", &said); err != nil {
				t.Fatal(err)
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		s := open(t, dir)
		for n := range said + 1 {
			if get(t, s, fmt.Sprint(n)) != "x" {
				t.Fatalf("row %d was said to be saved and is lost", n)
			}
		}
		s.Close()
	}
}
