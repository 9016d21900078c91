//go:build !linux

package tunnel

import (
	"net/netip"
	"syscall"
)

// earlyConnect is for Linux.
func earlyConnect(netip.AddrPort) func(network, address string, c syscall.RawConn) error { return nil }
