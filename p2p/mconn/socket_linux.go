package mconn

import (
	"net"
	"syscall"
)

// tcpNotSentLowat is TCP_NOTSENT_LOWAT of linux/tcp.h.
const tcpNotSentLowat = 25

// notSentLowat is how many bytes the kernel may hold that TCP has not sent yet.
const notSentLowat = 16 << 10

// shortenQueue keeps the kernel's queue of unsent bytes short, so that what is
// urgent is not behind what was written before. What TCP has in flight does not
// count, so that a long fat link is filled all the same. It is a wish: without
// it all works, but later.
func shortenQueue(tcp *net.TCPConn) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, notSentLowat)
	})
}
