package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
)

func TestEveryOptionHasAnEffect(t *testing.T) {
	for name, test := range optionTests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// short is a timeout that must pass in a test; it has no upper bound.
const short = 40 * time.Millisecond

// invoked opens a call of a method on a raw stream, without its message.
func invoked(t *testing.T, c *Client, id peer.ID, method string) net.Conn {
	conn := rawStream(t, c.h, id, Protocol)
	if _, err := conn.Write(appendFrame(nil, kindInvoke, flagUnary, 1, appendInvoke(nil, method, 0, nil))); err != nil {
		t.Fatal(err)
	}
	return conn
}

// wantReset fails unless the peer resets the stream with the code.
func wantReset(t *testing.T, conn io.Reader, code Code) {
	t.Helper()
	_, err := io.ReadAll(conn)
	if got, _, ok := codeOfReset(err); !ok || got != code {
		t.Errorf("the stream ended with %v, want a reset for %s", err, code)
	}
}

// optionTests holds, for each field of both configurations, what it changes.
var optionTests = map[string]func(*testing.T){
	"ServerConfig.ReadTimeout": func(t *testing.T) {
		c, s, id := pair(t, &ServerConfig{ReadTimeout: short}, nil)
		wantReset(t, invoked(t, c, id, string(echoID)), CodeDeadlineExceeded)
		plain := rawStream(t, c.h, id, echoID)
		plain.Write([]byte{0, 0, 0, 5, 'a'})
		wantReset(t, plain, CodeDeadlineExceeded)
		eventually(t, func() string {
			if n := s.Stats().Faults.Unfinished; n != 2 {
				return fmt.Sprintf("%d unfinished frames counted", n)
			}
			return ""
		})
	},
	"ServerConfig.WriteTimeout": func(t *testing.T) {
		c, s, id := pair(t, &ServerConfig{WriteTimeout: short}, nil)
		handle(t, s, "/kith-test/big", func(context.Context, *Request) (*Response, error) {
			return &Response{Body: make([]byte, 30<<20)}, nil
		})
		conn := invoked(t, c, id, "/kith-test/big")
		conn.Write(appendFrame(nil, kindMessage, flagEnd, 1, nil)) // and read nothing
		eventually(t, func() string {
			if st := s.Stats(); st.Faults.Stalled != 1 || st.Conns != 0 {
				return fmt.Sprintf("%+v", st)
			}
			return ""
		})
	},
	"ServerConfig.ConnectTimeout": func(t *testing.T) {
		c, s, id := pair(t, &ServerConfig{ConnectTimeout: short}, nil)
		wantReset(t, rawStream(t, c.h, id, Protocol), CodeDeadlineExceeded)
		wantReset(t, rawStream(t, c.h, id, echoID), CodeDeadlineExceeded)
		eventually(t, func() string {
			if n := s.Stats().Faults.Unfinished; n != 2 {
				return fmt.Sprintf("%d counted", n)
			}
			return ""
		})
	},
	"ServerConfig.IdleTimeout": func(t *testing.T) {
		c, s, id := pair(t, &ServerConfig{IdleTimeout: short}, nil)
		for i := range 3 {
			if _, err := c.Do(ctxOf(t), &Request{Peer: id, Method: echoID}, Idempotent()); err != nil {
				t.Fatalf("call %d: %v", i, err)
			}
			eventually(t, func() string {
				if n := s.Stats().Conns; n != 0 {
					return fmt.Sprintf("%d streams", n)
				}
				return ""
			})
		}
		if st := s.Stats(); st.Faults != (Faults{}) {
			t.Errorf("%+v", st)
		}
	},
	"ServerConfig.MaxIdleTime": func(t *testing.T) {
		c, s, id := pair(t, &ServerConfig{MaxIdleTime: short}, nil)
		handleStream(t, s, "/kith-test/forgotten", func(ctx context.Context, st *ServerStream) error {
			_, err := st.Recv()
			return err
		})
		st, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/forgotten"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = st.Recv()
		wantCode(t, err, CodeDeadlineExceeded)
	},
	"ServerConfig.CleanupInterval": func(t *testing.T) {
		c, s, id := pair(t, &ServerConfig{CleanupInterval: short}, nil)
		if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
			t.Fatal(err)
		}
		c.Close()
		eventually(t, func() string {
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.peers) != 0 {
				return fmt.Sprintf("%d peers are remembered", len(s.peers))
			}
			return ""
		})
	},
	"ServerConfig.DrainTimeout": func(t *testing.T) {
		for _, drain := range []time.Duration{short, patience} {
			c, s, id := pair(t, &ServerConfig{DrainTimeout: drain}, nil)
			entered, release := make(chan bool, 1), make(chan bool)
			handle(t, s, "/kith-test/wait", func(ctx context.Context, _ *Request) (*Response, error) {
				entered <- true
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-release:
					return &Response{Body: []byte("finished")}, nil
				}
			})
			done := make(chan error, 1)
			go func() {
				_, err := c.Send(ctxOf(t), id, "/kith-test/wait", nil)
				done <- err
			}()
			await(t, "handler", entered)
			stopped := make(chan error, 1)
			go func() { stopped <- s.Stop() }()
			if drain == patience {
				eventually(t, func() string {
					if !s.draining() {
						return "not draining"
					}
					return ""
				})
				close(release)
			}
			if err := await(t, "end of Stop", stopped); err != nil {
				t.Error(err)
			}
			if err := await(t, "answer", done); (err == nil) != (drain == patience) || err != nil && CodeOf(err) != CodeUnavailable {
				t.Errorf("a call under way when the server drains for %s: %v", drain, err)
			}
		}
	},
	"ServerConfig.MaxBlockSize": func(t *testing.T) {
		c, s, id := pair(t, &ServerConfig{MaxBlockSize: 100}, nil)
		if _, err := c.Send(ctxOf(t), id, echoID, make([]byte, 100)); err != nil {
			t.Error(err)
		}
		_, err := c.Send(ctxOf(t), id, echoID, make([]byte, 101))
		wantCode(t, err, CodeInvalidArgument)
		handle(t, s, "/kith-test/more", func(context.Context, *Request) (*Response, error) {
			return &Response{Body: make([]byte, 101)}, nil
		})
		_, err = c.Send(ctxOf(t), id, "/kith-test/more", nil)
		wantCode(t, err, CodeResourceExhausted)
	},
	"ServerConfig.MaxConcurrentConns": func(t *testing.T) {
		c, s, id := pair(t, &ServerConfig{MaxConcurrentConns: 1}, &ClientConfig{MaxRetries: -1})
		conn := rawStream(t, c.h, id, Protocol)
		eventually(t, func() string {
			if n := s.Stats().Conns; n != 1 {
				return fmt.Sprintf("%d streams", n)
			}
			return ""
		})
		_, err := c.Send(ctxOf(t), id, echoID, nil)
		if e := wantCode(t, err, CodeResourceExhausted); !e.Refused || e.RetryAfter == 0 {
			t.Errorf("%+v", e)
		}
		wantReset(t, rawStream(t, c.h, id, echoID), CodeResourceExhausted)
		conn.Close()
		eventually(t, func() string {
			if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
				return err.Error()
			}
			return ""
		})
	},
	"ServerConfig.MaxConnsPerPeer": func(t *testing.T) {
		c, s, id := pair(t, &ServerConfig{MaxConnsPerPeer: 1}, nil)
		conn := rawStream(t, c.h, id, Protocol)
		eventually(t, func() string {
			if n := s.Stats().Conns; n != 1 {
				return fmt.Sprintf("%d streams", n)
			}
			return ""
		})
		wantReset(t, rawStream(t, c.h, id, echoID), CodeResourceExhausted)
		other := newHost(t, "")
		know(other, s.h)
		if _, err := newClient(t, other, nil).Send(ctxOf(t), id, echoID, nil); err != nil {
			t.Errorf("another peer: %v", err)
		}
		conn.Close()
	},
	"ServerConfig.MaxRequestsPerConn": func(t *testing.T) {
		c, s, id := pair(t, &ServerConfig{MaxRequestsPerConn: 3}, &ClientConfig{MaxRetries: 1, RetryInterval: time.Hour})
		for range 9 {
			if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
				t.Fatal(err)
			}
		}
		if st := s.Stats(); st.ConnsOpened != 3 || st.Calls != 9 {
			t.Errorf("%+v", st)
		}
	},
	"ServerConfig.MaxMemoryUsage": func(t *testing.T) {
		c, s, id := pair(t, &ServerConfig{MaxMemoryUsage: 1 << 20, MaxBlockSize: 1 << 20}, &ClientConfig{MaxRetries: -1})
		entered, release := make(chan bool, 1), make(chan bool)
		handle(t, s, "/kith-test/hold", func(context.Context, *Request) (*Response, error) {
			entered <- true
			<-release
			return nil, nil
		})
		done := make(chan error, 1)
		go func() {
			_, err := c.Send(ctxOf(t), id, "/kith-test/hold", make([]byte, 900<<10))
			done <- err
		}()
		await(t, "handler", entered)
		_, err := c.Send(ctxOf(t), id, echoID, make([]byte, 900<<10))
		if e := wantCode(t, err, CodeResourceExhausted); !e.Refused {
			t.Errorf("%+v", e)
		}
		if _, err := c.Send(ctxOf(t), id, echoID, make([]byte, 50<<10)); err != nil {
			t.Errorf("a small one: %v", err)
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
	},
	"ServerConfig.BufferPoolSize": func(t *testing.T) {
		_, s, _ := pair(t, &ServerConfig{BufferPoolSize: 100}, nil)
		if n := len(*s.bufs.get()); n != 100 {
			t.Errorf("buffers of %d bytes", n)
		}
	},
	"ServerConfig.EnableCompression": func(t *testing.T) {
		for _, on := range []bool{true, false} {
			c, _, id := pair(t, &ServerConfig{EnableCompression: on}, DefaultClientConfig())
			compressible := bytes.Repeat([]byte("kith "), 10_000)
			for range 2 {
				if resp, err := c.Send(ctxOf(t), id, echoID, compressible); err != nil || !bytes.Equal(resp, compressible) {
					t.Fatal(err)
				}
			}
			if sent := sentBytes(c); (sent < 60_000) != on {
				t.Errorf("compression %v there: %d bytes sent", on, sent)
			}
		}
	},
	"ServerConfig.CompressMinSize": func(t *testing.T) {
		for _, least := range []int{100, 1 << 20} {
			c, s, id := pair(t, &ServerConfig{EnableCompression: true, CompressMinSize: least}, &ClientConfig{EnableCompression: true, CompressMinSize: 1 << 30})
			for range 3 {
				if _, err := c.Send(ctxOf(t), id, echoID, bytes.Repeat([]byte("kith "), 10_000)); err != nil {
					t.Fatal(err)
				}
			}
			var sent int64
			s.eachLink(func(l *serverLink) { sent += l.sent.Load() })
			if (sent < 10_000) != (least == 100) {
				t.Errorf("from %d bytes on: %d bytes sent", least, sent)
			}
		}
	},
	"ServerConfig.Authorize": func(t *testing.T) {
		var asked []Caller
		deny := errors.New("no")
		c, s, id := pair(t, &ServerConfig{Authorize: func(who Caller) error {
			if who.Method == string(echoID) {
				asked = append(asked, who)
				return deny
			}
			return nil
		}}, nil)
		_, err := c.Send(ctxOf(t), id, echoID, nil)
		if e := wantCode(t, err, CodePermissionDenied); !e.Refused {
			t.Errorf("%+v", e)
		}
		plain := rawStream(t, c.h, id, echoID)
		plain.Write([]byte{0, 0, 0, 0})
		wantReset(t, plain, CodePermissionDenied)
		if len(asked) != 2 || asked[0] != (Caller{c.h.ID(), string(echoID)}) || asked[1] != asked[0] {
			t.Errorf("asked for %v", asked)
		}
		list, err := c.Services(ctxOf(t), id)
		if err != nil || len(list) != 4 {
			t.Errorf("services %v, %v", list, err)
		}
		if st := s.Stats(); st.Refused != 2 || st.Methods[string(echoID)].Calls != 0 {
			t.Errorf("%+v", st)
		}
	},
	"ServerConfig.MethodLimits": func(t *testing.T) { limited(t, &ServerConfig{MethodLimits: Limits{Concurrent: 1, Queue: -1}}, false) },
	"ServerConfig.PeerLimits":   func(t *testing.T) { limited(t, &ServerConfig{PeerLimits: Limits{Concurrent: 1, Queue: -1}}, true) },
	"ServerConfig.Name": func(t *testing.T) {
		c, _, id := pair(t, &ServerConfig{Name: "clock"}, nil)
		if i, err := c.Info(ctxOf(t), id); err != nil || i.Name != "clock" || i.Peer != id || i.Protocol != Protocol {
			t.Errorf("%+v, %v", i, err)
		}
	},
	"ServerConfig.Version": func(t *testing.T) {
		c, _, id := pair(t, &ServerConfig{Version: "1.2.3"}, nil)
		if i, err := c.Info(ctxOf(t), id); err != nil || i.Version != "1.2.3" {
			t.Errorf("%+v, %v", i, err)
		}
	},
	"ServerConfig.Logger": func(t *testing.T) {
		var log logs
		c, s, id := pair(t, &ServerConfig{Logger: log.logger()}, nil)
		handle(t, s, "/kith-test/fail", func(context.Context, *Request) (*Response, error) { return nil, errors.New("why not") })
		c.Send(ctxOf(t), id, "/kith-test/fail", nil)
		if !strings.Contains(log.String(), "why not") {
			t.Error("nothing is logged")
		}
	},

	"ClientConfig.ReadTimeout": func(t *testing.T) {
		c, s, id := pair(t, nil, &ClientConfig{ReadTimeout: short})
		left := make(chan bool, 2)
		handle(t, s, "/kith-test/wait", func(ctx context.Context, _ *Request) (*Response, error) {
			<-ctx.Done()
			left <- true
			return nil, ctx.Err()
		})
		_, err := c.Send(t.Context(), id, "/kith-test/wait", nil)
		wantCode(t, err, CodeDeadlineExceeded)
		await(t, "end of the handler's context", left)
		// A deadline of the context overrules it.
		handle(t, s, "/kith-test/late", func(ctx context.Context, _ *Request) (*Response, error) {
			select {
			case <-time.After(5 * short):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return nil, nil
		})
		if _, err := c.Send(ctxOf(t), id, "/kith-test/late", nil); err != nil {
			t.Error(err)
		}
	},
	"ClientConfig.WriteTimeout": func(t *testing.T) {
		a, b := tcpHosts(t)
		b.SetStreamHandler(Protocol, func(s network.Stream) { // reads nothing
			select {
			case <-t.Context().Done():
			case <-time.After(patience):
			}
			s.Reset()
		})
		c := newClient(t, a, &ClientConfig{WriteTimeout: short})
		_, err := c.Send(ctxOf(t), b.ID(), echoID, randomBytes(30<<20))
		if wantCode(t, err, CodeUnavailable); !errors.Is(err, errStalled) {
			t.Error(err)
		}
	},
	"ClientConfig.ConnectTimeout": func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		a, b := newHost(t, ""), newHost(t, "")
		at := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", ln.Addr().(*net.TCPAddr).Port)
		a.Peerstore().AddAddrs(b.ID(), []ma.Multiaddr{ma.StringCast(at)}, time.Hour)
		c := newClient(t, a, &ClientConfig{ConnectTimeout: short, MaxRetries: -1})
		_, err = c.Send(ctxOf(t), b.ID(), echoID, nil)
		if e := wantCode(t, err, CodeUnavailable); !e.Refused {
			t.Errorf("%+v", e)
		}
	},
	"ClientConfig.MaxRetries": func(t *testing.T) {
		for _, n := range []int{-1, 2} {
			c, s, id := pair(t, nil, &ClientConfig{MaxRetries: n, RetryInterval: time.Millisecond})
			refuseAll(t, s)
			_, err := c.Send(ctxOf(t), id, "/kith-test/refuse", nil)
			wantCode(t, err, CodeUnavailable)
			if calls := s.Stats().Calls; calls != uint64(max(n, 0)+1) {
				t.Errorf("%d retries: called %d times", n, calls)
			}
		}
	},
	"ClientConfig.RetryInterval": func(t *testing.T) {
		c, s, id := pair(t, nil, &ClientConfig{RetryInterval: time.Hour})
		refuseAll(t, s)
		_, err := c.Send(ctxOf(t), id, "/kith-test/refuse", nil) // has no time for it
		wantCode(t, err, CodeUnavailable)
		if calls := s.Stats().Calls; calls != 1 {
			t.Errorf("called %d times", calls)
		}
	},
	"ClientConfig.RetryBudget": func(t *testing.T) {
		c, s, id := pair(t, nil, &ClientConfig{RetryBudget: 0.5, RetryInterval: time.Microsecond, MaxRetries: 3})
		refuseAll(t, s)
		for range 40 {
			_, err := c.Send(ctxOf(t), id, "/kith-test/refuse", nil)
			wantCode(t, err, CodeUnavailable)
		}
		// 10 at the start and half a one a call.
		if st := c.Stats(); st.Retries < 25 || st.Retries > 30 || st.BudgetSpent == 0 {
			t.Errorf("%+v", st)
		}
	},
	"ClientConfig.MaxBlockSize": func(t *testing.T) {
		c, s, id := pair(t, nil, &ClientConfig{MaxBlockSize: 100})
		if _, err := c.Send(ctxOf(t), id, echoID, make([]byte, 101)); !errors.Is(err, ErrTooLarge) {
			t.Error(err)
		}
		handle(t, s, "/kith-test/more", func(context.Context, *Request) (*Response, error) {
			return &Response{Body: make([]byte, 101)}, nil
		})
		_, err := c.Send(ctxOf(t), id, "/kith-test/more", nil)
		if wantCode(t, err, CodeInternal); !errors.Is(err, ErrTooLarge) || c.Stats().Faults.TooLarge != 1 {
			t.Errorf("%v, %+v", err, c.Stats())
		}
	},
	"ClientConfig.MaxConnsPerPeer": func(t *testing.T) {
		c, s, id := pair(t, nil, &ClientConfig{MaxConnsPerPeer: 4})
		handleStream(t, s, "/kith-test/hold", func(ctx context.Context, st *ServerStream) error {
			_, err := st.Recv()
			return err
		})
		for range 3 { // all that streaming calls may have
			if _, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/hold"}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), short)
		defer cancel()
		_, err := c.Open(ctx, &Request{Peer: id, Method: "/kith-test/hold"})
		wantCode(t, err, CodeDeadlineExceeded)
		done := make(chan error, 20)
		for range cap(done) { // share what is left
			go func() {
				_, err := c.Send(ctxOf(t), id, echoID, nil)
				done <- err
			}()
		}
		for range cap(done) {
			if err := await(t, "answer", done); err != nil {
				t.Fatal(err)
			}
		}
		if n := c.Stats().Conns; n != 4 {
			t.Errorf("%d streams", n)
		}
	},
	"ClientConfig.MaxIdleConns": func(t *testing.T) {
		c, s, id := pair(t, nil, &ClientConfig{MaxIdleConns: 2})
		entered, release := make(chan bool, 5), make(chan bool)
		handle(t, s, "/kith-test/wait", func(context.Context, *Request) (*Response, error) {
			entered <- true
			<-release
			return nil, nil
		})
		done := make(chan error, 5)
		for range cap(done) {
			go func() {
				_, err := c.Send(ctxOf(t), id, "/kith-test/wait", nil)
				done <- err
			}()
		}
		for range cap(done) {
			await(t, "handler", entered)
		}
		close(release)
		for range cap(done) {
			if err := await(t, "answer", done); err != nil {
				t.Fatal(err)
			}
		}
		if st := c.Stats(); st.Idle != 2 || st.Conns != 2 || st.Dials != 5 {
			t.Errorf("%+v", st)
		}
	},
	"ClientConfig.IdleConnTimeout": func(t *testing.T) {
		c, s, id := pair(t, nil, &ClientConfig{IdleConnTimeout: short})
		if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() string {
			if st, ss := c.Stats(), s.Stats(); st.Conns != 0 || ss.Conns != 0 || ss.Faults != (Faults{}) {
				return fmt.Sprintf("%+v, %+v", st, ss)
			}
			return ""
		})
	},
	"ClientConfig.EnableCompression": func(t *testing.T) {
		for _, on := range []bool{true, false} {
			c, s, id := pair(t, DefaultServerConfig(), &ClientConfig{EnableCompression: on})
			for range 2 {
				if _, err := c.Send(ctxOf(t), id, echoID, bytes.Repeat([]byte("kith "), 10_000)); err != nil {
					t.Fatal(err)
				}
			}
			var sent int64
			s.eachLink(func(l *serverLink) { sent += l.sent.Load() })
			if (sent < 10_000) != on {
				t.Errorf("compression %v here: %d bytes sent there", on, sent)
			}
		}
	},
	"ClientConfig.CompressMinSize": func(t *testing.T) {
		for _, least := range []int{100, 1 << 20} {
			c, _, id := pair(t, DefaultServerConfig(), &ClientConfig{EnableCompression: true, CompressMinSize: least})
			for range 2 {
				if _, err := c.Send(ctxOf(t), id, echoID, bytes.Repeat([]byte("kith "), 10_000)); err != nil {
					t.Fatal(err)
				}
			}
			if sent := sentBytes(c); (sent < 60_000) != (least == 100) {
				t.Errorf("from %d bytes on: %d bytes sent", least, sent)
			}
		}
	},
}

// refuseAll serves a method that is never called.
func refuseAll(t *testing.T, s *Server) {
	s.cfg.Authorize = func(who Caller) error {
		if who.Method == "/kith-test/refuse" {
			return &Error{Code: CodeUnavailable, Message: "not now"}
		}
		return nil
	}
	handle(t, s, "/kith-test/refuse", func(context.Context, *Request) (*Response, error) {
		t.Error("called")
		return nil, nil
	})
}

// limited tests that one call at a time is admitted, of one peer or of one
// method.
func limited(t *testing.T, cfg *ServerConfig, ofPeer bool) {
	c, s, id := pair(t, cfg, &ClientConfig{MaxRetries: -1})
	other := newHost(t, "")
	know(other, s.h)
	c2 := newClient(t, other, &ClientConfig{MaxRetries: -1})
	entered, release := make(chan bool, 1), make(chan bool)
	handle(t, s, "/kith-test/wait", func(context.Context, *Request) (*Response, error) {
		entered <- true
		<-release
		return nil, nil
	})
	done := make(chan error, 1)
	go func() {
		_, err := c.Send(ctxOf(t), id, "/kith-test/wait", nil)
		done <- err
	}()
	await(t, "handler", entered)
	if _, err := c2.Send(ctxOf(t), id, echoID, nil); err != nil {
		t.Errorf("another method for another peer: %v", err)
	}
	caller, method := c2, protocol.ID("/kith-test/wait")
	if ofPeer {
		caller, method = c, echoID
	}
	_, err := caller.Do(ctxOf(t), &Request{Peer: id, Method: method})
	if e := wantCode(t, err, CodeResourceExhausted); !e.Refused || e.RetryAfter <= 0 {
		t.Errorf("%+v", e)
	}
	close(release)
	if err := await(t, "answer", done); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Refused != 1 {
		t.Errorf("%+v", st)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{3}).Read(b)
	return b
}

func TestValidateReportsAllFaultsTogether(t *testing.T) {
	bad := ServerConfig{
		ReadTimeout: -1, WriteTimeout: -1, ConnectTimeout: -1, IdleTimeout: -1, MaxIdleTime: -1, CleanupInterval: -1, DrainTimeout: -1,
		MaxBlockSize: -1, MaxConcurrentConns: -1, MaxConnsPerPeer: -1, MaxRequestsPerConn: -1, BufferPoolSize: 63, CompressMinSize: -1, MaxMemoryUsage: 1,
		MethodLimits: Limits{Concurrent: -1, Queue: -2, Burst: -1, QueueTime: -1, Rate: -1}, PeerLimits: Limits{Concurrent: -1},
	}
	err := bad.Validate()
	if err == nil {
		t.Fatal("valid")
	}
	for _, field := range []string{"ReadTimeout", "WriteTimeout", "ConnectTimeout", "IdleTimeout", "MaxIdleTime", "CleanupInterval", "DrainTimeout",
		"MaxBlockSize", "MaxConcurrentConns", "MaxConnsPerPeer", "MaxRequestsPerConn", "BufferPoolSize", "CompressMinSize", "MaxMemoryUsage", "MethodLimits.Concurrent",
		"MethodLimits.Queue", "MethodLimits.Burst", "MethodLimits.QueueTime", "MethodLimits.Rate", "PeerLimits.Concurrent"} {
		if !strings.Contains(err.Error(), field+" is ") {
			t.Errorf("%s is not named", field)
		}
	}
	badClient := ClientConfig{ReadTimeout: -1, WriteTimeout: -1, ConnectTimeout: -1, RetryInterval: -1, IdleConnTimeout: -1, MaxBlockSize: 1<<30 + 1,
		MaxConnsPerPeer: -1, MaxIdleConns: -1, CompressMinSize: -1, RetryBudget: 1.5}
	err = badClient.Validate()
	if err == nil {
		t.Fatal("valid")
	}
	for _, field := range []string{"ReadTimeout", "WriteTimeout", "ConnectTimeout", "RetryInterval", "IdleConnTimeout", "MaxBlockSize", "MaxConnsPerPeer",
		"MaxIdleConns", "CompressMinSize", "RetryBudget"} {
		if !strings.Contains(err.Error(), field+" is ") {
			t.Errorf("%s is not named", field)
		}
	}
	if _, err := NewServer(nil, &bad); err == nil {
		t.Error("a server with it")
	}
	if _, err := NewClient(nil, &badClient); err == nil {
		t.Error("a client with it")
	}
	for _, c := range []interface{ Validate() error }{&ServerConfig{}, &ClientConfig{}, DefaultServerConfig(), DefaultClientConfig()} {
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
	}
	d := DefaultServerConfig()
	if d.WriteTimeout != 30*time.Second || d.MaxBlockSize != 32<<20 || d.MaxConcurrentConns != 1000 || d.BufferPoolSize != 4<<10 || !d.EnableCompression || d.CleanupInterval != 5*time.Minute {
		t.Errorf("%+v", d)
	}
	e := DefaultClientConfig()
	if e.WriteTimeout != 30*time.Second || e.ConnectTimeout != 5*time.Second || e.MaxRetries != 3 || e.RetryInterval != time.Second ||
		e.MaxBlockSize != 32<<20 || !e.EnableCompression || e.MaxIdleConns != 100 || e.IdleConnTimeout != 5*time.Minute {
		t.Errorf("%+v", e)
	}
}
