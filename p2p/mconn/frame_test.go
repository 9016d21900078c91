package mconn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// formats are the two kinds of frames.
var formats = map[string]bool{"comet": false, "kith": true}

// sealAll seals data at once.
func sealAll(t testing.TB, c *frameCipher, data []byte) []byte {
	t.Helper()
	plain := make([]byte, frameHead+len(data)+frameData)
	copy(plain[frameHead:], data)
	sealed, err := c.seal(make([]byte, 0, c.sealedSize(len(data))), plain, len(data))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// openAll reads a stream of frames through a reader until it fails.
func openAll(c frameCipher, r io.Reader) ([]byte, error) {
	in := newReader(fakeConn{r: r}, new(readStats))
	in.cipher, in.noise = c, func() error { return ErrFlood }
	var out []byte
	for {
		if err := in.frame(); err != nil {
			return out, err
		}
		have := in.have()
		out = append(out, have...)
		in.consume(len(have))
	}
}

func TestFramesRoundTrip(t *testing.T) {
	for name, wide := range formats {
		t.Run(name, func(t *testing.T) {
			seal, open := aeads(t)
			send, receive := frameCipher{aead: seal, wide: wide}, frameCipher{aead: open, wide: wide}
			random := rand.NewChaCha8([32]byte{2})
			var stream, all []byte
			for _, n := range []int{1, 2, 1023, 1024, 1025, 2047, 2048, 2049, wideMaxData - 1, wideMaxData, wideMaxData + 1, 200_000} {
				data := make([]byte, n)
				random.Read(data)
				sealed := sealAll(t, &send, data)
				if len(sealed) != send.sealedSize(n) {
					t.Errorf("%d bytes: sealed to %d, announced %d", n, len(sealed), send.sealedSize(n))
				}
				if !wide && len(sealed)%1044 != 0 {
					t.Errorf("%d bytes: sealed to %d", n, len(sealed))
				}
				stream, all = append(stream, sealed...), append(all, data...)
			}
			for how, r := range map[string]io.Reader{
				"at once": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)), "by halves": iotest.HalfReader(bytes.NewReader(stream)),
			} {
				got, err := openAll(receive, r)
				if err != io.EOF || !bytes.Equal(got, all) {
					t.Errorf("%s: %d of %d bytes, %v", how, len(got), len(all), err)
				}
			}
		})
	}
}

// What follows the data in a common frame is zeros, never what was there before.
func TestFramePaddingIsZero(t *testing.T) {
	seal, open := aeads(t)
	c := frameCipher{aead: seal}
	plain := bytes.Repeat([]byte{0xaa}, frameHead+2*frameData)
	sealed, err := c.seal(nil, plain, 1030)
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, 12)
	nonce[4] = 1
	frame, err := open.Open(nil, nonce, sealed[frameSealed:], nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(frame[:10], []byte{6, 0, 0, 0, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa}) || !bytes.Equal(frame[10:], make([]byte, 1018)) {
		t.Errorf("%x", frame)
	}
}

func TestBadFrames(t *testing.T) {
	seal, open := aeads(t)
	claim := func(n uint32) []byte {
		c := frameCipher{aead: seal}
		frame := make([]byte, frameHead+frameData)
		binary.LittleEndian.PutUint32(frame, n)
		return c.aead.Seal(nil, c.nonce[:], frame, nil)
	}
	for _, n := range []uint32{1025, 1 << 16, 1 << 31, math.MaxUint32} {
		if _, err := openAll(frameCipher{aead: open}, bytes.NewReader(claim(n))); !errors.Is(err, ErrFrame) {
			t.Errorf("length %d: %v", n, err)
		}
	}
	if got, err := openAll(frameCipher{aead: open}, bytes.NewReader(claim(1024))); err != io.EOF || len(got) != 1024 {
		t.Errorf("length 1024: %d, %v", len(got), err)
	}
	for _, n := range []byte{0, 1, 15, 16} {
		if _, err := openAll(frameCipher{aead: open, wide: true}, bytes.NewReader(append([]byte{0, n}, make([]byte, 100)...))); !errors.Is(err, ErrFrame) {
			t.Errorf("wide length %d: %v", n, err)
		}
	}
}

// The counter of a key never starts over.
func TestNoncesEnd(t *testing.T) {
	for name, wide := range formats {
		t.Run(name, func(t *testing.T) {
			seal, open := aeads(t)
			send, receive := frameCipher{aead: seal, wide: wide}, frameCipher{aead: open, wide: wide}
			for _, c := range []*frameCipher{&send, &receive} {
				binary.LittleEndian.PutUint64(c.nonce[4:], math.MaxUint64)
			}
			last := sealAll(t, &send, []byte("last"))
			if _, err := send.seal(nil, make([]byte, 2000), 5); err != errNonces {
				t.Error("sealed again:", err)
			}
			got, err := openAll(receive, bytes.NewReader(append(last, last...)))
			if string(got) != "last" || err != errNonces {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// tenFrames are the first frames of a direction, each of its own length.
func tenFrames(t testing.TB, wide bool) (receive frameCipher, frames [][]byte, data []byte) {
	seal, open := aeads(t)
	send := frameCipher{aead: seal, wide: wide}
	for i := range 10 {
		part := bytes.Repeat([]byte{byte(i + 1)}, 100*i+17)
		data = append(data, part...)
		frames = append(frames, sealAll(t, &send, part))
	}
	return frameCipher{aead: open, wide: wide}, frames, data
}

// A middle that changes any one bit of the first ten frames ends the connection
// there: nothing of the changed frame or after it is believed.
func TestTamperingWithFrames(t *testing.T) {
	for name, wide := range formats {
		t.Run(name, func(t *testing.T) {
			receive, frames, data := tenFrames(t, wide)
			stream := bytes.Join(frames, nil)
			whole, start, before := 0, 0, 0
			for bit := range 8 * len(stream) {
				if bit/8 == start+len(frames[whole]) {
					start += len(frames[whole])
					before += 100*whole + 17
					whole++
				}
				stream[bit/8] ^= 1 << (bit % 8)
				got, err := openAll(receive, bytes.NewReader(stream))
				stream[bit/8] ^= 1 << (bit % 8)
				if err == nil || err == io.EOF || len(got) != before || !bytes.Equal(got, data[:before]) {
					t.Fatalf("bit %d of frame %d: %d bytes believed, %v", bit-8*start, whole, len(got), err)
				}
			}
			if whole != 9 {
				t.Fatal(whole)
			}
		})
	}
}

// Frames that are left out, repeated, moved, cut short or from the other
// direction do not open.
func TestFramesOutOfPlace(t *testing.T) {
	for name, wide := range formats {
		receive, frames, data := tenFrames(t, wide)
		check := func(what string, before int, order ...int) {
			t.Helper()
			var stream []byte
			for _, i := range order {
				stream = append(stream, frames[i]...)
			}
			got, err := openAll(receive, bytes.NewReader(stream))
			if err == nil || err == io.EOF || !bytes.Equal(got, data[:before]) {
				t.Errorf("%s, %s: %d bytes believed, want %d; %v", name, what, len(got), before, err)
			}
		}
		check("repeated", 17+117, 0, 1, 1, 2)
		check("replayed", 17+117, 0, 1, 0)
		check("left out", 17, 0, 2, 3)
		check("swapped", 0, 1, 0)
		stream := bytes.Join(frames, nil)
		for n := range len(stream) {
			got, err := openAll(receive, bytes.NewReader(stream[:n]))
			if !bytes.HasPrefix(data, got) || err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Fatalf("%s, cut at %d: %v", name, n, err)
			}
		}
		// Our own frames sent back.
		seal, _ := aeads(t)
		if _, err := openAll(frameCipher{aead: seal, wide: wide}, bytes.NewReader(sealAll(t, &frameCipher{aead: receive.aead, wide: wide}, []byte("echo")))); err != nil && err != io.EOF {
			t.Fatal(err) // the test itself: the same key opens
		}
		agreed, err := agree(ephemeral(t, 1), ephemeral(t, 2).PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		send, back, err := agreed.ciphers()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openAll(frameCipher{aead: back, wide: wide}, bytes.NewReader(sealAll(t, &frameCipher{aead: send, wide: wide}, []byte("echo")))); !errors.Is(err, ErrDecrypt) {
			t.Errorf("%s: our own frame sent back: %v", name, err)
		}
	}
}

// Whatever comes as sealed frames is an end, and takes no more memory than the
// input is worth.
func FuzzFrames(f *testing.F) {
	for _, wide := range formats {
		_, frames, _ := tenFrames(f, wide)
		f.Add(wide, bytes.Join(frames[:2], nil))
	}
	f.Add(true, []byte{0xff, 0xff, 1, 2, 3})
	f.Fuzz(func(t *testing.T, wide bool, in []byte) {
		_, open := aeads(t)
		_, original, data := tenFrames(t, wide)
		var got []byte
		var err error
		bounded(t, len(in), func() { got, err = openAll(frameCipher{aead: open, wide: wide}, bytes.NewReader(in)) })
		if err == nil || !bytes.HasPrefix(data, got) || len(got) > 0 && !bytes.HasPrefix(in, original[0]) {
			t.Fatalf("%d bytes believed, %v", len(got), err)
		}
	})
}
