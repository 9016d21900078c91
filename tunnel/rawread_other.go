//go:build !unix

package tunnel

import "net"

// rawReader is not available here: a waiting connection holds its buffer.
type rawReader struct{}

func (*rawReader) init(net.Conn) {}

func (*rawReader) ok() bool { return false }

func (*rawReader) read(*buffers, int) (*[]byte, int, error) {
	panic("tunnel: no raw reads on this system")
}
