package tunnel

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

// That the machine says no to a local address is no fault of its form, and the
// error says what to do about it.
func TestRegressionCannotListenIsNoBadAddress(t *testing.T) {
	a := newNode(t)
	dir, err := os.MkdirTemp("", "kt") // short, as the path of a socket has to be
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	live, err := net.Listen("unix", filepath.Join(dir, "live"))
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	for _, tc := range []struct {
		bind, why string
		is        error
	}{
		{"/unix" + dir + "/none/a.sock", "there is no directory " + dir + "/none; make it first, or choose another path", os.ErrNotExist},
		{"/unix" + file + "/a.sock", "a part of this path is no directory; choose another path", syscall.ENOTDIR},
		{"/unix" + file, "there is a file of that name, which is no socket and is left alone; choose another path", ErrExists},
		{"/unix" + dir, "there is a directory of that name; choose another path", ErrExists},
		{"/unix" + dir + "/live", "it is in use by another program or mount (`kith ls`); choose another port or path, or 0 to have a port picked", ErrExists},
		{"/unix" + dir + strings.Repeat("/long", 30), fmt.Sprintf("%d bytes are more than the path of a unix socket may have; choose a shorter one", len(dir)+150), syscall.EINVAL},
		{"/ip4/192.0.2.1/tcp/2222", "this machine has no such address; give one that it has, such as 127.0.0.1, or 0.0.0.0 for all of them", syscall.EADDRNOTAVAIL},
		{"/dns4/no..such/tcp/80", "its name cannot be looked up (no such host); give an IP address of this machine, such as 127.0.0.1", nil},
	} {
		_, err = a.Dial(t.Context(), nil, a.id, "x", ma.StringCast(tc.bind))
		if err == nil || errors.Is(err, ErrAddress) || tc.is != nil && !errors.Is(err, tc.is) || errors.Is(err, ErrExists) != (tc.is == ErrExists) {
			t.Errorf("%s: %v", tc.bind, err)
			continue
		}
		if !strings.HasPrefix(err.Error(), "cannot listen on ") || !strings.HasSuffix(err.Error(), ": "+tc.why) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s:\n got %v\nwant %s", tc.bind, err, tc.why)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file has become %q, %v", b, err)
	}
	if n := len(a.Listeners.List()); n != 0 {
		t.Errorf("%d mounts are listed", n)
	}
}
