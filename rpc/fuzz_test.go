package rpc

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"testing"
)

// counted counts the memory that bytes of a peer are given.
type counted struct{ taken, limit int }

func (c *counted) take(n int) error {
	if c.taken+n > c.limit {
		return errMemory
	}
	c.taken += n
	return nil
}

func (c *counted) give(n int) { c.taken -= n }

// trickle is a source that gives bytes in small pieces, and can wait for them.
type trickle struct {
	b     []byte
	piece int
	wait  bool
}

func (t *trickle) Read(p []byte) (int, error) {
	if len(t.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, t.b[:min(t.piece, len(t.b))])
	t.b = t.b[n:]
	return n, nil
}

func (t *trickle) CanWaitReadable() bool { return t.wait }

func (t *trickle) WaitReadable() error {
	if len(t.b) == 0 {
		return io.EOF
	}
	return nil
}

// addGolden adds the golden frames to the corpus.
func addGolden(f *testing.F, add func([]byte)) {
	for _, g := range golden() {
		b, err := hex.DecodeString(g.Hex)
		if err != nil {
			f.Fatal(err)
		}
		add(b)
	}
}

// FuzzFrames reads frames from whatever comes, in whatever pieces: no panic, no
// frame that would be written otherwise, and memory in proportion to what came.
func FuzzFrames(f *testing.F) {
	addGolden(f, func(b []byte) { f.Add(b, byte(3), true) })
	f.Add([]byte{0xff, 0xff, 0xff, 0x0f, 3, 1, 1}, byte(1), false)
	f.Fuzz(func(t *testing.T, b []byte, piece byte, wait bool) {
		const limit = 1 << 20
		whole := b
		m := &counted{limit: 1 << 30}
		r := new(reader)
		r.init(&trickle{b, int(piece) + 1, wait}, newBufferPool(128))
		read := 0
		for {
			h, err := r.header(limit)
			if err != nil {
				if err == io.EOF && read != len(whole) {
					t.Fatalf("ended well after %d of %d bytes", read, len(whole))
				}
				break
			}
			if h.size > limit {
				t.Fatalf("%+v", h)
			}
			before := m.taken
			body, left, err := r.body(h.size, m)
			if taken := m.taken - before; taken > 2*(h.size-left)+chunk {
				t.Fatalf("%d bytes of memory for %d", taken, h.size-left)
			}
			if err != nil {
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatal(err)
				}
				break
			}
			again := appendFrame(nil, h.kind, h.flags, h.call, body)
			if !bytes.HasPrefix(whole[read:], again) {
				t.Fatalf("%x is read from %x", again, whole[read:])
			}
			read += len(again)
		}
	})
}

// FuzzPayloads parses every payload: what is taken is written the same.
func FuzzPayloads(f *testing.F) {
	for _, g := range golden() {
		b, err := hex.DecodeString(g.Payload)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(what string, got []byte) {
			if !bytes.Equal(got, b) {
				t.Fatalf("%s: %x is written as %x", what, b, got)
			}
		}
		// A timeout above a year is cut, so only smaller ones are the same.
		if v, err := parseInvoke(b); err == nil && v.timeout < maxTimeout {
			same("invoke", appendInvoke(nil, string(v.method), v.timeout, v.headers))
			if err := v.headers.check(); err != nil {
				t.Fatal(err)
			}
		}
		if h, err := parseHeaders(b); err == nil {
			same("headers", appendHeaders(nil, h))
		}
		if e, err := parseError(b); err == nil && e.RetryAfter < maxTimeout {
			if back, err := parseError(appendError(nil, e)); err != nil || back.Message != e.Message || back.Code != e.Code {
				t.Fatalf("%+v, %+v, %v", e, back, err)
			}
		}
		if g, err := parseGoaway(b); err == nil && g.retryAfter < maxTimeout {
			same("goaway", appendGoaway(nil, g))
		}
		if _, err := parseNumber(b); err == nil && len(b) > 10 {
			t.Fatalf("a number in %x", b)
		}
	})
}

// FuzzPlain reads the plain wire.
func FuzzPlain(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'x', 0, 0, 0, 0}, byte(2), true)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, byte(0), false)
	f.Fuzz(func(t *testing.T, b []byte, piece byte, wait bool) {
		m := &counted{limit: 1 << 30}
		r := new(reader)
		r.init(&trickle{b, int(piece) + 1, wait}, newBufferPool(64))
		read := 0
		for {
			n, err := r.length(1 << 20)
			if err != nil {
				return
			}
			body, _, err := r.body(n, m)
			if m.taken > 2*len(b)+chunk*(1+read/4) {
				t.Fatalf("%d bytes of memory for %d", m.taken, len(b))
			}
			if err != nil {
				return
			}
			if !bytes.Equal(body, b[read+4:read+4+n]) {
				t.Fatalf("%x", body)
			}
			read += 4 + n
		}
	})
}

// FuzzExpand decompresses whatever comes, within its bounds.
func FuzzExpand(f *testing.F) {
	z, _ := compress(bytes.Repeat([]byte("kith"), 3000))
	f.Add(z)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, z []byte) {
		const limit = 4 << 20
		m := &counted{limit: 1 << 30}
		out, err := expand(z, limit, m)
		if err == nil && len(out) > expandedMax(len(z), limit) {
			t.Fatalf("%d bytes from %d", len(out), len(z))
		}
		if m.taken > expandedMax(len(z), limit)+1 {
			t.Fatalf("%d bytes of memory for %d", m.taken, len(z))
		}
	})
}

// FuzzServer feeds a whole server, in process: it must survive, and be free of
// what it held.
func FuzzServer(f *testing.F) {
	h := newHost(f, "")
	s, err := NewServer(h, &ServerConfig{MaxBlockSize: 1 << 20})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Stop() })
	startEcho(f, s)
	handleStream(f, s, "/kith-test/stream", echoStream)
	addGolden(f, func(b []byte) { f.Add(b) })
	f.Add([]byte(frames(nil).echo(1).echo(2).invoke(3, "/kith-test/stream", 0).add(kindMessage, 0, 3, []byte("x")).add(kindHalfClose, 0, 3, nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := rawStream(t, h, h.ID(), Protocol)
		done := make(chan bool)
		go func() {
			defer close(done)
			_, _ = io.Copy(io.Discard, c)
		}()
		_, _ = c.Write(b)
		_ = c.CloseWrite()
		await(t, "end of the stream", done)
		eventually(t, func() string {
			if st := s.Stats(); st.Memory != 0 || st.Running != 0 || st.Conns != 0 {
				return "something is left"
			}
			return ""
		})
	})
}
