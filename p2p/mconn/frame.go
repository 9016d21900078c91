package mconn

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
)

// Frames: what stands on the TCP connection after the ephemeral keys.
//
// SecretConnection's, 1,044 bytes each, whatever is in them:
//
//	ChaCha20-Poly1305( length (4, little endian) | data (length) | zeros to 1,028 ) | tag (16)
//
// Between two kith nodes, from the node info on (spec.md), as large as what is
// in them:
//
//	sealed length (2, big endian) | ChaCha20-Poly1305( data ) | tag (16)
//
// There is no associated data. The nonce is four zero bytes and a little-endian
// counter of the frames of that direction and key, from 0.
const (
	frameData   = 1024
	frameHead   = 4
	tagSize     = 16
	frameSealed = frameHead + frameData + tagSize

	wideHead      = 2
	wideMaxSealed = 1<<16 - 1
	wideMaxData   = wideMaxSealed - tagSize
)

// errNonces is the end of a key after 2^64 frames.
var errNonces = errors.New("mconn: this key has sealed as much as it may; reconnect")

// A frameCipher seals or opens the frames of one direction. It belongs to one
// goroutine at a time.
type frameCipher struct {
	aead  cipher.AEAD
	nonce [12]byte
	spent bool // the counter is at its end: never start over
	wide  bool // kith's frames
}

// next moves the nonce on.
func (c *frameCipher) next() {
	n := binary.LittleEndian.Uint64(c.nonce[4:]) + 1
	binary.LittleEndian.PutUint64(c.nonce[4:], n)
	c.spent = n == 0
}

// sealedSize returns how many bytes seal makes of n bytes of data.
func (c *frameCipher) sealedSize(n int) int {
	if c.wide {
		return n + (n+wideMaxData-1)/wideMaxData*(wideHead+tagSize)
	}
	return (n + frameData - 1) / frameData * frameSealed
}

// seal appends data to dst as frames. In the common format it needs the 4
// bytes in front of data, which it overwrites, and room for zeros after it,
// which it writes up to a whole frame: plain[frameHead:frameHead+n] is the
// data, plain is at least frameHead longer than the frames. The data itself is
// used up.
func (c *frameCipher) seal(dst, plain []byte, n int) ([]byte, error) {
	if c.wide {
		for data := plain[frameHead : frameHead+n]; len(data) > 0; {
			k := min(len(data), wideMaxData)
			if c.spent {
				return dst, errNonces
			}
			dst = binary.BigEndian.AppendUint16(dst, uint16(k+tagSize))
			dst = c.aead.Seal(dst, c.nonce[:], data[:k], nil)
			c.next()
			data = data[k:]
		}
		return dst, nil
	}
	for at := 0; at < n; at += frameData {
		k := min(n-at, frameData)
		frame := plain[at : at+frameHead+frameData]
		clear(frame[frameHead+k:])
		if c.spent {
			return dst, errNonces
		}
		// What was in these 4 bytes went with the frame before.
		binary.LittleEndian.PutUint32(frame, uint32(k))
		dst = c.aead.Seal(dst, c.nonce[:], frame, nil)
		c.next()
	}
	return dst, nil
}

// size returns how many bytes the frame at the start of b has, or 0 if b is
// too short to say. It is ErrFrame when no frame can be that long.
func (c *frameCipher) size(b []byte) (int, error) {
	if !c.wide {
		return frameSealed, nil
	}
	if len(b) < wideHead {
		return 0, nil
	}
	n := int(binary.BigEndian.Uint16(b))
	if n <= tagSize {
		return 0, fmt.Errorf("%w: %d sealed bytes hold nothing", ErrFrame, n)
	}
	return wideHead + n, nil
}

// room is how much open writes beyond the data, in front of at and after it.
func (c *frameCipher) room(frame int) int {
	if c.wide {
		return frame - wideHead - tagSize
	}
	return frameData
}

// openInPlace opens one of kith's frames and returns its data, which takes the
// frame's memory.
func (c *frameCipher) openInPlace(frame []byte) ([]byte, error) {
	if c.spent {
		return nil, errNonces
	}
	body := frame[wideHead:]
	data, err := c.aead.Open(body[:0], c.nonce[:], body, nil)
	if err != nil {
		return nil, ErrDecrypt
	}
	c.next()
	return data, nil
}

// open opens one whole frame and appends its data to plain[:at], returning the
// new end. plain has frameHead bytes in front of at, which are left as they
// were, and room(len(frame)) after it.
func (c *frameCipher) open(plain []byte, at int, frame []byte) (int, error) {
	if c.spent {
		return at, errNonces
	}
	if c.wide {
		out, err := c.aead.Open(plain[at:at], c.nonce[:], frame[wideHead:], nil)
		if err != nil {
			return at, ErrDecrypt
		}
		c.next()
		return at + len(out), nil
	}
	start := at - frameHead
	before := [frameHead]byte(plain[start:])
	if _, err := c.aead.Open(plain[start:start], c.nonce[:], frame, nil); err != nil {
		return at, ErrDecrypt
	}
	c.next()
	n := binary.LittleEndian.Uint32(plain[start:])
	copy(plain[start:], before[:])
	if n > frameData {
		return at, fmt.Errorf("%w: length %d, at most %d", ErrFrame, n, frameData)
	}
	return at + int(n), nil
}
