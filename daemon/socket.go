package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kith-p2p/kith/internal/unixsock"
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
	ln, err := unixsock.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the control socket: %w; check that %s can be written to and has permissions", err, home)
	}
	return ln, nil
}
