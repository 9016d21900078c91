package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// source is where a reader takes its bytes from: a *stream.Conn.
type source interface {
	io.Reader
	CanWaitReadable() bool
	WaitReadable() error
}

// meter is asked before memory is taken for bytes of a peer.
type meter interface {
	take(n int) error
	give(n int)
}

// queueMeter is a meter of messages that are queued. What keep was not called for
// is given back by whoever reads.
type queueMeter interface {
	meter
	keep()
}

// unmetered is for what is small or was asked for.
type unmetered struct{}

func (unmetered) take(int) error { return nil }
func (unmetered) give(int)       {}
func (unmetered) keep()          {}

// bufferPool lends buffers of one size.
type bufferPool struct {
	size int
	pool sync.Pool
}

func newBufferPool(size int) *bufferPool {
	p := &bufferPool{size: size}
	p.pool.New = func() any {
		b := make([]byte, size)
		return &b
	}
	return p
}

func (p *bufferPool) get() *[]byte  { return p.pool.Get().(*[]byte) }
func (p *bufferPool) put(b *[]byte) { p.pool.Put(b) }

const (
	// spillSize is what a reader holds by itself while it waits. It has room
	// for the part of a frame that must be in one piece: a header.
	spillSize = 64
	// blindChunk is the first piece of a body over a transport that cannot
	// wait without a buffer.
	blindChunk = 512
	// chunk is the first piece otherwise.
	chunk = 4 << 10
)

// reader reads frames from one stream. While it waits for bytes it holds
// spillSize bytes of memory and what has arrived of a body, whatever the peer
// has announced: thousands of peers that announce and send nothing cost
// nothing. One goroutine at a time may use it.
type reader struct {
	src  source
	pool *bufferPool
	wait bool // src can say that there is something without taking it
	hold bool // a buffer may be held while waiting: it is our own call

	buf   []byte  // what was read and not used is buf[r:w]
	lent  *[]byte // from the pool, if buf is that
	r, w  int
	torn  bool // a payload was read in part: there is no next frame
	spill [spillSize]byte
}

func (r *reader) init(src source, pool *bufferPool) {
	r.src, r.pool, r.wait = src, pool, src.CanWaitReadable()
}

func (r *reader) buffered() int { return r.w - r.r }

// giveBack returns the lent buffer.
func (r *reader) giveBack() {
	if r.lent != nil {
		r.pool.put(r.lent)
		r.lent = nil
	}
	r.buf, r.r, r.w = nil, 0, 0
}

// more blocks until there is at least one more byte. At most spillSize - 1
// may be unused.
func (r *reader) more() error {
	n := copy(r.spill[:], r.buf[r.r:r.w])
	r.giveBack()
	r.buf, r.w = r.spill[:], n
	for {
		if r.wait && !r.hold {
			if err := r.src.WaitReadable(); err != nil {
				return err
			}
		}
		if (r.wait || r.hold) && r.lent == nil {
			r.lent = r.pool.get()
			copy(*r.lent, r.spill[:n])
			r.buf = *r.lent
		}
		m, err := r.src.Read(r.buf[r.w:])
		r.w += m
		if m > 0 {
			return nil // an error that came with bytes comes again
		}
		if err != nil {
			return err
		}
	}
}

// errAhead says that no more is read ahead.
var errAhead = errors.New("rpc: the buffer is full")

// ahead is more for who wants to use nothing yet: what is there stays. It
// returns errAhead when there is no room.
func (r *reader) ahead() error {
	if r.buffered() == 0 {
		return r.more()
	}
	if r.lent == nil {
		r.lent = r.pool.get()
	}
	n := copy(*r.lent, r.buf[r.r:r.w]) // the buffer itself, or the spill, which is not larger
	r.buf, r.r, r.w = *r.lent, 0, n
	if n == len(r.buf) {
		return errAhead
	}
	for {
		if r.wait {
			if err := r.src.WaitReadable(); err != nil {
				return err
			}
		}
		m, err := r.src.Read(r.buf[n:])
		r.w += m
		if m > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// header reads the next frame up to its payload. io.EOF means that the peer
// ended between two frames. limit is that of parseHeader; if only the limit is
// against it, the header comes with the error.
func (r *reader) header(limit int) (header, error) {
	for {
		h, n, err := parseHeader(r.buf[r.r:r.w], limit)
		if n > 0 {
			r.r += n
		}
		if err != nil || n > 0 {
			return h, err
		}
		if err := r.more(); err != nil {
			if r.buffered() > 0 {
				err = unexpected(err)
			}
			return h, err
		}
	}
}

// length reads the 4 bytes, big-endian, before a body of the plain wire.
func (r *reader) length(limit int) (int, error) {
	for r.buffered() < 4 {
		if err := r.more(); err != nil {
			if r.buffered() > 0 {
				err = unexpected(err)
			}
			return 0, err
		}
	}
	n := binary.BigEndian.Uint32(r.buf[r.r:])
	r.r += 4
	if uint64(n) > uint64(limit) {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, limit)
	}
	return int(n), nil
}

// body reads n bytes into memory of their own, which m is asked for as they
// arrive. If m refuses, it gets back what it gave, and left bytes are still to
// come: discard can go on.
func (r *reader) body(n int, m meter) (b []byte, left int, err error) {
	r.torn = true
	defer func() { r.torn = err != nil }()
	have := min(n, r.buffered())
	size := have
	if have < n && !r.wait {
		size = min(n, max(have, blindChunk))
	}
	if err := m.take(size); err != nil {
		return nil, n, err
	}
	b = make([]byte, have, size)
	r.r += copy(b, r.buf[r.r:r.w])
	for len(b) < n {
		if r.buf != nil {
			r.giveBack() // it is empty
		}
		if r.wait {
			if err := r.src.WaitReadable(); err != nil {
				return nil, n - len(b), unexpected(err)
			}
		}
		if len(b) == cap(b) {
			size := min(n, max(2*cap(b), chunk))
			if err := m.take(size - cap(b)); err != nil {
				m.give(cap(b))
				return nil, n - len(b), err
			}
			b = append(make([]byte, 0, size), b...)
		}
		k, err := r.src.Read(b[len(b):cap(b)])
		b = b[:len(b)+k]
		if err != nil && len(b) < n {
			return nil, n - len(b), unexpected(err)
		}
	}
	return b, 0, nil
}

// view returns the next n bytes, valid until the reader is used again. It is
// for payloads of at most controlMax.
func (r *reader) view(n int) ([]byte, error) {
	if r.buffered() >= n {
		b := r.buf[r.r : r.r+n]
		r.r += n
		return b, nil
	}
	b, _, err := r.body(n, unmetered{})
	return b, err
}

// discard drops the next n bytes.
func (r *reader) discard(n int) error {
	r.torn = true
	for n > 0 {
		if r.buffered() == 0 {
			if err := r.more(); err != nil {
				return unexpected(err)
			}
		}
		k := min(n, r.buffered())
		r.r += k
		n -= k
	}
	r.torn = false
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
