package rpc

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A frame of /kith/rpc/1.0.0 (spec.md has the whole):
//
//	+----------------+---------+----------+---------------+---------+
//	| uvarint length | kind u8 | flags u8 | uvarint call  | payload |
//	+----------------+---------+----------+---------------+---------+
//	                 |<---------------- length -------------------->|
//
// Each is a field of its own: no bit of the length means anything but length.
// Unsigned varints are minimal, so that a frame has one spelling.
//
// This is not internal/wire's reader, because a stream here must hold no buffer
// while it waits, and a message's body is read apart from its header.

type kind uint8

// The kinds of frames. Append-only.
const (
	kindInvoke    kind = 1 // caller: opens a call: method, timeout, headers
	kindHeaders   kind = 2 // server: headers of the answer, before its messages
	kindMessage   kind = 3 // both: one message
	kindHalfClose kind = 4 // both: no more messages from this side
	kindError     kind = 5 // server: ends the call with an error
	kindCancel    kind = 6 // caller: ends the call
	kindPing      kind = 7 // both: answer this
	kindGoaway    kind = 8 // server: no more calls here
	kindWindow    kind = 9 // both: more bytes may be sent in a stream of messages

	kinds = 10
)

var kindNames = [kinds]string{"frame of kind 0", "invoke", "headers", "message", "half-close", "error", "cancel", "ping", "goaway", "window"}

func (k kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("frame of kind %d", uint8(k))
}

type flags uint8

// The flags. Each is allowed on the kinds that are named.
const (
	flagEnd     flags = 1 << iota // message: it is the last of its side
	flagZstd                      // message: the payload is compressed
	flagAccept                    // invoke, headers, message: the sender reads zstd
	flagUnary                     // invoke: one message each way, without windows
	flagRefused                   // error: no handler has seen the call
	flagAnswer                    // ping: this is the answer
)

var allowedFlags = [kinds]flags{
	kindInvoke:  flagAccept | flagUnary,
	kindHeaders: flagAccept,
	kindMessage: flagEnd | flagZstd | flagAccept,
	kindError:   flagRefused,
	kindPing:    flagAnswer,
}

const (
	// controlMax bounds the payload of every frame that is not a message.
	controlMax = 64 << 10
	// pingMax bounds what a ping carries.
	pingMax = 32
)

// header is a frame without its payload.
type header struct {
	kind  kind
	flags flags
	call  uint64
	size  int // of the payload
}

// appendHeader appends the header of a frame whose payload has size bytes.
func appendHeader(b []byte, k kind, f flags, call uint64, size int) []byte {
	b = binary.AppendUvarint(b, uint64(2+uvarintLen(call)+size))
	b = append(b, byte(k), byte(f))
	return binary.AppendUvarint(b, call)
}

func appendFrame(b []byte, k kind, f flags, call uint64, payload []byte) []byte {
	return append(appendHeader(b, k, f, call, len(payload)), payload...)
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// uvarint reads a minimal varint. n is 0 if b ends before it does, and negative
// if it is not minimal or does not fit.
func uvarint(b []byte) (v uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	v, n = binary.Uvarint(b)
	if n > 1 && b[n-1] == 0 {
		return 0, -n
	}
	return v, n
}

// parseHeader reads a header from the start of b. n is 0 if there is not
// enough of it. limit bounds the payload of a message. It returns ErrMalformed
// or ErrTooLarge, wrapped, as soon as it can tell; only with a payload that is
// too large does the header come too.
func parseHeader(b []byte, limit int) (h header, n int, err error) {
	length, n := uvarint(b)
	switch {
	case n < 0 || n == 0 && len(b) >= binary.MaxVarintLen64:
		return header{}, 0, fmt.Errorf("%w: length is not a minimal varint", ErrMalformed)
	case n == 0:
		return header{}, 0, nil
	case length > math.MaxInt32:
		return header{}, 0, fmt.Errorf("%w: a frame of %d bytes", ErrTooLarge, length)
	case length < 3:
		return header{}, 0, fmt.Errorf("%w: a frame of %d bytes is shorter than its header", ErrMalformed, length)
	}
	rest := b[n:]
	if len(rest) == 0 {
		return header{}, 0, nil
	}
	h.kind = kind(rest[0])
	if h.kind == 0 || h.kind >= kinds {
		return header{}, 0, fmt.Errorf("%w: unknown kind %d", ErrMalformed, rest[0])
	}
	if len(rest) == 1 {
		return header{}, 0, nil
	}
	h.flags = flags(rest[1])
	if unknown := h.flags &^ allowedFlags[h.kind]; unknown != 0 {
		return header{}, 0, fmt.Errorf("%w: flags 0x%x on %s", ErrMalformed, uint8(unknown), h.kind)
	}
	call, m := uvarint(rest[2:min(len(rest), int(length))])
	switch {
	case m < 0 || m == 0 && len(rest) >= int(length):
		return header{}, 0, fmt.Errorf("%w: number of the call is not a minimal varint inside the frame", ErrMalformed)
	case m == 0:
		return header{}, 0, nil
	}
	h.call = call
	h.size = int(length) - 2 - m
	most := controlMax
	switch h.kind {
	case kindMessage:
		most = limit
	case kindPing:
		most = pingMax
	case kindHalfClose:
		most = 0
	}
	if h.size > most {
		return h, n + 2 + m, fmt.Errorf("%w: %s of %d bytes, at most %d", ErrTooLarge, h.kind, h.size, most)
	}
	return h, n + 2 + m, nil
}
