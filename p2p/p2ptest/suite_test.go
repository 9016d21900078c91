package p2ptest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// memoryPair makes two nodes of a network.
func memoryPair(tb testing.TB, o memory.Options) (Harness, *memory.Network) {
	tb.Helper()
	b := &bench{TB: tb}
	network := memory.NewNetwork(o)
	h := Harness{KeyA: b.newKey(), KeyB: b.newKey()}
	for _, side := range []struct {
		to  *p2p.Transport
		key p2p.PrivKey
	}{{&h.A, h.KeyA}, {&h.B, h.KeyB}} {
		t, err := network.Listen(side.key.Public().NodeID())
		if err != nil {
			tb.Fatal(err)
		}
		*side.to = t
	}
	h.Nowhere = p2p.Endpoint{Protocol: memory.Protocol, Path: strings.Repeat("ab", 20)}
	return h, network
}

// The suite is green on a transport that is right.
func TestSuiteOnMemory(t *testing.T) {
	TestTransport(t, func(tb testing.TB) Harness {
		h, _ := memoryPair(tb, memory.Options{})
		return h
	})
}

// A fault is a transport that does one thing wrong.
type fault struct {
	*memory.Transport
	wrap      func(*brokenConn) // what is wrong with its connections
	accept    func() (p2p.Connection, error)
	dial      func(context.Context, p2p.Endpoint) (p2p.Connection, error)
	close     func() error
	endpoints func() []p2p.Endpoint
	marked    bool                      // its connections say that they are ConcurrentSenders
	recycle   func(*brokenConn, []byte) // its connections are Recyclers

	mu    sync.Mutex // guards conns
	conns []p2p.Connection
}

func (f *fault) wrapped(c p2p.Connection, err error) (p2p.Connection, error) {
	if err != nil {
		return nil, err
	}
	bc := &brokenConn{Connection: c.(*memory.Connection)}
	if f.wrap != nil {
		f.wrap(bc)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = append(f.conns, bc)
	switch {
	case f.marked:
		return markedConn{bc}, nil
	case f.recycle != nil:
		return recycledConn{bc, f.recycle}, nil
	}
	return bc, nil
}

type recycledConn struct {
	*brokenConn
	recycle func(*brokenConn, []byte)
}

func (c recycledConn) Recycle(message []byte) { c.recycle(c.brokenConn, message) }

type markedConn struct{ *brokenConn }

func (markedConn) ConcurrentSend() {}

// oneAtATime makes a connection that may be sent on concurrently.
func oneAtATime(c *brokenConn) {
	var mu sync.Mutex
	c.send = func(id p2p.ChannelID, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		return c.Connection.SendMessage(id, data)
	}
}

func (f *fault) Accept() (p2p.Connection, error) {
	if f.accept != nil {
		return f.wrapped(f.accept())
	}
	return f.wrapped(f.Transport.Accept())
}

func (f *fault) Dial(ctx context.Context, e p2p.Endpoint) (p2p.Connection, error) {
	if f.dial != nil {
		return f.wrapped(f.dial(ctx, e))
	}
	return f.wrapped(f.Transport.Dial(ctx, e))
}

func (f *fault) Close() error {
	if f.close != nil {
		return f.close()
	}
	return f.Transport.Close()
}

func (f *fault) Endpoints() []p2p.Endpoint {
	if f.endpoints != nil {
		return f.endpoints()
	}
	return f.Transport.Endpoints()
}

// brokenConn is a connection of which any method can be replaced.
type brokenConn struct {
	*memory.Connection
	handshake func(context.Context, p2p.NodeInfo, p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error)
	send      func(p2p.ChannelID, []byte) error
	chunk     func(p2p.ChannelID, []byte, bool) error
	flush     func() error
	receive   func() (p2p.ChannelID, []byte, error)
	limits    func(map[p2p.ChannelID]int)
	shut      func() error
	remote    func() p2p.Endpoint
}

func (c *brokenConn) Handshake(ctx context.Context, i p2p.NodeInfo, k p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error) {
	if c.handshake != nil {
		return c.handshake(ctx, i, k)
	}
	return c.Connection.Handshake(ctx, i, k)
}

func (c *brokenConn) SendMessage(id p2p.ChannelID, data []byte) error {
	if c.send != nil {
		return c.send(id, data)
	}
	return c.Connection.SendMessage(id, data)
}

func (c *brokenConn) SendChunk(id p2p.ChannelID, data []byte, eof bool) error {
	if c.chunk != nil {
		return c.chunk(id, data, eof)
	}
	return c.Connection.SendChunk(id, data, eof)
}

func (c *brokenConn) Flush() error {
	if c.flush != nil {
		return c.flush()
	}
	return c.Connection.Flush()
}

func (c *brokenConn) ReceiveMessage() (p2p.ChannelID, []byte, error) {
	if c.receive != nil {
		return c.receive()
	}
	return c.Connection.ReceiveMessage()
}

func (c *brokenConn) SetChannelLimits(l map[p2p.ChannelID]int) {
	if c.limits != nil {
		c.limits(l)
		return
	}
	c.Connection.SetChannelLimits(l)
}

func (c *brokenConn) Close() error {
	if c.shut != nil {
		return c.shut()
	}
	return c.Connection.Close()
}

func (c *brokenConn) RemoteEndpoint() p2p.Endpoint {
	if c.remote != nil {
		return c.remote()
	}
	return c.Connection.RemoteEndpoint()
}

// recorder is a testing.TB that takes a failure for a result.
type recorder struct {
	testing.TB
	mu       sync.Mutex // guards the rest
	failures []string
	cleanups []func()
}

func (r *recorder) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, text)
}

func (r *recorder) Helper()                           {}
func (r *recorder) Error(args ...any)                 { r.note(fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.note(fmt.Sprintf(format, args...)) }
func (r *recorder) Fail()                             { r.note("failed") }
func (r *recorder) FailNow()                          { r.note("failed"); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)                 { r.note(fmt.Sprint(args...)); runtime.Goexit() }
func (r *recorder) Fatalf(format string, args ...any) {
	r.note(fmt.Sprintf(format, args...))
	runtime.Goexit()
}
func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

// record runs one test of the suite and returns its failures.
func record(t *testing.T, s Suite, test test) []string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.run(r, test)
	}()
	<-done
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
	return r.failures
}

// onConnections is a fault of connections, of those that are dialled or of all.
func onConnections(wrap func(*brokenConn)) func(*fault) {
	return func(f *fault) { f.wrap = wrap }
}

// Every test of the suite fails for a transport that does wrong what it is about.
// A suite that cannot fail protects nobody.
func TestSuiteFindsFaults(t *testing.T) {
	never := make(chan struct{})
	defer close(never)
	shown := map[string]bool{}
	for name, c := range map[string]struct {
		breaks func(*fault)
		found  []string // tests of the suite that fail; others may, too
	}{
		"listens under another protocol": {func(f *fault) {
			f.endpoints = func() []p2p.Endpoint {
				return []p2p.Endpoint{{Protocol: "elsewhere", Path: f.Transport.Endpoints()[0].Path}}
			}
		}, []string{"Endpoints"}},
		"does not know where it is connected": {onConnections(func(c *brokenConn) {
			c.remote = func() p2p.Endpoint { return p2p.Endpoint{Protocol: memory.Protocol} }
		}), []string{"ConnectionEndpoints"}},
		"accepts with another error after Close": {func(f *fault) {
			f.accept = func() (p2p.Connection, error) {
				c, err := f.Transport.Accept()
				if err == io.EOF {
					err = errors.New("use of closed transport")
				}
				return c, err
			}
		}, []string{"AcceptEndsWithClose"}},
		"listens on after Close": {func(f *fault) {
			f.close = func() error { return nil }
		}, []string{"AcceptEndsWithClose", "CloseStopsListening"}},
		"closes its connections with it": {func(f *fault) {
			f.close = func() error {
				f.mu.Lock()
				defer f.mu.Unlock()
				for _, c := range f.conns {
					_ = c.Close()
				}
				return f.Transport.Close()
			}
		}, []string{"CloseLeavesConnections"}},
		"dials without heed of the context": {func(f *fault) {
			f.dial = func(_ context.Context, e p2p.Endpoint) (p2p.Connection, error) {
				return f.Transport.Dial(context.Background(), e)
			}
		}, []string{"LateDial"}},
		"finds somebody nowhere": {func(f *fault) {
			f.dial = func(ctx context.Context, e p2p.Endpoint) (p2p.Connection, error) {
				if c, err := f.Transport.Dial(ctx, e); err == nil {
					return c, nil
				}
				return f.Transport.Dial(ctx, f.Transport.Endpoints()[0])
			}
		}, []string{"DialNowhere"}},
		"mixes up connections": {func(f *fault) {
			var (
				mu sync.Mutex
				n  int
			)
			f.wrap = func(c *brokenConn) {
				mu.Lock()
				defer mu.Unlock()
				if n++; n%5 == 4 {
					c.send = func(id p2p.ChannelID, data []byte) error { return c.Connection.SendMessage(id, fill(len(data), 99)) }
				}
			}
		}, []string{"ManyConnections"}},
		"believes what a peer claims": {onConnections(func(c *brokenConn) {
			c.handshake = func(ctx context.Context, i p2p.NodeInfo, k p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error) {
				claim := i.NodeID
				i.NodeID, i.Version = k.Public().NodeID(), string(claim)
				got, key, err := c.Connection.Handshake(ctx, i, k)
				got.NodeID = p2p.NodeID(got.Version)
				return got, key, err
			}
		}), []string{"HandshakeWrongID", "HandshakeIdentity"}},
		"reports the wrong key": {onConnections(func(c *brokenConn) {
			c.handshake = func(ctx context.Context, i p2p.NodeInfo, k p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error) {
				got, _, err := c.Connection.Handshake(ctx, i, k)
				return got, k.Public(), err
			}
		}), []string{"HandshakeIdentity", "HandshakeOtherKey"}},
		"shakes hands without heed of the context": {onConnections(func(c *brokenConn) {
			c.handshake = func(_ context.Context, i p2p.NodeInfo, k p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error) {
				return c.Connection.Handshake(context.Background(), i, k)
			}
		}), []string{"HandshakeContext"}},
		"leaves an abandoned handshake open": {onConnections(func(c *brokenConn) {
			c.handshake = func(ctx context.Context, i p2p.NodeInfo, k p2p.PrivKey) (info p2p.NodeInfo, key p2p.PubKey, err error) {
				done := make(chan struct{})
				go func() {
					defer close(done)
					info, key, err = c.Connection.Handshake(context.Background(), i, k)
				}()
				select {
				case <-done:
					return info, key, err
				case <-ctx.Done():
					return p2p.NodeInfo{}, p2p.PubKey{}, ctx.Err()
				}
			}
		}), []string{"HandshakeContext"}},
		"hangs when the peer closes in the handshake": {onConnections(func(c *brokenConn) {
			c.handshake = func(ctx context.Context, i p2p.NodeInfo, k p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error) {
				info, key, err := c.Connection.Handshake(ctx, i, k)
				if errors.Is(err, io.EOF) {
					<-never
				}
				return info, key, err
			}
		}), []string{"HandshakePeerCloses"}},
		"shakes hands as often as one likes": {onConnections(func(c *brokenConn) {
			var once sync.Once
			var info p2p.NodeInfo
			var key p2p.PubKey
			var err error
			c.handshake = func(ctx context.Context, i p2p.NodeInfo, k p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error) {
				once.Do(func() { info, key, err = c.Connection.Handshake(ctx, i, k) })
				return info, key, err
			}
		}), []string{"HandshakeOnce"}},
		"loses a message": {onConnections(func(c *brokenConn) {
			n := 0
			c.send = func(id p2p.ChannelID, data []byte) error {
				if n++; n == 500 {
					return nil
				}
				return c.Connection.SendMessage(id, data)
			}
		}), []string{"Order"}},
		"reorders": {onConnections(func(c *brokenConn) {
			var held []byte
			n := 0
			c.send = func(id p2p.ChannelID, data []byte) error {
				if n++; id == 2 && held == nil && n > 500 {
					held = slices.Clone(data)
					return nil
				}
				err := c.Connection.SendMessage(id, data)
				if id == 2 && held != nil && err == nil {
					err = c.Connection.SendMessage(id, held)
					held = nil
				}
				return err
			}
		}), []string{"Order"}},
		"repeats": {onConnections(func(c *brokenConn) {
			n := 0
			c.send = func(id p2p.ChannelID, data []byte) error {
				if n++; n == 500 {
					_ = c.Connection.SendMessage(id, data)
				}
				return c.Connection.SendMessage(id, data)
			}
		}), []string{"Order"}},
		"swallows empty messages": {onConnections(func(c *brokenConn) {
			c.send = func(id p2p.ChannelID, data []byte) error {
				if len(data) == 0 {
					return nil
				}
				return c.Connection.SendMessage(id, data)
			}
		}), []string{"Sizes"}},
		"cuts long messages": {onConnections(func(c *brokenConn) {
			c.send = func(id p2p.ChannelID, data []byte) error {
				return c.Connection.SendMessage(id, data[:min(len(data), 1<<19)])
			}
		}), []string{"Sizes"}},
		"keeps the sender's bytes": {onConnections(func(c *brokenConn) {
			var held []byte
			c.send = func(id p2p.ChannelID, data []byte) error { // sends them with the next message
				if held != nil {
					if err := c.Connection.SendMessage(id, held); err != nil {
						return err
					}
				}
				held = data
				if len(data) == 0 || data[0] == 49 {
					return c.Connection.SendMessage(id, data)
				}
				return nil
			}
		}), []string{"OwnBytes"}},
		"receives into one buffer": {onConnections(func(c *brokenConn) {
			buffer := make([]byte, 2<<20)
			c.receive = func() (p2p.ChannelID, []byte, error) {
				id, data, err := c.Connection.ReceiveMessage()
				return id, buffer[:copy(buffer, data)], err
			}
		}), []string{"OwnBytes"}},
		"stops when both sides send": {onConnections(func(c *brokenConn) {
			var mu sync.Mutex
			c.send = func(id p2p.ChannelID, data []byte) error {
				mu.Lock()
				defer mu.Unlock()
				return c.Connection.SendMessage(id, data)
			}
			c.receive = func() (p2p.ChannelID, []byte, error) {
				mu.Lock()
				defer mu.Unlock()
				return c.Connection.ReceiveMessage()
			}
		}), []string{"BothWays"}},
		"buffers without bound": {onConnections(func(c *brokenConn) {
			var once sync.Once
			queue := make(chan func(), 1<<20)
			c.send = func(id p2p.ChannelID, data []byte) error {
				once.Do(func() {
					go func() {
						for send := range queue {
							send()
						}
					}()
				})
				data = slices.Clone(data)
				queue <- func() { _ = c.Connection.SendMessage(id, data) }
				return nil
			}
		}), []string{"Backpressure", "CloseReleasesSend"}},
		"loses messages that are sent concurrently": {func(f *fault) {
			f.marked = true
			f.wrap = func(c *brokenConn) {
				oneAtATime(c)
				send, n := c.send, new(atomic.Int32)
				c.send = func(id p2p.ChannelID, data []byte) error {
					if n.Add(1) == 400 {
						return nil
					}
					return send(id, data)
				}
			}
		}, []string{"ConcurrentChannels"}},
		"reuses what was not given back": {func(f *fault) {
			var last []byte
			f.recycle = func(*brokenConn, []byte) { clear(last) }
			f.wrap = func(c *brokenConn) {
				c.receive = func() (p2p.ChannelID, []byte, error) {
					id, data, err := c.Connection.ReceiveMessage()
					if len(data)%2 == 0 {
						last = data
					}
					return id, data, err
				}
			}
		}, []string{"Recycle"}},
		"has no chunks": {onConnections(func(c *brokenConn) {
			c.chunk = func(id p2p.ChannelID, data []byte, _ bool) error { return c.Connection.SendChunk(id, data, true) }
		}), []string{"Chunks", "ChunksInterleave"}},
		"does not flush": {onConnections(func(c *brokenConn) {
			c.flush = func() error { return nil }
		}), []string{"Chunks"}},
		"knows no limits": {onConnections(func(c *brokenConn) {
			c.limits = func(map[p2p.ChannelID]int) {}
		}), []string{"Limits", "UnknownChannel"}},
		"is off by one": {onConnections(func(c *brokenConn) {
			c.limits = func(l map[p2p.ChannelID]int) {
				more := map[p2p.ChannelID]int{}
				for id, n := range l {
					more[id] = n + 1
				}
				c.Connection.SetChannelLimits(more)
			}
		}), []string{"Limits"}},
		"is off by one the other way": {onConnections(func(c *brokenConn) {
			c.limits = func(l map[p2p.ChannelID]int) {
				less := map[p2p.ChannelID]int{}
				for id, n := range l {
					less[id] = n - 1
				}
				c.Connection.SetChannelLimits(less)
			}
		}), []string{"Limits"}},
		"sends channels one after another and mixes them": {func(f *fault) {
			f.wrap = func(c *brokenConn) {
				c.receive = func() (p2p.ChannelID, []byte, error) {
					id, data, err := c.Connection.ReceiveMessage()
					return max(id, 2), data, err
				}
			}
		}, []string{"Order", "Sizes", "CloseLeavesConnections"}},
		"does not release a receiver": {onConnections(func(c *brokenConn) {
			var closed atomic.Bool
			c.shut = func() error {
				closed.Store(true)
				return c.Connection.Close()
			}
			c.receive = func() (p2p.ChannelID, []byte, error) {
				id, data, err := c.Connection.ReceiveMessage()
				if closed.Load() {
					<-never
				}
				return id, data, err
			}
		}), []string{"CloseReleasesReceive"}},
		"does not release a sender": {onConnections(func(c *brokenConn) {
			var closed atomic.Bool
			c.shut = func() error {
				closed.Store(true)
				return c.Connection.Close()
			}
			c.send = func(id p2p.ChannelID, data []byte) error {
				err := c.Connection.SendMessage(id, data)
				if closed.Load() {
					<-never
				}
				return err
			}
		}), []string{"CloseReleasesSend"}},
		"says something else than io.EOF": {onConnections(func(c *brokenConn) {
			other := func(err error) error {
				if errors.Is(err, io.EOF) {
					return errors.New("use of closed connection")
				}
				return err
			}
			c.send = func(id p2p.ChannelID, data []byte) error { return other(c.Connection.SendMessage(id, data)) }
			c.receive = func() (p2p.ChannelID, []byte, error) {
				id, data, err := c.Connection.ReceiveMessage()
				return id, data, other(err)
			}
		}), []string{"CloseReleasesReceive", "CloseReleasesSend", "PeerCloseEndsReceive", "PeerCloseEndsSend", "CloseDeliversSent"}},
		"loses at Close what was sent": {onConnections(func(c *brokenConn) {
			var held func() error
			c.send = func(id p2p.ChannelID, data []byte) error {
				if held != nil {
					if err := held(); err != nil {
						return err
					}
				}
				data = slices.Clone(data)
				held = func() error { return c.Connection.SendMessage(id, data) }
				return nil
			}
		}), []string{"CloseDeliversSent"}},
		"fails to close twice": {onConnections(func(c *brokenConn) {
			var closes atomic.Int32
			c.shut = func() error {
				if closes.Add(1) > 1 {
					<-never
				}
				return c.Connection.Close()
			}
		}), []string{"CloseTwice"}},
		"leaves a goroutine behind": {onConnections(func(*brokenConn) {
			for range 50 { // more than may still be ending from before
				go func() { <-never }()
			}
		}), []string{"ConnectionEndpoints"}},
		"corrupts under way": {onConnections(func(c *brokenConn) {
			n := 0
			c.receive = func() (p2p.ChannelID, []byte, error) {
				id, data, err := c.Connection.ReceiveMessage()
				if n++; n == 3 && len(data) > 3 {
					data[3] ^= 1
				}
				return id, data, err
			}
		}), []string{"CloseWhileBusy"}},
	} {
		t.Run(name, func(t *testing.T) {
			suite := Suite{Timeout: 400 * time.Millisecond, New: func(tb testing.TB) Harness {
				h, _ := memoryPair(tb, memory.Options{})
				for _, side := range []*p2p.Transport{&h.A, &h.B} {
					f := &fault{Transport: (*side).(*memory.Transport)}
					c.breaks(f)
					*side = f
				}
				return h
			}}
			for _, name := range c.found {
				at := slices.IndexFunc(conformance, func(t test) bool { return t.name == name })
				if at < 0 {
					t.Fatalf("the suite has no test %s", name)
				}
				shown[name] = true
				if failures := record(t, suite, conformance[at]); len(failures) == 0 {
					t.Errorf("%s does not find it", name)
				} else if testing.Verbose() {
					t.Logf("%s: %.200s", name, failures[0])
				}
			}
		})
	}
	for _, c := range conformance {
		if !shown[c.name] {
			t.Errorf("no fault shows that %s can fail", c.name)
		}
	}
}

// A transport whose channels may be sent on concurrently passes, too.
func TestSuiteOnConcurrentSender(t *testing.T) {
	TestTransport(t, func(tb testing.TB) Harness {
		h, _ := memoryPair(tb, memory.Options{})
		for _, side := range []*p2p.Transport{&h.A, &h.B} {
			*side = &fault{Transport: (*side).(*memory.Transport), marked: true, wrap: oneAtATime}
		}
		return h
	})
}

func TestSuiteNeedsAHarness(t *testing.T) {
	for name, h := range map[string]func(testing.TB) Harness{
		"nothing":      func(testing.TB) Harness { return Harness{} },
		"no listener":  func(tb testing.TB) Harness { h, _ := memoryPair(tb, memory.Options{}); _ = h.B.Close(); return h },
		"no other end": func(tb testing.TB) Harness { h, _ := memoryPair(tb, memory.Options{}); h.A = nil; return h },
	} {
		if failures := record(t, Suite{New: h}, conformance[0]); len(failures) == 0 {
			t.Errorf("%s is good enough", name)
		}
	}
}
