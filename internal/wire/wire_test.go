package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"
)

func TestReadFrame(t *testing.T) {
	long := bytes.Repeat([]byte{7}, 10_000)
	for name, c := range map[string]struct {
		in    []byte
		limit int
		want  []byte
		err   error
	}{
		"empty":                 {[]byte{0}, 10, []byte{}, nil},
		"at the limit":          {append([]byte{3}, "abc"...), 3, []byte("abc"), nil},
		"one above":             {append([]byte{4}, "abcd"...), 3, nil, ErrTooLarge},
		"two-byte length":       {append(binary.AppendUvarint(nil, 10_000), long...), 1 << 20, long, nil},
		"nothing":               {nil, 10, nil, io.EOF},
		"cut in length":         {[]byte{0x80}, 10, nil, io.ErrUnexpectedEOF},
		"cut before body":       {[]byte{3}, 10, nil, io.ErrUnexpectedEOF},
		"cut in body":           {[]byte{3, 1, 2}, 10, nil, io.ErrUnexpectedEOF},
		"not minimal":           {[]byte{0x83, 0x00, 1, 2, 3}, 10, nil, ErrMalformed},
		"2^31":                  {binary.AppendUvarint(nil, 1<<31), 10, nil, ErrTooLarge},
		"2^63":                  {binary.AppendUvarint(nil, 1<<63), 10, nil, ErrTooLarge},
		"largest":               {binary.AppendUvarint(nil, 1<<64-1), 10, nil, ErrTooLarge},
		"above 2^64":            {[]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 2}, 10, nil, ErrMalformed},
		"endless length":        {bytes.Repeat([]byte{0x80}, 100), 10, nil, ErrMalformed},
		"claims much, brings 1": {append(binary.AppendUvarint(nil, 1<<20), 1), 1 << 20, nil, io.ErrUnexpectedEOF},
	} {
		for _, r := range []io.Reader{bytes.NewReader(c.in), iotest.OneByteReader(bytes.NewReader(c.in))} {
			got, err := ReadFrame(r, c.limit)
			if !errors.Is(err, c.err) || !bytes.Equal(got, c.want) {
				t.Errorf("%s: got %d bytes, %v; want %d bytes, %v", name, len(got), err, len(c.want), c.err)
			}
		}
	}
}

func TestReadFrameLeavesTheRest(t *testing.T) {
	r := bytes.NewReader([]byte{2, 'h', 'i', 'r', 'e', 's', 't'})
	if _, err := ReadFrame(r, 10); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(r)
	if string(rest) != "rest" {
		t.Fatalf("rest is %q", rest)
	}
}

func TestAppendFrameLimit(t *testing.T) {
	if _, err := AppendFrame(nil, make([]byte, 4), 3); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{3, 1, 2, 3, 4})
	f.Add([]byte{0x80, 0x80, 0x04, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 1 << 26
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		body, err := ReadFrame(bytes.NewReader(in), limit)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4*len(in)+64<<10); got > most {
			t.Fatalf("%d bytes allocated for an input of %d", got, len(in))
		}
		if err != nil {
			return
		}
		again, err := AppendFrame(nil, body, limit)
		if err != nil || !bytes.HasPrefix(in, again) {
			t.Fatalf("a frame has two spellings: %x, %x (%v)", in, again, err)
		}
	})
}
