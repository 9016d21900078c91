package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// SocketFile is the name of the control socket in a home.
const SocketFile = "control.sock"

// maxSocketPath is the longest path the platform binds a unix socket to: its
// sun_path field (108 bytes on Linux, 104 on macOS and the BSDs) less the
// terminating zero.
var maxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// socketPath returns where the control socket of a home is, or an error that
// tells to choose a shorter home.
func socketPath(home string) (string, error) {
	path := filepath.Join(home, SocketFile)
	if len(path) > maxSocketPath {
		return "", &usageError{fmt.Sprintf("the path of the control socket, %s, has %d bytes and this system allows %d; choose a shorter --home",
			path, len(path), maxSocketPath)}
	}
	return path, nil
}

// listenSocket binds the control socket. The caller holds the home's lock, so
// a socket that is already there was left by a node that was killed.
func listenSocket(home string) (net.Listener, error) {
	path, err := socketPath(home)
	if err != nil {
		return nil, err
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("cannot look at the control socket: %w; check the permissions of %s", err, home)
	case info.Mode().Type()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("%s is in the way of the control socket and is no socket; move it elsewhere and start again", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("cannot remove the control socket of a killed node: %w; remove it and start again", err)
		}
	}
	lc := net.ListenConfig{Control: bornPrivate}
	ln, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the control socket: %w; check that %s can be written to", err, home)
	}
	// Where the system ignores the mode of an unbound socket, the home's mode
	// 0700 has kept others out until here.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("cannot make the control socket private: %w; keep the home on a file system with permissions", err)
	}
	return ln, nil
}
