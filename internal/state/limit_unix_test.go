//go:build unix

package state

import (
	"fmt"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// limitFileSize makes writes beyond n bytes of any file fail (EFBIG), which a
// program sees as it sees a full disk, until restore is called.
func limitFileSize(t *testing.T, n uint64) (restore func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "kept", "1")
	restore := limitFileSize(t, 256<<10)
	var failed error
	for n := 0; n < 100 && failed == nil; n++ {
		failed = s.Bucket("test").Put(fmt.Sprint("row", n), make([]byte, 64<<10))
	}
	restore()
	if failed == nil || !strings.Contains(failed.Error(), fileName) {
		t.Fatalf("got %v", failed)
	}
	put(t, s, "after", "2")
	s.Close()
	s = open(t, dir)
	if get(t, s, "kept") != "1" || get(t, s, "after") != "2" || len(s.Report()) != 0 {
		t.Fatalf("rows lost after a full disk: %v", s.Report())
	}
}
