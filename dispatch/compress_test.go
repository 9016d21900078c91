package dispatch

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
)

// A bomb costs what was announced, and no more: what grows beyond is refused.
func TestDecompressionBomb(t *testing.T) {
	const most = 1 << 20
	s, err := newSqueezer(true, most)
	if err != nil {
		t.Fatal(err)
	}
	small := s.enc.EncodeAll(make([]byte, 32<<20), nil)
	for _, size := range []uint32{0, 1, 1000, most, most + 1, 32 << 20, 1<<32 - 1} {
		e := &dispatchv1.Envelope{Data: small, Encoding: dispatchv1.Encoding_ENCODING_ZSTD, Size: size}
		if got, err := s.unpack(e); err == nil {
			t.Errorf("announced %d: %d bytes", size, len(got))
		}
		if size > most {
			if n := testing.AllocsPerRun(10, func() { _, _ = s.unpack(e) }); n > 10 {
				t.Errorf("announced %d: %v allocations", size, n)
			}
		}
	}
	for _, n := range []int{compressAbove, 10_000, most} {
		data := bytes.Repeat([]byte{1, 2, 3, 4}, n/4)
		var e dispatchv1.Envelope
		s.pack(&e, data)
		if got, err := s.unpack(&e); err != nil || !bytes.Equal(got, data) || len(e.Data) >= n {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	noise := make([]byte, 10_000)
	r := rand.NewChaCha8([32]byte{})
	r.Read(noise)
	var e dispatchv1.Envelope
	if s.pack(&e, noise); e.Encoding != 0 {
		t.Error("noise was compressed")
	}
}
