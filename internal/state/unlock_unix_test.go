//go:build unix

package state

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// Who cannot have the directory to restore a file in it changes nothing, and
// says why.
func TestRestoreWaitsForAnother(t *testing.T) {
	dir := folder{fileName + backupEnd: "x"}.write(t)
	release, ok := holdDir(dir, 0)
	if !ok {
		t.Fatal("the directory is locked")
	}
	if _, ok := holdDir(dir, time.Millisecond); ok {
		t.Fatal("locked twice")
	}
	if _, err := Open(dir); !errors.Is(err, ErrLocked) || len(readFolder(t, dir)) != 1 {
		t.Fatalf("%v, %v", err, readFolder(t, dir))
	}
	release()
	if s := open(t, dir); len(s.Report()) != 2 {
		t.Fatalf("%q", s.Report())
	}
}

// Two that find a lost file at once: neither takes what the other restored, and
// uses, for damage.
func TestTwoStartsOnALostFile(t *testing.T) {
	base := t.TempDir()
	s := open(t, base)
	put(t, s, "a", "1")
	if err := s.Backup(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	lost := readFolder(t, base)
	delete(lost, fileName)
	opened := 0
	for round := range 20 {
		dir := lost.write(t)
		var wg sync.WaitGroup
		var wrote [3]bool
		for n := range wrote {
			wg.Go(func() {
				s, err := Open(dir)
				if errors.Is(err, ErrLocked) {
					return
				}
				if err != nil {
					t.Errorf("round %d: %v", round, err)
					return
				}
				wrote[n] = true
				if err := errors.Join(s.Bucket("test").Put(fmt.Sprint(n), []byte("x")), s.Close()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		s := open(t, dir)
		if get(t, s, "a") != "1" {
			t.Fatalf("round %d: the row of the copy is lost", round)
		}
		for n, did := range wrote {
			if did {
				opened++
			}
			if did && get(t, s, fmt.Sprint(n)) != "x" {
				t.Errorf("round %d: what number %d saved is lost", round, n)
			}
		}
		s.Close()
	}
	t.Logf("%d of 60 starts had the file", opened)
}
