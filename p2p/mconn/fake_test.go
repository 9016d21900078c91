package mconn

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// A fakeConn reads from r and forgets what is written.
type fakeConn struct{ r io.Reader }

func (c fakeConn) Read(b []byte) (int, error)       { return c.r.Read(b) }
func (c fakeConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c fakeConn) Close() error                     { return nil }
func (c fakeConn) LocalAddr() net.Addr              { return nil }
func (c fakeConn) RemoteAddr() net.Addr             { return nil }
func (c fakeConn) SetDeadline(time.Time) error      { return nil }
func (c fakeConn) SetReadDeadline(time.Time) error  { return nil }
func (c fakeConn) SetWriteDeadline(time.Time) error { return nil }

// bounded runs f and fails if it allocated more than 4 times n and 64 KiB.
func bounded(t testing.TB, n int, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4*n+64<<10); got > most {
		t.Fatalf("%d bytes allocated for %d, at most %d are allowed", got, n, most)
	}
}

// goroutines fails the test if, when it ends, more goroutines run than at its start.
func goroutines(t testing.TB) {
	t.Helper()
	start := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(30 * time.Second)
		for runtime.NumGoroutine() > start {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d at the start:\n%s", runtime.NumGoroutine(), start, stacks[:runtime.Stack(stacks, true)])
			}
			runtime.Gosched()
			time.Sleep(time.Millisecond)
		}
	})
}
