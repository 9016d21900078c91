package unixsock

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
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

// leaveBehind makes what a killed process leaves: a socket nobody listens on.
func leaveBehind(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestTake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	leaveBehind(t, path)
	l, err := Take(path)
	if err != nil {
		t.Fatalf("a dead socket: %v", err)
	}
	defer l.Close()
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", fi.Mode(), err)
	}
	if _, err := Take(path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("a live socket: %v", err)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(file); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("a file: %v", err)
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Fatal(b, err)
	}
	if _, err := Take(filepath.Join(t.TempDir(), "nowhere", "s")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("no directory: %v", err)
	}
}

// Of several that find a dead socket at once, one gets it. Once the second
// removed the socket that the first had just bound, and both believed that they
// listened.
func TestRegressionOneOfSeveralTakesADeadSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Log("on windows there is no lock on a directory")
		return
	}
	dir := t.TempDir()
	for range 200 {
		path := filepath.Join(dir, "s")
		leaveBehind(t, path)
		var mu sync.Mutex
		var got []net.Listener
		var all sync.WaitGroup
		start := make(chan struct{})
		for range 4 {
			all.Go(func() {
				<-start
				l, err := Take(path)
				switch {
				case err == nil:
					mu.Lock()
					got = append(got, l)
					mu.Unlock()
				case !errors.Is(err, syscall.EADDRINUSE):
					t.Error(err)
				}
			})
		}
		close(start)
		all.Wait()
		if len(got) != 1 {
			t.Fatalf("%d of 4 listen on one socket", len(got))
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatalf("the winner cannot be reached: %v", err)
		}
		c.Close()
		got[0].Close()
	}
}

// Anybody may lock a directory that they may read. That does not stop us.
func TestTakeDoesNotWaitForEver(t *testing.T) {
	dir := t.TempDir()
	defer lockDir(dir)()
	l, err := Take(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
