package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/kith-p2p/kith/access"
	"github.com/libp2p/go-libp2p/core/network"
)

// What a review found, each as it showed.

// A place that is free is a unary call's, although a streaming call waits for one
// of the share that streams may have.
func TestRegressionCallBehindAWaitingStream(t *testing.T) {
	c, s, to := pair(t, nil, &ClientConfig{MaxConnsPerPeer: 4})
	handleStream(t, s, "/kith-test/st", func(ctx context.Context, _ *ServerStream) error { <-ctx.Done(); return nil })
	ctx, cancel := context.WithCancel(ctxOf(t))
	defer cancel()
	for range 3 {
		if _, err := c.Open(ctx, &Request{Peer: to, Method: "/kith-test/st"}); err != nil {
			t.Fatal(err)
		}
	}
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		_, _ = c.Open(ctx, &Request{Peer: to, Method: "/kith-test/st"})
	}()
	if _, err := c.Send(ctx, to, echoID, []byte("x")); err != nil {
		t.Error(err)
	}
	cancel()
	<-waited
}

// After a frame that may not come while a handler runs, the end of the peer was
// not noticed any more.
func TestRegressionHandlerBlindedByAFrameOutOfOrder(t *testing.T) {
	for name, f := range map[string]frames{
		"stream, then an invoke":       frames(nil).invoke(1, "/kith-test/st", 0).invoke(2, "/kith-test/st", 0),
		"stream, then headers":         frames(nil).invoke(1, "/kith-test/st", 0).add(kindHeaders, 0, 1, []byte{0}),
		"unary, then another message":  frames(nil).invoke(1, "/kith-test/wait", flagUnary).add(kindMessage, flagEnd, 1, nil).add(kindMessage, flagEnd, 1, nil),
		"unary, then another's invoke": frames(nil).invoke(1, "/kith-test/wait", flagUnary).add(kindMessage, flagEnd, 1, nil).invoke(2, "/kith-test/wait", flagUnary),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tcpHosts(t)
			s := newServer(t, b, &ServerConfig{DrainTimeout: 100 * time.Millisecond})
			ended := make(chan error, 2)
			handleStream(t, s, "/kith-test/st", func(_ context.Context, st *ServerStream) error {
				_, err := st.Recv()
				ended <- err
				return err
			})
			handle(t, s, "/kith-test/wait", func(ctx context.Context, _ *Request) (*Response, error) {
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return nil, ctx.Err()
			})
			c := rawStream(t, a, b.ID(), Protocol)
			if _, err := c.Write(f); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if !errors.Is(err, ErrOutOfOrder) {
					t.Error(err)
				}
			case <-time.After(30 * time.Second):
				t.Error("the handler still waits")
			}
		})
	}
}

// The statistics name no method to whom it does not exist for, and nobody can
// serve a method among those that everybody may call.
func TestRegressionHiddenMethods(t *testing.T) {
	a, b := tcpHosts(t)
	s := newServer(t, b, &ServerConfig{Authorize: func(c Caller) error {
		if c.Method == "/kith-test/secret" {
			return access.ErrNoRule
		}
		return nil
	}})
	handle(t, s, "/kith-test/secret", func(context.Context, *Request) (*Response, error) { return nil, nil })
	st, err := newClient(t, a, nil).ServerStats(ctxOf(t), b.ID())
	if _, named := st.Methods["/kith-test/secret"]; err != nil || named {
		t.Error(st.Methods, err)
	}
	if err := s.StartHandler("/kith/rpc/admin", func(context.Context, *Request) (*Response, error) { return nil, nil }); err == nil {
		t.Error("a method of a program among the built-in ones")
	}
}

// A call that ReadTimeout had ended left its mark on the stream, which was drained and
// used again: the next call, bounded by its context, was over before it began.
func TestRegressionExpiredCallLeavesItsMark(t *testing.T) {
	c, s, to := pair(t, &ServerConfig{DrainTimeout: short}, &ClientConfig{ReadTimeout: short, MaxRetries: -1})
	late := make(chan bool)
	handle(t, s, "/kith-test/late", func(context.Context, *Request) (*Response, error) {
		<-late
		return &Response{}, nil
	})
	handleStream(t, s, "/kith-test/one", func(_ context.Context, st *ServerStream) error { return st.Send([]byte("x")) })
	hangs := make(chan bool)
	handle(t, s, "/kith-test/hangs", func(ctx context.Context, _ *Request) (*Response, error) {
		hangs <- true
		<-ctx.Done()
		<-hangs
		return nil, ctx.Err()
	})
	drained := func() {
		t.Helper()
		_, err := c.Send(t.Context(), to, "/kith-test/late", nil)
		wantCode(t, err, CodeDeadlineExceeded)
		late <- true
		eventually(t, func() string {
			if n := c.Stats().Idle; n != 1 {
				return fmt.Sprintf("%d idle streams", n)
			}
			return ""
		})
	}
	drained()
	st, err := c.Open(ctxOf(t), &Request{Peer: to, Method: "/kith-test/one"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil {
		t.Error(err)
	}
	st.Close()

	drained()
	stopped := make(chan error)
	go func() {
		<-hangs
		stopped <- s.Stop()
	}()
	_, err = c.Send(ctxOf(t), to, "/kith-test/hangs", nil) // its stream is reset
	wantCode(t, err, CodeUnavailable)
	hangs <- true
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Whoever answers over the plain wire and never ends its half had each call's place
// held for two seconds.
func TestRegressionAnsweredCallKeepsItsPlace(t *testing.T) {
	a, b := tcpHosts(t)
	b.SetStreamHandler(echoID, func(s network.Stream) {
		for p := make([]byte, 5); ; {
			if _, err := io.ReadFull(s, p); err != nil {
				return // and keeps s
			}
			s.Write(p)
		}
	})
	c := newClient(t, a, &ClientConfig{MaxConnsPerPeer: 1, MaxRetries: -1})
	begun := time.Now()
	for range 5 {
		if _, err := c.Send(ctxOf(t), b.ID(), echoID, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took >= drainTime {
		t.Errorf("five calls took %v", took)
	}
}
