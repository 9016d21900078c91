package rpc

import (
	"bytes"
	"slices"
	"testing"
)

// What does not shrink by an eighth goes as it is, without ZSTD.
func TestBodiesThatDoNotShrink(t *testing.T) {
	const size = 64 << 10
	noise := func(share int) []byte { // so many percent of it, the rest zero
		return append(bytes.Clone(randomBytes(size*share/100)), make([]byte, size-size*share/100)...)
	}
	bodies := []struct {
		name string
		body []byte
		want flags
	}{
		{"noise", noise(100), 0},
		{"noise but for a tenth", noise(90), 0},
		{"noise but for a fifth", noise(80), flagZstd},
		{"text", bytes.Repeat([]byte("all work and no play "), size/20), flagZstd},
		{"shorter than CompressMinSize", make([]byte, 1000), 0},
		{"too regular: it would look like a bomb", make([]byte, 8<<20), 0},
	}
	for _, tc := range bodies {
		t.Run(tc.name, func(t *testing.T) {
			q := squeezer{on: true, min: 1001}
			out, f := q.squeeze(tc.body, true)
			if f != tc.want {
				t.Fatalf("flags 0x%x, want 0x%x: %d bytes become %d", f, tc.want, len(tc.body), len(out))
			}
			if f == 0 {
				if !bytes.Equal(out, tc.body) {
					t.Error("it is changed")
				}
				return
			}
			if len(out) > len(tc.body)*7/8 {
				t.Errorf("%d bytes become %d", len(tc.body), len(out))
			}
			if back, err := expand(out, len(tc.body), unmetered{}); err != nil || !bytes.Equal(back, tc.body) {
				t.Errorf("%d bytes come back, %v", len(back), err)
			}
			for _, never := range []*squeezer{{on: false, min: 1}, {on: true, min: len(tc.body) + 1}} {
				if _, f := never.squeeze(tc.body, true); f != 0 {
					t.Errorf("compressed though %t, %d", never.on, never.min)
				}
			}
			if _, f := q.squeeze(tc.body, false); f != 0 {
				t.Error("compressed for who has not said that it reads it")
			}
		})
	}

	// The same on the wire.
	c, _, id := pair(t, DefaultServerConfig(), nil)
	conn := rawStream(t, c.h, id, Protocol)
	for i, tc := range bodies[:4] {
		call := uint64(i + 1)
		conn.Write(slices.Concat(frames(nil).invoke(call, string(echoID), flagUnary|flagAccept), frames(nil).add(kindMessage, flagEnd, call, tc.body)))
		f := readFrame(t, conn)
		if f.kind != kindMessage || f.flags&flagZstd != tc.want || f.flags&flagZstd == 0 && !bytes.Equal(f.payload, tc.body) {
			t.Errorf("%s: %s with flags 0x%x, %d bytes for %d", tc.name, f.kind, f.flags, len(f.payload), len(tc.body))
		}
	}
}
