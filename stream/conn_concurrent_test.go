package stream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	corehost "github.com/libp2p/go-libp2p/core/host"
)

// Every way of ending it releases who is blocked, and who waits behind.
func TestBlockedAreReleased(t *testing.T) {
	ends := []struct {
		name        string
		end         func(c, far *Conn)
		read, write error
	}{
		{"Close", func(c, _ *Conn) { c.Close() }, net.ErrClosed, net.ErrClosed},
		{"Reset", func(c, _ *Conn) { c.Reset() }, net.ErrClosed, net.ErrClosed},
		{"remote Reset", func(_, far *Conn) { far.Reset() }, syscall.ECONNRESET, syscall.ECONNRESET},
		{"deadline", func(c, _ *Conn) { c.SetDeadline(time.Now()) }, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
		{"CloseRead and CloseWrite", func(c, _ *Conn) { c.CloseWrite(); c.CloseRead() }, net.ErrClosed, net.ErrClosed},
	}
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		for _, tc := range ends {
			t.Run(tc.name, func(t *testing.T) {
				c, far := pipe(t, a, b)
				fillWindow(t, c)
				const each = 4
				var wg, started sync.WaitGroup
				started.Add(2 * each)
				for range each {
					wg.Go(func() {
						started.Done()
						if _, err := c.Write(make([]byte, 1<<20)); !errors.Is(err, tc.write) {
							t.Errorf("write: %v, want %v", err, tc.write)
						}
					})
					wg.Go(func() {
						started.Done()
						if _, err := c.Read(make([]byte, 16)); !errors.Is(err, tc.read) {
							t.Errorf("read: %v, want %v", err, tc.read)
						}
					})
				}
				started.Wait()
				runtime.Gosched()
				within(t, 10*time.Second, tc.name, func() {
					tc.end(c, far)
					wg.Wait()
				})
				c.Close()
				far.Close()
			})
		}
	})
}

// yamux wakes one of several blocked readers when the stream ends; the others
// would sleep for ever.
func TestConcurrentReadersAllSeeTheEnd(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		c, far := pipe(t, a, b)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := c.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("read: %v", err)
				}
			})
		}
		far.CloseWrite()
		within(t, 10*time.Second, "EOF for all", wg.Wait)
	})
}

// Concurrent writers on a bare yamux stream overspend its window, which costs
// the whole connection to the peer.
func TestConcurrentWritersKeepTheConnection(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		const writers, each, size = 16, 40, 8 << 10
		bystander, far := pipe(t, a, b)
		go echo(far)
		c, sink := pipe(t, a, b)
		counted := make(chan int64, 1)
		go func() {
			n, _ := io.Copy(io.Discard, sink)
			counted <- n
		}()
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for range each {
					if n, err := c.Write(make([]byte, size)); n != size || err != nil {
						t.Errorf("write: %d, %v", n, err)
						return
					}
				}
			})
		}
		within(t, 30*time.Second, "writing", wg.Wait)
		c.CloseWrite()
		if n := <-counted; n != writers*each*size {
			t.Errorf("%d bytes arrived", n)
		}
		if _, err := bystander.Write([]byte("k")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(bystander, make([]byte, 1)); err != nil {
			t.Errorf("the connection to the peer is gone: %v", err)
		}
	})
}

// Concurrent Writes are whole: their bytes do not mix.
func TestWritesAreWhole(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		c, far := pipe(t, a, b)
		const size = 300 << 10 // more than a window
		go func() {
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() { c.Write(bytes.Repeat([]byte{byte('a' + i)}, size)) })
			}
			wg.Wait()
			c.CloseWrite()
		}()
		for range 4 {
			buf := make([]byte, size)
			if _, err := io.ReadFull(far, buf); err != nil {
				t.Fatal(err)
			}
			if bytes.Count(buf, buf[:1]) != size {
				t.Fatal("two writes are mixed")
			}
		}
	})
}

// Deadlines that are set while Close runs must not undo its own.
func TestDeadlineSettersDoNotHoldUpClose(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		for range 10 {
			c, far := pipe(t, a, b)
			var wg sync.WaitGroup
			wg.Go(func() { writeForever(c) })
			wg.Go(func() {
				for c.SetDeadline(time.Time{}) == nil {
				}
			})
			runtime.Gosched()
			within(t, 10*time.Second, "Close", func() {
				c.Close()
				wg.Wait()
			})
			far.Close() // unread, it holds the window of the whole QUIC connection
		}
	})
}

func writeForever(c net.Conn) {
	for {
		if _, err := c.Write(make([]byte, 64<<10)); err != nil {
			return
		}
	}
}

// Many connections, ended in every way, leave no goroutine behind.
func TestNoGoroutineGrowth(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		ends := []func(c, far *Conn){
			func(c, far *Conn) { c.Close(); far.Close() },
			func(c, far *Conn) { far.Reset(); c.Close() },
			func(c, far *Conn) { c.CloseWrite(); far.CloseWrite(); c.CloseRead(); c.Close(); far.Close() },
			func(c, far *Conn) { far.Close(); c.Write([]byte("x")); c.Close() },
		}
		round := func() {
			for _, end := range ends {
				c, far, stop, err := makePipe(a, b)
				if err != nil {
					t.Fatal(err)
				}
				end(c, far)
				stop()
			}
		}
		round()
		before := runtime.NumGoroutine()
		for range 25 {
			round()
		}
		eventually(t, func() string {
			if n := runtime.NumGoroutine(); n > before+5 {
				return "goroutines grow"
			}
			return ""
		})
	})
}
