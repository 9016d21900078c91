//go:build !linux

package unixsock

import "syscall"

// bornPrivate does nothing: the home's own mode keeps others out until the
// socket's is set.
func bornPrivate(_, _ string, _ syscall.RawConn) error { return nil }
