package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
)

// The rarer things that a hostile server may send to call 1; the plain ones are in
// TestBadInputFromServers. Each is an error that says what it is, is counted, leaves
// nothing, and the same client calls somebody else as if nothing had been.

// hostileAnswer is what a server sends, and what becomes of the call.
type hostileAnswer struct {
	name  string
	send  []byte
	close bool // the server's half, after it
	is    error
	code  Code
	count func(Faults) uint64 // nil: no fault of the peer
}

func bombs(f Faults) uint64 { return f.Bombs }

// prey is a client between a hostile server and a good one.
type prey struct {
	c          *Client
	evil, good corehost.Host
}

func newPrey(t *testing.T, cfg *ClientConfig) prey {
	a, evil := tcpHosts(t)
	good := newHost(t, "/ip4/127.0.0.1/tcp/0")
	know(a, good)
	startEcho(t, newServer(t, good, nil))
	return prey{newClient(t, a, cfg), evil, good}
}

// answer has the hostile server answer each stream with the bytes, once.
func (p prey) answer(tc hostileAnswer) {
	p.evil.SetStreamHandler(Protocol, func(s network.Stream) {
		s.Read(make([]byte, 1<<10))
		s.Write(tc.send)
		if tc.close {
			s.CloseWrite()
		}
		leaveAtCancel(s)
	})
}

// leaveAtCancel reads until the stream ends, or the caller gives up: it would wait a
// while for the confirmation.
func leaveAtCancel(s network.Stream) {
	s.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 1<<10)
	for {
		n, err := s.Read(b)
		if err != nil || bytes.Contains(b[:n], []byte{4, byte(kindCancel), 0, 1}) {
			break
		}
	}
	s.Reset()
}

// check wants the error to be the one expected, counted once, nothing left of the
// hostile server's streams, and the client to be of use.
func (p prey) check(t *testing.T, tc hostileAnswer, before Faults, err error) {
	t.Helper()
	if wantCode(t, err, tc.code); tc.is != nil && !errors.Is(err, tc.is) {
		t.Errorf("%v, want %v", err, tc.is)
	}
	eventually(t, func() string {
		after := p.c.Stats().Faults
		switch {
		case tc.count == nil && after != before:
			return fmt.Sprintf("counted: %+v, before %+v", after, before)
		case tc.count != nil && tc.count(after)-tc.count(before) != 1:
			return fmt.Sprintf("counted %d times: %+v", tc.count(after)-tc.count(before), after)
		}
		p.c.mu.Lock()
		defer p.c.mu.Unlock()
		for l := range p.c.links {
			if l.peer == p.evil.ID() {
				return "a stream of the hostile server is kept"
			}
		}
		return ""
	})
	if b, err := p.c.Send(ctxOf(t), p.good.ID(), echoID, []byte("hi")); err != nil || string(b) != "hi" {
		t.Errorf("another peer: %q, %v", b, err)
	}
}

// squeezed is a message that is compressed.
func squeezed(z []byte) []byte {
	return frames(nil).add(kindMessage, flagEnd|flagZstd, 1, z)
}

func TestRareBadInputFromServers(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowMax))
	if err != nil {
		t.Fatal(err)
	}
	wideEnc, _ := zstd.NewWriter(nil, zstd.WithWindowSize(64<<20))
	whole := enc.EncodeAll(randomBytes(10_000), nil)
	wide := wideEnc.EncodeAll(bytes.Repeat(randomBytes(1<<20), 3), nil)
	bomb := enc.EncodeAll(make([]byte, 30<<20), nil)
	good := goaway{last: 1, code: CodeUnavailable, message: "bye"}
	details := binary.AppendUvarint([]byte{1, 0, 0}, detailsMax+1)
	rows := []hostileAnswer{
		// Malformed payloads of each kind that has one.
		{"headers not sorted", frames(nil).add(kindHeaders, 0, 1, []byte{2, 1, 'b', 0, 1, 'a', 0}), false, ErrMalformed, CodeInternal, malformed},
		{"headers twice in one frame", frames(nil).add(kindHeaders, 0, 1, []byte{2, 1, 'a', 0, 1, 'a', 0}), false, ErrMalformed, CodeInternal, malformed},
		{"header without a name", frames(nil).add(kindHeaders, 0, 1, []byte{1, 0, 0}), false, ErrMalformed, CodeInternal, malformed},
		{"header with a long name", frames(nil).add(kindHeaders, 0, 1, appendString(appendString([]byte{1}, make([]byte, headerNameMax+1)), "")), false, ErrMalformed, CodeInternal, malformed},
		{"too many headers", frames(nil).add(kindHeaders, 0, 1, append(binary.AppendUvarint(nil, headerCount+1), make([]byte, 1<<10)...)), false, ErrMalformed, CodeInternal, malformed},
		{"long headers", frames(nil).add(kindHeaders, 0, 1, appendString(appendString([]byte{1}, "a"), make([]byte, headersMax))), false, ErrMalformed, CodeInternal, malformed},
		{"headers with more", frames(nil).add(kindHeaders, 0, 1, []byte{0, 0}), false, ErrMalformed, CodeInternal, malformed},
		{"headers that end early", frames(nil).add(kindHeaders, 0, 1, []byte{1, 9, 'a'}), false, ErrMalformed, CodeInternal, malformed},
		{"error of a code nobody has", frames(nil).add(kindError, 0, 1, append(binary.AppendUvarint(nil, 1<<16+1), 0, 0, 0)), false, ErrMalformed, CodeInternal, malformed},
		{"error not UTF-8", frames(nil).add(kindError, 0, 1, []byte{1, 0, 1, 0xff, 0}), false, ErrMalformed, CodeInternal, malformed},
		{"error with a long text", frames(nil).add(kindError, 0, 1, append(appendString([]byte{1, 0}, bytes.Repeat([]byte("x"), messageMax+1)), 0)), false, ErrMalformed, CodeInternal, malformed},
		{"error with too many details", frames(nil).add(kindError, 0, 1, append(details, make([]byte, 2*(detailsMax+1))...)), false, ErrMalformed, CodeInternal, malformed},
		{"error with more", frames(nil).add(kindError, 0, 1, []byte{1, 0, 0, 0, 0}), false, ErrMalformed, CodeInternal, malformed},
		{"error that ends early", frames(nil).add(kindError, 0, 1, []byte{1, 0, 9, 'x'}), false, ErrMalformed, CodeInternal, malformed},
		{"goaway of a code nobody has", frames(nil).add(kindGoaway, 0, 0, append(binary.AppendUvarint([]byte{0}, 1<<16+1), 0, 0)), false, ErrMalformed, CodeInternal, malformed},
		{"goaway not UTF-8", frames(nil).add(kindGoaway, 0, 0, []byte{0, 0, 0, 1, 0xff}), false, ErrMalformed, CodeInternal, malformed},
		{"goaway that ends early", frames(nil).add(kindGoaway, 0, 0, []byte{0, 0, 0, 9, 'x'}), false, ErrMalformed, CodeInternal, malformed},
		{"goaway with more", frames(nil).add(kindGoaway, 0, 0, append(appendGoaway(nil, good), 0)), false, ErrMalformed, CodeInternal, malformed},
		{"compressed garbage", squeezed([]byte("no zstd")), false, ErrMalformed, CodeInternal, malformed},
		{"compressed nothing", squeezed(nil), false, ErrMalformed, CodeInternal, malformed},
		{"compressed and cut", squeezed(whole[:len(whole)/2]), false, ErrMalformed, CodeInternal, malformed},
		{"compressed with a wide window", squeezed(wide), false, ErrMalformed, CodeInternal, malformed},
		{"a bomb", squeezed(bomb), false, ErrBomb, CodeInternal, bombs},

		// Out of order.
		{"a second goaway", frames(nil).add(kindGoaway, 0, 0, appendGoaway(nil, good)).add(kindGoaway, 0, 0, appendGoaway(nil, good)), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"answers to no pings, for ever", bytes.Repeat(frames(nil).add(kindPing, flagAnswer, 0, nil), 1000), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"half-close of another call", frames(nil).add(kindHalfClose, 0, 7, nil), false, ErrUnknownCall, CodeInternal, unknownCall},
		{"headers of another call", frames(nil).add(kindHeaders, 0, 7, []byte{0}), false, ErrUnknownCall, CodeInternal, unknownCall},
		{"window of another call", frames(nil).add(kindWindow, 0, 7, []byte{1}), false, ErrUnknownCall, CodeInternal, unknownCall},

		// Oversized: refused before they come.
		{"headers oversized", claim(kindHeaders, 1, controlMax+1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"error oversized", claim(kindError, 1, controlMax+1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"goaway oversized", claim(kindGoaway, 0, controlMax+1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"ping oversized", claim(kindPing, 0, pingMax+1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"window oversized", claim(kindWindow, 1, controlMax+1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"half-close oversized", claim(kindHalfClose, 1, 1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"invoke oversized", claim(kindInvoke, 1, controlMax+1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"cancel oversized", claim(kindCancel, 1, controlMax+1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"frame of 2^31", append(binary.AppendUvarint(nil, 1<<31), byte(kindMessage), 0, 1), false, ErrTooLarge, CodeInternal, tooLarge},

		// Cut: the server closes in the middle.
		{"half a header", []byte{0x80}, true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		{"headers cut", claim(kindHeaders, 1, 100), true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		{"error cut", claim(kindError, 1, 100), true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		{"goaway cut", claim(kindGoaway, 0, 100), true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		{"ping cut", claim(kindPing, 0, 10), true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		{"headers and no message", frames(nil).add(kindHeaders, 0, 1, []byte{0}), true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
	}
	p := newPrey(t, DefaultClientConfig())
	for _, tc := range rows {
		t.Run(tc.name, func(t *testing.T) {
			p.answer(tc)
			before := p.c.Stats().Faults
			_, err := p.c.Send(ctxOf(t), p.evil.ID(), echoID, []byte("x"))
			p.check(t, tc, before, err)
		})
	}
}

// An answer that never ends: the call does, and what had begun to come is a fault.
func TestServersThatNeverFinish(t *testing.T) {
	half := append(appendHeader(nil, kindMessage, flagEnd, 1, defaultBlockSize), make([]byte, 100<<10)...)
	rows := []hostileAnswer{
		{"nothing", nil, false, context.DeadlineExceeded, CodeDeadlineExceeded, nil}, // the handler may be slow
		{"headers and nothing", frames(nil).add(kindHeaders, 0, 1, []byte{0}), false, context.DeadlineExceeded, CodeDeadlineExceeded, nil},
		{"half a header", []byte{0x80}, false, context.DeadlineExceeded, CodeDeadlineExceeded, unfinished},
		{"headers cut", claim(kindHeaders, 1, 100), false, context.DeadlineExceeded, CodeDeadlineExceeded, unfinished},
		{"error cut", claim(kindError, 1, 100), false, context.DeadlineExceeded, CodeDeadlineExceeded, unfinished},
		{"goaway cut", claim(kindGoaway, 0, 100), false, context.DeadlineExceeded, CodeDeadlineExceeded, unfinished},
		{"ping cut", claim(kindPing, 0, 10), false, context.DeadlineExceeded, CodeDeadlineExceeded, unfinished},
		{"message cut", half, false, context.DeadlineExceeded, CodeDeadlineExceeded, unfinished},
	}
	for _, tc := range rows {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel() // it waits most of the time
			p := newPrey(t, &ClientConfig{ReadTimeout: time.Hour})
			arrived := make(chan bool, 2)
			p.evil.SetStreamHandler(Protocol, func(s network.Stream) {
				b := make([]byte, 1<<10)
				s.Read(b)
				s.Write(append(frames(nil).add(kindPing, 0, 0, []byte("is read")), tc.send...))
				for !bytes.Contains(b, []byte("is read")) { // it has the rest too
					if _, err := s.Read(b); err != nil {
						break
					}
				}
				arrived <- true
				leaveAtCancel(s)
			})
			before := p.c.Stats().Faults
			ended := make(chan error, 1)
			go func() {
				_, err := p.c.Send(t.Context(), p.evil.ID(), echoID, []byte("x"))
				ended <- err
			}()
			await(t, "answer to a ping", arrived)
			p.c.expireAll()
			p.check(t, tc, before, await(t, "end of the call", ended))
			// A deadline of the caller's own says nothing about the peer.
			before = p.c.Stats().Faults
			ctx, cancel := context.WithTimeout(t.Context(), short)
			defer cancel()
			_, err := p.c.Send(ctx, p.evil.ID(), echoID, []byte("x"))
			tc.count = nil
			p.check(t, tc, before, err)
		})
	}
}

// The same in calls with streams of messages.
func TestRareBadInputFromStreamingServers(t *testing.T) {
	window := binary.AppendUvarint(nil, 1)
	message := frames(nil).add(kindMessage, 0, 1, []byte("x"))
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowMax))
	if err != nil {
		t.Fatal(err)
	}
	rows := []hostileAnswer{
		{"headers twice", frames(nil).add(kindHeaders, 0, 1, []byte{0}).add(kindHeaders, 0, 1, []byte{0}), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"headers after a message", message.add(kindHeaders, 0, 1, []byte{0}), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"window that is no number", frames(nil).add(kindWindow, 0, 1, nil), false, ErrMalformed, CodeInternal, malformed},
		{"window that is not minimal", frames(nil).add(kindWindow, 0, 1, []byte{0x81, 0}), false, ErrMalformed, CodeInternal, malformed},
		{"window with more", frames(nil).add(kindWindow, 0, 1, []byte{1, 1}), false, ErrMalformed, CodeInternal, malformed},
		{"window of zero", frames(nil).add(kindWindow, 0, 1, []byte{0}), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"window that was not used", frames(nil).add(kindWindow, 0, 1, window), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"window without end", frames(nil).add(kindWindow, 0, 1, binary.AppendUvarint(nil, 1<<63)), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"window oversized", claim(kindWindow, 1, controlMax+1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"window cut", claim(kindWindow, 1, 1), true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		{"messages beyond the window", frames(nil).add(kindMessage, 0, 1, make([]byte, streamWindow)).add(kindMessage, 0, 1, nil), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"message above the limit", claim(kindMessage, 1, defaultBlockSize+1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"message cut", message.add(kindMessage, 0, 1, nil)[:len(message)+2], true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		{"messages without an end", message, true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		{"message of another call", frames(nil).add(kindMessage, 0, 7, nil), false, ErrUnknownCall, CodeInternal, unknownCall},
		{"invoke of a server", frames(nil).invoke(1, "/x", 0), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"cancel of a server", frames(nil).add(kindCancel, 0, 1, []byte{1}), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"unknown kind", []byte{3, byte(kinds), 0, 1}, false, ErrMalformed, CodeInternal, malformed},
		{"pings for ever", bytes.Repeat(frames(nil).add(kindPing, 0, 0, nil), 1000), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"answers to no pings, for ever", bytes.Repeat(frames(nil).add(kindPing, flagAnswer, 0, nil), 1000), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"a second goaway", bytes.Repeat(frames(nil).add(kindGoaway, 0, 0, appendGoaway(nil, goaway{last: 1})), 2), false, ErrOutOfOrder, CodeInternal, outOfOrder},
	}
	// Calls that the caller ends.
	ended := []hostileAnswer{
		{"compressed garbage", frames(nil).add(kindMessage, flagZstd, 1, []byte("no zstd")), false, ErrMalformed, CodeInternal, malformed},
		{"a bomb", frames(nil).add(kindMessage, flagZstd, 1, enc.EncodeAll(make([]byte, 30<<20), nil)), false, ErrBomb, CodeInternal, bombs},
		{"compressed unasked", frames(nil).add(kindMessage, flagZstd, 1, []byte("x")), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"nothing, until the deadline", nil, false, context.DeadlineExceeded, CodeDeadlineExceeded, nil},
		{"half a message, until the deadline", claim(kindMessage, 1, 100), false, context.DeadlineExceeded, CodeDeadlineExceeded, nil},
	}
	test := func(t *testing.T, p prey, tc hostileAnswer, early bool) {
		p.answer(tc)
		ctx := ctxOf(t)
		if tc.code == CodeDeadlineExceeded {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
			defer cancel()
		}
		before := p.c.Stats().Faults
		st, err := p.c.Open(ctx, &Request{Peer: p.evil.ID(), Method: "/kith-test/stream"})
		if err == nil && !early { // all that came has been read: who receives gives credit back
			await(t, "end of the call", st.over)
		}
		for err == nil {
			_, err = st.Recv()
		}
		p.check(t, tc, before, err)
		// Whoever asks again hears of it too, and nothing blocks.
		if st != nil {
			if _, again := st.Recv(); again == nil || again == io.EOF {
				t.Errorf("the second time: %v", again)
			}
			if err := st.Send(nil); err == nil {
				t.Error("sent in a call that is over")
			}
		}
	}
	p := newPrey(t, DefaultClientConfig())
	for _, tc := range rows {
		t.Run(tc.name, func(t *testing.T) { test(t, p, tc, false) })
	}
	for _, tc := range ended {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cfg := DefaultClientConfig()
			cfg.EnableCompression = tc.name != "compressed unasked"
			test(t, newPrey(t, cfg), tc, true)
		})
	}
}

// What comes after a good answer, be it at once or later, is found when the stream
// would be used again, and is no answer to the next call.
func TestBytesAfterTheAnswer(t *testing.T) {
	answer := func(call uint64) frames { return frames(nil).add(kindMessage, flagEnd, call, []byte("good")) }
	for _, tc := range []struct {
		name  string
		extra frames
		is    error
		count func(Faults) uint64
	}{
		{"the answer twice", answer(1), ErrUnknownCall, unknownCall},
		{"half-close of the last call", frames(nil).add(kindHalfClose, 0, 1, nil), ErrUnknownCall, unknownCall},
		{"error of the last call", frames(nil).add(kindError, 0, 1, []byte{1, 0, 0, 0}), ErrUnknownCall, unknownCall},
		{"an answer to a call to come", answer(3), ErrUnknownCall, unknownCall},
		{"half a frame", appendHeader(nil, kindMessage, flagEnd, 2, 10), io.ErrUnexpectedEOF, unfinished},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPrey(t, nil)
			later := make(chan struct{})
			p.evil.SetStreamHandler(Protocol, func(s network.Stream) {
				s.Read(make([]byte, 1<<10))
				s.Write(answer(1))
				<-later
				s.Write(tc.extra)
				s.CloseWrite()
				leaveAtCancel(s)
			})
			if b, err := p.c.Send(ctxOf(t), p.evil.ID(), echoID, nil); err != nil || string(b) != "good" {
				t.Fatalf("%q, %v", b, err)
			}
			close(later)
			_, err := p.c.Send(ctxOf(t), p.evil.ID(), echoID, nil)
			p.check(t, hostileAnswer{is: tc.is, code: codeOfFault(tc.is), count: tc.count}, Faults{}, err)
		})
		t.Run(tc.name+", at once", func(t *testing.T) {
			p := newPrey(t, nil)
			p.answer(hostileAnswer{send: append(answer(1), tc.extra...)})
			for range 3 {
				// Each on a stream of its own, or one that read no more than the answer.
				b, err := p.c.Send(ctxOf(t), p.evil.ID(), echoID, nil)
				if err == nil && string(b) != "good" {
					t.Errorf("%q", b)
				}
			}
		})
	}
}

// The plain wire has no words for errors: what a server breaks there is told apart
// all the same.
func TestBadInputFromPlainServers(t *testing.T) {
	for _, tc := range []hostileAnswer{
		{"above the limit", binary.BigEndian.AppendUint32(nil, defaultBlockSize+1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"4 GiB", []byte{0xff, 0xff, 0xff, 0xff}, false, ErrTooLarge, CodeInternal, tooLarge},
		{"body cut", []byte{0, 0, 0, 5, 'a'}, true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		{"half a length", []byte{0, 0}, true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		{"nothing", nil, true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		// More than the window, so that the server knows that it is being read.
		{"half a body, for ever", append([]byte{1, 0, 0, 0}, make([]byte, 1<<20)...), false, context.DeadlineExceeded, CodeDeadlineExceeded, unfinished},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPrey(t, &ClientConfig{ReadTimeout: time.Hour})
			sent := make(chan bool, 1)
			p.evil.SetStreamHandler(echoID, func(s network.Stream) {
				s.Read(make([]byte, 1<<10))
				s.Write(tc.send)
				sent <- true
				if tc.close {
					s.CloseWrite()
				}
				leaveAtCancel(s)
			})
			ended := make(chan error, 1)
			go func() {
				_, err := p.c.Send(t.Context(), p.evil.ID(), echoID, []byte("x"))
				ended <- err
			}()
			await(t, "answer", sent)
			if tc.code == CodeDeadlineExceeded {
				p.c.expireAll()
			}
			p.check(t, tc, Faults{}, await(t, "end of the call", ended))
		})
	}
}

// expireAll is the janitor's work when ReadTimeout has passed for all calls.
func (c *Client) expireAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.links {
		if b := l.began.Load(); b > 0 {
			l.expire(b)
		}
	}
}

// 50 answers that are announced as 32 MiB each and never come take nothing.
func TestAnswersThatAreOnlyAnnouncedTakeNoMemory(t *testing.T) {
	const calls = 50
	p := newPrey(t, nil)
	announced := make(chan bool, calls)
	p.evil.SetStreamHandler(Protocol, func(s network.Stream) {
		s.Read(make([]byte, 1<<10))
		s.Write(append(appendHeader(nil, kindMessage, flagEnd, 1, defaultBlockSize), 'x'))
		announced <- true
		leaveAtCancel(s)
	})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, calls)
	for range calls {
		go func() {
			_, err := p.c.Send(ctx, p.evil.ID(), echoID, nil)
			ended <- err
		}()
	}
	for range calls {
		await(t, "announced answer", announced)
	}
	eventually(t, func() string {
		p.c.mu.Lock()
		defer p.c.mu.Unlock()
		if n := len(p.c.links); n != calls {
			return fmt.Sprintf("%d streams", n)
		}
		return ""
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("%d announcements take %d KiB", calls, grown>>10)
	}
	cancel()
	for range calls {
		if err := await(t, "end of a call", ended); CodeOf(err) != CodeCanceled {
			t.Error(err)
		}
	}
	p.check(t, hostileAnswer{code: CodeCanceled}, Faults{}, &Error{Code: CodeCanceled})
}

// A bomb in a stream of messages ended the call, and its receiver heard that it had
// given up itself: the fault of the peer looked like a cancel.
func TestRegressionBombInAStreamLooksLikeACancel(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowMax))
	if err != nil {
		t.Fatal(err)
	}
	p := newPrey(t, DefaultClientConfig())
	p.answer(hostileAnswer{send: frames(nil).add(kindMessage, flagZstd, 1, enc.EncodeAll(make([]byte, 30<<20), nil))})
	st, err := p.c.Open(ctxOf(t), &Request{Peer: p.evil.ID(), Method: "/kith-test/stream"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); !errors.Is(err, ErrBomb) || errors.Is(err, context.Canceled) || CodeOf(err) != CodeInternal {
		t.Errorf("%v", err)
	}
}

// A goaway that came in the middle of a call, and let that end, was forgotten: the
// next call on the stream was lost, and nobody could say whether it had been made.
func TestRegressionGoawayInMidCallIsForgotten(t *testing.T) {
	p := newPrey(t, nil)
	var streams atomic.Int32
	p.evil.SetStreamHandler(Protocol, func(s network.Stream) {
		streams.Add(1)
		s.Read(make([]byte, 1<<10))
		s.Write(frames(nil).add(kindGoaway, 0, 0, appendGoaway(nil, goaway{last: 1})).add(kindMessage, flagEnd, 1, []byte("good")))
		s.CloseWrite()
		leaveAtCancel(s)
	})
	for i := range 5 {
		if b, err := p.c.Send(ctxOf(t), p.evil.ID(), echoID, nil); err != nil || string(b) != "good" {
			t.Errorf("call %d: %q, %v", i, b, err)
		}
	}
	if n := streams.Load(); n != 5 || p.c.Stats().Retries != 0 {
		t.Errorf("%d streams; %+v", n, p.c.Stats())
	}
}
