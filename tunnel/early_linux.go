package tunnel

import (
	"net/netip"
	"syscall"
)

// earlyConnect begins a connection to an address of this machine before the net
// package does. Within a machine the handshake is over when connect(2) returns,
// but it returns EINPROGRESS all the same, and the net package would put the
// goroutine to sleep until epoll said what is known already: a quarter of what
// connecting costs (BenchmarkDialTarget). The kernel tells the second
// connect(2), which is the net package's own, how the first one ended. nil where
// there is nothing to gain.
func earlyConnect(to netip.AddrPort) func(network, address string, c syscall.RawConn) error {
	if !to.Addr().IsLoopback() || to.Addr().Zone() != "" {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var sa syscall.Sockaddr // one for each: Connect writes to it
		if to.Addr().Is4() {
			sa = &syscall.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
		} else {
			sa = &syscall.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
		}
		return c.Control(func(fd uintptr) { _ = syscall.Connect(int(fd), sa) }) // an error comes again
	}
}
