package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
)

// 3,000 connections at once through one tunnel: all of them are open at the
// same time, and all of them work.
func TestThreeThousandConnections(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	// Whether they all work, not how soon: the machine may have other work.
	const patience = 4 * time.Minute
	expose(t, a, "echo", service(t, echo), AllowPeers(b.id), func(c *ServiceConfig) { c.Limits.ConnectTimeout = patience })
	addr := forwardTo(t, b, a, "echo", func(c *ForwardConfig) { c.Timeout = patience })
	const n = 3000
	before := runtime.NumGoroutine()
	conns := make([]net.Conn, n)
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for i := range n {
		wg.Go(func() {
			c, err := net.DialTimeout("tcp4", addr, patience)
			if err != nil {
				errs <- err
				return
			}
			conns[i] = c
			c.SetDeadline(time.Now().Add(patience))
			want := fmt.Sprint("connection ", i)
			got := make([]byte, len(want))
			if _, err := io.WriteString(c, want); err != nil {
				errs <- err
			} else if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
				errs <- fmt.Errorf("connection %d: %q, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	failed := 0
	for err := range errs {
		if failed++; failed <= 3 {
			t.Error(err)
		}
	}
	if failed > 0 {
		t.Fatalf("%d of %d failed; refusals: %v, %v", failed, n, a.Stats().Refused, b.Stats().Refused)
	}
	if got := a.Streams.Len(); got != n {
		t.Errorf("%d are live at once, want %d", got, n)
	}
	if s := a.Stats().Buffers + b.Stats().Buffers; s > 1<<20 {
		t.Errorf("%d bytes of buffers for connections that wait", s)
	}
	for _, c := range conns {
		c.Close()
	}
	eventually(t, "all end", func() bool { return a.Streams.Len() == 0 && b.Streams.Len() == 0 })
	eventually(t, "their goroutines end", func() bool { return runtime.NumGoroutine() <= before+10 })
}

// Over QUIC a peer of another make allows as many streams as go-libp2p does.
// Whoever meets that cap is told.
func TestQUICStreamCapHasAReason(t *testing.T) {
	const stockStreams = 256
	h, err := libp2p.New(libp2p.ResourceManager(&network.NullResourceManager{}), libp2p.ListenAddrStrings(overQUIC))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	a, b := nodeOver(t, h), newNode(t)
	expose(t, a, "hold", service(t, func(c net.Conn) { io.Copy(io.Discard, c) }), AllowAny())
	b.Remember(a.id, a.addr())
	opened := 0
	for ; err == nil && opened <= stockStreams; opened++ {
		var c net.Conn
		c, err = b.Open(t.Context(), a.id, "hold", func(c *ForwardConfig) { c.Timeout = time.Minute })
		if err == nil {
			defer c.Close()
		}
	}
	if !errors.Is(err, &Error{Reason: ReasonLimit}) || !strings.Contains(err.Error(), "QUIC") {
		t.Fatalf("stream %d: %v", opened, err)
	}
}

// Between our own nodes QUIC held 255 connections, whoever had asked for more.
func TestRegressionQUICHeldFew(t *testing.T) {
	a, b := newNode(t, overQUIC), newNode(t)
	expose(t, a, "hold", service(t, func(c net.Conn) { io.Copy(io.Discard, c) }), AllowAny())
	b.Remember(a.id, a.addr())
	for n := range 600 {
		c, err := b.Open(t.Context(), a.id, "hold")
		if err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
		defer c.Close()
	}
}
