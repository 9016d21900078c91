package stream

import (
	"errors"
	"fmt"
	"net"

	"github.com/libp2p/go-libp2p/core/peer"
)

// SizeError refuses a message that is larger than a LimitedConn allows.
type SizeError struct {
	Size, Max int // bytes
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("stream: message of %d bytes is above the limit of %d; send it in parts or raise the limit", e.Size, e.Max)
}

// LimitedConn is a net.Conn that bounds how much goes through at once: a Write
// of more than the limit is refused whole with a *SizeError before a byte is
// sent, and a Read returns at most the limit, however large the buffer. Calls
// may be concurrent as far as the connection below allows it.
type LimitedConn struct {
	net.Conn
	max int
}

// NewLimitedConn bounds conn to maxSize bytes a message. A maxSize below 1
// lets nothing through. The result is a *LimitedConn; closing it closes conn.
func NewLimitedConn(conn net.Conn, maxSize int) net.Conn {
	return &LimitedConn{Conn: conn, max: max(maxSize, 0)}
}

// Read reads at most the limit.
func (c *LimitedConn) Read(p []byte) (int, error) {
	if len(p) > 0 && c.max == 0 {
		return 0, &SizeError{Size: len(p), Max: c.max}
	}
	return c.Conn.Read(p[:min(len(p), c.max)])
}

// Write writes p if it is within the limit, or else returns a *SizeError.
func (c *LimitedConn) Write(p []byte) (int, error) {
	if len(p) > c.max {
		return 0, &SizeError{Size: len(p), Max: c.max}
	}
	return c.Conn.Write(p)
}

// CloseRead passes on to the connection below; errors.ErrUnsupported if that
// has no halves.
func (c *LimitedConn) CloseRead() error {
	if h, ok := c.Conn.(interface{ CloseRead() error }); ok {
		return h.CloseRead()
	}
	return fmt.Errorf("stream: close for reading: %w", errors.ErrUnsupported)
}

// CloseWrite passes on to the connection below; errors.ErrUnsupported if that
// has no halves.
func (c *LimitedConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return fmt.Errorf("stream: close for writing: %w", errors.ErrUnsupported)
}

// NetConn returns the connection below.
func (c *LimitedConn) NetConn() net.Conn { return c.Conn }

// RemotePeer returns who is at the other end, or "" if the connection below is
// not by peer.
func (c *LimitedConn) RemotePeer() peer.ID {
	id, _ := PeerOf(c.Conn)
	return id
}
