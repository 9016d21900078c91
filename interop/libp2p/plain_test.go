package libp2p

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/rpc"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// PointSub's wire: on a stream of the method's protocol, a body behind its length
// in four bytes, the most significant first; once each way. Nothing else is said:
// a failure is a stream that ends.

const maxBody = 32 << 20 // 32 MiB, PointSub's default

func writeBody(w io.Writer, body []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

func readBody(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxBody {
		return nil, fmt.Errorf("a body of %d bytes", size)
	}
	body := make([]byte, size)
	_, err := io.ReadFull(r, body)
	return body, err
}

// send is PointSub's client: a stream for each request.
func send(ctx context.Context, h host.Host, to peer.ID, method protocol.ID, body []byte) ([]byte, error) {
	s, err := h.NewStream(ctx, to, method)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = s.SetDeadline(deadline)
	if err := writeBody(s, body); err != nil {
		_ = s.Reset()
		return nil, err
	}
	answer, err := readBody(s)
	if err != nil {
		_ = s.Reset()
		return nil, err
	}
	return answer, s.Close()
}

// serve is PointSub's server: one request a stream.
func serve(h host.Host, method protocol.ID, answer func([]byte) []byte) {
	h.SetStreamHandler(method, func(s network.Stream) {
		_ = s.SetDeadline(time.Now().Add(patience))
		body, err := readBody(s)
		if err == nil {
			err = writeBody(s, answer(body))
		}
		if err != nil {
			_ = s.Reset()
			return
		}
		_ = s.Close()
	})
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}

// offer serves a method of the node to everybody.
func offer(t *testing.T, n *kith.Node, method string, handler rpc.Handler) {
	t.Helper()
	if err := errors.Join(n.Server().StartHandler(protocol.ID(method), handler), n.Allow(method, "*")); err != nil {
		t.Fatal(err)
	}
}

func reverse(_ context.Context, r *rpc.Request) (*rpc.Response, error) {
	return &rpc.Response{Body: reversed(r.Body)}, nil
}

// PointSub's client calls the node's methods: bodies from none to the limit,
// one after the other and many at a time; and is told of failures as it can be.
func TestPointSubCallsUs(t *testing.T) {
	each(t, func(t *testing.T, over string) {
		n, h := newKith(t, kith.Config{}), newStock(t)
		offer(t, n, "/interop/reverse/1", reverse)
		offer(t, n, "/interop/whoami/1", func(_ context.Context, r *rpc.Request) (*rpc.Response, error) {
			return &rpc.Response{Body: []byte(r.Peer)}, nil
		})
		offer(t, n, "/interop/error/1", func(context.Context, *rpc.Request) (*rpc.Response, error) {
			return nil, rpc.Errorf(rpc.CodeNotFound, "there is nothing")
		})
		if err := n.Server().StartHandler("/interop/closed/1", func(context.Context, *rpc.Request) (*rpc.Response, error) {
			t.Error("a method that is closed was called")
			return nil, nil
		}); err != nil {
			t.Fatal(err)
		}
		dial(t, h, n, over)
		ctx := ctxOf(t)
		for _, size := range []int{0, 1, 4096, 1 << 20, maxBody} {
			body := random(size)
			if got, err := send(ctx, h, n.ID(), "/interop/reverse/1", body); err != nil || !bytes.Equal(got, reversed(body)) {
				t.Errorf("a body of %d bytes: %d bytes, %v", size, len(got), err)
			}
		}
		if got, err := send(ctx, h, n.ID(), "/interop/whoami/1", nil); err != nil || peer.ID(got) != h.ID() {
			t.Errorf("whoami: %v, %v", peer.ID(got), err)
		}
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				for j := range 20 {
					want := fmt.Appendf(nil, "request %d of %d", j, i)
					if got, err := send(ctx, h, n.ID(), "/interop/reverse/1", want); err != nil || !bytes.Equal(got, reversed(want)) {
						t.Errorf("%q: %q, %v", want, got, err)
					}
				}
			})
		}
		all.Wait()
		for _, method := range []protocol.ID{"/interop/error/1", "/interop/closed/1", "/interop/unknown/1"} {
			if got, err := send(ctx, h, n.ID(), method, []byte("hello")); err == nil || err == io.EOF {
				t.Errorf("%s: %q, %v", method, got, err)
			}
		}
		if s := n.Server().Stats(); s.Calls != 5+1+320+2 || s.Failed != 1 || s.Refused != 1 || s.Faults != (rpc.Faults{}) {
			t.Errorf("%+v", s)
		}
	})
}

// The node calls PointSub's server, over a connection of either side's making.
func TestWeCallPointSub(t *testing.T) {
	each(t, func(t *testing.T, over string) {
		n, dials, dialled := newKith(t, kith.Config{}), newStock(t), newStock(t)
		dial(t, dials, n, over)
		for _, h := range []host.Host{dials, dialled} {
			serve(h, "/theirs/reverse/1", reversed)
			h.SetStreamHandler("/theirs/reset/1", func(s network.Stream) {
				_, _ = readBody(s)
				_ = s.Reset()
			})
		}
		ctx := ctxOf(t)
		if _, err := n.Connect(ctx, stockAddress(t, dialled, over)); err != nil {
			t.Fatal(err)
		}
		for _, h := range []host.Host{dials, dialled} {
			for _, size := range []int{0, 1, 4096, 1 << 20, maxBody} {
				body := random(size)
				if got, err := n.Call(ctx, h.ID().String(), "/theirs/reverse/1", body); err != nil || !bytes.Equal(got, reversed(body)) {
					t.Errorf("a body of %d bytes: %d bytes, %v", size, len(got), err)
				}
			}
			var all sync.WaitGroup
			for i := range 16 {
				all.Go(func() {
					for j := range 20 {
						want := fmt.Appendf(nil, "request %d of %d", j, i)
						if got, err := n.Call(ctx, h.ID().String(), "/theirs/reverse/1", want); err != nil || !bytes.Equal(got, reversed(want)) {
							t.Errorf("%q: %q, %v", want, got, err)
						}
					}
				})
			}
			all.Wait()
			if got, err := n.Call(ctx, h.ID().String(), "/theirs/unknown/1", nil); rpc.CodeOf(err) != rpc.CodeUnimplemented {
				t.Errorf("a method that it does not have: %q, %v", got, err)
			}
			if got, err := n.Call(ctx, h.ID().String(), "/theirs/reset/1", []byte("hello")); rpc.CodeOf(err) != rpc.CodeUnavailable {
				t.Errorf("a method that resets the stream: %q, %v", got, err)
			}
		}
	})
}

// What a client may do wrong: each stream ends with an error, is counted, and
// another client does not notice.
func TestBadInputFromPointSubClients(t *testing.T) {
	const method = "/interop/reverse/1"
	each(t, func(t *testing.T, over string) {
		n, good := newKith(t, kith.Config{}), newStock(t)
		bad := newStock(t, libp2p.ResourceManager(&network.NullResourceManager{})) // no limits of its own
		offer(t, n, method, reverse)
		dial(t, bad, n, over)
		dial(t, good, n, over)
		type faults func(rpc.Faults) uint64
		tooLarge := func(f rpc.Faults) uint64 { return f.TooLarge }
		unfinished := func(f rpc.Faults) uint64 { return f.Unfinished }
		// A reset takes with it what was not read before: then nothing has come.
		reset := func(f rpc.Faults) uint64 { return 0 }
		for _, c := range []struct {
			name  string
			send  []byte
			end   func(network.Stream) error // nil: the client waits
			count faults
		}{
			{"one byte above the limit", []byte{2, 0, 0, 1}, nil, tooLarge},
			{"4 GiB", []byte{0xff, 0xff, 0xff, 0xff, 'a'}, nil, tooLarge},
			{"half a header, then the end", []byte{0, 0}, network.Stream.CloseWrite, unfinished},
			{"half a header, then a reset", []byte{0, 0}, network.Stream.Reset, reset},
			{"no body, then the end", []byte{0, 0, 0, 5}, network.Stream.CloseWrite, unfinished},
			{"half a body, then the end", []byte{0, 0, 0, 5, 'a'}, network.Stream.CloseWrite, unfinished},
			{"half a body, then a reset", []byte{0, 0, 0, 5, 'a'}, network.Stream.Reset, reset},
		} {
			t.Run(c.name, func(t *testing.T) {
				before := c.count(n.Server().Stats().Faults)
				s, err := bad.NewStream(ctxOf(t), n.ID(), method)
				if err != nil {
					t.Fatal(err)
				}
				_ = s.SetDeadline(time.Now().Add(patience))
				if _, err := s.Write(c.send); err != nil {
					t.Fatal(err)
				}
				if got, err := send(ctxOf(t), good, n.ID(), method, []byte("hello")); err != nil || string(got) != "olleh" {
					t.Errorf("another client: %q, %v", got, err)
				}
				if c.end != nil {
					eventually(t, "the node has the stream", func() error {
						if s := n.Server().Stats(); s.Conns != 1 {
							return fmt.Errorf("%d streams", s.Conns)
						}
						return nil
					})
					if err := c.end(s); err != nil {
						t.Error(err)
					}
				}
				if got, err := io.ReadAll(s); err == nil || len(got) > 0 {
					t.Errorf("answered %q, %v", got, err)
				} else if e, ok := errors.AsType[*network.StreamError](err); c.count(rpc.Faults{TooLarge: 1}) == 1 && (!ok || !e.Remote) {
					t.Errorf("no reset: %v", err)
				}
				eventually(t, "it is counted", func() error {
					want := before + c.count(rpc.Faults{TooLarge: 1, Unfinished: 1})
					if s := n.Server().Stats(); c.count(s.Faults) != want || s.Conns != 0 {
						return fmt.Errorf("%d before: %+v", before, s)
					}
					return nil
				})
			})
		}
		// Many streams that announce the most and send nothing hold nobody up.
		for range 200 {
			s, err := bad.NewStream(ctxOf(t), n.ID(), method)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Reset()
			if _, err := s.Write([]byte{2, 0, 0, 0}); err != nil {
				t.Fatal(err)
			}
		}
		body := random(1 << 20)
		if got, err := send(ctxOf(t), good, n.ID(), method, body); err != nil || !bytes.Equal(got, reversed(body)) {
			t.Errorf("beside 200 announcements of 32 MiB: %d bytes, %v", len(got), err)
		}
	})
}

// What a server may answer that is no answer: the call fails, with a code that
// says so, and the next is as before.
func TestBadInputFromPointSubServers(t *testing.T) {
	each(t, func(t *testing.T, over string) {
		n, h := newKith(t, kith.Config{}), newStock(t)
		dial(t, h, n, over)
		serve(h, "/theirs/good/1", reversed)
		for _, c := range []struct {
			name   string
			answer []byte
			end    func(network.Stream) error
			code   rpc.Code
		}{
			{"one byte above the limit", []byte{2, 0, 0, 1}, network.Stream.CloseWrite, rpc.CodeInternal},
			{"4 GiB", []byte{0xff, 0xff, 0xff, 0xff, 'a'}, network.Stream.CloseWrite, rpc.CodeInternal},
			{"nothing", nil, network.Stream.Close, rpc.CodeUnavailable},
			{"half a header", []byte{0, 0}, network.Stream.Close, rpc.CodeUnavailable},
			{"no body", []byte{0, 0, 0, 5}, network.Stream.Close, rpc.CodeUnavailable},
			{"half a body", []byte{0, 0, 0, 5, 'a'}, network.Stream.Close, rpc.CodeUnavailable},
			{"half a body, then a reset", []byte{0, 0, 0, 5, 'a'}, network.Stream.Reset, rpc.CodeUnavailable},
			{"a reset", nil, network.Stream.Reset, rpc.CodeUnavailable},
		} {
			t.Run(c.name, func(t *testing.T) {
				h.SetStreamHandler("/theirs/bad/1", func(s network.Stream) {
					_, _ = readBody(s)
					_, _ = s.Write(c.answer)
					_ = c.end(s)
				})
				if got, err := n.Call(ctxOf(t), h.ID().String(), "/theirs/bad/1", []byte("hello")); rpc.CodeOf(err) != c.code {
					t.Errorf("%q, %v", got, err)
				}
				if got, err := n.Call(ctxOf(t), h.ID().String(), "/theirs/good/1", []byte("hello")); err != nil || string(got) != "olleh" {
					t.Errorf("the next: %q, %v", got, err)
				}
			})
		}
		t.Run("silence", func(t *testing.T) {
			let := make(chan struct{})
			gone := make(chan error, 1)
			h.SetStreamHandler("/theirs/silent/1", func(s network.Stream) {
				_, _ = readBody(s)
				close(let)
				_, err := s.Read(make([]byte, 1))
				gone <- err
				_ = s.Reset()
			})
			ctx, cancel := context.WithCancel(ctxOf(t))
			go func() { <-let; cancel() }()
			if got, err := n.Call(ctx, h.ID().String(), "/theirs/silent/1", []byte("hello")); !errors.Is(err, context.Canceled) {
				t.Errorf("%q, %v", got, err)
			}
			if err := <-gone; err == nil || err == io.EOF {
				t.Errorf("the server sees %v of a call that was given up", err)
			}
		})
	})
}
