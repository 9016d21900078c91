package p2p

import (
	"bytes"
	"testing"
	"time"
)

// FuzzCallFrame: what parses is what was said, and nothing is kept or made.
func FuzzCallFrame(f *testing.F) {
	for _, h := range []callHead{{}, {kind: callRequest, id: 300, timeout: time.Second}, {kind: callReply, id: 1 << 63}, {kind: callCancel}} {
		f.Add(h.append(nil))
	}
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{4})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, body, err := parseCall(data)
		if err != nil {
			return
		}
		if len(body) >= len(data) || !bytes.HasSuffix(data, body) || h.timeout < 0 || h.timeout > maxCallTimeout {
			t.Fatalf("%+v %q of %q", h, body, data)
		}
		again, rest, err := parseCall(append(h.append(nil), body...))
		if err != nil || again != h || !bytes.Equal(rest, body) {
			t.Fatalf("%+v %q, again %+v %q %v", h, body, again, rest, err)
		}
		if n := testing.AllocsPerRun(1, func() { _, _, _ = parseCall(data) }); n != 0 {
			t.Fatalf("%v allocations", n)
		}
	})
}

func TestCallFrameRefuses(t *testing.T) {
	for _, data := range [][]byte{nil, {4}, {255}, {1}, {1, 0x80}, {1, 1}, {1, 1, 0x80}, {2}, {3}, {3, 1, 0}, bytes.Repeat([]byte{0xff}, 100), append([]byte{2}, bytes.Repeat([]byte{0xff}, 11)...)} {
		if _, _, err := parseCall(data); err == nil {
			t.Errorf("%x was taken", data)
		}
	}
}
