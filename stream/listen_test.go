package stream

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
)

func TestSecondListenIsRefused(t *testing.T) {
	h := newHost(t, "")
	tag := newTag()
	for range 3 { // allowed again after Close
		ln, err := Listen(h, tag)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Listen(h, tag)
		if !errors.Is(err, ErrAddrInUse) || !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second: %v", err)
		}
		if _, ok := err.(*net.OpError); !ok {
			t.Errorf("%T", err)
		}
		ln.Close()
	}
	other := newHost(t, "")
	for _, h := range []corehost.Host{h, other} { // the same name on two hosts
		ln, err := Listen(h, tag)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
	}
	bare := newTag()
	h.SetStreamHandler(bare, func(s network.Stream) { s.Reset() })
	if _, err := Listen(h, bare); !errors.Is(err, ErrAddrInUse) {
		t.Errorf("over a bare handler: %v", err)
	}
	h.RemoveStreamHandler(bare)
	ln, err := Listen(h, bare)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

func TestConcurrentListensHaveOneWinner(t *testing.T) {
	h := newHost(t, "")
	tag := newTag()
	for range 20 {
		var won atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if ln, err := Listen(h, tag); err == nil {
					won.Add(1)
					t.Cleanup(func() { ln.Close() })
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d listeners", won.Load())
		}
		listeners.mu.Lock()
		ln := listeners.m[listenerKey{h.Mux(), tag}]
		listeners.mu.Unlock()
		ln.Close()
	}
}

func TestListenRefuses(t *testing.T) {
	h := newHost(t, "")
	if _, err := Listen(h, ""); err == nil {
		t.Error("no protocol")
	}
	if _, err := Listen(h, newTag(), WithBacklog(0)); err == nil {
		t.Error("no backlog")
	}
	if n := len(listeners.m); n != 0 {
		t.Errorf("%d listeners registered", n)
	}
}

func TestAcceptAndClose(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		ln, err := Listen(b, newTag())
		if err != nil {
			t.Fatal(err)
		}
		if ln.Addr().Network() != "kith" || ln.Addr().String() != b.ID().String() {
			t.Errorf("address before the first Accept: %v", ln.Addr())
		}
		accepted := make(chan error, 4)
		for range cap(accepted) {
			go func() {
				_, err := ln.Accept()
				accepted <- err
			}()
		}
		within(t, 5*time.Second, "Close", func() {
			for range 3 {
				if err := ln.Close(); err != nil {
					t.Error(err)
				}
			}
			for range cap(accepted) {
				if err := <-accepted; !errors.Is(err, net.ErrClosed) {
					t.Errorf("blocked Accept: %v", err)
				}
			}
		})
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v", err)
		}
		if _, err := Dial(t.Context(), a, b.ID(), ln.(*listener).key.tag, WithConfirm()); !errors.Is(err, ErrNoSuchService) {
			t.Errorf("dial after Close: %v", err)
		}
	})
}

func TestCloseResetsWhoWaits(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		ln, err := Listen(b, newTag())
		if err != nil {
			t.Fatal(err)
		}
		l := ln.(*listener)
		var conns []net.Conn
		for range 5 {
			c, err := Dial(t.Context(), a, b.ID(), l.key.tag)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conns = append(conns, c)
		}
		eventually(t, func() string {
			if len(l.queue) < len(conns) {
				return "not all arrive"
			}
			return ""
		})
		accepted, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		if _, err := accepted.Write([]byte("k")); err != nil {
			t.Errorf("an accepted connection ends with the listener: %v", err)
		}
		accepted.Close()
		within(t, 10*time.Second, "resets", func() {
			alive := 0
			for _, c := range conns {
				if _, err := io.ReadAll(c); err == nil {
					alive++
				} else {
					checkReset(t, "waiting", err, network.StreamShutdown)
				}
			}
			if alive != 1 {
				t.Errorf("%d alive", alive)
			}
		})
	})
}

func TestBacklogIsBounded(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		ln, err := Listen(b, newTag(), WithBacklog(2))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		refusals := make(chan error, 5)
		var conns []net.Conn
		var wg sync.WaitGroup
		for range cap(refusals) {
			c, err := Dial(t.Context(), a, b.ID(), ln.(*listener).key.tag)
			if err != nil { // oneself learns at once
				checkReset(t, "self", err, network.StreamResourceLimitExceeded)
				refusals <- nil
				continue
			}
			conns = append(conns, c)
			wg.Go(func() {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
					refusals <- err
				}
			})
		}
		within(t, 10*time.Second, "refusals", func() {
			for range 3 {
				if err := <-refusals; err != nil {
					checkReset(t, "overflow", err, network.StreamResourceLimitExceeded)
				}
			}
		})
		for range 2 {
			s, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
		}
		for _, c := range conns {
			c.Close()
		}
		wg.Wait()
	})
}

func TestAddresses(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		c, far := pipe(t, a, b)
		for _, tc := range []struct {
			got  net.Addr
			want corehost.Host
		}{
			{c.LocalAddr(), a}, {c.RemoteAddr(), b}, {far.LocalAddr(), b}, {far.RemoteAddr(), a},
		} {
			if tc.got.Network() != Network || tc.got.String() != tc.want.ID().String() || tc.got.(Addr).PeerID() != tc.want.ID() {
				t.Errorf("%v, want %v", tc.got, tc.want.ID())
			}
		}
		if c.RemotePeer() != b.ID() || far.RemotePeer() != a.ID() || c.LocalPeer() != a.ID() || (c.Stream() == nil) != (a == b) {
			t.Error("peers")
		}
		ln, err := Listen(b, newTag(), WithHostPortAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		d, err := Dial(t.Context(), a, b.ID(), ln.(*listener).key.tag, WithHostPortAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for _, addr := range []net.Addr{d.LocalAddr(), d.RemoteAddr(), s.LocalAddr(), s.RemoteAddr(), ln.Addr()} {
			name, _, err := net.SplitHostPort(addr.String())
			if err != nil || name != addr.(Addr).PeerID().String() {
				t.Errorf("%v: %q, %v", addr, name, err)
			}
		}
	})
}

func TestServeUntilClosed(t *testing.T) {
	h, tag := newHost(t, ""), newTag()
	ln, err := Listen(h, tag)
	if err != nil {
		t.Fatal(err)
	}
	served, over := make(chan *Conn), make(chan struct{})
	go func() {
		defer close(over)
		Serve(ln, func(c *Conn) { served <- c })
	}()
	for range 3 {
		c, err := Dial(t.Context(), h, h.ID(), tag)
		if err != nil {
			t.Fatal(err)
		}
		(<-served).Close()
		c.Close()
	}
	ln.Close()
	<-over
}
