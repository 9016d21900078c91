package dispatch

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
)

// compressAbove is how long data has to be to be compressed, where the options
// ask for it: shorter ones gain nothing.
const compressAbove = 512

// squeezer compresses and decompresses, whole messages only: so neither keeps a
// goroutine, and nothing has to be closed. Safe for concurrent use.
type squeezer struct {
	enc  *zstd.Encoder // nil: only decompress
	dec  *zstd.Decoder
	most int
}

func newSqueezer(compress bool, most int) (*squeezer, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(max(most, 1<<10))),
		zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	s := &squeezer{dec: dec, most: most}
	if compress {
		if s.enc, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(128<<10)); err != nil {
			return nil, fmt.Errorf("dispatch: %w", err)
		}
	}
	return s, nil
}

// pack puts data into an envelope, compressed when that is asked for and pays.
func (s *squeezer) pack(e *dispatchv1.Envelope, data []byte) {
	e.Data = data
	if s.enc == nil || len(data) < compressAbove {
		return
	}
	if small := s.enc.EncodeAll(data, make([]byte, 0, len(data))); len(small) < len(data)-len(data)/8 {
		e.Data, e.Encoding, e.Size = small, dispatchv1.Encoding_ENCODING_ZSTD, uint32(len(data))
	}
}

// unpack takes the data out of a peer's envelope. An announced size above the
// limit is refused before anything is allocated, and so is what grows beyond the
// announced one.
func (s *squeezer) unpack(e *dispatchv1.Envelope) ([]byte, error) {
	switch e.GetEncoding() {
	case dispatchv1.Encoding_ENCODING_UNSPECIFIED:
		if len(e.GetData()) > s.most {
			return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(e.GetData()), s.most)
		}
		return e.GetData(), nil
	case dispatchv1.Encoding_ENCODING_ZSTD:
		size := int(e.GetSize())
		if size > s.most {
			return nil, fmt.Errorf("%w: %d bytes when decompressed, at most %d", ErrTooLarge, size, s.most)
		}
		data, err := s.dec.DecodeAll(e.GetData(), make([]byte, 0, size)) // and no more
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errMalformed, err)
		}
		if len(data) != size {
			return nil, fmt.Errorf("%w: %d bytes when decompressed, %d were announced", errMalformed, len(data), size)
		}
		return data, nil
	}
	return nil, fmt.Errorf("%w: unknown encoding %d", errMalformed, e.GetEncoding())
}
