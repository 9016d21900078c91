package rpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/kith-p2p/kith/stream"
)

// What is made again, and what is not.
func TestRetriesOnlyWhenSafe(t *testing.T) {
	for _, tc := range []struct {
		err  *Error
		opts []CallOption
		want uint64 // calls made
	}{
		{&Error{Code: CodeUnavailable}, nil, 3},
		{&Error{Code: CodeResourceExhausted}, nil, 3},
		{&Error{Code: CodeResourceExhausted, RetryAfter: time.Millisecond}, nil, 3},
		{&Error{Code: CodePermissionDenied}, nil, 1},
		{&Error{Code: CodeUnimplemented}, nil, 1},
		{&Error{Code: CodeInvalidArgument}, nil, 1},
		{&Error{Code: CodeResourceExhausted, RetryAfter: time.Hour}, nil, 1}, // too far away
	} {
		c, s, id := pair(t, nil, &ClientConfig{MaxRetries: 2, RetryInterval: time.Millisecond})
		s.cfg.Authorize = func(Caller) error { return tc.err } // refuses: no handler sees it
		_, err := c.Do(ctxOf(t), &Request{Peer: id, Method: echoID}, tc.opts...)
		wantCode(t, err, tc.err.Code)
		if n := s.Stats().Calls; n != tc.want {
			t.Errorf("%v: called %d times, want %d", tc.err, n, tc.want)
		}
	}
	// The same from a handler, which has seen it.
	for _, tc := range []struct {
		code Code
		opts []CallOption
		want uint64
	}{
		{CodeUnavailable, nil, 1},
		{CodeResourceExhausted, nil, 1},
		{CodeUnavailable, []CallOption{Idempotent()}, 3},
		{CodeInternal, []CallOption{Idempotent()}, 1},
		{CodeNotFound, []CallOption{Idempotent()}, 1},
	} {
		c, s, id := pair(t, nil, &ClientConfig{MaxRetries: 2, RetryInterval: time.Millisecond})
		handle(t, s, "/kith-test/fail", func(context.Context, *Request) (*Response, error) { return nil, Errorf(tc.code, "no") })
		_, err := c.Do(ctxOf(t), &Request{Peer: id, Method: "/kith-test/fail"}, tc.opts...)
		wantCode(t, err, tc.code)
		if n := s.Stats().Calls; n != tc.want {
			t.Errorf("%s from a handler: called %d times, want %d", tc.code, n, tc.want)
		}
	}
}

// Calls go on while the server is replaced: those on streams that were kept
// find a goaway, which proves that they were not made, and go to the new one.
func TestCallsSurviveTheServersRestart(t *testing.T) {
	a, b := tcpHosts(t)
	var runs atomic.Int64
	start := func() *Server {
		s := newServer(t, b, nil)
		handle(t, s, "/kith-test/once", func(context.Context, *Request) (*Response, error) {
			runs.Add(1)
			return nil, nil
		})
		return s
	}
	s := start()
	c := newClient(t, a, &ClientConfig{RetryInterval: time.Millisecond})
	var wg sync.WaitGroup
	for range 10 { // several streams
		wg.Go(func() {
			if _, err := c.Send(ctxOf(t), b.ID(), "/kith-test/once", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	start()
	for range 20 {
		if _, err := c.Send(ctxOf(t), b.ID(), "/kith-test/once", nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := runs.Load(); n != 30 {
		t.Errorf("30 calls ran %d times", n)
	}
	if st := c.Stats(); st.Failed != 0 || st.Faults != (Faults{}) {
		t.Errorf("%+v", st)
	}
}

// Streams over a connection that was lost are not tried again.
func TestLostConnectionsAreNotReused(t *testing.T) {
	c, s, id := pair(t, nil, &ClientConfig{MaxRetries: -1})
	know(c.h, s.h)
	for range 5 {
		if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
			t.Fatal(err)
		}
		if err := c.h.Network().ClosePeer(id); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() string {
		if n := s.Stats().Conns; n != 0 {
			return fmt.Sprintf("%d streams", n)
		}
		return ""
	})
}

// A peer that learns the framed protocol is found out.
func TestPeerThatChangesItsWire(t *testing.T) {
	a, b := tcpHosts(t)
	plain := func(s network.Stream) {
		defer s.Close()
		buf := make([]byte, 4)
		s.Read(buf)
		s.Write([]byte{0, 0, 0, 3, 'o', 'l', 'd'})
	}
	b.SetStreamHandler(echoID, plain)
	c := newClient(t, a, nil)
	for range 3 {
		if resp, err := c.Send(ctxOf(t), b.ID(), echoID, nil); err != nil || string(resp) != "old" {
			t.Fatalf("%q, %v", resp, err)
		}
	}
	b.RemoveStreamHandler(echoID)
	s := newServer(t, b, nil)
	if err := s.Start(echoID, func([]byte) ([]byte, error) { return []byte("new"), nil }); err != nil {
		t.Fatal(err)
	}
	if resp, err := c.Send(ctxOf(t), b.ID(), echoID, nil); err != nil || string(resp) != "new" {
		t.Fatalf("%q, %v", resp, err)
	}
	if speaks := c.peers[b.ID()].speaks; speaks != speaksPlain {
		t.Errorf("it still answers as before, and %d is remembered", speaks)
	}
	c.peers[b.ID()].speaksAt = time.Now().Add(-2 * plainMemory)
	if _, err := c.Send(ctxOf(t), b.ID(), echoID, nil); err != nil {
		t.Fatal(err)
	}
	if speaks := c.peers[b.ID()].speaks; speaks != speaksFramed {
		t.Errorf("%d is remembered", speaks)
	}
	// And one that has gone back.
	s.Stop()
	b.SetStreamHandler(echoID, plain)
	defer b.RemoveStreamHandler(echoID)
	eventually(t, func() string {
		if resp, err := c.Send(ctxOf(t), b.ID(), echoID, nil); err != nil || string(resp) != "old" {
			return fmt.Sprintf("%q, %v", resp, err)
		}
		return ""
	})
}

func TestCallMany(t *testing.T) {
	a := newHost(t, "")
	c := newClient(t, a, &ClientConfig{MaxRetries: -1})
	var peers []peer.ID
	release := make(chan bool)
	var cancelled atomic.Int32
	// Three answer, one fails, one hangs.
	for i := range 5 {
		b := newHost(t, "/ip4/127.0.0.1/tcp/0")
		know(a, b)
		peers = append(peers, b.ID())
		s := newServer(t, b, nil)
		if err := Handle(s, "/kith-test/who", func(ctx context.Context, n int) (int, error) {
			switch i {
			case 3:
				return 0, Errorf(CodeAborted, "not me")
			case 4:
				select {
				case <-ctx.Done():
					cancelled.Add(1)
					return 0, ctx.Err()
				case <-release:
				}
			}
			return n + i, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range peers { // the one that hangs, too, is called before the others have answered
		if _, err := c.Ping(ctxOf(t), p); err != nil {
			t.Fatal(err)
		}
	}
	call := func(enough Enough, peers ...peer.ID) ([]Result[int], error) {
		return CallMany[int](ctxOf(t), c, peers, "/kith-test/who", 10, enough)
	}
	good := func(rs []Result[int]) (n int) {
		for _, r := range rs {
			if r.Err == nil {
				n++
				if r.Value != 10+slices.Index(peers, r.Peer) {
					t.Errorf("%+v", r)
				}
			}
		}
		return n
	}
	if rs, err := call(First, peers...); err != nil || good(rs) != 1 {
		t.Errorf("first: %v, %v", rs, err)
	}
	if rs, err := call(Quorum, peers...); err != nil || good(rs) != 3 {
		t.Errorf("quorum: %v, %v", rs, err)
	}
	if rs, err := call(AtLeast(2), append(peers, peers...)...); err != nil || good(rs) != 2 {
		t.Errorf("at least 2: %v, %v", rs, err)
	}
	rs, err := call(AtLeast(2), peers[0], peers[3])
	if wantCode(t, err, CodeAborted); good(rs) > 1 || !errors.Is(err, CodeAborted) {
		t.Errorf("two of a good and a bad one: %v", rs)
	}
	_, err = call(AtLeast(3), peers[:2]...)
	wantCode(t, err, CodeInvalidArgument)
	_, err = call(First)
	wantCode(t, err, CodeInvalidArgument)
	eventually(t, func() string {
		if n := cancelled.Load(); n == 0 {
			return "the one that hangs was not cancelled"
		}
		return ""
	})
	close(release)
	rs, err = call(All, peers...)
	if wantCode(t, err, CodeAborted); len(rs) != 5 || good(rs) != 4 {
		t.Errorf("all: %v", rs)
	}
	if rs, err := call(All, peers[:3]...); err != nil || good(rs) != 3 {
		t.Errorf("all of the good: %v, %v", rs, err)
	}
}

func TestBuiltInMethods(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		s := newServer(t, b, &ServerConfig{Name: "n", Version: "v"})
		startEcho(t, s)
		startKinds(t, s)
		c := newClient(t, a, nil)
		if d, err := c.Ping(ctxOf(t), b.ID()); err != nil || d <= 0 {
			t.Errorf("%s, %v", d, err)
		}
		if resp, err := c.Send(ctxOf(t), b.ID(), PingMethod, []byte("hey")); err != nil || string(resp) != "hey" {
			t.Errorf("%q, %v", resp, err)
		}
		if i, err := c.Info(ctxOf(t), b.ID()); err != nil || i.Name != "n" || i.Version != "v" || i.Peer != b.ID() || i.Uptime <= 0 {
			t.Errorf("%+v, %v", i, err)
		}
		list, err := c.Services(ctxOf(t), b.ID())
		if err != nil || len(list) != 11 {
			t.Errorf("%v, %v", list, err)
		}
		for _, want := range []Service{{echoID, false, false}, {"/kith-test/twice", true, false}, {InfoMethod, false, true}} {
			if !slices.Contains(list, want) {
				t.Errorf("%+v is not in %+v", want, list)
			}
		}
		if st, err := c.ServerStats(ctxOf(t), b.ID()); err != nil || st.Calls < 3 || st.Pings != 1 || st.Conns != 1 {
			t.Errorf("%+v, %v", st, err)
		}
		if infos := s.GetConnectionsInfo(); len(infos) != 1 || infos[0].RemoteAddr.String() != a.ID().String() || infos[0].IdleTime < 0 || time.Since(infos[0].LastActive) > time.Minute {
			t.Errorf("%+v", infos)
		}
	})
}

func TestClientCloseEndsCalls(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	entered := make(chan bool, 2)
	wait := func(ctx context.Context) error {
		entered <- true
		<-ctx.Done()
		return ctx.Err()
	}
	handle(t, s, "/kith-test/wait", func(ctx context.Context, _ *Request) (*Response, error) { return nil, wait(ctx) })
	handleStream(t, s, "/kith-test/wait-stream", func(ctx context.Context, _ *ServerStream) error { return wait(ctx) })
	done := make(chan error, 2)
	go func() {
		_, err := c.Send(ctxOf(t), id, "/kith-test/wait", nil)
		done <- err
	}()
	st, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/wait-stream"})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := st.Recv()
		done <- err
	}()
	for range 2 {
		await(t, "handler", entered)
	}
	c.Close()
	for range 2 {
		if err := await(t, "end of the call", done); !errors.Is(err, ErrClientClosed) {
			t.Errorf("%v", err)
		}
	}
	for _, f := range []func() error{
		func() error { _, err := c.Send(ctxOf(t), id, echoID, nil); return err },
		func() error { _, err := c.Open(ctxOf(t), &Request{Peer: id, Method: echoID}); return err },
		func() error { _, err := c.Ping(ctxOf(t), id); return err },
	} {
		if err := f(); !errors.Is(err, ErrClientClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// Who is in the middle of a request when the server drains is told that it was
// not processed, without waiting for the rest.
func TestDrainRefusesHalfRequests(t *testing.T) {
	c, s, id := pair(t, &ServerConfig{DrainTimeout: time.Hour}, nil)
	framed := rawStream(t, c.h, id, Protocol)
	framed.Write(append(append(frames(nil).invoke(1, string(echoID), flagUnary), appendHeader(nil, kindMessage, flagEnd, 1, 1<<20)...), 'x'))
	plain := rawStream(t, c.h, id, echoID)
	plain.Write([]byte{0, 1, 0, 0, 'x'})
	eventually(t, func() string {
		n := 0
		s.eachLink(func(l *serverLink) {
			if l.phase.Load() == phaseRead && l.held.Load() > 0 { // in the body: the call was let in
				n++
			}
		})
		if n != 2 {
			return fmt.Sprintf("%d are being read", n)
		}
		return ""
	})
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	wantReset(t, framed, CodeResourceExhausted)
	wantReset(t, plain, CodeResourceExhausted)
	if f := s.Stats().Faults; f != (Faults{}) {
		t.Errorf("%+v", f)
	}
}

// A peer that is not there is an error at once, which says that nothing was sent.
func TestUnreachablePeer(t *testing.T) {
	c := newClient(t, newHost(t, ""), &ClientConfig{RetryInterval: time.Hour})
	_, err := c.Do(t.Context(), &Request{Peer: newHost(t, "").ID(), Method: echoID}, Idempotent())
	if e := wantCode(t, err, CodeUnavailable); !e.Refused || c.Stats().Retries != 0 {
		t.Errorf("%+v, %+v", e, c.Stats())
	}
}

// A node calls itself, also where it has only the plain wire or nothing.
func TestCallsToOneself(t *testing.T) {
	h := newHost(t, "")
	c := newClient(t, h, nil)
	_, err := c.Send(ctxOf(t), h.ID(), echoID, nil)
	wantCode(t, err, CodeUnimplemented)
	s := newServer(t, h, nil)
	startEcho(t, s)
	if resp, err := c.Send(ctxOf(t), h.ID(), echoID, []byte("me")); err != nil || string(resp) != "me" {
		t.Errorf("%q, %v", resp, err)
	}
}

// A call that was cancelled while it waited to be made again ended with the error
// of the attempt before.
func TestRegressionCancelInBackoff(t *testing.T) {
	refusal := &Error{Code: CodeResourceExhausted, Message: "not now", RetryAfter: 10 * time.Second}
	for _, tc := range []struct {
		name string
		end  func(*Client, context.CancelFunc)
		is   error
	}{
		{"by its context", func(_ *Client, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"by Close", func(c *Client, _ context.CancelFunc) { c.Close() }, ErrClientClosed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, s, id := pair(t, nil, nil)
			s.cfg.Authorize = func(Caller) error { return refusal }
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := c.Send(ctx, id, echoID, nil)
				done <- err
			}()
			wantRetries(t, c, 1)
			tc.end(c, cancel)
			err := await(t, "end of the call", done)
			if wantCode(t, err, CodeCanceled); !errors.Is(err, tc.is) || !errors.Is(err, CodeResourceExhausted) {
				t.Errorf("%v: want %v, and the last attempt as a cause", err, tc.is)
			}
			if n := s.Stats().Calls; n != 1 {
				t.Errorf("made %d times", n)
			}
		})
	}
}

// wantRetries waits until a client has decided so often to make a call again.
func wantRetries(t *testing.T, c *Client, n uint64) {
	t.Helper()
	eventually(t, func() string {
		if got := c.Stats().Retries; got != n {
			return fmt.Sprintf("%d retries, not %d", got, n)
		}
		return ""
	})
}

// A call that waited for a place when Stop began was told that there are too many
// calls, and to come back.
func TestRegressionStopRefusesWhoWaits(t *testing.T) {
	const id protocol.ID = "/kith-test/narrow"
	for _, wire := range []string{"framed", "plain"} {
		t.Run(wire, func(t *testing.T) {
			a, b := tcpHosts(t)
			s := newServer(t, b, nil)
			release := make(chan bool)
			entered := make(chan bool, 2)
			handle(t, s, id, func(context.Context, *Request) (*Response, error) {
				entered <- true
				<-release
				return nil, nil
			}, WithLimits(Limits{Concurrent: 1, QueueTime: time.Hour}))
			request := frames(nil).invoke(1, string(id), flagUnary).add(kindMessage, flagEnd, 1, nil)
			first := rawStream(t, a, b.ID(), Protocol)
			first.Write(request)
			await(t, "handler", entered)
			var second *stream.Conn
			if wire == "framed" {
				second = rawStream(t, a, b.ID(), Protocol)
				second.Write(request)
			} else {
				second = rawStream(t, a, b.ID(), id)
				second.Write([]byte{0, 0, 0, 1, 'x'})
			}
			wantQueued(t, s, 1)
			stopped := make(chan error, 1)
			go func() { stopped <- s.Stop() }()
			if wire == "framed" {
				f := readFrame(t, second)
				e, err := parseError(f.payload)
				if f.kind != kindError || f.flags != flagRefused || err != nil || e.Code != CodeUnavailable || e.RetryAfter != 0 || e.Message != "the server is stopping" {
					t.Errorf("%+v: %+v, %v", f, e, err)
				}
			} else {
				wantReset(t, second, CodeResourceExhausted) // which says there that it was refused
			}
			close(release)
			if err := await(t, "end of Stop", stopped); err != nil || len(entered) != 0 {
				t.Errorf("%v, %d more ran", err, len(entered))
			}
		})
	}
}

// When a call is made again: exponential, jittered, not before the peer has asked
// for it, and not at all where that is of no use.
func TestWaitBeforeARetry(t *testing.T) {
	refused := &Error{Code: CodeResourceExhausted, Refused: true}
	asked := func(d time.Duration) error {
		return &Error{Code: CodeResourceExhausted, Refused: true, RetryAfter: d}
	}
	const first, most = 100 * time.Millisecond, maxRetryWait
	for _, tc := range []struct {
		name       string
		err        error
		attempt    int
		moved      int
		within     time.Duration // the context's; 0: no deadline
		least, max time.Duration // max 0: it is not made again
	}{
		{"first", refused, 0, 0, 0, 75 * time.Millisecond, 125 * time.Millisecond},
		{"second", refused, 1, 0, 0, 150 * time.Millisecond, 250 * time.Millisecond},
		{"third", refused, 2, 0, 0, 300 * time.Millisecond, 500 * time.Millisecond},
		{"sixth", refused, 5, 0, 0, 2400 * time.Millisecond, 4 * time.Second},
		{"third, of which two only moved", refused, 2, 2, 0, 75 * time.Millisecond, 125 * time.Millisecond},
		{"bounded", refused, 18, 0, 0, most * 3 / 4, most},
		{"the last that is allowed", refused, 19, 0, 0, most * 3 / 4, most},
		{"too many", refused, 20, 0, 0, 0, 0},
		{"asked for 2 s", asked(2 * time.Second), 0, 0, 0, 2 * time.Second, 3 * time.Second},
		{"asked for 2 s, later on", asked(2 * time.Second), 9, 0, 0, 2 * time.Second, 3 * time.Second},
		{"asked for 2 s by goaway", &goneError{goaway{code: CodeUnavailable, retryAfter: 2 * time.Second}}, 0, 0, 0, 2 * time.Second, 3 * time.Second},
		{"asked for too long", asked(most + time.Second), 0, 0, 0, 0, 0},
		{"asked for 2 s, a deadline before", asked(2 * time.Second), 0, 0, time.Second, 0, 0},
		{"asked for 2 s, a deadline after", asked(2 * time.Second), 0, 0, time.Hour, 2 * time.Second, 3 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &Client{cfg: (&ClientConfig{RetryInterval: first, MaxRetries: 20}).withDefaults()}
			ctx := t.Context()
			if tc.within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tc.within)
				defer cancel()
			}
			waits := map[time.Duration]bool{}
			for range 100 {
				c.budget.have = budgetMax
				moved := tc.moved
				wait, ok := c.again(ctx, tc.err, tc.attempt, &moved, callOptions{})
				if ok != (tc.max > 0) {
					t.Fatalf("made again: %v, after %s", ok, wait)
				}
				if wait < tc.least || wait > tc.max {
					t.Fatalf("%s is not between %s and %s", wait, tc.least, tc.max)
				}
				waits[wait] = true
			}
			if tc.max > 0 && len(waits) < 10 {
				t.Errorf("100 waits are of %d lengths: all come back together", len(waits))
			}
		})
	}
}
