package stream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
)

func TestHalfCloseBothWays(t *testing.T) {
	question, reply := bytes.Repeat([]byte("q"), 100<<10), bytes.Repeat([]byte("answer!!"), 128<<10)
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		for _, who := range []string{"dialler asks", "listener asks"} {
			t.Run(who, func(t *testing.T) {
				asker, answerer := pipe(t, a, b)
				if who == "listener asks" {
					asker, answerer = answerer, asker
				}
				go func() {
					got, err := io.ReadAll(answerer)
					if err != nil || !bytes.Equal(got, question) {
						t.Errorf("question: %d bytes, %v", len(got), err)
					}
					if _, err := answerer.Write(reply); err != nil {
						t.Errorf("reply after EOF: %v", err)
					}
					answerer.Close()
				}()
				if _, err := asker.Write(question); err != nil {
					t.Fatal(err)
				}
				if err := asker.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if _, err := asker.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
					t.Errorf("write after CloseWrite: %v", err)
				}
				got, err := io.ReadAll(asker)
				if err != nil || !bytes.Equal(got, reply) {
					t.Errorf("reply: %d of %d bytes, %v", len(got), len(reply), err)
				}
				if _, err := asker.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("second EOF: %v", err)
				}
				asker.Close()
			})
		}
	})
}

// A connection that is closed right after the last Write, before the listener
// has answered the negotiation, still delivers everything.
func TestCloseDelivers(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		ln, err := Listen(b, newTag())
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		for range 20 {
			d, err := Dial(t.Context(), a, b.ID(), ln.(*listener).key.tag)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Write([]byte("all of it")); err != nil {
				t.Fatal(err)
			}
			d.Close()
			s, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(s); string(got) != "all of it" || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
			s.Close()
		}
	})
}

const testCode = network.StreamErrorCode(0x4b69)

func checkReset(t *testing.T, what string, err error, code network.StreamErrorCode) {
	t.Helper()
	if !errors.Is(err, syscall.ECONNRESET) || !errors.Is(err, network.ErrReset) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || isTimeout(err) {
		t.Errorf("%s: %v is not a plain reset", what, err)
	}
	if se, ok := errors.AsType[*network.StreamError](err); !ok || se.ErrorCode != code || !se.Remote {
		t.Errorf("%s: %v has no remote code 0x%x", what, err, code)
	}
	if _, ok := err.(*net.OpError); !ok {
		t.Errorf("%s: %T", what, err)
	}
}

// writeError writes until the error shows.
func writeError(c net.Conn) error {
	c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, err := c.Write(make([]byte, 1024)); err != nil {
			return err
		}
	}
}

func TestErrorMapping(t *testing.T) {
	one := make([]byte, 1)
	cases := []struct {
		name string
		run  func(t *testing.T, c, far *Conn)
	}{
		{"deadlines pass, move and spoil nothing", func(t *testing.T, c, far *Conn) {
			for range 2 {
				c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
				if _, err := c.Read(one); !errors.Is(err, os.ErrDeadlineExceeded) || !isTimeout(err) {
					t.Errorf("read: %v", err)
				}
				c.SetWriteDeadline(time.Now().Add(-time.Second))
				if _, err := c.Write(one); !errors.Is(err, os.ErrDeadlineExceeded) || !isTimeout(err) {
					t.Errorf("write: %v", err)
				}
			}
			c.SetDeadline(time.Time{})
			go echo(far)
			if _, err := c.Write([]byte("k")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(c, one); err != nil || one[0] != 'k' {
				t.Errorf("after the deadlines: %q, %v", one, err)
			}
		}},
		{"closed here", func(t *testing.T, c, far *Conn) {
			far.Write([]byte("unread"))
			far.CloseWrite()
			for i := range 3 {
				if err := c.Close(); err != nil {
					t.Errorf("close %d: %v", i+1, err)
				}
			}
			_, rerr := c.Read(one)
			_, werr := c.Write(one)
			_, empty := c.Read(nil)
			for what, err := range map[string]error{
				"read": rerr, "write": werr, "empty read": empty,
				"deadline": c.SetDeadline(time.Time{}), "read deadline": c.SetReadDeadline(longAgo),
				"write deadline": c.SetWriteDeadline(longAgo), "CloseRead": c.CloseRead(), "CloseWrite": c.CloseWrite(),
			} {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if err := c.Reset(); err != nil {
				t.Errorf("reset after close: %v", err)
			}
		}},
		{"reset here", func(t *testing.T, c, far *Conn) {
			if err := c.ResetWithCode(testCode); err != nil {
				t.Error(err)
			}
			_, rerr := c.Read(one)
			_, werr := c.Write(one)
			if !errors.Is(rerr, net.ErrClosed) || !errors.Is(werr, net.ErrClosed) {
				t.Errorf("read %v, write %v", rerr, werr)
			}
			if err := errors.Join(c.Close(), c.Reset(), c.Close()); err != nil {
				t.Error(err)
			}
		}},
		{"closed for writing there", func(t *testing.T, c, far *Conn) {
			far.Write([]byte("x"))
			far.CloseWrite()
			if got, err := io.ReadAll(c); string(got) != "x" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			for range 2 {
				if _, err := c.Read(one); err != io.EOF {
					t.Errorf("read: %v", err)
				}
			}
			if _, err := c.Write([]byte("y")); err != nil {
				t.Errorf("write after the peer's half close: %v", err)
			}
			if _, err := io.ReadFull(far, one); err != nil {
				t.Errorf("far: %v", err)
			}
		}},
		{"reset there", func(t *testing.T, c, far *Conn) {
			far.ResetWithCode(testCode)
			for range 2 {
				_, err := c.Read(one)
				checkReset(t, "read", err, testCode)
			}
			checkReset(t, "write", writeError(c), testCode)
			if err := errors.Join(c.CloseWrite(), c.Close(), c.Close()); err != nil {
				t.Errorf("close after a remote reset: %v", err)
			}
			if _, err := c.Read(one); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read after close: %v", err)
			}
		}},
		{"closed for reading here", func(t *testing.T, c, far *Conn) {
			read := make(chan error, 1)
			go func() {
				_, err := c.Read(make([]byte, 1))
				read <- err
			}()
			if err := errors.Join(c.CloseRead(), c.CloseRead(), c.SetReadDeadline(time.Time{})); err != nil {
				t.Error(err)
			}
			within(t, 5*time.Second, "read", func() {
				if err := <-read; !errors.Is(err, net.ErrClosed) {
					t.Errorf("blocked read: %v", err)
				}
			})
			if _, err := c.Read(one); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read: %v", err)
			}
			if _, err := c.Write([]byte("y")); err != nil {
				t.Errorf("write: %v", err)
			}
			if _, err := io.ReadFull(far, one); err != nil {
				t.Errorf("far: %v", err)
			}
		}},
	}
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		for _, tc := range cases {
			t.Run(tc.name, func(t *testing.T) {
				c, far := pipe(t, a, b)
				within(t, 30*time.Second, "dialled end", func() { tc.run(t, c, far) })
				far, c = pipe(t, a, b)
				within(t, 30*time.Second, "accepted end", func() { tc.run(t, c, far) })
			})
		}
	})
}

func TestLostConnectionIsAReset(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		if a == b {
			return // nothing to lose in process
		}
		for _, closer := range []corehost.Host{a, b} {
			c, far := pipe(t, a, b)
			errs := make(chan error, 2)
			for _, c := range []*Conn{c, far} {
				go func() {
					_, err := c.Read(make([]byte, 1))
					errs <- err
				}()
			}
			if closer == a {
				a.Network().ClosePeer(b.ID())
			} else {
				b.Network().ClosePeer(a.ID())
			}
			within(t, 10*time.Second, "losing a connection", func() {
				for _, err := range []error{<-errs, <-errs, writeError(c), writeError(far)} {
					if !errors.Is(err, syscall.ECONNRESET) || !errors.Is(err, network.ErrReset) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || isTimeout(err) {
						t.Errorf("lost connection: %v", err)
					}
				}
			})
			if err := errors.Join(c.Close(), far.Close()); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
}

func TestWaitReadable(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		for _, lazy := range []bool{false, true} {
			c, far := pipe(t, a, b)
			if lazy {
				c, far = far, c
			}
			if !c.CanWaitReadable() {
				if err := c.WaitReadable(); !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("unsupported: %v", err)
				}
				c.Close()
				continue
			}
			waited := make(chan error)
			wait := func() { waited <- c.WaitReadable() }
			next := func(what string, want error) {
				t.Helper()
				within(t, 10*time.Second, what, func() {
					if err := <-waited; !errors.Is(err, want) {
						t.Errorf("%s: %v, want %v", what, err, want)
					}
				})
			}
			c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			go wait()
			next("deadline", os.ErrDeadlineExceeded)
			c.SetReadDeadline(time.Time{})
			go wait()
			far.Write([]byte("xy"))
			next("data", nil)
			go wait()
			next("data still there", nil)
			if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
				t.Error(err)
			}
			if n, err := c.Read(nil); n != 0 || err != nil { // must not block
				t.Errorf("empty read: %d, %v", n, err)
			}
			go wait()
			far.CloseWrite()
			next("end", io.EOF)
			c.Close()
			go wait()
			next("closed", net.ErrClosed)
		}
		yamuxOrSelf := a == b || a.Network().ConnsToPeer(b.ID())[0].ConnState().StreamMultiplexer != ""
		if c, _ := pipe(t, a, b); c.CanWaitReadable() != yamuxOrSelf {
			t.Errorf("CanWaitReadable is %v", c.CanWaitReadable())
		}
	})
}

// New wraps streams that libp2p has opened and accepted itself.
func TestNewWrapsBareStreams(t *testing.T) {
	a, b := connected(t, "/ip4/127.0.0.1/tcp/0")
	tag := newTag()
	b.SetStreamHandler(tag, func(s network.Stream) { echo(New(s)) })
	s, err := a.NewStream(t.Context(), b.ID(), tag)
	if err != nil {
		t.Fatal(err)
	}
	c := New(s)
	if c.Stream() != s || c.RemotePeer() != b.ID() || c.LocalPeer() != a.ID() || c.Protocol() != tag {
		t.Errorf("%v %v %v", c.RemotePeer(), c.LocalPeer(), c.Protocol())
	}
	if _, err := c.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "hi" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	c.Close()
	checkNothingLeft(t, a, b)
}
