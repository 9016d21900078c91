package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	tptu "github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// socket records what is written to it, one entry a call. A test may shut its
// gate, which keeps writes waiting.
type socket struct {
	net.Conn

	mu     sync.Mutex // guards the fields below
	writes [][]byte
	gate   chan struct{} // nil: open
	stuck  int           // writes that wait
	err    error
	closed bool
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	gate, err := s.gate, s.err
	s.writes = append(s.writes, bytes.Clone(p))
	s.stuck++
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	s.mu.Lock()
	s.stuck--
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if s.Conn != nil {
		return s.Conn.Write(p)
	}
	return len(p), nil
}

func (s *socket) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	if s.Conn != nil {
		return s.Conn.Close()
	}
	return nil
}

func (s *socket) SetWriteDeadline(t time.Time) error {
	if s.Conn != nil {
		return s.Conn.SetWriteDeadline(t)
	}
	return nil
}

func (s *socket) shut() (open func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = gate
	return func() {
		s.mu.Lock()
		s.gate = nil
		s.mu.Unlock()
		close(gate)
	}
}

func (s *socket) take() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.writes
	s.writes = nil
	return w
}

func TestOutbox(t *testing.T) {
	full := bytes.Repeat([]byte("x"), batchMax)
	for name, c := range map[string]struct {
		do   func(o *outbox)
		want []string
	}{
		"nothing held":        {func(o *outbox) { put(t, o, "a"); put(t, o, "b") }, []string{"a", "b"}},
		"one frame":           {func(o *outbox) { o.keep(); put(t, o, "a"); put(t, o, "b"); o.release(false) }, []string{"ab"}},
		"more to come":        {func(o *outbox) { o.keep(); put(t, o, "a"); o.release(true) }, nil},
		"and then it came":    {func(o *outbox) { o.keep(); put(t, o, "a"); o.release(true); put(t, o, "b"); put(t, o, "c") }, []string{"ab", "c"}},
		"and then nothing":    {func(o *outbox) { o.keep(); put(t, o, "a"); o.release(true); o.Close() }, []string{"a"}},
		"full":                {func(o *outbox) { o.keep(); put(t, o, string(full)); o.release(true) }, []string{string(full)}},
		"nothing was written": {func(o *outbox) { o.keep(); o.release(true); o.keep(); o.release(false) }, nil},
		"a whole batch, again": {func(o *outbox) {
			o.keep()
			put(t, o, "a")
			o.release(false)
			o.keep()
			put(t, o, "b")
			o.release(false)
		}, []string{"a", "b"}},
		"closed with a last word": {func(o *outbox) { o.keep(); put(t, o, "a"); o.release(true); put(t, o, "alert"); o.Close() }, []string{"aalert"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &socket{}
			c.do(&outbox{Conn: s})
			var got []string
			for _, w := range s.take() {
				got = append(got, string(w))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("wrote %.40q, want %.40q", got, c.want)
			}
		})
	}
}

func put(t *testing.T, o *outbox, s string) {
	t.Helper()
	if n, err := o.Write([]byte(s)); n != len(s) || err != nil {
		t.Error(n, err)
	}
}

// Held bytes whose write failed are an error of that call or of the next one,
// and nothing is written after a gap.
func TestOutboxErrorsStay(t *testing.T) {
	broken := errors.New("broken")
	s := &socket{err: broken}
	o := &outbox{Conn: s}
	o.keep()
	put(t, o, "a")
	if err := o.release(true); err != nil {
		t.Fatal(err) // it is still held
	}
	if _, err := o.Write([]byte("b")); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	s.err = nil
	s.take()
	if _, err := o.Write([]byte("c")); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	o.keep()
	if err := o.release(false); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	o.Close()
	if w := s.take(); len(w) != 0 {
		t.Fatalf("wrote %q after the error", w)
	}
	if !s.closed {
		t.Fatal("the socket is open")
	}
}

// A peer that reads nothing holds up neither Close nor, for long, what is held.
func TestOutboxCloseWithAStuckPeer(t *testing.T) {
	for _, writing := range []bool{true, false} {
		a, b := net.Pipe()
		defer b.Close()
		o := &outbox{Conn: a}
		done := make(chan struct{})
		if writing {
			go func() {
				defer close(done)
				o.Write([]byte("a"))
			}()
			for o.mu.TryLock() { // until the write has begun
				o.mu.Unlock()
				time.Sleep(time.Millisecond)
			}
		} else {
			close(done)
			o.keep()
			put(t, o, "a")
			o.release(true)
		}
		closed := make(chan struct{})
		go func() { o.Close(); close(closed) }()
		for _, c := range []chan struct{}{closed, done} {
			select {
			case <-c:
			case <-time.After(20 * time.Second):
				t.Fatalf("writing %v: Close or Write hangs", writing)
			}
		}
	}
}

// TestRegressionCloseBesideAStalledPeer: a frame was written after crypto/tls
// had returned from its Write, so that its Close took the connection for idle
// and gave the alert, and the frame, five seconds.
func TestRegressionCloseBesideAStalledPeer(t *testing.T) {
	for _, id := range defaultSecurity {
		for _, writing := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, writing %v", id, writing), func(t *testing.T) {
				near, far := net.Pipe() // holds no byte back
				under := &patient{Conn: near}
				c := securedPair(t, id, under, far)
				wrote := make(chan error, 1)
				if writing {
					go func() {
						_, err := c.Write(make([]byte, 64<<10))
						wrote <- err
					}()
					if _, err := io.ReadFull(far, make([]byte, 1)); err != nil { // it has begun
						t.Fatal(err)
					}
				} else {
					wrote <- net.ErrClosed
				}
				under.longest.Store(0)
				c.Close()
				if err := <-wrote; err == nil {
					t.Error("a write that the peer did not take succeeded")
				}
				if l := time.Duration(under.longest.Load()); l > farewell {
					t.Errorf("a write was given %v", l)
				}
			})
		}
	}
}

// patient records the longest time that writes were given.
type patient struct {
	net.Conn
	longest atomic.Int64
}

func (p *patient) SetWriteDeadline(t time.Time) error {
	if d := int64(time.Until(t)); d > p.longest.Load() {
		p.longest.Store(d)
	}
	return p.Conn.SetWriteDeadline(t)
}

func (p *patient) SetDeadline(t time.Time) error {
	return errors.Join(p.SetWriteDeadline(t), p.SetReadDeadline(t))
}

// securedPair shakes hands over two ends of a connection and returns the near
// one; nobody reads from the far one any more.
func securedPair(t *testing.T, id protocol.ID, near, far net.Conn) net.Conn {
	t.Helper()
	key := newKey(t)
	server, err := newSecurity(id, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	farID, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := newSecurity(id, newKey(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := server.SecureInbound(t.Context(), far, "")
		done <- err
	}()
	c, err := client.SecureOutbound(t.Context(), near, farID)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return c
}

// muxedPair returns two sessions over each security transport, and the socket
// under the first.
func muxedPair(t *testing.T, id protocol.ID) (a, b network.MuxedConn, under *socket) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	under = &socket{Conn: near}
	nearKey, farKey := newKey(t), newKey(t)
	farID, err := peer.IDFromPrivateKey(farKey)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, side := range []struct {
		c       net.Conn
		key     crypto.PrivKey
		to      *network.MuxedConn
		inbound bool
	}{{under, nearKey, &a, false}, {far, farKey, &b, true}} {
		wg.Go(func() {
			tr, err := newSecurity(id, side.key, []tptu.StreamMuxer{})
			if err != nil {
				t.Error(err)
				return
			}
			secure := func() (net.Conn, error) { return tr.SecureOutbound(ctx, side.c, farID) }
			if side.inbound {
				secure = func() (net.Conn, error) { return tr.SecureInbound(ctx, side.c, "") }
			}
			c, err := secure()
			if err == nil {
				*side.to, err = newMuxer().NewConn(c, side.inbound, nil)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b, under
}

// Frames that wait while the socket is busy leave together, and a large frame
// is one write, though TLS makes four records of it or more.
func TestBatchesFrames(t *testing.T) {
	for _, id := range []protocol.ID{libp2ptls.ID, noise.ID} {
		t.Run(string(id), func(t *testing.T) {
			a, b, under := muxedPair(t, id)
			s, err := a.OpenStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			far, err := b.AcceptStream()
			if err != nil {
				t.Fatal(err)
			}
			const frames = 40 // fewer than yamux has room for
			want := []byte{}
			got := make([]byte, frames)
			open := under.shut()
			for i := range frames {
				if _, err := s.Write([]byte{byte(i)}); err != nil {
					t.Fatal(err)
				}
				want = append(want, byte(i))
				for i == 0 && !under.waiting() { // until the first is on its way
					time.Sleep(time.Millisecond)
				}
			}
			under.take()
			open()
			if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%v, got %v", err, got)
			}
			if n := len(under.take()); n == 0 || n > 3 { // pings may come between
				t.Errorf("%d frames took %d writes, want 1", frames-1, n)
			}

			const large = 8 << 20
			sum := make(chan int64)
			go func() {
				n, _ := io.Copy(io.Discard, far)
				sum <- n
			}()
			if _, err := s.Write(make([]byte, large)); err != nil {
				t.Fatal(err)
			}
			s.CloseWrite()
			if n := <-sum; n != large {
				t.Fatalf("%d bytes arrived", n)
			}
			// A frame is 64 KiB at most; windows make some smaller.
			if n := len(under.take()); n > large/(64<<10)*3/2 {
				t.Errorf("%d writes for %d bytes", n, large)
			}
		})
	}
}

func (s *socket) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stuck > 0
}

func TestSecurityIsChosen(t *testing.T) {
	server := newHost(t, "/ip4/127.0.0.1/tcp/0")
	for _, c := range []struct {
		ids  []protocol.ID
		want protocol.ID
	}{
		{nil, libp2ptls.ID},
		{[]protocol.ID{noise.ID}, noise.ID},
		{[]protocol.ID{noise.ID, libp2ptls.ID}, noise.ID},
	} {
		client, err := New(Config{Key: newKey(t), Security: c.ids})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if err := client.Connect(t.Context(), peer.AddrInfo{ID: server.ID(), Addrs: server.Addrs()}); err != nil {
			t.Fatal(err)
		}
		if got := client.Network().ConnsToPeer(server.ID())[0].ConnState().Security; got != c.want {
			t.Errorf("%q: %q was used", c.ids, got)
		}
	}
	if h, err := New(Config{Key: newKey(t), Security: []protocol.ID{"/plaintext"}}); err == nil {
		h.Close()
		t.Error("an unknown security transport is no error")
	}
}
