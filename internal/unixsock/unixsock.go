// Package unixsock makes unix sockets that only their user can open, from the
// moment they exist, and replaces the ones that dead processes left behind.
package unixsock

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// probeTimeout bounds the look whether somebody listens on a socket.
const probeTimeout = time.Second

// Listen binds a unix socket of mode 0600. Where the system ignores the mode of
// an unbound socket (not on Linux) it is narrowed right after; a private
// directory then keeps others out meanwhile. An existing file is an error.
func Listen(path string) (net.Listener, error) {
	lc := net.ListenConfig{Control: bornPrivate}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Take is Listen, but that a socket on which nobody listens any more is
// replaced. Of several processes that do so at once one gets the socket and the
// others syscall.EADDRINUSE: they take turns by a lock on the directory, since
// one could otherwise take the other's new socket, bound and not yet listened
// on, for a dead one. Where a directory cannot be locked (Windows, or one that
// this user may not read) they are on their own. It blocks for at most a second
// on a socket whose owner does not answer, and for two while others have a turn.
func Take(path string) (net.Listener, error) {
	unlock := lockDir(filepath.Dir(path))
	defer unlock()
	l, err := Listen(path)
	if errors.Is(err, syscall.EADDRINUSE) && removeStale(path) {
		l, err = Listen(path)
	}
	return l, err
}

// removeStale removes a unix socket that nobody listens on, and says whether it
// did.
func removeStale(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode()&os.ModeSocket == 0 {
		return false
	}
	c, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		c.Close()
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED) && os.Remove(path) == nil
}
