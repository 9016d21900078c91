package tunnel

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// listenOn returns a listener that takes every connection and answers nothing.
func listenOn(tb testing.TB, network, at string) net.Listener {
	tb.Helper()
	l, err := net.Listen(network, at)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Close()
		}
	}()
	return l
}

func dialerOf(tb testing.TB, a net.Addr) *targetDialer {
	tb.Helper()
	m, err := manet.FromNetAddr(a)
	if err != nil {
		tb.Fatal(err)
	}
	return newTargetDialer(m, newLimiter(Limits{ConnectTimeout: 20 * time.Second}))
}

// The handshake is over before the net package looks, so that it does not wait.
func TestEarlyConnectIsEarly(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		d := dialerOf(t, listenOn(t, "tcp", at).Addr())
		early, connected := d.dialer.Control, false
		if early == nil {
			t.Fatalf("%s: not connected early", at)
		}
		d.dialer.Control = func(network, address string, c syscall.RawConn) error {
			err := early(network, address, c)
			return errors.Join(err, c.Control(func(fd uintptr) {
				_, err := syscall.Getpeername(int(fd))
				connected = err == nil
			}))
		}
		c, e := d.dial(t.Context())
		if e != nil {
			t.Fatal(at, e)
		}
		if !connected || c.RemoteAddr().String() != d.addr {
			t.Errorf("%s: connected early: %t, to %s, want %s", at, connected, c.RemoteAddr(), d.addr)
		}
		c.Close()
	}
}

// What cannot be reached is reported as it was, whoever connected first.
func TestEarlyConnectKeepsErrors(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := dialerOf(t, l.Addr())
	l.Close()
	for range 3 { // a socket that failed is not used again
		c, e := d.dial(t.Context())
		if e == nil {
			c.Close()
			t.Fatal("connected to a closed port")
		}
		if e.Reason != ReasonTarget || !errors.Is(e.Err, syscall.ECONNREFUSED) || e.Detail != "the service's target is not running (connection refused); "+startTarget {
			t.Errorf("got %v, %v, %q", e.Reason, e.Err, e.Detail)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	open := dialerOf(t, listenOn(t, "tcp4", "127.0.0.1:0").Addr())
	if c, e := open.dial(ctx); e == nil {
		c.Close()
		t.Error("connected although the context had ended")
	} else if !errors.Is(e.Err, context.Canceled) {
		t.Errorf("got %v", e.Err)
	}
}

// Elsewhere the first packet must not leave before the net package is ready.
func TestEarlyConnectOnlyWithinTheMachine(t *testing.T) {
	for _, s := range []string{"/ip4/192.0.2.1/tcp/80", "/ip6/2001:db8::1/tcp/80", "/dns4/localhost/tcp/80", "/unix/tmp/x"} {
		if d := newTargetDialer(ma.StringCast(s), newLimiter(Limits{})); d.dialer.Control != nil || d.err != nil {
			t.Errorf("%s: early, or not at all (%v)", s, d.err)
		}
	}
}

// What a connection to a target of this machine costs, closing it included.
func BenchmarkDialTarget(b *testing.B) {
	l := listenOn(b, "tcp4", "127.0.0.1:0")
	for _, early := range []bool{true, false} {
		name := "early"
		if !early {
			name = "plain"
		}
		b.Run(name, func(b *testing.B) {
			d := dialerOf(b, l.Addr())
			if !early {
				d.dialer.Control = nil
			}
			for b.Loop() {
				c, e := d.dial(b.Context())
				if e != nil {
					b.Fatal(e)
				}
				c.(*net.TCPConn).SetLinger(0) // no port is left waiting
				c.Close()
			}
		})
	}
}
