package libp2p

import (
	"io"
)

// Buffers of a channel stream. They grow only with what has come.
const (
	readLeast = 128
	readMost  = 16 << 10
	// firstLong is what a message longer than readMost starts with at most, on the
	// strength of the one before; growAtOnce is by how much it grows on that.
	firstLong  = 128 << 10
	growAtOnce = 16
)

// A reader cuts a channel stream into messages.
type reader struct {
	src   io.Reader
	limit int

	buf  []byte
	r, w int  // buf[r:w] is not used yet
	more bool // the last read filled the buffer: the next one may be larger
	last int  // the size of the last long message
}

// next returns the next message, in memory of its own. io.EOF: the stream ended
// between two messages.
func (r *reader) next() ([]byte, error) {
	for {
		n, head, err := parseLength(r.buf[r.r:min(r.w, r.r+lengthMax)], r.limit)
		if err != nil {
			return nil, err
		}
		if head > 0 {
			switch {
			case r.w-r.r >= head+n:
				from := r.r + head
				r.r = from + n
				return append(buffer(n), r.buf[from:r.r]...), nil
			case head+n > readMost && r.w-r.r > head: // not for a length alone
				r.r += head
				return r.long(n)
			}
		}
		if err := r.fill(); err != nil {
			if err == io.EOF && r.r < r.w {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// whole says whether the next message is there already.
func (r *reader) whole() bool {
	n, head, err := parseLength(r.buf[r.r:min(r.w, r.r+lengthMax)], r.limit)
	return err == nil && head > 0 && r.w-r.r >= head+n
}

// fill reads what there is, at least a byte.
func (r *reader) fill() error {
	switch {
	case r.r == r.w:
		r.r, r.w = 0, 0
		if r.buf == nil {
			r.buf = make([]byte, readLeast)
		} else if r.more && len(r.buf) < readMost {
			r.buf = make([]byte, 2*len(r.buf))
		}
	case r.w < len(r.buf):
	case r.r > 0:
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	default: // full of the beginning of one message
		grown := make([]byte, min(2*len(r.buf), readMost))
		copy(grown, r.buf)
		r.buf = grown
	}
	n, err := r.read(r.buf[r.w:])
	r.w += n
	r.more = r.w == len(r.buf)
	return err
}

// read reads at least a byte, or says why not.
func (r *reader) read(p []byte) (int, error) {
	for {
		n, err := r.src.Read(p)
		if n > 0 {
			return n, nil // an error that came with it comes again
		}
		if err != nil {
			return 0, err
		}
	}
}

// long reads a message that no buffer holds, straight into its own memory. That
// begins with what has come, or with what the message before had; so equal
// messages cost one allocation (two above 128 KiB), and nothing is held that was
// not received this time or the time before.
func (r *reader) long(n int) ([]byte, error) {
	have := r.buf[r.r:r.w]
	r.r, r.w = 0, 0
	data := append(buffer(min(n, max(2*len(have), min(r.last, firstLong)))), have...)
	for len(data) < n {
		if len(data) == cap(data) {
			size := 2 * cap(data)
			if r.last > len(data) && r.last <= growAtOnce*cap(data) {
				size = max(size, r.last)
			}
			grown := append(buffer(min(n, size)), data...)
			recycle(data)
			data = grown
		}
		m, err := r.read(data[len(data):min(cap(data), n)])
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		data = data[:len(data)+m]
	}
	r.last = n
	return data, nil
}
