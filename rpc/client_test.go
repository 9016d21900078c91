package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/protocol"
)

func TestSendOverAllNetworks(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		s := newServer(t, b, nil)
		startEcho(t, s)
		c := newClient(t, a, nil)
		random := rand.NewChaCha8([32]byte{1})
		for _, size := range []int{0, 1, 20, 63, 64, 65, 1000, 4095, 4096, 5000, 32 << 10, 32<<10 + 1, 300 << 10, 5 << 20} {
			req := make([]byte, size)
			random.Read(req)
			resp, err := c.Send(ctxOf(t), b.ID(), echoID, req)
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			if !bytes.Equal(resp, req) {
				t.Fatalf("%d bytes: another answer, of %d bytes", size, len(resp))
			}
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				for j := range 20 {
					req := fmt.Appendf(nil, "request %d of %d", j, i)
					resp, err := c.Send(ctxOf(t), b.ID(), echoID, req)
					if err != nil || !bytes.Equal(resp, req) {
						t.Errorf("%q, %v", resp, err)
						return
					}
				}
			})
		}
		wg.Wait()
		st := c.Stats()
		if st.Conns > 60 || st.Conns != st.Idle || st.Failed != 0 || st.Dials > 60 || st.Fallbacks != 0 {
			t.Errorf("client: %+v", st)
		}
		eventually(t, func() string { // the last answer may come before its call is cleared away
			if ss := s.Stats(); ss.Calls != st.Calls || ss.Running != 0 || ss.Memory != 0 || ss.Faults != (Faults{}) {
				return fmt.Sprintf("server: %+v", ss)
			}
			return ""
		})
	})
}

func TestHeadersTravel(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	handle(t, s, "/kith-test/headers", func(_ context.Context, r *Request) (*Response, error) {
		return &Response{Headers: Headers{"was": r.Headers["a"], "from": r.Peer.String()}, Body: r.Body}, nil
	})
	resp, err := c.Do(ctxOf(t), &Request{Peer: id, Method: "/kith-test/headers", Headers: Headers{"a": "ä"}, Body: []byte("x")}, WithHeaders(Headers{"b": "2"}))
	if err != nil || resp.Headers["was"] != "ä" || resp.Headers["from"] != c.h.ID().String() || string(resp.Body) != "x" {
		t.Fatalf("%+v, %v", resp, err)
	}
	_, err = c.Do(ctxOf(t), &Request{Peer: id, Method: "/kith-test/headers", Headers: Headers{"a": string(make([]byte, headersMax))}})
	wantCode(t, err, CodeInvalidArgument)
}

func TestUnknownMethod(t *testing.T) {
	c, s, id := pair(t, nil, nil)
	for range 3 {
		_, err := c.Send(ctxOf(t), id, "/kith-test/nobody", []byte("x"))
		e := wantCode(t, err, CodeUnimplemented)
		if !e.Refused || e.Peer != id {
			t.Errorf("%+v", e)
		}
	}
	if st := s.Stats(); st.Refused != 3 || st.Calls != 3 || st.Conns != 1 {
		t.Errorf("%+v", st)
	}
}

func TestHandlerErrors(t *testing.T) {
	var log logs
	c, s, id := pair(t, &ServerConfig{Logger: log.logger()}, nil)
	var fail error
	handle(t, s, "/kith-test/fail", func(context.Context, *Request) (*Response, error) { return nil, fail })
	for _, tc := range []struct {
		err  error
		code Code
		text string
	}{
		{Errorf(CodeNotFound, "no %s here", "cake"), CodeNotFound, "no cake here"},
		{fmt.Errorf("wrapped: %w", Errorf(CodeAborted, "conflict")), CodeAborted, "conflict"},
		{&Error{Code: CodeOutOfRange, Details: []Detail{{"a/b", []byte{1, 2}}}, RetryAfter: 1500 * time.Microsecond}, CodeOutOfRange, ""},
		{errors.New("the password is 1234"), CodeUnknown, "the handler failed; the reason is in the log there"},
		{context.DeadlineExceeded, CodeDeadlineExceeded, "the handler failed; the reason is in the log there"},
		{io.ErrUnexpectedEOF, CodeUnknown, "the handler failed; the reason is in the log there"},
	} {
		fail = tc.err
		_, err := c.Send(ctxOf(t), id, "/kith-test/fail", nil)
		e := wantCode(t, err, tc.code)
		if e.Message != tc.text || e.Peer != id || e.Refused {
			t.Errorf("%v: %+v", tc.err, e)
		}
		if want, ok := tc.err.(*Error); ok && (e.RetryAfter != want.RetryAfter || fmt.Sprint(e.Details) != fmt.Sprint(want.Details)) {
			t.Errorf("%+v, want %+v", e, want)
		}
	}
	if !bytes.Contains([]byte(log.String()), []byte("the password is 1234")) {
		t.Error("the reason is not in the log")
	}
	if st := s.Stats(); st.Failed != 6 || st.Methods["/kith-test/fail"].Failed != 6 || st.Methods["/kith-test/fail"].LastError != CodeUnknown {
		t.Errorf("%+v", st)
	}
}

func TestPlainWireBetweenOurOwn(t *testing.T) {
	a, b := tcpHosts(t)
	s := newServer(t, b, nil)
	startEcho(t, s)
	b.RemoveStreamHandler(Protocol) // as if it were PointSub
	c := newClient(t, a, nil)
	for i := range 20 {
		resp, err := c.Send(ctxOf(t), b.ID(), echoID, []byte("hello"))
		if err != nil || string(resp) != "hello" {
			t.Fatalf("call %d: %q, %v", i, resp, err)
		}
	}
	st := c.Stats()
	if st.Fallbacks != 1 || st.Dials != 21 || st.Conns != 0 {
		t.Errorf("%+v", st)
	}
	_, err := c.Do(ctxOf(t), &Request{Peer: b.ID(), Method: echoID, Headers: Headers{"a": "b"}})
	wantCode(t, err, CodeUnimplemented)
	_, err = c.Send(ctxOf(t), b.ID(), protocol.ID("/kith-test/nobody"), nil)
	wantCode(t, err, CodeUnimplemented)
}
