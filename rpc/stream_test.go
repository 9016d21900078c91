package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"testing"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type point struct{ X, Y int }

// startKinds serves one method of each kind.
func startKinds(t *testing.T, s *Server) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	check(Handle(s, "/kith-test/swap", func(_ context.Context, p point) (point, error) { return point{p.Y, p.X}, nil }))
	check(Handle(s, "/kith-test/upper", func(_ context.Context, s string) ([]byte, error) { return bytes.ToUpper([]byte(s)), nil }))
	check(Handle(s, "/kith-test/proto", func(_ context.Context, v *wrapperspb.Int64Value) (*wrapperspb.Int64Value, error) {
		return wrapperspb.Int64(v.Value + 1), nil
	}))
	check(HandleServerStream(s, "/kith-test/count", func(_ context.Context, n int) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := range n {
				if !yield(i, nil) {
					return
				}
			}
			if n == 13 {
				yield(0, Errorf(CodeAborted, "bad luck"))
			}
		}
	}))
	check(HandleClientStream(s, "/kith-test/sum", func(_ context.Context, in iter.Seq2[int, error]) (int, error) {
		sum := 0
		for n, err := range in {
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	}))
	check(HandleBidi(s, "/kith-test/twice", func(_ context.Context, in iter.Seq2[string, error]) iter.Seq2[string, error] {
		return func(yield func(string, error) bool) {
			for s, err := range in {
				if more := yield(s, err); !more || !yield(s, err) {
					return
				}
			}
		}
	}))
}

func TestTypedKinds(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		s := newServer(t, b, nil)
		startKinds(t, s)
		c, id := newClient(t, a, nil), b.ID()
		for range 3 { // streams are used again
			ctx := ctxOf(t)
			if p, err := Call[point](ctx, c, id, "/kith-test/swap", point{1, 2}); err != nil || p != (point{2, 1}) {
				t.Fatalf("JSON: %v, %v", p, err)
			}
			if p, err := Call[string](ctx, c, id, "/kith-test/upper", "hello"); err != nil || p != "HELLO" {
				t.Fatalf("raw: %v, %v", p, err)
			}
			if p, err := Call[*wrapperspb.Int64Value](ctx, c, id, "/kith-test/proto", wrapperspb.Int64(41)); err != nil || p.Value != 42 {
				t.Fatalf("proto: %v, %v", p, err)
			}
			if raw, err := c.Send(ctx, id, "/kith-test/swap", []byte(`{"X":5}`)); err != nil || string(raw) != `{"X":0,"Y":5}` {
				t.Fatalf("typed bytes: %s, %v", raw, err)
			}
			n := 0
			for i, err := range CallServerStream[int](ctx, c, id, "/kith-test/count", 5000) {
				if err != nil || i != n {
					t.Fatalf("server stream: %d, %v", i, err)
				}
				n++
			}
			if n != 5000 {
				t.Fatalf("server stream: %d", n)
			}
			sum, err := CallClientStream[int](ctx, c, id, "/kith-test/sum", func(yield func(int) bool) {
				for i := range 5000 {
					if !yield(i) {
						return
					}
				}
			})
			if err != nil || sum != 4999*5000/2 {
				t.Fatalf("client stream: %d, %v", sum, err)
			}
			var got []string
			for s, err := range CallBidi[string](ctx, c, id, "/kith-test/twice", iter.Seq[string](func(yield func(string) bool) {
				_ = yield("a") && yield("b")
			})) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, s)
			}
			if fmt.Sprint(got) != "[a a b b]" {
				t.Fatalf("bidi: %q", got)
			}
			var last error
			for _, err := range CallServerStream[int](ctx, c, id, "/kith-test/count", 13) {
				last = err
			}
			wantCode(t, last, CodeAborted)
		}
		eventually(t, func() string {
			if st := c.Stats(); st.Idle != st.Conns || st.Dials > 4 {
				return fmt.Sprintf("%+v", st)
			}
			if st := s.Stats(); st.Running != 0 || st.Memory != 0 || st.Faults != (Faults{}) {
				return fmt.Sprintf("%+v", st)
			}
			return ""
		})
	})
}

func TestWrongKindAndCodec(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	startKinds(t, s)
	_, err := c.Send(ctxOf(t), id, "/kith-test/count", []byte("5"))
	wantCode(t, err, CodeUnimplemented)
	st, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/swap"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = st.Recv()
	wantCode(t, err, CodeUnimplemented)
	_, err = c.Do(ctxOf(t), &Request{Peer: id, Method: "/kith-test/swap", Headers: Headers{"codec": "bson"}, Body: []byte("x")})
	wantCode(t, err, CodeUnimplemented)
	_, err = c.Send(ctxOf(t), id, "/kith-test/swap", []byte("no JSON"))
	wantCode(t, err, CodeInvalidArgument)
	if n := s.Stats().Faults.UnknownCodec; n != 1 {
		t.Errorf("%d unknown codecs", n)
	}
	_, err = Call[*wrapperspb.Int64Value](ctxOf(t), c, id, "/kith-test/swap", point{})
	if wantCode(t, err, CodeInternal); !errors.Is(err, ErrUnknownCodec) {
		t.Error(err)
	}
}

// Both sides send as much as they like before either receives: windows bound
// it, and nobody is stuck.
func TestStreamsHaveWindows(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	const messages, size = 200, 20 << 10
	message := make([]byte, size) // does not compress
	rand.NewChaCha8([32]byte{1}).Read(message)
	entered := make(chan *ServerStream, 1)
	handleStream(t, s, "/kith-test/window", func(ctx context.Context, st *ServerStream) error {
		entered <- st
		sent := make(chan error, 1)
		go func() {
			for range messages {
				if err := st.Send(message); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		n := 0
		for _, err := range st.Messages() {
			if err != nil {
				return err
			}
			n++
		}
		if n != messages {
			return Errorf(CodeDataLoss, "%d messages", n)
		}
		return <-sent
	})
	st, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/window"})
	if err != nil {
		t.Fatal(err)
	}
	server := await(t, "handler", entered)
	// The server sends until its window is used up; we take nothing.
	eventually(t, func() string {
		server.f.mu.Lock()
		defer server.f.mu.Unlock()
		if server.f.credit > 0 {
			return fmt.Sprintf("the server has %d left of its window", server.f.credit)
		}
		return ""
	})
	st.f.mu.Lock()
	held := 0
	for _, q := range st.f.queue {
		held += len(q.body)
	}
	st.f.mu.Unlock()
	if held > streamWindow+size {
		t.Errorf("%d bytes are held, the window is %d", held, streamWindow)
	}
	go func() {
		for range messages {
			if st.Send(message) != nil {
				return
			}
		}
		st.CloseSend()
	}()
	n := 0
	for b, err := range st.Messages() {
		if err != nil || len(b) != size {
			t.Fatal(len(b), err)
		}
		n++
	}
	if n != messages {
		t.Errorf("%d messages came back", n)
	}
	if _, err := st.Recv(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
	if err := st.Send(nil); err == nil {
		t.Error("sent after the end")
	}
}

func TestStreamHeadersAndEarlyEnd(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	ended := make(chan error, 1)
	handleStream(t, s, "/kith-test/ticks", func(ctx context.Context, st *ServerStream) error {
		if err := st.SendHeaders(Headers{"hello": st.Request().Headers["name"]}); err != nil {
			return err
		}
		if err := st.SendHeaders(nil); err == nil {
			return errors.New("headers twice")
		}
		for {
			if err := st.Send([]byte("tick")); err != nil {
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return err
			}
		}
	})
	for range 5 {
		st, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/ticks", Headers: Headers{"name": "kith"}})
		if err != nil {
			t.Fatal(err)
		}
		if h, err := st.Headers(); err != nil || h["hello"] != "kith" {
			t.Fatal(h, err)
		}
		n := 0
		for b, err := range st.Messages() {
			if err != nil || string(b) != "tick" {
				t.Fatal(b, err)
			}
			if n++; n == 5000 {
				break
			}
		}
		if cause := await(t, "end of the handler", ended); !errors.Is(cause, context.Canceled) {
			t.Errorf("the handler's context ended with %v", cause)
		}
		_, err = st.Recv()
		wantCode(t, err, CodeCanceled)
		await(t, "end of the stream", st.over)
	}
	if st := s.Stats(); st.Cancelled+st.Faults.Lost < 5 {
		t.Errorf("%+v", st)
	}
}

// echoStream sends back what comes.
func echoStream(_ context.Context, st *ServerStream) error {
	for b, err := range st.Messages() {
		if err != nil {
			return err
		}
		if err := st.Send(b); err != nil {
			return err
		}
	}
	return nil
}
