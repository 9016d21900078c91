package rpc

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// Compression is zstd (RFC 8878), one frame for a message, with a window of at
// most windowMax, so that a few bytes cannot make the other side reserve much.
// It is negotiated: only who has set flagAccept is sent any. It is not for
// bodies that mix secrets with what an attacker chooses: their size would tell
// of the secret.
const (
	windowMax = 1 << 20
	// ratioMax is how many bytes one byte may stand for, after the first
	// ratioFree. Senders keep below it too, and send such bodies as they are.
	ratioMax  = 200
	ratioFree = 1 << 20
)

func expandedMax(compressed, limit int) int {
	return min(limit, ratioFree+ratioMax*min(compressed, maxBlockSize))
}

var encoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowMax))
	if err != nil {
		panic(err) // the options are constants
	}
	return e
})

var decoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowMax))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}}

// compress returns a smaller spelling of body, or false if it does not pay:
// less than an eighth would be saved, or it would look like a bomb.
func compress(body []byte) ([]byte, bool) {
	z := encoder().EncodeAll(body, make([]byte, 0, len(body)/2))
	if len(z) > len(body)-len(body)/8 || len(body) > expandedMax(len(z), len(body)) {
		return nil, false
	}
	return z, true
}

// expand undoes compress. Memory grows with what comes out, which m is asked
// for; neither limit nor the ratio is ever exceeded by more than a chunk.
func expand(z []byte, limit int, m meter) ([]byte, error) {
	if len(z) == 0 {
		return nil, fmt.Errorf("%w: zstd: no frame", ErrMalformed)
	}
	d := decoders.Get().(*zstd.Decoder)
	defer func() {
		_ = d.Reset(nil)
		decoders.Put(d)
	}()
	if err := d.Reset(bytes.NewReader(z)); err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrMalformed, err)
	}
	most := expandedMax(len(z), limit)
	var out []byte
	for {
		if len(out) == cap(out) {
			size := min(max(2*cap(out), chunk), most+1)
			if err := m.take(size - cap(out)); err != nil {
				return nil, err
			}
			out = append(make([]byte, 0, size), out...)
		}
		n, err := d.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		switch {
		case len(out) > most && most == limit:
			return nil, fmt.Errorf("%w: more than %d bytes in %d (%w)", ErrBomb, limit, len(z), ErrTooLarge)
		case len(out) > most:
			return nil, fmt.Errorf("%w: more than %d bytes in %d", ErrBomb, most, len(z))
		case err == io.EOF:
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("%w: zstd: %w", ErrMalformed, err)
		}
	}
}

// squeezer decides for one stream what is worth compressing. It may be used
// concurrently.
type squeezer struct {
	on      bool
	min     int
	misses  atomic.Int32 // in a row that did not pay
	skipped atomic.Int32
}

// squeeze returns the body to send, and flagZstd if it is compressed. After
// bodies that did not pay it tries only one in 16.
func (q *squeezer) squeeze(body []byte, accepted bool) ([]byte, flags) {
	if !q.on || !accepted || len(body) < q.min {
		return body, 0
	}
	if q.misses.Load() >= 4 && q.skipped.Add(1)%16 != 0 {
		return body, 0
	}
	z, ok := compress(body)
	if !ok {
		q.misses.Add(1)
		return body, 0
	}
	q.misses.Store(0)
	return z, flagZstd
}
