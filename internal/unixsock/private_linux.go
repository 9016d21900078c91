package unixsock

import "syscall"

// bornPrivate gives the unbound socket the mode 0600, which Linux hands to the
// file that bind creates: there is no moment at which others could open it.
func bornPrivate(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); cerr != nil {
		return cerr
	}
	return err
}
