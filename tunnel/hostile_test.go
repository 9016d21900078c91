package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Each test here is a fault that a review found.

// closesQuickly closes p and wants it done well within two seconds.
func closesQuickly(t *testing.T, p *P2P) {
	t.Helper()
	start := time.Now()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 1500*time.Millisecond {
		t.Errorf("Close took %v", d)
	}
}

// Any stranger could hold up the end of a node for the ten seconds that an
// open frame may take.
func TestCloseDoesNotWaitForASilentStranger(t *testing.T) {
	a := newNode(t, overTCP)
	stranger := newHost(t)
	if err := stranger.Connect(t.Context(), peer.AddrInfo{ID: a.id, Addrs: a.h.Addrs()}); err != nil {
		t.Fatal(err)
	}
	c, err := stream.Dial(t.Context(), stranger, a.id, Protocol, stream.WithConfirm())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "it is being read", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.greeting[stranger.ID()] == 1
	})
	closesQuickly(t, a.P2P)
}

// A mount made while the node closes was passed over, and its accept loop
// waited for for ever.
func TestMountsRacingClose(t *testing.T) {
	h, other := newHost(t, overTCP), newHost(t)
	for i := range 300 {
		p := NewP2P(h.ID(), h, nil)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				p.Dial(context.Background(), nil, other.ID(), "x", ma.StringCast("/ip4/127.0.0.1/tcp/0"))
			})
			wg.Go(func() { p.Listen(fmt.Sprint("/x/", i)) })
		}
		done := make(chan struct{})
		go func() { p.Close(); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("round %d: Close hangs; %d mounts are left", i, len(p.Listeners.List()))
		}
		wg.Wait()
		if n := len(p.Listeners.List()); n != 0 {
			t.Fatalf("round %d: %d mounts are left", i, n)
		}
	}
}

// A peer that stops reading its TCP connection held up resets, one after the
// other, for as long as yamux takes to give up.
func TestCloseDoesNotWaitForAStalledPeer(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "blast", service(t, func(c net.Conn) {
		for buf := make([]byte, 64<<10); ; {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}), AllowAny())
	var stall atomic.Bool
	port, _ := a.h.Addrs()[0].ValueForProtocol(ma.P_TCP)
	relay := service(t, func(c net.Conn) { // between the two, until it stalls
		u, err := net.Dial("tcp4", "127.0.0.1:"+port)
		if err != nil {
			return
		}
		t.Cleanup(func() { u.Close() })
		go io.Copy(u, c)
		for buf := make([]byte, 32<<10); !stall.Load(); {
			n, err := u.Read(buf)
			if err != nil {
				return
			}
			c.Write(buf[:n])
		}
		<-a.ctx.Done()
	})
	if err := b.h.Connect(t.Context(), peer.AddrInfo{ID: a.id, Addrs: []ma.Multiaddr{relay}}); err != nil {
		t.Fatal(err)
	}
	info, err := b.Dial(t.Context(), nil, a.id, "blast", ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		t.Fatal(err)
	}
	bound, _ := info.Address.ValueForProtocol(ma.P_TCP)
	for range 50 {
		c := dial(t, "127.0.0.1:"+bound)
		go io.Copy(io.Discard, c)
	}
	eventually(t, "all are live", func() bool { return a.Streams.Len() == 50 })
	stall.Store(true)
	last := a.Streams.List()
	eventually(t, "nothing moves any more", func() bool {
		now := a.Streams.List()
		same := len(now) == len(last)
		for i := range now {
			same = same && now[i].BytesOut == last[i].BytesOut
		}
		last = now
		time.Sleep(50 * time.Millisecond) // an interval to compare
		return same
	})
	closesQuickly(t, a.P2P)
}

// Two strangers who opened streams and said nothing could take all that a
// protocol may have, and lock out those who may use a service.
func TestStrangersDoNotLockOutFriends(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowPeers(b.id))
	b.Remember(a.id, a.addr())
	var wg sync.WaitGroup
	for range 3 {
		s := newHost(t)
		if err := s.Connect(t.Context(), peer.AddrInfo{ID: a.id, Addrs: a.h.Addrs()}); err != nil {
			t.Fatal(err)
		}
		for range 8 {
			wg.Go(func() {
				for range 200 {
					c, err := stream.Dial(t.Context(), s, a.id, Protocol)
					if err != nil {
						return
					}
					t.Cleanup(func() { c.Close() })
				}
			})
		}
	}
	wg.Wait()
	a.mu.Lock()
	for p, n := range a.greeting {
		if n > strangerStreams {
			t.Errorf("%s holds %d streams that say nothing", p, n)
		}
	}
	a.mu.Unlock()
	c, err := b.Open(t.Context(), a.id, "echo")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	roundTrip(t, c, "a friend gets in")
	if a.Stats().Refused[ReasonLimit] == 0 {
		t.Error("no stranger was refused")
	}
}

// Over QUIC the refusal's reason was lost when the caller was sending.
func TestRefusalWhileUploading(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			a, b := newNode(t, tr.listen), newNode(t)
			expose(t, a, "closed", service(t, echo))
			addr := forwardTo(t, b, a, "closed")
			for range 20 {
				if c, err := net.Dial("tcp4", addr); err == nil {
					c.SetDeadline(time.Now().Add(10 * time.Second))
					c.Write(make([]byte, 4<<20))
					io.Copy(io.Discard, c)
					c.Close()
				}
			}
			eventually(t, "all are refused", func() bool {
				n := uint64(0)
				for _, k := range b.Stats().Refused {
					n += k
				}
				return n == 20
			})
			if got := b.Stats().Refused; got[ReasonNotAllowed] != 20 {
				t.Errorf("the client side heard %v", got)
			}
		})
	}
}

// A closed HTTP service went on to answer on kept-alive connections, and kept
// its own to the target.
func TestClosedHTTPServiceIsClosed(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	var open atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	srv.Start()
	defer srv.Close()
	info := expose(t, a, "web", ma.StringCast("/ip4/127.0.0.1/tcp/"+portOf(srv.Listener)), AllowAny(), func(c *ServiceConfig) { c.HTTP = true })
	c := dial(t, forwardTo(t, b, a, "web"))
	get := func() string {
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		buf := make([]byte, 4096)
		n, _ := c.Read(buf)
		return string(buf[:n])
	}
	if got := get(); !strings.Contains(got, "200 OK") {
		t.Fatalf("%q", got)
	}
	info.Closer.Close()
	if got := get(); strings.Contains(got, "200 OK") {
		t.Errorf("after it was closed: %q", got)
	}
	eventually(t, "no connection to the target is kept", func() bool { return open.Load() == 0 })
}

// The peer header could be smuggled past us in a spelling that many targets
// fold into it, as a trailer, or by leaving HTTP/1.1.
func TestPeerHeaderCannotBeForged(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	seen := make(chan *http.Request, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		seen <- r
	}))
	defer srv.Close()
	expose(t, a, "web", ma.StringCast("/ip4/127.0.0.1/tcp/"+portOf(srv.Listener)), AllowAny(), func(c *ServiceConfig) { c.HTTP = true })
	c := dial(t, forwardTo(t, b, a, "web"))
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nX_Kith_Peer: victim\r\nx-kith_peer: victim\r\nX-Kith-Peer: victim\r\n"+
		"Connection: X-Kith-Peer, Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"+
		"Transfer-Encoding: chunked\r\nTrailer: X-Kith-Peer\r\n\r\n1\r\na\r\n0\r\nX-Kith-Peer: victim\r\n\r\n")
	r := <-seen
	for name, values := range r.Header {
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), PeerHeader) && (len(values) != 1 || values[0] != b.id.String()) {
			t.Errorf("%s: %v", name, values)
		}
	}
	if len(r.Trailer) != 0 || r.Header.Get("Upgrade") != "" || r.Header.Get("Http2-Settings") != "" || r.Header.Get(PeerHeader) != b.id.String() {
		t.Errorf("header %v, trailer %v", r.Header, r.Trailer)
	}
}

// Waits for bandwidth kept a connection from its deadline and its Close.
func TestBandwidthWaitsEnd(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	l, err := a.Listen("slow", AllowAny(), func(c *ServiceConfig) { c.Limits.Bandwidth = 100 })
	if err != nil {
		t.Fatal(err)
	}
	b.Remember(a.id, a.addr())
	c, err := b.Open(t.Context(), a.id, "slow")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	s.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	start := time.Now()
	if _, err := s.Write(make([]byte, 10_000)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > 5*time.Second {
		t.Errorf("deadline: %v after %v", err, time.Since(start))
	}
	s.SetWriteDeadline(time.Time{})
	written := make(chan error, 1)
	go func() {
		_, err := s.Write(make([]byte, 10_000))
		written <- err
	}()
	s.Close()
	select {
	case err := <-written:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Close does not release a write that waits for bandwidth")
	}
	eventually(t, "nothing is listed", func() bool { return a.Streams.Len() == 0 })
}

// The idle timeout holds for connections that a program accepts, too.
func TestIdleTimeoutOfAcceptedConnections(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	l, err := a.Listen("svc", AllowAny(), func(c *ServiceConfig) { c.Limits.IdleTimeout = 100 * time.Millisecond })
	if err != nil {
		t.Fatal(err)
	}
	b.Remember(a.id, a.addr())
	c, err := b.Open(t.Context(), a.id, "svc")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := l.AcceptConn(); err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(c)
	if e := reasonOf(err); e == nil || e.Reason != ReasonIdle {
		t.Errorf("ended with %v", err)
	}
	if n := a.Stats().Refused[ReasonIdle]; n != 1 {
		t.Errorf("counted %d", n)
	}
}

// The caller's own change of mind is not the node's end.
func TestCancelledOpen(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	block := make(chan struct{})
	a.h.RemoveStreamHandler(Protocol)
	a.inner.Close()
	sl, err := stream.Listen(a.h, Protocol) // agrees to the protocol and says no more
	if err != nil {
		t.Fatal(err)
	}
	defer sl.Close()
	go func() {
		defer close(block)
		for {
			if _, err := sl.Accept(); err != nil {
				return
			}
		}
	}()
	b.Remember(a.id, a.addr())
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := b.Open(ctx, a.id, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if got := b.Stats().Refused; len(got) != 0 {
		t.Errorf("counted %v", got)
	}
	sl.Close()
	<-block
}
