package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// The faults of PointSub v0.0.2, none of which may come back. Each test is
// named after one.

// 151 calls, then failure for ever, because streams are never closed.
func TestRegressionCallsNeverRunOutOfStreams(t *testing.T) {
	for _, wire := range []string{"framed", "plain"} {
		t.Run(wire, func(t *testing.T) {
			a, b := tcpHosts(t)
			s := newServer(t, b, nil)
			startEcho(t, s)
			if wire == "plain" {
				b.RemoveStreamHandler(Protocol)
			}
			c := newClient(t, a, nil)
			for i := range 1500 {
				if _, err := c.Send(ctxOf(t), b.ID(), echoID, []byte("x")); err != nil {
					t.Fatalf("call %d: %v", i, err)
				}
			}
			if st := c.Stats(); st.Conns > 1 {
				t.Errorf("%d streams open after calls one after the other", st.Conns)
			}
		})
	}
}

// A concurrency cap that counts a lifetime.
func TestRegressionConcurrencyCapIsNoLifetimeCount(t *testing.T) {
	for _, wire := range []string{"framed", "plain"} {
		t.Run(wire, func(t *testing.T) {
			a, b := tcpHosts(t)
			s := newServer(t, b, &ServerConfig{MaxConcurrentConns: 2, MaxRequestsPerConn: 1})
			startEcho(t, s)
			if wire == "plain" {
				b.RemoveStreamHandler(Protocol)
			}
			c := newClient(t, a, &ClientConfig{RetryInterval: time.Millisecond, MaxRetries: 1000, RetryBudget: 1})
			for i := range 200 {
				if _, err := c.Send(ctxOf(t), b.ID(), echoID, []byte("x")); err != nil && (wire == "framed" || CodeOf(err) != CodeResourceExhausted) {
					t.Fatalf("call %d: %v", i, err)
				}
			}
			if st := s.Stats(); st.ConnsOpened < 100 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A handler run four times for one call.
func TestRegressionHandlerRunsOnceForOneCall(t *testing.T) {
	c, s, id := pair(t, nil, &ClientConfig{ReadTimeout: 100 * time.Millisecond, MaxRetries: 3, RetryInterval: time.Millisecond})
	var runs atomic.Int32
	release := make(chan struct{})
	handle(t, s, "/kith-test/slow", func(context.Context, *Request) (*Response, error) {
		runs.Add(1)
		<-release
		return nil, nil
	})
	_, err := c.Send(t.Context(), id, "/kith-test/slow", nil)
	wantCode(t, err, CodeDeadlineExceeded)
	close(release)
	if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
		t.Fatal(err)
	}
	if n := runs.Load(); n != 1 {
		t.Errorf("the handler ran %d times", n)
	}
	// The connection is lost in the middle of a call: nobody knows, so once too.
	runs.Store(0)
	handle(t, s, "/kith-test/cut", func(context.Context, *Request) (*Response, error) {
		runs.Add(1)
		s.h.Network().ClosePeer(c.h.ID())
		return nil, nil
	})
	know(c.h, s.h)
	_, err = c.Send(ctxOf(t), id, "/kith-test/cut", nil)
	wantCode(t, err, CodeUnavailable)
	if n := runs.Load(); n != 1 {
		t.Errorf("the handler ran %d times after the connection was lost", n)
	}
	// Declared idempotent, it may.
	runs.Store(0)
	_, err = c.Do(ctxOf(t), &Request{Peer: id, Method: "/kith-test/cut"}, Idempotent())
	wantCode(t, err, CodeUnavailable)
	if n := runs.Load(); n != 4 {
		t.Errorf("an idempotent call was made %d times, want 4", n)
	}
}

// A context of 100 ms answered after 901 ms.
func TestRegressionContextEndsTheCall(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	entered := make(chan context.Context, 1)
	left := make(chan error, 1)
	handle(t, s, "/kith-test/wait", func(ctx context.Context, r *Request) (*Response, error) {
		entered <- ctx
		<-ctx.Done()
		left <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	// Cancel.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Send(ctx, id, "/kith-test/wait", nil)
		done <- err
	}()
	await(t, "handler", entered)
	cancel()
	err := await(t, "end of the call", done)
	if wantCode(t, err, CodeCanceled); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := await(t, "end of the handler's context", left); !errors.Is(err, context.Canceled) {
		t.Errorf("the handler's context ended with %v", err)
	}
	// Deadline.
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = c.Send(ctx, id, "/kith-test/wait", nil)
	if wantCode(t, err, CodeDeadlineExceeded); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	remote := await(t, "handler", entered)
	if by, ok := remote.Deadline(); !ok || time.Until(by) > 100*time.Millisecond {
		t.Errorf("deadline there: %v, %v", by, ok)
	}
	await(t, "end of the handler's context", left)
	// The streams were not wasted: the second call may have come before the
	// first had been cleared.
	eventually(t, func() string {
		if st := c.Stats(); st.Conns != st.Idle || st.Conns != int(st.Dials) || st.Dials > 2 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	if st := s.Stats(); st.Cancelled == 0 || st.Faults != (Faults{}) {
		t.Errorf("%+v", st)
	}
}

// Cancelled in the middle of the answer's body.
func TestRegressionContextEndsTheCallInMidRead(t *testing.T) {
	a, b := tcpHosts(t)
	b.SetStreamHandler(Protocol, func(s network.Stream) {
		buf := make([]byte, 1024)
		s.Read(buf)
		h := appendHeader(nil, kindMessage, flagEnd, 1, 1<<20)
		s.Write(append(h, make([]byte, 100<<10)...)) // and no more
		s.Read(buf)
		s.Reset()
	})
	c := newClient(t, a, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Send(ctx, b.ID(), echoID, nil)
		done <- err
	}()
	eventually(t, func() string {
		for _, conn := range a.Network().ConnsToPeer(b.ID()) {
			for _, s := range conn.GetStreams() {
				if s.Protocol() == Protocol {
					return ""
				}
			}
		}
		return "no stream yet"
	})
	cancel()
	wantCode(t, await(t, "end of the call", done), CodeCanceled)
	eventually(t, func() string {
		if st := c.Stats(); st.Conns != 0 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
}

// 1.58 GiB of heap for 50 headers of 4 bytes. See also TestHeaderOnlyStreams.
func TestRegressionClaimsTakeNoMemory(t *testing.T) {
	a, b := tcpHosts(t)
	s := newServer(t, b, nil)
	startEcho(t, s)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 50 {
		c := rawStream(t, a, b.ID(), echoID)
		c.Write([]byte{2, 0, 0, 0}) // 32 MiB will follow
	}
	eventually(t, func() string {
		n := 0
		s.eachLink(func(l *serverLink) {
			if l.phase.Load() == phaseRead {
				n++
			}
		})
		if n != 50 {
			return fmt.Sprintf("%d of 50 are being read", n)
		}
		return ""
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("50 headers take %d KiB", grown>>10)
	}
	if m := s.Stats().Memory; m != 0 {
		t.Errorf("%d bytes of requests are held, none has come", m)
	}
}

// An error delivered as a reply.
func TestRegressionErrorIsNoReply(t *testing.T) {
	for _, wire := range []string{"framed", "plain"} {
		t.Run(wire, func(t *testing.T) {
			a, b := tcpHosts(t)
			s := newServer(t, b, nil)
			if err := s.Start("/kith-test/secret", func([]byte) ([]byte, error) {
				return []byte("half an answer"), errors.New("the disk /dev/sda is broken")
			}); err != nil {
				t.Fatal(err)
			}
			if wire == "plain" {
				b.RemoveStreamHandler(Protocol)
			}
			resp, err := newClient(t, a, nil).Send(ctxOf(t), b.ID(), "/kith-test/secret", nil)
			if resp != nil {
				t.Errorf("answered with %q", resp)
			}
			if wantCode(t, err, CodeUnknown); strings.Contains(err.Error(), "sda") {
				t.Errorf("the text of the server's error: %v", err)
			}
		})
	}
}

// Replies above 8 MiB failing, and messages of exactly the limit.
func TestRegressionBodiesUpToTheLimit(t *testing.T) {
	for _, wire := range []string{"framed", "plain"} {
		t.Run(wire, func(t *testing.T) {
			a, b := tcpHosts(t)
			s := newServer(t, b, &ServerConfig{})
			startEcho(t, s)
			if wire == "plain" {
				b.RemoveStreamHandler(Protocol)
			}
			const limit = defaultBlockSize
			c := newClient(t, a, &ClientConfig{})
			big := newClient(t, a, &ClientConfig{MaxBlockSize: 2 * limit})
			req := bytes.Repeat([]byte("abcdefg\n"), limit/8)
			resp, err := c.Send(ctxOf(t), b.ID(), echoID, req)
			if err != nil || !bytes.Equal(resp, req) {
				t.Fatalf("exactly the limit: %d bytes, %v", len(resp), err)
			}
			req = append(req, 'x')
			if _, err := c.Send(ctxOf(t), b.ID(), echoID, req); !errors.Is(err, ErrTooLarge) {
				t.Errorf("above the client's limit: %v", err)
			}
			_, err = big.Send(ctxOf(t), b.ID(), echoID, req)
			wantCode(t, err, CodeInvalidArgument)
			if n := s.Stats().Faults.TooLarge; n != 1 {
				t.Errorf("%d bodies counted as too large", n)
			}
			if _, err := c.Send(ctxOf(t), b.ID(), echoID, []byte("x")); err != nil {
				t.Errorf("after it: %v", err)
			}
		})
	}
}

// Stop leaving 198 goroutines, and protocols that are still registered.
func TestRegressionStopLeavesNothing(t *testing.T) {
	a, b := tcpHosts(t)
	before := len(goroutines())
	s, err := NewServer(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	startEcho(t, s)
	startKinds(t, s)
	var running sync.WaitGroup
	handle(t, s, "/kith-test/wait", func(ctx context.Context, _ *Request) (*Response, error) {
		running.Done()
		<-ctx.Done()
		return nil, ctx.Err()
	})
	s.cfg.DrainTimeout = 50 * time.Millisecond
	c := newClient(t, a, nil)
	for range 20 {
		rawStream(t, a, b.ID(), echoID)
		conn := rawStream(t, a, b.ID(), Protocol)
		conn.Write(appendFrame(nil, kindInvoke, flagUnary, 1, appendInvoke(nil, string(echoID), 0, nil)))
	}
	running.Add(10)
	var calls sync.WaitGroup
	for range 10 {
		calls.Go(func() {
			if _, err := c.Send(ctxOf(t), b.ID(), "/kith-test/wait", nil); err == nil {
				t.Error("answered")
			}
		})
	}
	running.Wait()
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if err := s.Start("/kith-test/late", func(b []byte) ([]byte, error) { return b, nil }); !errors.Is(err, ErrServerClosed) {
		t.Errorf("started after Stop: %v", err)
	}
	calls.Wait()
	if n := len(s.GetConnectionsInfo()); n != 0 {
		t.Errorf("%d streams left", n)
	}
	checkNothingLeft(t, b)
	for range 50 {
		if _, err := c.Send(ctxOf(t), b.ID(), echoID, nil); CodeOf(err) != CodeUnimplemented {
			t.Fatalf("after Stop: %v", err)
		}
	}
	c.Close()
	eventually(t, func() string {
		if n := len(goroutines()); n > before {
			return fmt.Sprintf("%d goroutines, %d before", n, before)
		}
		return ""
	})
	// And the names are free again.
	s2 := newServer(t, b, nil)
	startEcho(t, s2)
}

// Options nobody reads: TestEveryOptionHasAnEffect in config_test.go holds a
// test for each; this one holds that none was forgotten there.
func TestRegressionNoOptionIsUnread(t *testing.T) {
	for _, cfg := range []any{ServerConfig{}, ClientConfig{}} {
		typ := reflect.TypeOf(cfg)
		for i := range typ.NumField() {
			name := typ.Name() + "." + typ.Field(i).Name
			if _, ok := optionTests[name]; !ok {
				t.Errorf("no test flips %s", name)
			}
		}
	}
	n := reflect.TypeFor[ServerConfig]().NumField() + reflect.TypeFor[ClientConfig]().NumField()
	if len(optionTests) != n {
		t.Errorf("%d tests for %d options", len(optionTests), n)
	}
}

// Compression nobody wrote.
func TestRegressionCompressionIsDone(t *testing.T) {
	c, s, id := pair(t, DefaultServerConfig(), DefaultClientConfig())
	body := bytes.Repeat([]byte("all work and no play makes jack a dull boy\n"), 2000)
	var size atomic.Int64 // of what goes over the wire
	handle(t, s, "/kith-test/size", func(_ context.Context, r *Request) (*Response, error) {
		s.eachLink(func(l *serverLink) { size.Store(l.held.Load()) })
		return &Response{Body: r.Body}, nil
	})
	for i := range 3 {
		before := sentBytes(c)
		resp, err := c.Send(ctxOf(t), id, "/kith-test/size", body)
		if err != nil || !bytes.Equal(resp, body) {
			t.Fatal(len(resp), err)
		}
		// The first request cannot know yet that the server reads zstd.
		if sent := sentBytes(c) - before; i == 0 != (sent > int64(len(body))) {
			t.Errorf("request %d: %d bytes sent for a body of %d", i, sent, len(body))
		}
	}
}

// sentBytes is what the streams of a client have sent.
func sentBytes(c *Client) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var n int64
	for l := range c.links {
		n += l.sent.Load()
	}
	return n
}

// A frame whose flag byte is part of its size: every size from 0 to 70,000 and
// every flag go through the header and come back.
func TestRegressionFlagsAreNoPartOfTheSize(t *testing.T) {
	var b []byte
	for size := range 70_000 {
		for _, f := range []flags{0, flagEnd, flagZstd, flagEnd | flagZstd | flagAccept} {
			b = appendHeader(b[:0], kindMessage, f, 300, size)
			h, n, err := parseHeader(b, 70_000)
			if err != nil || n != len(b) || h != (header{kindMessage, f, 300, size}) {
				t.Fatalf("%d bytes, flags %d: %+v, %d, %v", size, f, h, n, err)
			}
		}
	}
}

// A check-then-store race in Start.
func TestRegressionStartIsAtomic(t *testing.T) {
	_, b := tcpHosts(t)
	s := newServer(t, b, nil)
	var wg sync.WaitGroup
	var ok atomic.Int32
	for range 16 {
		wg.Go(func() {
			if err := s.Start(echoID, func(b []byte) ([]byte, error) { return b, nil }); err == nil {
				ok.Add(1)
			} else if !errors.Is(err, ErrServerAlreadyStarted) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if ok.Load() != 1 {
		t.Errorf("started %d times", ok.Load())
	}
	if _, err := NewServer(b, nil); !errors.Is(err, ErrServerAlreadyStarted) {
		t.Errorf("a second server on the host: %v", err)
	}
	b.SetStreamHandler("/kith-test/taken", func(network.Stream) {})
	defer b.RemoveStreamHandler("/kith-test/taken")
	if err := s.Start("/kith-test/taken", func(b []byte) ([]byte, error) { return b, nil }); !errors.Is(err, ErrServerAlreadyStarted) {
		t.Errorf("a protocol that the host serves: %v", err)
	}
	if len(s.Services("")) != 5 {
		t.Errorf("%+v", s.Services(""))
	}
}

// How soon a call ends was not looked at: a sleep of a second on the way out went
// unnoticed. Other work on the machine may delay any one of them, so the fastest of a
// few counts.
func TestRegressionCallsEndAtOnce(t *testing.T) {
	const atOnce, tries = 500 * time.Millisecond, 5
	waiting := func(t *testing.T) (*Client, peer.ID, func(int)) {
		c, s, id := pair(t, nil, nil)
		entered := make(chan bool, tries)
		handle(t, s, "/kith-test/wait", func(ctx context.Context, _ *Request) (*Response, error) {
			entered <- true
			<-ctx.Done()
			return nil, ctx.Err()
		})
		return c, id, func(int) { await(t, "handler", entered) }
	}
	for _, tc := range []struct {
		name  string
		setUp func(t *testing.T) (c *Client, id peer.ID, ready func(try int))
		after time.Duration // 0: cancelled when ready; otherwise by this deadline
	}{
		{"while the handler runs", waiting, 0},
		{"by the deadline", func(t *testing.T) (*Client, peer.ID, func(int)) {
			c, s, id := pair(t, nil, nil)
			release := make(chan bool)
			t.Cleanup(func() { close(release) })
			handle(t, s, "/kith-test/wait", func(context.Context, *Request) (*Response, error) {
				<-release // so that no answer comes
				return nil, nil
			})
			return c, id, func(int) {}
		}, short},
		{"in mid-read", func(t *testing.T) (*Client, peer.ID, func(int)) {
			a, b := tcpHosts(t)
			wrote := make(chan bool, tries)
			b.SetStreamHandler(Protocol, func(s network.Stream) {
				buf := make([]byte, 1024)
				s.Read(buf)
				s.Write(append(appendHeader(nil, kindMessage, flagEnd, 1, 1<<20), make([]byte, 100<<10)...)) // and no more
				wrote <- true
				s.Read(buf)
				s.Reset()
			})
			return newClient(t, a, nil), b.ID(), func(int) { await(t, "part of the answer", wrote) }
		}, 0},
		{"on the plain wire", func(t *testing.T) (*Client, peer.ID, func(int)) {
			a, b := tcpHosts(t)
			entered := make(chan bool, tries)
			b.SetStreamHandler("/kith-test/wait", func(s network.Stream) {
				buf := make([]byte, 1024)
				s.Read(buf)
				entered <- true
				s.Read(buf)
				s.Reset()
			})
			t.Cleanup(func() { b.RemoveStreamHandler("/kith-test/wait") })
			return newClient(t, a, nil), b.ID(), func(int) { await(t, "handler", entered) }
		}, 0},
		{"in back-off", func(t *testing.T) (*Client, peer.ID, func(int)) {
			c, s, id := pair(t, nil, nil)
			handle(t, s, "/kith-test/wait", func(context.Context, *Request) (*Response, error) { return nil, nil })
			s.cfg.Authorize = func(Caller) error {
				return &Error{Code: CodeUnavailable, RetryAfter: 10 * time.Second}
			}
			return c, id, func(try int) { wantRetries(t, c, uint64(try)) }
		}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, id, ready := tc.setUp(t)
			fastest := time.Duration(math.MaxInt64)
			for try := 1; try <= tries && fastest >= atOnce; try++ {
				ctx, cancel := context.WithCancel(t.Context())
				want := CodeCanceled
				if tc.after > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), tc.after)
					want = CodeDeadlineExceeded
				}
				type end struct {
					at  time.Time
					err error
				}
				done := make(chan end, 1)
				go func() {
					_, err := c.Send(ctx, id, "/kith-test/wait", nil)
					done <- end{time.Now(), err}
				}()
				ended, fixed := ctx.Deadline()
				if !fixed {
					ready(try)
					ended = time.Now()
					cancel()
				}
				e := await(t, "end of the call", done)
				wantCode(t, e.err, want)
				fastest = min(fastest, e.at.Sub(ended))
				cancel()
			}
			if fastest >= atOnce {
				t.Errorf("of %d calls the fastest ended %s after its context", tries, fastest)
			}
		})
	}
}
