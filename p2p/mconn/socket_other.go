//go:build !linux

package mconn

import "net"

// shortenQueue does nothing: only Linux has the option under this name.
func shortenQueue(*net.TCPConn) {}
