package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
)

// frames puts frames together.
type frames []byte

func (f frames) add(k kind, fl flags, call uint64, payload []byte) frames {
	return appendFrame(f, k, fl, call, payload)
}

func (f frames) invoke(call uint64, method string, fl flags) frames {
	return f.add(kindInvoke, fl, call, appendInvoke(nil, method, 0, nil))
}

func (f frames) echo(call uint64) frames {
	return f.invoke(call, string(echoID), flagUnary).add(kindMessage, flagEnd, call, []byte("x"))
}

// claim is a frame of which only the header comes.
func claim(k kind, call uint64, size int) []byte { return appendHeader(nil, k, 0, call, size) }

// What a hostile caller sends, what becomes of its stream, and what is counted.
var hostileCallers = []struct {
	name  string
	send  []byte
	close bool // the caller's half, after it
	code  Code // of the reset; CodeOK: the stream ends well
	count func(Faults) uint64
}{
	// Malformed frames of every kind.
	{"length of zero", []byte{0}, false, CodeInvalidArgument, malformed},
	{"length not minimal", []byte{0x85, 0x00, 1, 0, 1}, false, CodeInvalidArgument, malformed},
	{"length without end", bytes.Repeat([]byte{0xff}, 11), false, CodeInvalidArgument, malformed},
	{"kind of zero", []byte{3, 0, 0, 0}, false, CodeInvalidArgument, malformed},
	{"unknown kind", []byte{3, byte(kinds), 0, 0}, false, CodeInvalidArgument, malformed},
	{"flags that the kind has not", []byte{3, byte(kindHalfClose), byte(flagEnd), 1}, false, CodeInvalidArgument, malformed},
	{"flag nobody has", []byte{3, byte(kindMessage), 0x80, 1}, false, CodeInvalidArgument, malformed},
	{"call not minimal", []byte{4, byte(kindMessage), 0, 0x81, 0x00}, false, CodeInvalidArgument, malformed},
	{"call longer than the frame", []byte{3, byte(kindMessage), 0, 0x81, 1}, false, CodeInvalidArgument, malformed},
	{"invoke without a payload", frames(nil).add(kindInvoke, flagUnary, 1, nil), false, CodeInvalidArgument, malformed},
	{"invoke without a method", frames(nil).add(kindInvoke, flagUnary, 1, []byte{0, 0, 0}), false, CodeInvalidArgument, malformed},
	{"invoke with more", frames(nil).add(kindInvoke, flagUnary, 1, append(appendInvoke(nil, "/x", 0, nil), 0)), false, CodeInvalidArgument, malformed},
	{"invoke with too many headers", frames(nil).add(kindInvoke, flagUnary, 1, []byte{1, 'x', 0, 0xff, 0x7f}), false, CodeInvalidArgument, malformed},
	{"headers out of order", frames(nil).add(kindInvoke, flagUnary, 1, []byte{1, 'x', 0, 2, 1, 'b', 0, 1, 'a', 0}), false, CodeInvalidArgument, malformed},
	{"headers not UTF-8", frames(nil).add(kindInvoke, flagUnary, 1, []byte{1, 'x', 0, 1, 1, 0xff, 0}), false, CodeInvalidArgument, malformed},
	{"window that is no number", frames(nil).invoke(1, "/kith-test/stream", 0).add(kindWindow, 0, 1, nil), false, CodeInvalidArgument, malformed},

	// Out of order.
	{"message before any call", frames(nil).add(kindMessage, flagEnd, 1, nil), false, CodeInvalidArgument, outOfOrder},
	{"half-close before any call", frames(nil).add(kindHalfClose, 0, 1, nil), false, CodeInvalidArgument, outOfOrder},
	{"cancel before any call", frames(nil).add(kindCancel, 0, 1, []byte{1}), false, CodeInvalidArgument, outOfOrder},
	{"window before any call", frames(nil).add(kindWindow, 0, 1, []byte{1}), false, CodeInvalidArgument, outOfOrder},
	{"headers of a server", frames(nil).add(kindHeaders, 0, 1, []byte{0}), false, CodeInvalidArgument, outOfOrder},
	{"error of a server", frames(nil).add(kindError, 0, 1, []byte{1, 0, 0, 0}), false, CodeInvalidArgument, outOfOrder},
	{"goaway of a server", frames(nil).add(kindGoaway, 0, 0, []byte{0, 0, 0, 0}), false, CodeInvalidArgument, outOfOrder},
	{"answer to no ping", frames(nil).add(kindPing, flagAnswer, 0, nil), false, CodeInvalidArgument, outOfOrder},
	{"call of number zero", frames(nil).invoke(0, string(echoID), flagUnary), false, CodeInvalidArgument, outOfOrder},
	{"the same call twice", frames(nil).echo(1).echo(1), false, CodeInvalidArgument, outOfOrder},
	{"calls that fall", frames(nil).echo(2).echo(1), false, CodeInvalidArgument, outOfOrder},
	{"two invokes", frames(nil).invoke(1, string(echoID), flagUnary).invoke(2, string(echoID), flagUnary), false, CodeInvalidArgument, outOfOrder},
	{"half-close for the one message", frames(nil).invoke(1, string(echoID), flagUnary).add(kindHalfClose, 0, 1, nil), false, CodeInvalidArgument, outOfOrder},
	{"one message without an end", frames(nil).invoke(1, string(echoID), flagUnary).add(kindMessage, 0, 1, nil), false, CodeInvalidArgument, outOfOrder},
	{"message of another call", frames(nil).invoke(1, string(echoID), flagUnary).add(kindMessage, flagEnd, 2, nil), false, CodeInvalidArgument, outOfOrder},
	{"message for a call to come", frames(nil).echo(1).add(kindMessage, flagEnd, 2, nil), false, CodeInvalidArgument, outOfOrder},
	{"message after the last", frames(nil).invoke(1, "/kith-test/stream", 0).add(kindMessage, flagEnd, 1, nil).add(kindMessage, 0, 1, nil), false, CodeInvalidArgument, outOfOrder},
	{"two half-closes", frames(nil).invoke(1, "/kith-test/stream", 0).add(kindHalfClose, 0, 1, nil).add(kindHalfClose, 0, 1, nil), false, CodeInvalidArgument, outOfOrder},
	{"window that was not used", frames(nil).invoke(1, "/kith-test/stream", 0).add(kindWindow, 0, 1, []byte{1}), false, CodeInvalidArgument, outOfOrder},
	{"window of zero", frames(nil).invoke(1, "/kith-test/stream", 0).add(kindWindow, 0, 1, []byte{0}), false, CodeInvalidArgument, outOfOrder},
	{"messages beyond the window", frames(nil).invoke(1, "/kith-test/stream", 0).add(kindMessage, 0, 1, make([]byte, streamWindow)).add(kindMessage, 0, 1, nil), false, CodeInvalidArgument, outOfOrder},
	{"messages for ever to a call that is over", append(frames(nil).echo(1), bytes.Repeat(frames(nil).add(kindMessage, 0, 1, make([]byte, 512<<10)), 5)...), false, CodeInvalidArgument, outOfOrder},
	{"cancels for ever", append(frames(nil).echo(1), bytes.Repeat(frames(nil).add(kindCancel, 0, 1, []byte{1}), 1000)...), false, CodeInvalidArgument, outOfOrder},
	{"pings for ever", bytes.Repeat(frames(nil).add(kindPing, 0, 0, []byte("x")), 1000), false, CodeInvalidArgument, outOfOrder},

	// Oversized: refused before they come.
	{"frame of 2^31", append(binary.AppendUvarint(nil, 1<<31), 1, 0, 1), false, CodeInvalidArgument, tooLarge},
	{"invoke", claim(kindInvoke, 1, controlMax+1), false, CodeInvalidArgument, tooLarge},
	{"headers", claim(kindHeaders, 1, controlMax+1), false, CodeInvalidArgument, tooLarge},
	{"message of a call", append(frames(nil).invoke(1, string(echoID), flagUnary), claim(kindMessage, 1, defaultBlockSize+1)...), false, CodeInvalidArgument, tooLarge},
	{"message of no call", claim(kindMessage, 1, defaultBlockSize+1), false, CodeInvalidArgument, tooLarge},
	{"half-close with a payload", claim(kindHalfClose, 1, 1), false, CodeInvalidArgument, tooLarge},
	{"error", claim(kindError, 1, controlMax+1), false, CodeInvalidArgument, tooLarge},
	{"cancel", claim(kindCancel, 1, controlMax+1), false, CodeInvalidArgument, tooLarge},
	{"ping", claim(kindPing, 0, pingMax+1), false, CodeInvalidArgument, tooLarge},
	{"goaway", claim(kindGoaway, 0, controlMax+1), false, CodeInvalidArgument, tooLarge},
	{"window", claim(kindWindow, 1, controlMax+1), false, CodeInvalidArgument, tooLarge},

	// Never finished: the caller closes in the middle, or just waits (the last ones).
	{"half a header", []byte{0x80}, true, CodeUnavailable, unfinished},
	{"invoke cut", claim(kindInvoke, 1, 100), true, CodeUnavailable, unfinished},
	{"no message", frames(nil).invoke(1, string(echoID), flagUnary), true, CodeUnavailable, unfinished},
	{"message cut", append(frames(nil).invoke(1, string(echoID), flagUnary), appendHeader(nil, kindMessage, flagEnd, 1, 100)...), true, CodeUnavailable, unfinished},
	{"message cut in a stream", append(frames(nil).invoke(1, "/kith-test/stream", 0), claim(kindMessage, 1, 100)...), true, CodeUnavailable, unfinished},
	{"cancel cut", append(frames(nil).invoke(1, "/kith-test/stream", 0), claim(kindCancel, 1, 1)...), true, CodeUnavailable, unfinished},
	{"ping cut", claim(kindPing, 0, 4), true, CodeUnavailable, unfinished},
	{"window cut", append(frames(nil).invoke(1, "/kith-test/stream", 0), claim(kindWindow, 1, 1)...), true, CodeUnavailable, unfinished},
	{"nothing at all", nil, false, CodeDeadlineExceeded, unfinished},
	{"half a header, for ever", []byte{0x80}, false, CodeDeadlineExceeded, unfinished},
	{"invoke, for ever", claim(kindInvoke, 1, 100), false, CodeDeadlineExceeded, unfinished},
	{"message, for ever", append(frames(nil).invoke(1, string(echoID), flagUnary), appendHeader(nil, kindMessage, flagEnd, 1, 100)...), false, CodeDeadlineExceeded, unfinished},
}

func malformed(f Faults) uint64  { return f.Malformed }
func outOfOrder(f Faults) uint64 { return f.OutOfOrder }
func tooLarge(f Faults) uint64   { return f.TooLarge }
func unfinished(f Faults) uint64 { return f.Unfinished }

// Whatever a caller sends, it gets a code, it is counted, nothing is left of
// it, and another caller does not notice.
func TestBadInputFromCallers(t *testing.T) {
	patient, impatient := newVictim(t, nil), newVictim(t, &ServerConfig{ReadTimeout: short, ConnectTimeout: short})
	for _, tc := range hostileCallers {
		t.Run(tc.name, func(t *testing.T) {
			v := patient
			if tc.code == CodeDeadlineExceeded {
				v = impatient
			}
			a, b, s := v.a, v.b, v.s
			before := s.Stats()
			c := rawStream(t, a, b.ID(), Protocol)
			// The server may end it in the middle of what we write.
			go func() {
				c.Write(tc.send)
				if tc.close {
					c.CloseWrite()
				}
			}()
			wantReset(t, c, tc.code)
			eventually(t, func() string {
				after := s.Stats()
				if n := tc.count(after.Faults) - tc.count(before.Faults); n != 1 {
					return fmt.Sprintf("counted %d times: %+v", n, after.Faults)
				}
				if after.Memory != 0 || after.Running != 0 {
					return fmt.Sprintf("left behind: %+v", after)
				}
				return ""
			})
			if _, err := v.other.Do(ctxOf(t), &Request{Peer: b.ID(), Method: echoID, Body: []byte("hi")}, Idempotent()); err != nil {
				t.Errorf("another caller: %v", err)
			}
		})
	}
}

// victim is a server, with somebody who uses it well.
type victim struct {
	a, b  corehost.Host
	s     *Server
	other *Client
}

func newVictim(t *testing.T, cfg *ServerConfig) victim {
	a, b := tcpHosts(t)
	s := newServer(t, b, cfg)
	startEcho(t, s)
	handleStream(t, s, "/kith-test/stream", func(ctx context.Context, st *ServerStream) error {
		<-ctx.Done()
		return ctx.Err()
	})
	return victim{a, b, s, newClient(t, a, nil)}
}

// The plain wire's faults.
func TestBadInputOnThePlainWire(t *testing.T) {
	patient, impatient := newVictim(t, nil), newVictim(t, &ServerConfig{ReadTimeout: short, ConnectTimeout: short})
	for _, tc := range []struct {
		name  string
		send  []byte
		close bool
		code  Code
		count func(Faults) uint64
	}{
		{"above the limit", binary.BigEndian.AppendUint32(nil, defaultBlockSize+1), false, CodeInvalidArgument, tooLarge},
		{"4 GiB", []byte{0xff, 0xff, 0xff, 0xff}, false, CodeInvalidArgument, tooLarge},
		{"half a length", []byte{0, 0}, true, CodeUnavailable, unfinished},
		{"body cut", []byte{0, 0, 0, 5, 'a'}, true, CodeUnavailable, unfinished},
		{"no body", []byte{0, 0, 0, 5}, true, CodeUnavailable, unfinished},
		{"nothing at all", nil, false, CodeDeadlineExceeded, unfinished},
		{"half a length, for ever", []byte{0, 0}, false, CodeDeadlineExceeded, unfinished},
		{"no body, for ever", []byte{0, 0, 0, 5}, false, CodeDeadlineExceeded, unfinished},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := patient
			if tc.code == CodeDeadlineExceeded {
				v = impatient
			}
			a, b, s := v.a, v.b, v.s
			before := s.Stats()
			c := rawStream(t, a, b.ID(), echoID)
			c.Write(tc.send)
			if tc.close {
				c.CloseWrite()
			}
			wantReset(t, c, tc.code)
			eventually(t, func() string {
				if n := tc.count(s.Stats().Faults) - tc.count(before.Faults); n != 1 {
					return fmt.Sprintf("counted %d times: %+v", n, s.Stats().Faults)
				}
				return ""
			})
		})
	}
}

// What a hostile server answers to call 1, and how the call ends.
func TestBadInputFromServers(t *testing.T) {
	for _, tc := range []struct {
		name  string
		send  []byte
		close bool
		is    error
		code  Code
		count func(Faults) uint64
	}{
		{"malformed length", []byte{0x80, 0}, false, ErrMalformed, CodeInternal, malformed},
		{"unknown kind", []byte{3, 99, 0, 1}, false, ErrMalformed, CodeInternal, malformed},
		{"malformed headers", frames(nil).add(kindHeaders, 0, 1, nil), false, ErrMalformed, CodeInternal, malformed},
		{"malformed error", frames(nil).add(kindError, 0, 1, []byte{0}), false, ErrMalformed, CodeInternal, malformed},
		{"error of code OK", frames(nil).add(kindError, 0, 1, []byte{0, 0, 0, 0}), false, ErrMalformed, CodeInternal, malformed},
		{"malformed goaway", frames(nil).add(kindGoaway, 0, 0, nil), false, ErrMalformed, CodeInternal, malformed},
		{"ping of a call", frames(nil).add(kindPing, 0, 1, []byte("x")), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"goaway of a call", frames(nil).add(kindGoaway, 0, 1, appendGoaway(nil, goaway{last: 1})), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"invoke of a server", frames(nil).invoke(1, "/x", flagUnary), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"cancel of a server", frames(nil).add(kindCancel, 0, 1, []byte{1}), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"headers twice", frames(nil).add(kindHeaders, 0, 1, []byte{0}).add(kindHeaders, 0, 1, []byte{0}), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"message without an end", frames(nil).add(kindMessage, 0, 1, nil), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"half-close for the answer", frames(nil).add(kindHalfClose, 0, 1, nil), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"window for one message", frames(nil).add(kindWindow, 0, 1, []byte{1}), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"compressed unasked", frames(nil).add(kindMessage, flagEnd|flagZstd, 1, []byte("x")), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"pings for ever", bytes.Repeat(frames(nil).add(kindPing, 0, 0, nil), 1000), false, ErrOutOfOrder, CodeInternal, outOfOrder},
		{"answer to an unknown call", frames(nil).add(kindMessage, flagEnd, 7, nil), false, ErrUnknownCall, CodeInternal, unknownCall},
		{"error of an unknown call", frames(nil).add(kindError, 0, 7, []byte{1, 0, 0, 0}), false, ErrUnknownCall, CodeInternal, unknownCall},
		{"answer of call zero", frames(nil).add(kindMessage, flagEnd, 0, nil), false, ErrUnknownCall, CodeInternal, unknownCall},
		{"answer above the limit", claim(kindMessage, 1, defaultBlockSize+1), false, ErrTooLarge, CodeInternal, tooLarge},
		{"answer cut", appendHeader(nil, kindMessage, flagEnd, 1, 100), true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
		{"no answer", nil, true, io.ErrUnexpectedEOF, CodeUnavailable, unfinished},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := tcpHosts(t)
			b.SetStreamHandler(Protocol, func(s network.Stream) {
				s.Read(make([]byte, 1<<10))
				s.Write(tc.send)
				if tc.close {
					s.CloseWrite()
				}
				s.SetReadDeadline(time.Now().Add(patience))
				io.Copy(io.Discard, s)
				s.Reset()
			})
			c := newClient(t, a, &ClientConfig{})
			_, err := c.Send(ctxOf(t), b.ID(), echoID, []byte("x"))
			if wantCode(t, err, tc.code); !errors.Is(err, tc.is) {
				t.Errorf("%v, want %v", err, tc.is)
			}
			if f := c.Stats(); tc.count(f.Faults) != 1 || f.Conns != 0 {
				t.Errorf("%+v", f)
			}
		})
	}
}

func unknownCall(f Faults) uint64 { return f.UnknownCall }

// Bombs, by ratio and by absolute size, in requests, answers and streams.
func TestCompressionBombs(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowMax))
	if err != nil {
		t.Fatal(err)
	}
	ratio := enc.EncodeAll(make([]byte, 30<<20), nil) // 30 MiB in some KiB
	sparse := make([]byte, defaultBlockSize+1000)     // compresses, but within the ratio
	for i := 0; i < len(sparse); i += 5000 {
		copy(sparse[i:min(i+100, len(sparse))], randomBytes(100 + i%7)[i%7:])
	}
	rand.NewChaCha8([32]byte{9}).Read(sparse[:1<<20])
	absolute := enc.EncodeAll(sparse, nil)
	window, _ := zstd.NewWriter(nil, zstd.WithWindowSize(64<<20))      // makes the reader reserve
	wide := window.EncodeAll(bytes.Repeat(randomBytes(1<<20), 3), nil) //
	cut := enc.EncodeAll(randomBytes(10_000), nil)
	limit := defaultBlockSize
	var before, after runtime.MemStats
	for name, z := range map[string][]byte{"ratio": ratio, "absolute": absolute, "window": wide, "garbage": []byte("no zstd"), "cut": cut[:len(cut)/2]} {
		runtime.ReadMemStats(&before)
		out, err := expand(z, limit, unmetered{})
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: %d bytes become %d", name, len(z), len(out))
		}
		if name == "ratio" || name == "absolute" {
			if !errors.Is(err, ErrBomb) || errors.Is(err, ErrTooLarge) != (name == "absolute") {
				t.Errorf("%s: %v", name, err)
			}
		} else if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; name != "absolute" && n > 16<<20 {
			t.Errorf("%s: %d bytes take %d KiB", name, len(z), n>>10)
		}
	}

	c, s, id := pair(t, DefaultServerConfig(), DefaultClientConfig())
	conn := rawStream(t, c.h, id, Protocol)
	in := new(reader)
	in.init(conn, newBufferPool(4<<10))
	call := uint64(0)
	for _, z := range [][]byte{ratio, absolute} {
		call++
		conn.Write(frames(nil).invoke(call, string(echoID), flagUnary|flagAccept).add(kindMessage, flagEnd|flagZstd, call, z))
		h, err := in.header(1 << 20)
		if err != nil || h.kind != kindError {
			t.Fatalf("%+v, %v", h, err)
		}
		p, _ := in.view(h.size)
		if e, err := parseError(p); err != nil || e.Code != CodeInvalidArgument {
			t.Errorf("%+v, %v", e, err)
		}
	}
	received := make(chan error, 1)
	handleStream(t, s, "/kith-test/bombs", func(ctx context.Context, st *ServerStream) error {
		_, err := st.Recv()
		received <- err
		return err
	})
	call++
	conn.Write(frames(nil).invoke(call, "/kith-test/bombs", 0).add(kindMessage, flagEnd|flagZstd, call, ratio))
	if err := await(t, "message", received); CodeOf(err) != CodeInvalidArgument || !errors.Is(err, ErrBomb) {
		t.Error(err)
	}
	if st := s.Stats(); st.Faults.Bombs != 3 || st.Methods[string(echoID)].Time != 0 {
		t.Errorf("%+v", st)
	}

	// An answer.
	s.Stop()
	s.h.SetStreamHandler(Protocol, func(st network.Stream) {
		st.Read(make([]byte, 1<<10))
		st.Write(frames(nil).add(kindMessage, flagEnd|flagZstd, 1, ratio))
		io.Copy(io.Discard, st)
		st.Reset()
	})
	defer s.h.RemoveStreamHandler(Protocol)
	c2 := newClient(t, c.h, nil)
	_, err = c2.Send(ctxOf(t), id, echoID, nil)
	if wantCode(t, err, CodeInternal); !errors.Is(err, ErrBomb) || c2.Stats().Faults.Bombs != 1 {
		t.Errorf("%v, %+v", err, c2.Stats())
	}
}

func TestHandlerThatPanics(t *testing.T) {
	var log logs
	c, s, id := pair(t, &ServerConfig{Logger: log.logger()}, nil)
	handle(t, s, "/kith-test/panic", func(context.Context, *Request) (*Response, error) { panic("boom: secret") })
	handleStream(t, s, "/kith-test/panic-stream", func(context.Context, *ServerStream) error { panic(errors.New("boom: secret")) })
	for range 3 {
		_, err := c.Send(ctxOf(t), id, "/kith-test/panic", nil)
		if wantCode(t, err, CodeInternal); strings.Contains(err.Error(), "boom") {
			t.Error(err)
		}
		st, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/panic-stream"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = st.Recv()
		wantCode(t, err, CodeInternal)
		plain := rawStream(t, c.h, id, "/kith-test/panic")
		plain.Write([]byte{0, 0, 0, 0})
		wantReset(t, plain, CodeInternal)
		if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Panics != 9 || st.Running != 0 || st.Methods["/kith-test/panic"].Panics != 6 {
		t.Errorf("%+v", st)
	}
	if l := log.String(); strings.Count(l, "boom: secret") != 9 || strings.Count(l, "hostile_test.go") < 9 {
		t.Errorf("no stacks in the log:\n%s", l)
	}
}

func TestHandlerThatNeverReturns(t *testing.T) {
	c, s, id := pair(t, &ServerConfig{DrainTimeout: short}, &ClientConfig{MaxRetries: -1})
	release := make(chan bool)
	handle(t, s, "/kith-test/stuck", func(context.Context, *Request) (*Response, error) {
		<-release // whatever its context says
		return nil, nil
	}, WithLimits(Limits{Concurrent: 2, Queue: 1, QueueTime: short}))
	for i := range 4 {
		time, want := short, CodeDeadlineExceeded
		if i >= 2 { // its places are taken, and the server says so
			time, want = patience, CodeResourceExhausted
		}
		ctx, cancel := context.WithTimeout(t.Context(), time)
		_, err := c.Send(ctx, id, "/kith-test/stuck", nil)
		cancel()
		wantCode(t, err, want)
		if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Running != 2 || st.Methods["/kith-test/stuck"].Refused != 2 {
		t.Errorf("%+v", st)
	}
	err := s.Stop()
	if !errors.Is(err, ErrHandlersRunning) || !strings.Contains(err.Error(), "/kith-test/stuck:2") {
		t.Errorf("Stop: %v", err)
	}
	close(release)
	eventually(t, func() string {
		if n := s.Stats().Running; n != 0 {
			return fmt.Sprintf("%d running", n)
		}
		return ""
	})
}

func TestHandlerThatWritesForEver(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	var sent atomic.Int64
	ended := make(chan error, 3)
	handleStream(t, s, "/kith-test/ever", func(ctx context.Context, st *ServerStream) error {
		for {
			if err := st.Send(make([]byte, 1<<10)); err != nil {
				ended <- err
				return err
			}
			sent.Add(1)
		}
	})
	// A caller that takes nothing stops it at the window.
	st, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/ever"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if n := sent.Load(); n < streamWindow/(1<<10+messageCost) {
			return fmt.Sprintf("%d messages", n)
		}
		return ""
	})
	if n := sent.Load(); n > streamWindow/(1<<10)+1 {
		t.Errorf("%d messages into a window of %d bytes", n, streamWindow)
	}
	if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
		t.Error(err)
	}
	st.Close()
	await(t, "end of the handler", ended)
	// A deadline ends it too.
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	st, err = c.Open(ctx, &Request{Peer: id, Method: "/kith-test/ever"})
	if err == nil {
		for range st.Messages() {
		}
		await(t, "end of the handler", ended)
	}
	// And the loss of the caller.
	conn := rawStream(t, c.h, id, Protocol)
	conn.Write(frames(nil).invoke(1, "/kith-test/ever", 0))
	conn.Read(make([]byte, 100))
	conn.Reset()
	await(t, "end of the handler", ended)
}

// A peer that stops reading in mid-reply hurts itself only.
func TestPeerThatStopsReadingInMidReply(t *testing.T) {
	c, s, id := pair(t, &ServerConfig{WriteTimeout: time.Second}, nil)
	handle(t, s, "/kith-test/big", func(context.Context, *Request) (*Response, error) {
		return &Response{Body: make([]byte, 30<<20)}, nil
	})
	conn := rawStream(t, c.h, id, Protocol)
	conn.Write(frames(nil).invoke(1, "/kith-test/big", flagUnary).add(kindMessage, flagEnd, 1, nil))
	if _, err := io.ReadFull(conn, make([]byte, 10<<10)); err != nil {
		t.Fatal(err)
	}
	for range 20 { // over the same connection
		if _, err := c.Send(ctxOf(t), id, echoID, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() string {
		if f := s.Stats().Faults; f.Stalled != 1 {
			return fmt.Sprintf("%+v", f)
		}
		return ""
	})
	wantReset(t, conn, CodeUnavailable)
}

// A flood of calls that are cancelled at once costs the flooder its turns.
func TestCancelFlood(t *testing.T) {
	a, b := tcpHosts(t)
	s := newServer(t, b, nil)
	startEcho(t, s)
	var most, now atomic.Int64
	handle(t, s, "/kith-test/wait", func(ctx context.Context, _ *Request) (*Response, error) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	conn := rawStream(t, a, b.ID(), Protocol)
	go io.Copy(io.Discard, conn)
	for call := uint64(1); call <= 5000; call++ {
		if _, err := conn.Write(frames(nil).invoke(call, "/kith-test/wait", flagUnary).add(kindMessage, flagEnd, call, nil).add(kindCancel, 0, call, []byte{1})); err != nil {
			t.Fatal(call, err)
		}
	}
	eventually(t, func() string {
		if st := s.Stats(); st.Calls != 5000 || st.Cancelled != 5000 || st.Running != 0 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	if most.Load() != 1 {
		t.Errorf("%d at a time on one stream", most.Load())
	}
}

// 10,000 streams that announce 32 MiB each and send nothing: less than 10 MiB
// above the same streams blocked in a read of 4 bytes. The two kinds are opened
// in turns, so that what libp2p takes for a stream is the same.
func TestHeaderOnlyStreams(t *testing.T) {
	const streams = 10_000
	const bareID = "/kith-test-bare"
	heap := func(wire string) int64 {
		a, b := tcpHosts(t)
		s := newServer(t, b, &ServerConfig{MaxConcurrentConns: 2 * streams, MaxConnsPerPeer: 2 * streams, PeerLimits: Limits{Concurrent: 2 * streams}, MethodLimits: Limits{Concurrent: 2 * streams},
			ReadTimeout: time.Hour, ConnectTimeout: time.Hour})
		startEcho(t, s)
		var waiting atomic.Int64
		b.SetStreamHandler(bareID, func(st network.Stream) {
			var head [4]byte
			io.ReadFull(st, head[:3]) // what is sent
			waiting.Add(1)
			io.ReadFull(st, head[:])
			st.Reset()
		})
		open := func(wire string) {
			id, send := echoID, []byte{2, 0, 0, 0}
			switch wire {
			case "bare":
				id, send = bareID, []byte{2, 0, 0}
			case "framed":
				id, send = Protocol, append(frames(nil).invoke(1, string(echoID), flagUnary), appendHeader(nil, kindMessage, flagEnd, 1, 32<<20)...)
			}
			st, err := a.NewStream(t.Context(), b.ID(), id)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Write(send); err != nil {
				t.Fatal(err)
			}
		}
		var before, after runtime.MemStats
		for range 8 { // pools and maps get their first fill
			open(wire)
		}
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&before)
		arrived := func(n int64) {
			eventually(t, func() string {
				got := waiting.Load()
				s.eachLink(func(l *serverLink) {
					if l.phase.Load() == phaseRead {
						got++
					}
				})
				if got != n {
					return fmt.Sprintf("%d of %d are being read: %+v", got, n, s.Stats())
				}
				return ""
			})
		}
		// A peer may have 8,192 streams of one protocol: half from each of two.
		for i := range streams {
			if i == streams/2 {
				a = newHost(t, "")
				know(a, b)
			}
			open(wire)
			if i%500 == 499 { // fewer than may wait to be accepted
				arrived(int64(i + 1 + 8))
			}
		}
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.RemoveStreamHandler(bareID)
		return int64(after.HeapAlloc) - int64(before.HeapAlloc)
	}
	bare := heap("bare")
	for _, wire := range []string{"plain", "framed"} {
		n := heap(wire)
		t.Logf("%d streams: %s %d KiB, bare %d KiB: %+d KiB", streams, wire, n>>10, bare>>10, (n-bare)>>10)
		if n-bare > 10<<20 {
			t.Errorf("%s: %d KiB above the bare streams", wire, (n-bare)>>10)
		}
	}
}
