package transport

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/net/nettest"
)

// kinds are the connections that every behaviour is tested over.
func kinds(t *testing.T, body func(t *testing.T, a, b Connection)) {
	t.Run("tcp", func(t *testing.T) {
		a, b := pair(t, New(Options{}), "/ip4/127.0.0.1/tcp/0")
		body(t, a, b)
	})
	t.Run("unix", func(t *testing.T) {
		a, b := pair(t, New(Options{}), "/unix"+filepath.Join(t.TempDir(), "s"))
		body(t, a, b)
	})
	t.Run("plain", func(t *testing.T) {
		near, far := net.Pipe()
		body(t, newConn(near), newConn(far))
	})
	t.Run("peer", func(t *testing.T) {
		near, far := net.Pipe()
		body(t, newPeerConn(near, "", ""), newPeerConn(far, "", ""))
	})
	t.Run("peer, half-closing", func(t *testing.T) {
		a, b := pair(t, New(Options{}), "/ip4/127.0.0.1/tcp/0")
		body(t, newPeerConn(a, "", ""), newPeerConn(b, "", ""))
	})
}

func TestClosed(t *testing.T) {
	small := make([]byte, 1)
	t.Run("by Close", func(t *testing.T) {
		kinds(t, func(t *testing.T, a, _ Connection) {
			if a.Closed() {
				t.Fatal("closed already")
			}
			if err := a.Close(); err != nil || !a.Closed() {
				t.Fatal(err, a.Closed())
			}
			_ = a.Close() // twice is harmless
		})
	})
	t.Run("by the end of what is read", func(t *testing.T) {
		kinds(t, func(t *testing.T, a, b Connection) {
			b.Close()
			if a.Closed() {
				t.Fatal("nobody can have noticed")
			}
			if _, err := a.Read(small); err != io.EOF || !a.Closed() {
				t.Fatal(err, a.Closed())
			}
		})
	})
	t.Run("by a failed write", func(t *testing.T) {
		kinds(t, func(t *testing.T, a, b Connection) {
			b.Close()
			var err error
			for deadline := time.Now().Add(30 * time.Second); err == nil && time.Now().Before(deadline); {
				_, err = a.Write(make([]byte, 1<<16))
			}
			if err == nil || !a.Closed() {
				t.Fatal(err, a.Closed())
			}
		})
	})
	t.Run("not by deadlines", func(t *testing.T) {
		kinds(t, func(t *testing.T, a, b Connection) {
			_ = a.SetDeadline(time.Unix(1, 0))
			if _, err := a.Read(small); !errors.Is(err, os.ErrDeadlineExceeded) || a.Closed() {
				t.Fatal(err, a.Closed())
			}
			if _, err := a.Write(small); !errors.Is(err, os.ErrDeadlineExceeded) || a.Closed() {
				t.Fatal(err, a.Closed())
			}
			_ = a.SetDeadline(time.Time{})
			go func() { _, _ = b.Write([]byte{1}) }()
			if _, err := a.Read(small); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// What relays ask a connection for must still be there.
func TestMethodsOfTheInnerConnection(t *testing.T) {
	kinds(t, func(t *testing.T, a, b Connection) {
		inner, ok := a.(interface{ NetConn() net.Conn })
		if !ok || inner.NetConn() == nil {
			t.Fatal("no NetConn")
		}
		_, half := inner.NetConn().(halfCloser)
		h, ok := a.(halfCloser)
		if ok != half {
			t.Fatalf("half-closing: %v, inside %v", ok, half)
		}
		if !half {
			return
		}
		if err := h.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(b); err != nil || len(got) != 0 {
			t.Fatal(got, err)
		}
		if _, err := b.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(a, make([]byte, 1)); err != nil || a.Closed() {
			t.Fatal(err, a.Closed())
		}
		if err := h.CloseRead(); err != nil {
			t.Fatal(err)
		}
	})
	a, _ := pair(t, New(Options{}), "/ip4/127.0.0.1/tcp/0")
	if _, ok := a.(interface {
		io.ReaderFrom
		io.WriterTo
		SetNoDelay(bool) error
		SyscallConn() (syscall.RawConn, error)
	}); !ok {
		t.Error("methods of *net.TCPConn are hidden")
	}
}

// relays are pairs whose far ends are joined by a copy: what is written to from comes out of to.
func relay(t *testing.T, in, out string) (from, src, dst, to Connection) {
	where := func(kind string) string {
		if kind == "unix" {
			return "/unix" + filepath.Join(t.TempDir(), "s")
		}
		return "/ip4/127.0.0.1/tcp/0"
	}
	tr := New(Options{})
	from, src = pair(t, tr, where(in))
	dst, to = pair(t, tr, where(out))
	return from, src, dst, to
}

func TestCopy(t *testing.T) {
	for _, in := range []string{"tcp", "unix"} {
		for _, out := range []string{"tcp", "unix"} {
			t.Run(in+" to "+out, func(t *testing.T) {
				from, src, dst, to := relay(t, in, out)
				sent := make([]byte, 1<<20)
				_, _ = rand.Read(sent)
				var wg sync.WaitGroup
				wg.Go(func() {
					_, _ = from.Write(sent)
					_ = from.(halfCloser).CloseWrite()
				})
				wg.Go(func() {
					copied := io.Copy
					if rf, ok := dst.(io.ReaderFrom); ok && in == out { // asked for directly
						copied = func(_ io.Writer, r io.Reader) (int64, error) { return rf.ReadFrom(r) }
					}
					if n, err := copied(dst, src); n != 1<<20 || err != nil {
						t.Errorf("copied %d, %v", n, err)
					}
					_ = dst.(halfCloser).CloseWrite()
				})
				got, err := io.ReadAll(to)
				wg.Wait()
				if err != nil || !bytes.Equal(got, sent) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				if !src.Closed() || dst.Closed() {
					t.Errorf("source at its end: %v; destination, of which no fault is known: %v", src.Closed(), dst.Closed())
				}
			})
		}
	}
}

// A copy that fails is held against the side that failed.
func TestCopyFails(t *testing.T) {
	for _, in := range []string{"tcp", "unix"} {
		for _, out := range []string{"tcp", "unix"} {
			t.Run(in+" to "+out+", which is gone", func(t *testing.T) {
				from, src, dst, to := relay(t, in, out)
				to.Close()
				go func() { // until the other end is closed
					for {
						if _, err := from.Write(make([]byte, 1<<16)); err != nil {
							return
						}
					}
				}()
				_, err := io.Copy(dst, src)
				if err == nil || !dst.Closed() {
					t.Fatal(err, dst.Closed())
				}
			})
		}
	}
	t.Run("a source that is no connection", func(t *testing.T) {
		_, _, dst, _ := relay(t, "tcp", "tcp")
		_, err := io.Copy(dst, io.MultiReader(bytes.NewReader(make([]byte, 100)), brokenReader{}))
		if !errors.Is(err, errDown) || dst.Closed() {
			t.Fatal(err, dst.Closed())
		}
	})
	t.Run("a destination that is no connection", func(t *testing.T) {
		from, src, _, _ := relay(t, "tcp", "tcp")
		_, _ = from.Write([]byte("x"))
		_, err := io.Copy(brokenWriter{}, src)
		if !errors.Is(err, errDown) || src.Closed() {
			t.Fatal(err, src.Closed())
		}
	})
	t.Run("a deadline", func(t *testing.T) {
		_, src, dst, _ := relay(t, "tcp", "tcp")
		_ = src.SetReadDeadline(time.Unix(1, 0))
		_, err := io.Copy(dst, src)
		if !errors.Is(err, os.ErrDeadlineExceeded) || src.Closed() || dst.Closed() {
			t.Fatal(err, src.Closed(), dst.Closed())
		}
	})
	t.Run("a reset", func(t *testing.T) {
		from, src, _, _ := relay(t, "tcp", "tcp")
		_ = from.(*tcpConn).SetLinger(0)
		from.Close()
		_, err := io.Copy(io.Discard, src)
		if err == nil || !src.Closed() {
			t.Fatal(err, src.Closed())
		}
	})
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errDown }

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errDown }

// The standard library's own test of what a net.Conn must do.
func TestNetConn(t *testing.T) {
	for name, addr := range map[string]func() string{
		"tcp":  func() string { return "/ip4/127.0.0.1/tcp/0" },
		"unix": func() string { return "/unix" + filepath.Join(t.TempDir(), "s") },
	} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				tr := New(Options{})
				l, err := tr.Listen(ma.StringCast(addr()))
				if err != nil {
					return nil, nil, nil, err
				}
				defer l.Close()
				c1, err = tr.Dial(context.Background(), l.Multiaddr(), false)
				if err != nil {
					return nil, nil, nil, err
				}
				if c2, err = l.Accept(); err != nil {
					return nil, nil, nil, errors.Join(err, c1.Close())
				}
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

func TestMultiaddrOfOddAddrs(t *testing.T) {
	for _, a := range []net.Addr{nil, &net.UnixAddr{Net: "unix"}, &net.UnixAddr{Net: "unix", Name: "@"}, pipeAddr{}} {
		if m := multiaddrOf(a); m != nil {
			t.Errorf("%v: %v", a, m)
		}
	}
	if m := peerMultiaddr("not an ID"); m != nil {
		t.Error(m)
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
