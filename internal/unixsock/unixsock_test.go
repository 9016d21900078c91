package unixsock

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

func TestPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", fi.Mode(), err)
	}
	if _, err := Listen(path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("a second time: %v", err)
	}
}

// The mode that bind itself gives the file, before anything could change it.
func TestBornPrivate(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Logf("on %s a private directory must protect the socket", runtime.GOOS)
		return
	}
	path := filepath.Join(t.TempDir(), "s")
	lc := net.ListenConfig{Control: bornPrivate}
	l, err := lc.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", fi.Mode(), err)
	}
}
