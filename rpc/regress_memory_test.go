package rpc

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/kith-p2p/kith/stream"
)

// A message half of which had come when its call ended was held by its stream and
// no longer counted: with many streams a peer got round MaxMemoryUsage.
func TestRegressionHalfMessageOfAnEndedCallIsCounted(t *testing.T) {
	const size = 4 << 20
	c, s, id := pair(t, &ServerConfig{MaxMemoryUsage: size, MaxBlockSize: size}, nil)
	handleStream(t, s, "/kith-test/st", func(_ context.Context, st *ServerStream) error {
		_, err := st.Recv()
		return err
	})
	half := func() *stream.Conn {
		conn := rawStream(t, c.h, id, Protocol)
		b := appendFrame(nil, kindInvoke, 0, 1, appendInvoke(nil, "/kith-test/st", 200*time.Millisecond, nil))
		b = append(b, appendHeader(nil, kindMessage, 0, 1, size)...)
		if _, err := conn.Write(append(b, make([]byte, size-1)...)); err != nil {
			t.Log(err) // there was no room
		}
		return conn
	}
	first := half()
	if f := readFrame(t, first); f.kind != kindError {
		t.Errorf("%+v", f)
	}
	eventually(t, func() string {
		if n := s.memory.Load(); n < size-1 {
			return fmt.Sprintf("%d bytes are counted", n)
		}
		return ""
	})
	_ = half()
	if n := s.memory.Load(); n > size {
		t.Errorf("%d bytes are counted, the limit is %d", n, size)
	}
	c.h.Close()
	eventually(t, func() string {
		if n := s.memory.Load(); n != 0 {
			return fmt.Sprintf("%d bytes are counted when nobody is there", n)
		}
		return ""
	})
}

// A goroutine of the handler that was expanding a message when the handler returned
// gave its memory back once more: what was counted fell below what was held.
func TestRegressionMemoryGivenBackTwice(t *testing.T) {
	c, s, id := pair(t, &ServerConfig{EnableCompression: true}, &ClientConfig{EnableCompression: true})
	body := make([]byte, 8<<20)
	for i := range body {
		body[i] = byte(i*7) ^ byte(i>>9)
	}
	handleStream(t, s, "/kith-test/st", func(ctx context.Context, st *ServerStream) error {
		popped, pop := make(chan bool, 1), st.f.popped
		st.f.mu.Lock()
		st.f.popped = func(n int) {
			pop(n)
			popped <- true
		}
		st.f.mu.Unlock()
		go func() { _, _ = st.Recv() }() // which expands now
		select {
		case <-popped:
		case <-ctx.Done():
		}
		return errors.New("enough")
	})
	for range 20 {
		st, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/st"})
		if err != nil {
			t.Fatal(err)
		}
		st.zstd = true
		_ = st.Send(body)
		_, _ = st.Recv()
		st.Close()
	}
	c.Close()
	eventually(t, func() string {
		if n, held := s.Stats().Conns, s.memory.Load(); n != 0 || held != 0 {
			return fmt.Sprintf("%d connections, %d bytes are counted when nobody is there", n, held)
		}
		return ""
	})
}

// What a peer says while a long request is on its way was read by one goroutine
// and used by another.
func TestRegressionHeadersDuringALargeRequest(t *testing.T) {
	a, b := tcpHosts(t)
	leave := make(chan bool)
	b.SetStreamHandler(Protocol, func(s network.Stream) {
		conn := stream.New(s)
		defer conn.Close()
		_, _ = conn.Write(frames(nil).add(kindHeaders, flagAccept, 1, appendHeaders(nil, nil)))
		<-leave
	})
	defer close(leave)
	c := newClient(t, a, &ClientConfig{EnableCompression: true})
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := c.Send(ctx, b.ID(), echoID, make([]byte, 64<<10)); CodeOf(err) != CodeDeadlineExceeded {
			t.Error(err)
		}
		cancel()
	}
}

// A handler that ended because its stream was given up was sometimes quicker than the
// reset, and its caller was told that the handler had failed.
func TestRegressionHandlerQuickerThanTheReset(t *testing.T) {
	c, s, id := pair(t, &ServerConfig{MaxIdleTime: short}, nil)
	handleStream(t, s, "/kith-test/forgotten", func(ctx context.Context, _ *ServerStream) error {
		<-ctx.Done()
		return ctx.Err()
	})
	for range 10 {
		st, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/forgotten"})
		if err == nil {
			_, err = st.Recv()
		}
		wantCode(t, err, CodeDeadlineExceeded)
	}
}

// When the handler was quicker than the reset, its answer came through and the
// stream went back to those that wait for calls: the reset hit the next call. Here
// the reset is so late that it never comes.
func TestRegressionResetHitsTheNextCall(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	began := make(chan bool)
	handle(t, s, "/kith-test/forgotten", func(ctx context.Context, _ *Request) (*Response, error) {
		began <- true
		<-ctx.Done()
		return nil, ctx.Err()
	})
	go func() {
		<-began
		s.eachLink(func(l *serverLink) {
			why := error(errForgotten)
			l.killed.Store(&why)
			l.ctx.Load().stop(why)
		})
	}()
	_, err := c.Send(ctxOf(t), id, "/kith-test/forgotten", nil)
	wantCode(t, err, CodeDeadlineExceeded)
	eventually(t, func() string {
		if n := s.Stats().Conns; n != 0 {
			return fmt.Sprintf("%d streams wait for calls", n)
		}
		return ""
	})
	if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
		t.Error("the next call: ", err)
	}
}
