package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/kith-p2p/kith/stream"
)

// What two reviews found in places, memory, time and what is said about them.

// stranger is a client on another host than that of c.
func stranger(t *testing.T, s *Server, cfg *ClientConfig) *Client {
	h := newHost(t, "")
	know(h, s.h)
	return newClient(t, h, cfg)
}

// holder is a handler that says when it was entered and stays until released.
func holder(t *testing.T, s *Server, id protocol.ID, opts ...HandleOption) (entered chan bool, release chan struct{}) {
	entered, release = make(chan bool, 100), make(chan struct{})
	handle(t, s, id, func(context.Context, *Request) (*Response, error) {
		entered <- true
		<-release
		return nil, nil
	}, opts...)
	return entered, release
}

// Who sent an invoke and no body held a place of the method for ReadTimeout.
func TestRegressionInvokeWithoutABodyHoldsNoPlace(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	handle(t, s, "/kith-test/narrow", func(context.Context, *Request) (*Response, error) { return nil, nil },
		WithLimits(Limits{Concurrent: 1, Queue: -1}))
	for range 5 {
		invoked(t, c, id, "/kith-test/narrow")
		half := rawStream(t, c.h, id, Protocol)
		half.Write(append(frames(nil).invoke(1, "/kith-test/narrow", flagUnary), appendHeader(nil, kindMessage, flagEnd, 1, 100)...))
		rawStream(t, c.h, id, "/kith-test/narrow").Write([]byte{0, 0, 0, 5, 'a'})
	}
	eventually(t, func() string {
		if n := s.Stats().Calls; n != 15 {
			return fmt.Sprintf("%d calls begun", n)
		}
		return ""
	})
	if _, err := stranger(t, s, &ClientConfig{MaxRetries: -1}).Send(ctxOf(t), id, "/kith-test/narrow", nil); err != nil {
		t.Error(err)
	}
	// Who has a place already keeps others out, before their body is read.
	entered, release := holder(t, s, "/kith-test/hold", WithLimits(Limits{Concurrent: 1, Queue: -1}))
	done := make(chan error, 1)
	go func() {
		_, err := c.Send(ctxOf(t), id, "/kith-test/hold", nil)
		done <- err
	}()
	await(t, "handler", entered)
	conn := rawStream(t, c.h, id, Protocol)
	conn.Write(frames(nil).invoke(1, "/kith-test/hold", flagUnary))
	if f := readFrame(t, conn); f.kind != kindError || f.flags != flagRefused {
		t.Errorf("%+v", f)
	}
	close(release)
	if err := await(t, "answer", done); err != nil {
		t.Error(err)
	}
}

// gotFrame is a frame as it came.
type gotFrame struct {
	header
	payload []byte
}

func readFrame(t *testing.T, r io.Reader) (f gotFrame) {
	t.Helper()
	var b []byte
	for n := 0; n == 0; {
		var one [1]byte
		if _, err := io.ReadFull(r, one[:]); err != nil {
			t.Fatal(err)
		}
		var err error
		if f.header, n, err = parseHeader(append(b, one[0]), defaultBlockSize); err != nil {
			t.Fatal(err)
		}
		b = append(b, one[0])
	}
	f.payload = make([]byte, f.size)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		t.Fatal(err)
	}
	return f
}

// Who does not read its answer held a place for WriteTimeout.
func TestRegressionAnswerThatIsNotReadHoldsNoPlace(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	handle(t, s, "/kith-test/big", func(context.Context, *Request) (*Response, error) {
		return &Response{Body: make([]byte, 30<<20)}, nil
	}, WithLimits(Limits{Concurrent: 1, Queue: -1}))
	invoked(t, c, id, "/kith-test/big").Write(frames(nil).add(kindMessage, flagEnd, 1, nil))
	eventually(t, func() string {
		if m := s.Stats().Methods["/kith-test/big"]; m.Calls != 1 || s.Stats().Running != 0 {
			return fmt.Sprintf("%+v", m)
		}
		return ""
	})
	if _, err := stranger(t, s, &ClientConfig{MaxRetries: -1}).Send(ctxOf(t), id, "/kith-test/big", nil); err != nil {
		t.Error(err)
	}
}

// A request above the window on a pooled stream, with a goaway waiting on it, hung
// until WriteTimeout.
func TestRegressionLargeRequestBehindAGoaway(t *testing.T) {
	for _, network := range networks[:2] {
		t.Run(network.name, func(t *testing.T) {
			a, b := network.hosts(t)
			pooled, gone := make(chan bool), make(chan bool)
			var streams atomic.Int32
			b.SetStreamHandler(Protocol, scripted(t, &streams, pooled, gone))
			t.Cleanup(func() { b.RemoveStreamHandler(Protocol) })
			c := newClient(t, a, &ClientConfig{WriteTimeout: time.Hour, ReadTimeout: time.Hour})
			if _, err := c.Send(ctxOf(t), b.ID(), echoID, []byte("small")); err != nil {
				t.Fatal(err)
			}
			close(pooled)
			await(t, "goaway", gone)
			body := make([]byte, 8<<20)
			got, err := c.Send(ctxOf(t), b.ID(), echoID, body)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if st := c.Stats(); st.Dials != 2 || st.Faults != (Faults{}) {
				t.Errorf("%+v", st)
			}
		})
	}
}

// scripted echoes one call on its first stream and ends that with a goaway when
// it may, and echoes on the others.
func scripted(t *testing.T, streams *atomic.Int32, pooled, gone chan bool) network.StreamHandler {
	return func(s network.Stream) {
		first := streams.Add(1) == 1
		conn := stream.New(s)
		defer conn.Close()
		call := readFrame(t, conn).call
		conn.Write(frames(nil).add(kindMessage, flagEnd, call, readFrame(t, conn).payload))
		if !first {
			return
		}
		<-pooled
		conn.Write(frames(nil).add(kindGoaway, 0, 0, appendGoaway(nil, goaway{last: call})))
		close(gone)
	}
}

// A peer that refuses a large request and reads no more of it kept the caller
// writing until WriteTimeout.
func TestRegressionRefusalDuringALargeRequest(t *testing.T) {
	a, b := tcpHosts(t)
	leave := make(chan bool)
	b.SetStreamHandler(Protocol, func(s network.Stream) {
		conn := stream.New(s)
		defer conn.Close()
		call := readFrame(t, conn).call
		conn.Write(frames(nil).add(kindError, flagRefused, call, appendError(nil, &Error{Code: CodePermissionDenied, Message: "no"})))
		<-leave
	})
	t.Cleanup(func() { b.RemoveStreamHandler(Protocol) })
	defer close(leave)
	c := newClient(t, a, &ClientConfig{WriteTimeout: time.Hour, ReadTimeout: time.Hour})
	_, err := c.Send(ctxOf(t), b.ID(), echoID, make([]byte, 8<<20))
	if e := wantCode(t, err, CodePermissionDenied); !e.Refused || e.Message != "no" {
		t.Errorf("%+v", e)
	}
	if st := c.Stats(); st.Conns != 0 || st.Faults != (Faults{}) {
		t.Errorf("a stream with half a request on it is kept, or an answer is a fault: %+v", st)
	}
}

// A byte that came after a plain request, early, kept the handler from noticing
// that its caller was lost.
func TestRegressionEarlyByteBlindsThePlainHandler(t *testing.T) {
	for _, network := range networks[:2] {
		for _, early := range []int{1, 100, 10_000} {
			t.Run(fmt.Sprint(network.name, " ", early), func(t *testing.T) {
				a, b := network.hosts(t)
				s := newServer(t, b, nil)
				entered, ended := make(chan bool, 1), make(chan error, 1)
				handle(t, s, "/kith-test/wait", func(ctx context.Context, _ *Request) (*Response, error) {
					done := ctx.Done()
					entered <- true
					<-done
					ended <- context.Cause(ctx)
					return nil, ctx.Err()
				})
				c := rawStream(t, a, b.ID(), "/kith-test/wait")
				c.Write(append([]byte{0, 0, 0, 1, 'x'}, make([]byte, early)...))
				await(t, "handler", entered)
				if early < s.cfg.BufferPoolSize {
					c.Reset()
				}
				err := await(t, "end of the context", ended)
				if errors.Is(err, ErrOutOfOrder) != (early > s.cfg.BufferPoolSize) {
					t.Error(err)
				}
			})
		}
	}
}

// A caller that can send no cancel resets the stream instead; the handler sees the
// same.
func TestRegressionResetIsACancel(t *testing.T) {
	a, b := tcpHosts(t)
	s := newServer(t, b, nil)
	entered, ended := make(chan bool, 1), make(chan error, 1)
	handle(t, s, "/kith-test/wait", func(ctx context.Context, _ *Request) (*Response, error) {
		done := ctx.Done()
		entered <- true
		<-done
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	for wire, hello := range map[protocol.ID][]byte{
		Protocol:          frames(nil).invoke(1, "/kith-test/wait", flagUnary).add(kindMessage, flagEnd, 1, nil),
		"/kith-test/wait": {0, 0, 0, 0},
	} {
		for code, cancelled := range map[Code]bool{CodeCanceled: true, CodeInternal: false} {
			c := rawStream(t, a, b.ID(), wire)
			c.Write(hello)
			await(t, "handler", entered)
			c.ResetWithCode(resetCode(code))
			if err := await(t, "end", ended); errors.Is(err, context.Canceled) != cancelled {
				t.Errorf("%s, reset for %s: %v", wire, code, err)
			}
		}
	}
}

// What came early on the plain wire is the next request all the same.
func TestRegressionEarlyPlainRequestIsServed(t *testing.T) {
	a, b := tcpHosts(t)
	s := newServer(t, b, nil)
	entered, release := make(chan bool, 2), make(chan bool)
	handle(t, s, "/kith-test/wait", func(ctx context.Context, r *Request) (*Response, error) {
		done := ctx.Done()
		entered <- true
		select {
		case <-release:
		case <-done:
		}
		return &Response{Body: r.Body}, ctx.Err()
	})
	c := rawStream(t, a, b.ID(), "/kith-test/wait")
	second := bytes.Repeat([]byte("s"), 1000)
	for _, body := range [][]byte{[]byte("first"), second} {
		c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	}
	await(t, "handler", entered)
	close(release)
	for _, want := range [][]byte{[]byte("first"), second} {
		got := make([]byte, 4+len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got[4:], want) {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// A streaming call that ran out of memory in the middle was said to be refused,
// as if no handler had seen it.
func TestRegressionNoMemoryInMidStreamIsNoRefusal(t *testing.T) {
	for name, size := range map[string]int{"little left of the message": 700 << 10, "much left of it": 3 << 20} {
		t.Run(name, func(t *testing.T) {
			c, s, id := pair(t, &ServerConfig{MaxMemoryUsage: 4 << 20, MaxBlockSize: 4 << 20}, nil)
			entered, release := holder(t, s, "/kith-test/hold")
			seen := make(chan error, 1)
			handleStream(t, s, "/kith-test/st", func(_ context.Context, st *ServerStream) error {
				_, err := st.Recv()
				seen <- err
				return err
			})
			done := make(chan error, 1)
			other := stranger(t, s, nil)
			go func() {
				_, err := other.Send(ctxOf(t), id, "/kith-test/hold", make([]byte, 4<<20-100<<10))
				done <- err
			}()
			await(t, "handler", entered)
			st, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/st"})
			if err != nil {
				t.Fatal(err)
			}
			_ = st.Send(make([]byte, size)) // may be cut short
			if err := await(t, "error in the handler", seen); CodeOf(err) != CodeResourceExhausted {
				t.Error(err)
			}
			_, err = st.Recv()
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Refused || size < discardMax && e.Code != CodeResourceExhausted || size > discardMax && e.Code == CodeOK {
				t.Errorf("%+v", err)
			}
			if size < discardMax { // the stream lives on
				await(t, "end of the stream's use", st.over)
				if _, err := c.Send(ctxOf(t), id, "/kith-test/nobody", nil); CodeOf(err) != CodeUnimplemented {
					t.Error(err)
				}
				if st := c.Stats(); st.Dials != 1 {
					t.Errorf("%+v", st)
				}
			}
			close(release)
			if err := await(t, "answer", done); err != nil {
				t.Error(err)
			}
			eventually(t, func() string {
				if m := s.Stats().Memory; m != 0 {
					return fmt.Sprintf("%d bytes held", m)
				}
				return ""
			})
		})
	}
}

// A stream that was not used for IdleTimeout was reset, so that a call that began
// then might or might not have been made.
func TestRegressionIdleTimeoutSaysGoodbye(t *testing.T) {
	c, s, id := pair(t, &ServerConfig{IdleTimeout: short}, nil)
	framed := rawStream(t, c.h, id, Protocol)
	framed.Write(frames(nil).echo(7))
	if f := readFrame(t, framed); f.kind != kindMessage {
		t.Fatalf("%+v", f)
	}
	f := readFrame(t, framed)
	if g, err := parseGoaway(f.payload); f.kind != kindGoaway || err != nil || g.last != 7 || g.code != CodeOK {
		t.Errorf("%+v: %+v, %v", f, g, err)
	}
	if n, err := framed.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	plain := rawStream(t, c.h, id, echoID)
	plain.Write([]byte{0, 0, 0, 1, 'x'})
	if got, err := io.ReadAll(plain); err != nil || !bytes.Equal(got, []byte{0, 0, 0, 1, 'x'}) {
		t.Errorf("%q, %v", got, err)
	}
	for i := range 5 { // not idempotent
		if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		eventually(t, func() string {
			if n := s.Stats().Conns; n != 0 {
				return fmt.Sprintf("%d streams", n)
			}
			return ""
		})
	}
	if f := s.Stats().Faults; f != (Faults{}) {
		t.Errorf("%+v", f)
	}
}

// A call that crosses the goodbye of an idle stream is not processed, and the
// caller can tell.
func TestRegressionCallThatCrossesIdleTimeout(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	framed, plain := rawStream(t, c.h, id, Protocol), rawStream(t, c.h, id, echoID)
	framed.Write(frames(nil).echo(7))
	readFrame(t, framed)
	plain.Write([]byte{0, 0, 0, 1, 'x'})
	io.ReadFull(plain, make([]byte, 5))
	eventually(t, func() string {
		n := 0
		s.eachLink(func(l *serverLink) {
			if l.phase.CompareAndSwap(phaseIdle, phaseLeave) || l.leaving() { // as the janitor does
				n++
			}
		})
		if n != 2 {
			return fmt.Sprintf("%d are idle", n)
		}
		return ""
	})
	framed.Write(frames(nil).echo(8))
	f := readFrame(t, framed)
	if g, err := parseGoaway(f.payload); f.kind != kindGoaway || err != nil || g.last != 7 || g.code != CodeOK {
		t.Errorf("%+v: %+v, %v", f, g, err)
	}
	plain.Write([]byte{0, 0, 0, 1, 'x'})
	wantReset(t, plain, CodeResourceExhausted)
	if st := s.Stats(); st.Calls != 2 || st.Faults != (Faults{}) {
		t.Errorf("%+v", st)
	}
}

// One peer could hold all memory for requests.
func TestRegressionOnePeerLeavesMemoryForOthers(t *testing.T) {
	c, s, id := pair(t, &ServerConfig{MaxMemoryUsage: 8 << 20, MaxBlockSize: 1 << 20}, &ClientConfig{MaxRetries: -1})
	entered, release := holder(t, s, "/kith-test/hold")
	other := stranger(t, s, &ClientConfig{MaxRetries: -1})
	done := make(chan error, 100)
	send := func(c *Client) {
		_, err := c.Send(ctxOf(t), id, "/kith-test/hold", make([]byte, 1<<20))
		done <- err
	}
	for i := range 4 { // half of it
		go send(c)
		await(t, fmt.Sprintf("handler %d", i), entered)
	}
	for range 3 {
		go send(c)
		if e := wantCode(t, await(t, "refusal", done), CodeResourceExhausted); !e.Refused || e.RetryAfter == 0 {
			t.Errorf("%+v", e)
		}
	}
	for i := range 2 { // half of what is left
		go send(other)
		await(t, fmt.Sprintf("handler %d of another", i), entered)
	}
	go send(other)
	wantCode(t, await(t, "refusal", done), CodeResourceExhausted)
	if _, err := other.Send(ctxOf(t), id, echoID, nil); err != nil {
		t.Error(err)
	}
	close(release)
	for range 6 {
		if err := await(t, "answer", done); err != nil {
			t.Error(err)
		}
	}
	eventually(t, func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		for p, ps := range s.peers {
			if m := ps.memory.Load(); m != 0 {
				return fmt.Sprintf("%d bytes of %s", m, p)
			}
		}
		return ""
	})
}

// Who waits for a place waited for QueueTime, whatever became of its caller, and
// longer than ReadTimeout it was taken for a caller that does not finish.
func TestRegressionWaitForAPlaceEnds(t *testing.T) {
	forms := map[string]func(*Server, protocol.ID, *atomic.Int32, chan bool) error{
		"simple": func(s *Server, id protocol.ID, runs *atomic.Int32, release chan bool) error {
			return s.start(&method{id: id, simple: func([]byte) ([]byte, error) {
				runs.Add(1)
				<-release
				return nil, nil
			}}, []HandleOption{WithLimits(Limits{Concurrent: 1, QueueTime: time.Hour})})
		},
		"handler": func(s *Server, id protocol.ID, runs *atomic.Int32, release chan bool) error {
			return s.StartHandler(id, func(context.Context, *Request) (*Response, error) {
				runs.Add(1)
				<-release
				return nil, nil
			}, WithLimits(Limits{Concurrent: 1, QueueTime: time.Hour}))
		},
		"stream": func(s *Server, id protocol.ID, runs *atomic.Int32, release chan bool) error {
			return s.HandleStream(id, func(context.Context, *ServerStream) error {
				runs.Add(1)
				<-release
				return nil
			}, WithLimits(Limits{Concurrent: 1, QueueTime: time.Hour}))
		},
	}
	const id protocol.ID = "/kith-test/narrow"
	for form, start := range forms {
		for _, tc := range []struct {
			name string
			cfg  *ServerConfig
			end  func(t *testing.T, a corehost.Host, s *Server, conn *stream.Conn, invoke, message []byte)
		}{
			{"after ReadTimeout", &ServerConfig{ReadTimeout: short}, func(t *testing.T, a corehost.Host, s *Server, conn *stream.Conn, invoke, message []byte) {
				conn.Write(append(invoke, message...))
				f := readFrame(t, conn)
				e, err := parseError(f.payload)
				if f.kind != kindError || f.flags != flagRefused || err != nil || e.Code != CodeResourceExhausted || e.RetryAfter == 0 {
					t.Errorf("%+v: %+v, %v", f, e, err)
				}
			}},
			{"by cancel", nil, func(t *testing.T, a corehost.Host, s *Server, conn *stream.Conn, invoke, message []byte) {
				conn.Write(append(invoke, message...))
				wantQueued(t, s, 1)
				conn.Write(frames(nil).add(kindCancel, 0, 1, []byte{byte(CodeCanceled)}))
				f := readFrame(t, conn)
				if e, err := parseError(f.payload); f.kind != kindError || f.flags != flagRefused || err != nil || e.Code != CodeCanceled {
					t.Errorf("%+v: %+v, %v", f, e, err)
				}
			}},
			{"by its deadline", nil, func(t *testing.T, a corehost.Host, s *Server, conn *stream.Conn, invoke, message []byte) {
				unary := flagUnary
				if len(message) == 0 {
					unary = 0
				}
				conn.Write(append(frames(nil).add(kindInvoke, unary, 1, appendInvoke(nil, string(id), short, nil)), message...))
				f := readFrame(t, conn)
				if e, err := parseError(f.payload); f.kind != kindError || f.flags != flagRefused || err != nil || e.Code != CodeDeadlineExceeded {
					t.Errorf("%+v: %+v, %v", f, e, err)
				}
			}},
			{"with its caller", nil, func(t *testing.T, a corehost.Host, s *Server, conn *stream.Conn, invoke, message []byte) {
				conn.Write(append(invoke, message...))
				wantQueued(t, s, 1)
				conn.Reset()
			}},
			{"with its caller on the plain wire", nil, func(t *testing.T, a corehost.Host, s *Server, conn *stream.Conn, invoke, message []byte) {
				if len(message) == 0 {
					return // there is none
				}
				plain := rawStream(t, a, s.h.ID(), id)
				plain.Write([]byte{0, 0, 0, 1, 'x'})
				wantQueued(t, s, 1)
				plain.Reset()
			}},
		} {
			t.Run(form+" "+tc.name, func(t *testing.T) {
				a, b := tcpHosts(t)
				s := newServer(t, b, tc.cfg)
				var runs atomic.Int32
				release := make(chan bool)
				if err := start(s, id, &runs, release); err != nil {
					t.Fatal(err)
				}
				invoke, message := frames(nil).invoke(1, string(id), flagUnary), frames(nil).add(kindMessage, flagEnd, 1, nil)
				if form == "stream" {
					invoke, message = frames(nil).invoke(1, string(id), 0), nil
				}
				first := rawStream(t, a, b.ID(), Protocol)
				first.Write(append(bytes.Clone(invoke), message...))
				eventually(t, func() string {
					if runs.Load() != 1 {
						return "the first does not run"
					}
					return ""
				})
				tc.end(t, a, s, rawStream(t, a, b.ID(), Protocol), invoke, message)
				wantQueued(t, s, 0)
				close(release)
				readFrame(t, first)
				if n := runs.Load(); n != 1 {
					t.Errorf("%d ran", n)
				}
				if f := s.Stats().Faults; f.Unfinished != 0 {
					t.Errorf("%+v", f)
				}
			})
		}
	}
}

// wantQueued waits until so many calls wait for a place.
func wantQueued(t *testing.T, s *Server, n int) {
	t.Helper()
	eventually(t, func() string {
		if got := s.Stats().Queued; got != n {
			return fmt.Sprintf("%d are queued, not %d", got, n)
		}
		return ""
	})
}

// A cancel whose payload is no code that a cancel has passed, in each state of a
// call; a window for a call that is over too.
func TestRegressionMalformedCancelsPass(t *testing.T) {
	v := newVictim(t, nil)
	waiting := make(chan bool, 100)
	handle(t, v.s, "/kith-test/wait", func(ctx context.Context, _ *Request) (*Response, error) {
		done := ctx.Done()
		waiting <- true
		<-done
		return nil, ctx.Err()
	})
	for name, begin := range map[string]frames{
		"before the message": frames(nil).invoke(1, string(echoID), flagUnary),
		"in a handler":       frames(nil).invoke(1, "/kith-test/wait", flagUnary).add(kindMessage, flagEnd, 1, nil),
		"in a stream":        frames(nil).invoke(1, "/kith-test/stream", 0),
		"after the call":     frames(nil).echo(1),
		"of an older call":   frames(nil).echo(1).echo(2),
	} {
		for what, f := range map[string]frames{
			"without a code":  frames(nil).add(kindCancel, 0, 1, nil),
			"of OK":           frames(nil).add(kindCancel, 0, 1, []byte{0}),
			"of another code": frames(nil).add(kindCancel, 0, 1, []byte{byte(CodeNotFound)}),
			"with more":       frames(nil).add(kindCancel, 0, 1, []byte{byte(CodeCanceled), 0}),
			"not minimal":     frames(nil).add(kindCancel, 0, 1, []byte{0x81, 0}),
			"window":          frames(nil).add(kindWindow, 0, 1, []byte{1, 1}),
		} {
			if what == "window" && (name == "before the message" || name == "in a handler") {
				continue // out of order there, whatever is in it
			}
			t.Run(name+" "+what, func(t *testing.T) {
				before := v.s.Stats()
				c := rawStream(t, v.a, v.b.ID(), Protocol)
				c.Write(begin)
				if name == "in a handler" {
					await(t, "handler", waiting)
				}
				c.Write(f)
				wantReset(t, c, CodeInvalidArgument)
				eventually(t, func() string {
					if after := v.s.Stats(); after.Faults.Malformed-before.Faults.Malformed != 1 || after.Cancelled != before.Cancelled || after.Running != 0 {
						return fmt.Sprintf("%+v", after)
					}
					return ""
				})
			})
		}
	}
}

// A handler sees which of the two a cancel was for.
func TestCancelSaysWhy(t *testing.T) {
	a, b := tcpHosts(t)
	s := newServer(t, b, nil)
	ended := make(chan error, 1)
	handle(t, s, "/kith-test/wait", func(ctx context.Context, _ *Request) (*Response, error) {
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	c := rawStream(t, a, b.ID(), Protocol)
	for call, want := range []error{context.Canceled, context.DeadlineExceeded} {
		n := uint64(call + 1)
		c.Write(frames(nil).invoke(n, "/kith-test/wait", flagUnary).add(kindMessage, flagEnd, n, nil).add(kindCancel, 0, n, []byte{byte(CodeOf(want))}))
		if err := await(t, "end", ended); err != want {
			t.Errorf("%v, want %v", err, want)
		}
		readFrame(t, c)
	}
}

// The text of an error that a handler's own call had ended with reached the caller.
func TestRegressionInnerErrorsStay(t *testing.T) {
	var log logs
	c, s, id := pair(t, &ServerConfig{Logger: log.logger()}, nil)
	_, back := tcpHosts(t)
	know(s.h, back)
	behind := newServer(t, back, nil)
	handle(t, behind, "/kith-test/secret", func(context.Context, *Request) (*Response, error) {
		return nil, &Error{Code: CodeNotFound, Message: "row 7 of secret.db", Details: []Detail{{"secret", []byte("1234")}}, RetryAfter: time.Minute}
	})
	handleStream(t, behind, "/kith-test/secrets", func(context.Context, *ServerStream) error { return Errorf(CodeNotFound, "row 7 of secret.db") })
	if err := Handle(behind, "/kith-test/typed", func(context.Context, string) (string, error) { return "no secret JSON", nil }); err != nil {
		t.Fatal(err)
	}
	inner := newClient(t, s.h, &ClientConfig{MaxRetries: -1})
	nobody := newHost(t, "").ID()
	calls := map[string]func(context.Context) error{
		"answer": func(ctx context.Context) error {
			_, err := inner.Send(ctx, back.ID(), "/kith-test/secret", nil)
			return err
		},
		"wrapped": func(ctx context.Context) error {
			_, err := inner.Send(ctx, back.ID(), "/kith-test/secret", nil)
			return fmt.Errorf("the secret backend: %w", err)
		},
		"unreachable": func(ctx context.Context) error {
			_, err := inner.Send(ctx, nobody, "/kith-test/secret", nil)
			return err
		},
		"stream": func(ctx context.Context) error {
			st, err := inner.Open(ctx, &Request{Peer: back.ID(), Method: "/kith-test/secrets"})
			if err != nil {
				return err
			}
			_, err = st.Recv()
			return err
		},
		"typed": func(ctx context.Context) error {
			_, err := Call[int](ctx, inner, back.ID(), "/kith-test/typed", "x")
			return err
		},
		"cannot be sent": func(ctx context.Context) error {
			_, err := inner.Send(ctx, back.ID(), protocol.ID(strings.Repeat("secret", 1000)), nil)
			return err
		},
		"many": func(ctx context.Context) error {
			_, err := CallMany[string](ctx, inner, []peer.ID{back.ID()}, "/kith-test/secret", "x", All)
			return err
		},
		"ping": func(ctx context.Context) error {
			_, err := inner.Ping(ctx, nobody)
			return err
		},
	}
	handle(t, s, "/kith-test/outer", func(ctx context.Context, r *Request) (*Response, error) {
		return nil, calls[string(r.Body)](ctx)
	})
	handle(t, s, "/kith-test/meant", func(ctx context.Context, r *Request) (*Response, error) {
		return nil, Errorf(CodeAborted, "as %w", calls["answer"](ctx))
	})
	for name, call := range calls {
		want := CodeOf(call(t.Context()))
		_, err := c.Send(ctxOf(t), id, "/kith-test/outer", []byte(name))
		if e := wantCode(t, err, want); e.Message != "the handler failed; the reason is in the log there" || len(e.Details) > 0 || e.RetryAfter != 0 || e.Refused || want == CodeOK {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if !strings.Contains(log.String(), "row 7 of secret.db") {
		t.Error("the reason is not in the log")
	}
	// What a handler makes of it is meant.
	_, err := c.Send(ctxOf(t), id, "/kith-test/meant", nil)
	if e := wantCode(t, err, CodeAborted); !strings.Contains(e.Message, "row 7") {
		t.Errorf("%+v", e)
	}
}

// Close leaves no pooled stream at either end, nor one that comes back from its
// call afterwards.
func TestRegressionCloseEmptiesThePool(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		s := newServer(t, b, nil)
		startEcho(t, s)
		entered, release := holder(t, s, "/kith-test/hold")
		c := newClient(t, a, nil)
		done := make(chan error, 10)
		hold := func() {
			_, err := c.Send(ctxOf(t), b.ID(), "/kith-test/hold", nil)
			done <- err
		}
		for range 5 {
			go hold()
			await(t, "handler", entered)
		}
		for range 5 {
			release <- struct{}{}
			if err := await(t, "answer", done); err != nil {
				t.Fatal(err)
			}
		}
		go hold() // on one of the five
		await(t, "handler", entered)
		if st := c.Stats(); st.Idle != 4 || st.Conns != 5 {
			t.Errorf("%+v", st)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := await(t, "end of the call", done); !errors.Is(err, ErrClientClosed) {
			t.Error(err)
		}
		if st := c.Stats(); st.Idle != 0 || st.Conns != 0 {
			t.Errorf("%+v", st)
		}
		close(release)
		eventually(t, func() string {
			for _, conn := range a.Network().Conns() {
				for _, st := range conn.GetStreams() {
					if st.Protocol() == Protocol {
						return "a stream is left at the caller"
					}
				}
			}
			if n := s.Stats().Conns; n != 0 {
				return fmt.Sprintf("%d streams are left at the server", n)
			}
			return ""
		})
		if _, err := c.Send(ctxOf(t), b.ID(), echoID, nil); !errors.Is(err, ErrClientClosed) {
			t.Error(err)
		}
	})
}

// What Handle says about codecs.
func TestHandleAndCodecs(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	if err := Handle(s, "/kith-test/bytes", func(_ context.Context, b []byte) ([]byte, error) { return b, nil }); err != nil {
		t.Fatal(err)
	}
	if err := Handle(s, "/kith-test/json", func(_ context.Context, n map[string]int) (int, error) { return n["a"], nil }); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		method protocol.ID
		codec  string
		body   string
		code   Code
		answer string
	}{
		{"/kith-test/bytes", "", "anything", CodeOK, "anything"},
		{"/kith-test/bytes", "raw", "anything", CodeOK, "anything"},
		{"/kith-test/bytes", "json", `{"a":1}`, CodeOK, `{"a":1}`},
		{"/kith-test/bytes", "proto", "\x08\x01", CodeOK, "\x08\x01"},
		{"/kith-test/bytes", "of another world", "x", CodeOK, "x"},
		{"/kith-test/json", "", `{"a":1}`, CodeOK, "1"},
		{"/kith-test/json", "raw", `{"a":1}`, CodeOK, "1"},
		{"/kith-test/json", "json", `{"a":1}`, CodeOK, "1"},
		{"/kith-test/json", "json", `{"a":`, CodeInvalidArgument, ""},
		{"/kith-test/json", "raw", "not JSON", CodeInvalidArgument, ""},
		{"/kith-test/json", "proto", "\x08\x01", CodeUnimplemented, ""},
		{"/kith-test/json", "of another world", "{}", CodeUnimplemented, ""},
	} {
		var h Headers
		if tc.codec != "" {
			h = Headers{headerCodec: tc.codec}
		}
		resp, err := c.Do(ctxOf(t), &Request{Peer: id, Method: tc.method, Headers: h, Body: []byte(tc.body)})
		if CodeOf(err) != tc.code || err == nil && string(resp.Body) != tc.answer {
			t.Errorf("%s, codec %q, %q: %+v, %v", tc.method, tc.codec, tc.body, resp, err)
		}
	}
}
