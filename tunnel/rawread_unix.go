//go:build unix

package tunnel

import (
	"io"
	"net"
	"os"
	"syscall"
)

// rawReader reads a socket without holding a buffer while it waits: the buffer
// is borrowed inside the poller's callback, when the socket is ready, and
// given back at once if it was not.
type rawReader struct {
	rc syscall.RawConn

	// The fields below belong to the goroutine inside read.
	pool *buffers
	size int
	buf  *[]byte
	n    int
	err  error
	try  func(fd uintptr) bool
}

func (r *rawReader) init(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return
	}
	r.rc = rc
	r.try = r.tryRead
}

func (r *rawReader) ok() bool { return r.rc != nil }

func (r *rawReader) read(b *buffers, size int) (*[]byte, int, error) {
	r.pool, r.size, r.buf, r.n, r.err = b, size, nil, 0, nil
	err := r.rc.Read(r.try)
	if err == nil {
		err = r.err
	}
	if err == nil && r.n == 0 {
		err = io.EOF
	}
	buf, n := r.buf, r.n
	r.buf = nil
	if n == 0 && buf != nil {
		b.put(buf)
		buf = nil
	}
	return buf, n, err
}

// tryRead reports whether the wait is over.
func (r *rawReader) tryRead(fd uintptr) bool {
	if r.buf == nil {
		r.buf = r.pool.get(r.size)
	}
	for {
		n, err := syscall.Read(int(fd), (*r.buf)[:usable(len(*r.buf))])
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			r.pool.put(r.buf)
			r.buf = nil
			return false
		case nil:
			r.n = n
		default:
			r.n, r.err = 0, os.NewSyscallError("read", err)
		}
		return true
	}
}
