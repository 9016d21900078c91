package daemon

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kith-p2p/kith"
)

func TestSocketIsPrivate(t *testing.T) {
	noLeaks(t)
	r := start(t, newHome(t))
	info, err := os.Stat(filepath.Join(r.home, SocketFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	if info, err := os.Stat(r.home); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("home: mode %v, error %v", info.Mode(), err)
	}
	r.end(t)
	if _, err := os.Lstat(filepath.Join(r.home, SocketFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}

func TestListenSocketOverWhatIsThere(t *testing.T) {
	home := newHome(t)
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(home, SocketFile)
	// A killed node leaves its socket.
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	ln, err := listenSocket(home)
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	ln.Close()

	// A file of the user's stays.
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ln, err := listenSocket(home); err == nil {
		ln.Close()
		t.Fatal("took the place of a file")
	} else if !strings.Contains(err.Error(), "in the way") {
		t.Errorf("over a file: %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "mine" {
		t.Errorf("the file now is %q, error %v", data, err)
	}
}

func TestPathTooLong(t *testing.T) {
	parent := filepath.Dir(newHome(t))
	fits := filepath.Join(parent, strings.Repeat("x", maxSocketPath-len(parent)-len(SocketFile)-2))
	if path, err := socketPath(fits); err != nil || len(path) != maxSocketPath {
		t.Errorf("%d bytes: %v", len(path), err)
	}
	start(t, fits)
	long := fits + "x"
	_, derr := Dial(long)
	for _, err := range []error{Run(t.Context(), Options{Home: long}), derr} {
		if !errors.Is(err, kith.ErrUsage) || !strings.Contains(err.Error(), "shorter --home") {
			t.Errorf("%v", err)
		}
	}
	if _, err := os.Lstat(long); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the home was made: %v", err)
	}
}
