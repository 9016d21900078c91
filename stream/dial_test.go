package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

func TestSilentDiallerIsSeen(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		for range 3 { // libp2p negotiates lazily from the second time on
			within(t, 10*time.Second, "accepting a silent dialler", func() { pipe(t, a, b) })
		}
	})
}

func TestServerSpeaksFirst(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		c, far := pipe(t, a, b)
		go far.Write([]byte("220 ready"))
		buf := make([]byte, 9)
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "220 ready" {
			t.Errorf("%q, %v", buf, err)
		}
	})
}

func TestNoSuchService(t *testing.T) {
	check := func(t *testing.T, what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrNoSuchService) || isTimeout(err) || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", what, err)
		}
	}
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		_, err := Dial(t.Context(), a, b.ID(), newTag(), WithConfirm())
		check(t, "confirmed dial", err)
		if a == b {
			_, err := Dial(t.Context(), a, b.ID(), newTag(), WithLazy())
			check(t, "self", err)
			return
		}
		for _, opts := range [][]DialOption{nil, {WithLazy()}} {
			uses := map[string]func(c net.Conn) error{
				"read":        func(c net.Conn) error { _, err := c.Read(make([]byte, 1)); return err },
				"write":       writeError,
				"write, read": func(c net.Conn) error { c.Write(make([]byte, 100)); _, err := io.ReadAll(c); return err },
				"half closed": func(c net.Conn) error { c.(*Conn).CloseWrite(); _, err := io.ReadAll(c); return err },
			}
			for name, use := range uses {
				c, err := Dial(t.Context(), a, b.ID(), newTag(), opts...)
				if err != nil {
					t.Fatal(err)
				}
				within(t, 15*time.Second, name, func() { check(t, name, use(c)) })
				if _, err := c.Read(make([]byte, 1)); name != "write" {
					check(t, name+", again", err)
				}
				c.Close()
			}
		}
	})
}

func TestConfirm(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		c, far := pipe(t, a, b, WithConfirm())
		if c.answer != nil || c.state.Load()&answered == 0 {
			t.Error("not confirmed")
		}
		go echo(far)
		c.Write([]byte("k"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
}

// libp2p's own lazy negotiation takes a read deadline that passes before the
// answer for the end of the stream.
func TestReadDeadlineBeforeTheAnswerSpoilsNothing(t *testing.T) {
	a, b := connected(t, "/ip4/127.0.0.1/tcp/0")
	ln, err := Listen(b, newTag())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	release := hold(t, b)
	c, err := Dial(t.Context(), a, b.ID(), ln.(*listener).key.tag)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
	}
	c.SetReadDeadline(time.Time{})
	release()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Write([]byte("k"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("after the deadline: %v", err)
	}
}

// libp2p's own lazy negotiation makes Close wait for the answer.
func TestCloseDoesNotWaitForTheAnswer(t *testing.T) {
	for _, at := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"} {
		a, b := connected(t, at)
		hold(t, b)
		c, err := Dial(t.Context(), a, b.ID(), newTag())
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		within(t, 3*time.Second, "Close", func() {
			c.Close()
			if err := <-read; !errors.Is(err, net.ErrClosed) {
				t.Errorf("read: %v", err)
			}
		})
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	a, b := connected(t, "/ip4/127.0.0.1/tcp/0")
	release := hold(t, b)
	t.Cleanup(func() { checkNothingLeft(t, a, b) })
	t.Cleanup(release)
	for _, tc := range []struct {
		name string
		ends time.Duration
		end  func(context.CancelFunc)
		want error
		text string
	}{
		{"ended before", time.Hour, func(cancel context.CancelFunc) { cancel() }, context.Canceled, "not dialled"},
		{"cancelled", time.Hour, func(cancel context.CancelFunc) { time.AfterFunc(50*time.Millisecond, cancel) }, context.Canceled, "has not agreed"},
		{"deadline", 200 * time.Millisecond, func(context.CancelFunc) {}, context.DeadlineExceeded, "has not agreed"},
	} {
		within(t, 5*time.Second, tc.name, func() {
			ctx, cancel := context.WithTimeout(t.Context(), tc.ends)
			defer cancel()
			tc.end(cancel)
			_, err := Dial(ctx, a, b.ID(), newTag(), WithConfirm())
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s: %v", tc.name, err)
			}
			if isTimeout(err) != (tc.want == context.DeadlineExceeded) {
				t.Errorf("%s: timeout %v", tc.name, isTimeout(err))
			}
		})
	}
}

func TestDialRefuses(t *testing.T) {
	a, b := newHost(t, ""), newHost(t, "")
	for name, dial := range map[string]func() (net.Conn, error){
		"no protocol":   func() (net.Conn, error) { return Dial(t.Context(), a, b.ID(), "") },
		"no peer":       func() (net.Conn, error) { return Dial(t.Context(), a, "", "/x") },
		"no address":    func() (net.Conn, error) { return Dial(t.Context(), a, b.ID(), "/x") },
		"no such self":  func() (net.Conn, error) { return Dial(t.Context(), a, a.ID(), "/x") },
		"nowhere, lazy": func() (net.Conn, error) { return Dial(t.Context(), a, b.ID(), "/x", WithLazy()) },
	} {
		within(t, 5*time.Second, name, func() {
			c, err := dial()
			if _, ok := err.(*net.OpError); !ok || c != nil {
				t.Errorf("%s: %v, %v", name, c, err)
			}
		})
	}
}

func TestLimitedRelay(t *testing.T) {
	a, b := relayed(t) // with the limits that relays have by default
	tag := newTag()
	ln, err := Listen(b, tag)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, when := range []string{"connecting", "connected"} {
		within(t, 3*time.Second, when, func() {
			_, err := Dial(t.Context(), a, b.ID(), tag)
			if !errors.Is(err, ErrLimitedConn) || !errors.Is(err, network.ErrLimitedConn) || isTimeout(err) {
				t.Errorf("%s: %v", when, err)
			}
		})
	}
	// The same for whoever is dialled back over the peer's own connection.
	if _, err := Dial(t.Context(), b, a.ID(), tag); !errors.Is(err, ErrLimitedConn) {
		t.Errorf("back: %v", err)
	}
	go func() {
		if s, err := ln.Accept(); err == nil {
			echo(s)
		}
	}()
	c, err := Dial(t.Context(), a, b.ID(), tag, WithAllowLimited())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("small"))
	c.(*Conn).CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "small" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// What a relay cuts off is a reset, not an end.
func TestRelayLimitIsAReset(t *testing.T) {
	a, b := relayed(t)
	c, far := pipe(t, a, b, WithAllowLimited())
	go writeForever(c)
	within(t, 20*time.Second, "the cut", func() {
		if _, err := io.Copy(io.Discard, far); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("cut: %v", err)
		}
	})
	c.Close()
}

func TestDialSurvivesALostConnection(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		for range 3 {
			c, far := pipe(t, a, b)
			c.Close()
			far.Close()
			b.Network().ClosePeer(a.ID())
			a.Network().ClosePeer(b.ID())
		}
	})
}

func TestPeerNetwork(t *testing.T) {
	a, b := newHost(t, ""), newHost(t, "/ip4/127.0.0.1/tcp/0")
	tag := newTag()
	ln, err := NewPeerNetwork(b, tag).ListenPeer()
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := NewPeerNetwork(b, tag).ListenPeer(); !errors.Is(err, ErrAddrInUse) {
		t.Errorf("second: %v", err)
	}
	go func() {
		for {
			s, err := ln.Accept()
			if err != nil {
				return
			}
			go echo(s)
		}
	}()
	for _, tc := range []struct {
		h    corehost.Host
		info peer.AddrInfo
	}{
		{a, peer.AddrInfo{ID: b.ID(), Addrs: b.Network().ListenAddresses()}},
		{a, peer.AddrInfo{ID: b.ID()}},
		{b, peer.AddrInfo{ID: b.ID(), Addrs: b.Network().ListenAddresses()}},
	} {
		c, err := NewPeerNetwork(tc.h, tag).DialPeer(t.Context(), tc.info)
		if err != nil {
			t.Fatal(err)
		}
		if id, ok := PeerOf(c); !ok || id != b.ID() {
			t.Errorf("PeerOf: %v", id)
		}
		c.Write([]byte("k"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		c.Close()
	}
}
