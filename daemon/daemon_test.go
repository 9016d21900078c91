package daemon

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

// noLeaks fails the test when it ends with more goroutines than it began with.
func noLeaks(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d before the test:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

// newHome returns a home whose control socket has a short path.
func newHome(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "kd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "h")
}

// running is a daemon in this process.
type running struct {
	home   string
	status *controlv1.StatusResponse
	client *Client
	stop   context.CancelFunc
	done   chan error
}

// start runs a daemon on 127.0.0.1 until the test ends, and checks then that it
// ends well and in time.
func start(t *testing.T, home string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{home: home, stop: cancel, done: make(chan error, 1)}
	ready := make(chan *controlv1.StatusResponse, 1)
	go func() {
		r.done <- Run(ctx, Options{
			Home: home, Version: "test", Log: t.Output(),
			Override: func(c *Config) { c.LocalOnly = true },
			Ready:    func(st *controlv1.StatusResponse) { ready <- st },
		})
	}()
	select {
	case r.status = <-ready:
	case err := <-r.done:
		cancel()
		t.Fatalf("Run ended before it was ready: %v", err)
	}
	t.Cleanup(func() { r.end(t) })
	var err error
	if r.client, err = Dial(home); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
	return r
}

// end stops the daemon and checks that it takes less than two seconds. It may
// be called again.
func (r *running) end(t *testing.T) {
	t.Helper()
	begin := time.Now()
	r.stop()
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
		r.done <- nil
	case <-time.After(10 * time.Second):
		t.Fatal("Run did not end")
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the end took %s", took)
	}
}

// echo serves a TCP port that sends back what it gets, and returns its address.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 1024)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}
