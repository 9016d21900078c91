// Package unixsock makes unix sockets that only their user can open, from the
// moment they exist.
package unixsock

import (
	"context"
	"errors"
	"net"
	"os"
)

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
