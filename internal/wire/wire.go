// Package wire is the one parser of length-delimited frames in kith: an
// unsigned varint length, then that many bytes.
//
//	+-----------------+---------------------+
//	| uvarint length  | length bytes        |
//	+-----------------+---------------------+
//
// Every read has a cap, checked before anything is allocated, and the varint
// must be minimal, so that a frame has one spelling only. Nothing beyond the
// frame is consumed, so raw bytes may follow it on the same stream.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Errors of ReadFrame and AppendFrame.
var (
	// ErrTooLarge says that a frame's length is above the cap. Nothing of its
	// body was read.
	ErrTooLarge = errors.New("wire: frame above the size limit")
	// ErrMalformed says that a length is not a minimal unsigned varint.
	ErrMalformed = errors.New("wire: malformed frame length")
)

// chunk bounds how much is allocated ahead of bytes that have arrived.
const chunk = 4 << 10

// AppendFrame appends body as one frame to dst and returns the result, or
// ErrTooLarge when body is longer than limit. It never blocks.
func AppendFrame(dst, body []byte, limit int) ([]byte, error) {
	if len(body) > limit {
		return dst, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(body), limit)
	}
	dst = binary.AppendUvarint(dst, uint64(len(body)))
	return append(dst, body...), nil
}

// ReadFrame reads one frame of at most limit bytes from r. It returns io.EOF
// when r ends before the first byte, io.ErrUnexpectedEOF when it ends inside
// the frame, ErrTooLarge and ErrMalformed as described there, and otherwise
// r's own error. It blocks as long as r does. Memory grows with the bytes that
// arrive, not with the length that is claimed.
func ReadFrame(r io.Reader, limit int) ([]byte, error) {
	n, err := readLength(r)
	if err != nil {
		return nil, err
	}
	if n > uint64(limit) {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, limit)
	}
	body := make([]byte, 0, min(int(n), chunk))
	for len(body) < int(n) {
		if len(body) == cap(body) {
			grown := make([]byte, len(body), min(int(n), 2*cap(body)))
			copy(grown, body)
			body = grown
		}
		got, err := io.ReadFull(r, body[len(body):cap(body)])
		body = body[:len(body)+got]
		if err != nil {
			return nil, unexpected(err)
		}
	}
	return body, nil
}

// readLength reads a minimal varint byte by byte, so that no byte after it is
// consumed.
func readLength(r io.Reader) (uint64, error) {
	var (
		n   uint64
		one [1]byte
	)
	for i := range binary.MaxVarintLen64 {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			if i > 0 {
				err = unexpected(err)
			}
			return 0, err
		}
		b := one[0]
		if i == binary.MaxVarintLen64-1 && b > 1 {
			return 0, ErrMalformed // above 2^64
		}
		n |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			if b == 0 && i > 0 {
				return 0, ErrMalformed // not minimal
			}
			return n, nil
		}
	}
	return 0, ErrMalformed
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
