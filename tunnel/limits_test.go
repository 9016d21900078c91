package tunnel

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

func TestMaxConnectionsIsHeldExactly(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	const most = 5
	expose(t, a, "echo", service(t, echo), AllowAny(), func(c *ServiceConfig) { c.Limits.MaxConnections = most })
	b.Remember(a.id, a.addr())
	var mu sync.Mutex
	var open []net.Conn
	var wg sync.WaitGroup
	refused := 0
	for range 4 * most {
		wg.Go(func() {
			c, err := b.Open(t.Context(), a.id, "echo")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				open = append(open, c)
			} else if errors.Is(err, &Error{Reason: ReasonLimit}) {
				refused++
			} else {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(open) != most || refused != 3*most {
		t.Fatalf("%d open, %d refused", len(open), refused)
	}
	for _, c := range open {
		roundTrip(t, c, "x")
	}
	open[0].Close()
	eventually(t, "a place is free again", func() bool {
		c, err := b.Open(t.Context(), a.id, "echo")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	for _, c := range open {
		c.Close()
	}
	eventually(t, "nothing is left", func() bool { return a.Streams.Len() == 0 && b.Streams.Len() == 0 })
}

func TestIdleTimeout(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	const idle = 300 * time.Millisecond
	expose(t, a, "echo", service(t, echo), AllowAny(), func(c *ServiceConfig) { c.Limits.IdleTimeout = idle })
	c := dial(t, forwardTo(t, b, a, "echo"))
	busy := time.Now()
	for time.Since(busy) < 2*idle { // traffic keeps it open
		roundTrip(t, c, "x")
	}
	quiet := time.Now()
	wantReset(t, c)
	if d := time.Since(quiet); d < idle/2 || d > 20*idle {
		t.Errorf("cut after %v of silence", d)
	}
	eventually(t, "both sides know why", func() bool {
		return a.Stats().Refused[ReasonIdle] == 1 && b.Stats().Refused[ReasonIdle] == 1
	})
}

func TestBandwidth(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	const rate = 4 << 20
	expose(t, a, "sink", service(t, func(c net.Conn) {
		n, _ := io.Copy(io.Discard, c)
		if n != 2*rate {
			t.Errorf("%d bytes arrived", n)
		}
		c.Write([]byte("x"))
	}), AllowAny(), func(c *ServiceConfig) { c.Limits.Bandwidth = rate })
	c := dial(t, forwardTo(t, b, a, "sink"))
	start := time.Now()
	c.Write(make([]byte, 2*rate))
	c.CloseWrite()
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	// 8 MiB at 4 MiB/s, less the burst.
	if d := time.Since(start); d < 1200*time.Millisecond {
		t.Errorf("8 MiB passed a limit of 4 MiB/s in %v", d)
	}
}

// A transfer that waits for bandwidth must not hold up the end of the node.
func TestCloseReleasesBandwidthWaiters(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "sink", service(t, func(c net.Conn) { io.Copy(io.Discard, c) }), AllowAny(),
		func(c *ServiceConfig) { c.Limits.Bandwidth = 1000 })
	c := dial(t, forwardTo(t, b, a, "sink"))
	go c.Write(make([]byte, 4<<20))
	eventually(t, "the limit bites", func() bool { return a.Stats().Served == 1 && a.Stats().Buffers == 0 && a.Streams.Len() == 1 })
	start := time.Now()
	a.P2P.Close()
	if d := time.Since(start); d > time.Second {
		t.Errorf("Close took %v", d)
	}
}

func TestOptionFaults(t *testing.T) {
	a := newNode(t)
	target := ma.StringCast("/ip4/127.0.0.1/tcp/9")
	for name, o := range map[string]ListenOption{
		"PROXY 3":          func(c *ServiceConfig) { c.ProxyProtocol = 3 },
		"HTTP and PROXY":   func(c *ServiceConfig) { c.HTTP, c.ProxyProtocol = true, 1 },
		"HTTP and report":  func(c *ServiceConfig) { c.HTTP, c.ReportPeerID = true, true },
		"connections":      func(c *ServiceConfig) { c.Limits.MaxConnections = -1 },
		"rate":             func(c *ServiceConfig) { c.Limits.ConnectionRate = -1 },
		"bandwidth":        func(c *ServiceConfig) { c.Limits.Bandwidth = -1 },
		"idle":             func(c *ServiceConfig) { c.Limits.IdleTimeout = -1 },
		"too many":         func(c *ServiceConfig) { c.Limits.MaxConnections = 2_000_000 },
		"negative connect": func(c *ServiceConfig) { c.Limits.ConnectTimeout = -1 },
		"PROXY below zero": func(c *ServiceConfig) { c.ProxyProtocol = -1 },
	} {
		if _, err := a.NewListener(t.Context(), "s", target, o); !errors.Is(err, ErrOption) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := a.Listen("s", func(c *ServiceConfig) { c.HTTP = true }); !errors.Is(err, ErrOption) {
		t.Errorf("HTTP without a target: %v", err)
	}
	if _, err := a.Dial(t.Context(), nil, a.id, "s", ma.StringCast("/ip4/127.0.0.1/tcp/0"), func(c *ForwardConfig) { c.Timeout = -1 }); !errors.Is(err, ErrOption) {
		t.Errorf("timeout: %v", err)
	}
}
