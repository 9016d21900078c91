package connmgr

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

// proxy speaks with one client as it is told to, and returns its address.
func proxy(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		serve(c)
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// resolver is a proxy that follows the protocol, and answers answer. Every byte
// goes out by itself if slow is set.
func resolver(t *testing.T, host string, slow bool, method, answer []byte) func(net.Conn) {
	return func(c net.Conn) {
		send := func(b []byte) {
			for len(b) > 0 {
				n := len(b)
				if slow {
					n = 1
				}
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
				b = b[n:]
				if slow {
					time.Sleep(time.Millisecond)
				}
			}
		}
		hello := make([]byte, 3)
		if _, err := io.ReadFull(c, hello); err != nil || !bytes.Equal(hello, []byte{5, 1, 0}) {
			t.Errorf("the greeting is %x, %v", hello, err)
			return
		}
		send(method)
		if len(answer) == 0 {
			return
		}
		want := append(append([]byte{5, 0xF0, 0, 3, byte(len(host))}, host...), 0, 0)
		request := make([]byte, len(want))
		if _, err := io.ReadFull(c, request); err != nil || !bytes.Equal(request, want) {
			t.Errorf("the request is %x, want %x, %v", request, want, err)
			return
		}
		send(answer)
		if len(answer) >= 10 {
			io.Copy(io.Discard, c) // until the client has read all it wants
		}
	}
}

var none = []byte{5, 0}

// btcd trusts each read to give a whole field.
func TestRegressionSOCKSAnswersInPieces(t *testing.T) {
	for _, slow := range []bool{false, true} {
		at := proxy(t, resolver(t, "node.example", slow, none, []byte{5, 0, 0, 1, 192, 0, 2, 7, 0, 0}))
		got, err := TorLookupIP("node.example", at)
		if err != nil || len(got) != 1 || !got[0].Equal(net.IPv4(192, 0, 2, 7)) {
			t.Errorf("slow %v: %v, %v", slow, got, err)
		}
	}
}

func TestSOCKSRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		method, answer []byte
		want           error
	}{
		"another version":           {[]byte{4, 0}, nil, ErrTorInvalidProxyResponse},
		"authentication":            {[]byte{5, 2}, nil, ErrTorUnrecognizedAuthMethod},
		"no method":                 {[]byte{5, 0xff}, nil, ErrTorUnrecognizedAuthMethod},
		"ends in the method":        {[]byte{5}, nil, io.ErrUnexpectedEOF},
		"says nothing":              {nil, nil, io.EOF},
		"another version, later":    {none, []byte{4, 0, 0, 1, 1, 2, 3, 4}, ErrTorInvalidProxyResponse},
		"ends in the answer":        {none, []byte{5, 0}, io.ErrUnexpectedEOF},
		"ends in the address":       {none, []byte{5, 0, 0, 1, 192, 0}, io.ErrUnexpectedEOF},
		"a refusal":                 {none, []byte{5, 4, 0, 1}, TorError(4)},
		"an unknown refusal":        {none, []byte{5, 99, 0, 1}, TorError(99)},
		"an IPv6 address":           {none, append([]byte{5, 0, 0, 4}, make([]byte, 16)...), ErrTorInvalidAddressResponse},
		"a name instead of address": {none, []byte{5, 0, 0, 3, 1, 'x'}, ErrTorInvalidAddressResponse},
	} {
		_, err := TorLookupIP("node.example", proxy(t, resolver(t, "node.example", false, c.method, c.answer)))
		if !errors.Is(err, c.want) && !(errors.Is(c.want, io.EOF) && errors.Is(err, syscall.ECONNRESET)) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for _, host := range []string{"", strings.Repeat("x", 256)} {
		if _, err := TorLookupIP(host, "127.0.0.1:1"); !errors.Is(err, ErrTorHost) {
			t.Errorf("a name of %d bytes: %v", len(host), err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := TorLookupIP("node.example", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("no proxy: %v", err)
	}
}

// btcd waits for ever.
func TestRegressionSOCKSProxyThatHangs(t *testing.T) {
	for name, method := range map[string][]byte{"from the beginning": nil, "after the greeting": none, "within a field": {5}} {
		asked := make(chan struct{})
		at := proxy(t, func(c net.Conn) {
			io.ReadFull(c, make([]byte, 3))
			c.Write(method)
			close(asked)
			io.Copy(io.Discard, c)
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := TorLookupIPContext(ctx, "node.example", at)
			done <- err
		}()
		<-asked
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTorErrorsSayWhatTheyMean(t *testing.T) {
	for e := range 256 {
		if text := TorError(e).Error(); !strings.HasPrefix(text, "connmgr: the proxy refused") || strings.HasSuffix(text, ": ") {
			t.Errorf("%d: %q", e, text)
		}
	}
}

// answers is a proxy whose whole answer is known before.
type answers struct {
	io.Reader
	io.Writer
}

// Whatever a proxy says, in whatever pieces: an IPv4 address or an error, and
// the same for the pieces.
func FuzzTorResolve(f *testing.F) {
	f.Add([]byte{5, 0, 5, 0, 0, 1, 192, 0, 2, 7, 0, 0}, "node.example")
	f.Add([]byte{5, 0, 5, 4, 0, 1}, "x")
	f.Add([]byte{5, 0, 5, 0, 0, 4}, "x")
	f.Add([]byte{5, 255}, "")
	f.Fuzz(func(t *testing.T, said []byte, host string) {
		if len(host) > 255 {
			return
		}
		whole, err := torResolve(answers{bytes.NewReader(said), io.Discard}, host)
		pieces, err2 := torResolve(answers{iotest.OneByteReader(bytes.NewReader(said)), io.Discard}, host)
		if !whole.Equal(pieces) || (err == nil) != (err2 == nil) || (err == nil) == (whole == nil) {
			t.Errorf("%v, %v; in pieces %v, %v", whole, err, pieces, err2)
		}
		if err == nil && (whole.To4() == nil || !bytes.Equal(whole.To4(), said[6:10])) {
			t.Errorf("%v out of %x", whole, said)
		}
	})
}

func TestTorWritesFail(t *testing.T) {
	broken := errors.New("broken")
	for after := range 2 {
		_, err := torResolve(answers{bytes.NewReader(none), &failing{after, broken}}, "x")
		if !errors.Is(err, broken) {
			t.Errorf("after %d writes: %v", after, err)
		}
	}
}

type failing struct {
	after int
	err   error
}

func (w *failing) Write(p []byte) (int, error) {
	if w.after == 0 {
		return 0, w.err
	}
	w.after--
	return len(p), nil
}
