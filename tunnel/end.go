package tunnel

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/kith-p2p/kith/stream"
)

// end is one end of a connection that is being carried: a local socket or a
// stream to the peer.
type end interface {
	io.Reader
	io.Writer
	CloseWrite() error
	Close() error
	// abort cuts both directions at once, saying why where the end can.
	abort(Reason)
	// read waits for bytes, then borrows a buffer of at most size bytes and
	// reads into it once. Nothing is borrowed while waiting where the end
	// allows that. The caller returns the buffer, which is nil on errors.
	read(b *buffers, size int) (buf *[]byte, n int, err error)
}

// bulkPause is how long a large buffer is held for bytes that do not come.
const bulkPause = 200 * time.Millisecond

// streamEnd is the end that leads to the peer.
type streamEnd struct {
	*stream.Conn
}

func (s streamEnd) abort(r Reason) { s.ResetWithCode(r.code()) }

func (s streamEnd) read(b *buffers, size int) (*[]byte, int, error) {
	if s.CanWaitReadable() {
		if err := s.WaitReadable(); err != nil {
			return nil, 0, err
		}
		return readInto(s.Conn, b, min(size, 64<<10)) // a read returns one message at most
	}
	if size > bufStart { // in a bulk transfer, which goes on or is over soon
		s.SetReadDeadline(time.Now().Add(bulkPause))
		buf, n, err := readInto(s.Conn, b, size)
		s.SetReadDeadline(time.Time{})
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return buf, n, err
		}
	}
	return readInto(s.Conn, b, bufFloor) // held while waiting
}

// servedEnd is the peer's end of a connection that we serve. The half that
// writes to it answers the open frame first, while the other half already
// carries the peer's bytes to the target.
type servedEnd struct {
	streamEnd
	owes bool // the answer; belongs to the goroutine that writes
}

// greet answers now. Called by the writing goroutine before it waits for the
// target.
func (s *servedEnd) greet() error {
	if !s.owes {
		return nil
	}
	s.owes = false
	return writeReply(s.Conn, nil)
}

func readInto(r io.Reader, b *buffers, size int) (*[]byte, int, error) {
	buf := b.get(size)
	n, err := r.Read((*buf)[:usable(len(*buf))])
	if n == 0 {
		b.put(buf)
		return nil, 0, err
	}
	return buf, n, err
}

// socketEnd is the end that leads to a local program.
type socketEnd struct {
	net.Conn
	raw rawReader

	once sync.Once
}

func newSocketEnd(c net.Conn) *socketEnd {
	s := &socketEnd{Conn: c}
	s.raw.init(c)
	return s
}

func (s *socketEnd) read(b *buffers, size int) (*[]byte, int, error) {
	if s.raw.ok() {
		return s.raw.read(b, size)
	}
	return readInto(s.Conn, b, size)
}

// CloseWrite shuts the write side: the program reads EOF and may still answer.
func (s *socketEnd) CloseWrite() error {
	if cw, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.New("tunnel: this socket has no half-close")
}

// abort makes the program see a reset, as far as the kind of socket can show
// one: RST on TCP, a plain close on unix sockets.
func (s *socketEnd) abort(Reason) {
	s.once.Do(func() {
		if l, ok := s.Conn.(interface{ SetLinger(int) error }); ok {
			l.SetLinger(0)
		}
		s.Conn.Close()
	})
}
