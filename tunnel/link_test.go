package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
)

// link is a path to a node that a test can disturb: a TCP relay on loopback.
type link struct {
	to   string
	l    net.Listener
	wg   sync.WaitGroup
	done chan struct{}

	mu    sync.Mutex // guards the fields below
	delay time.Duration
	dark  bool // bytes vanish
	conns []*net.TCPConn
}

func newLink(t testing.TB, to node) *link {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port, err := to.h.Addrs()[0].ValueForProtocol(ma.P_TCP)
	if err != nil {
		t.Fatal(err)
	}
	k := &link{to: "127.0.0.1:" + port, l: l, done: make(chan struct{})}
	k.wg.Go(k.accept)
	t.Cleanup(func() {
		close(k.done)
		l.Close()
		k.cut()
		k.wg.Wait()
	})
	return k
}

func (k *link) addr() ma.Multiaddr { return ma.StringCast("/ip4/127.0.0.1/tcp/" + portOf(k.l)) }

func (k *link) accept() {
	for {
		in, err := k.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp4", k.to)
		if err != nil {
			in.Close()
			continue
		}
		a, b := in.(*net.TCPConn), out.(*net.TCPConn)
		k.mu.Lock()
		k.conns = append(k.conns, a, b)
		k.mu.Unlock()
		k.wg.Go(func() { k.pump(a, b) })
		k.wg.Go(func() { k.pump(b, a) })
	}
}

type parcel struct {
	due  time.Time
	data []byte
}

// pump carries one direction; what is under way when it is cut is lost.
func (k *link) pump(from, to *net.TCPConn) {
	queue := make(chan parcel, 1024)
	k.wg.Go(func() {
		defer to.Close()
		for p := range queue {
			select {
			case <-time.After(time.Until(p.due)):
			case <-k.done:
			}
			if _, err := to.Write(p.data); err != nil {
				from.Close()
			}
		}
	})
	defer close(queue)
	for {
		buf := make([]byte, 16<<10)
		n, err := from.Read(buf)
		k.mu.Lock()
		delay, dark := k.delay, k.dark
		k.mu.Unlock()
		if n > 0 && !dark {
			select {
			case queue <- parcel{time.Now().Add(delay), buf[:n]}:
			case <-k.done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (k *link) set(delay time.Duration, dark bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.delay, k.dark = delay, dark
}

// cut ends every connection at once; later ones are carried.
func (k *link) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.conns {
		c.SetLinger(0)
		c.Close()
	}
	k.conns, k.dark, k.delay = nil, false, 0
}

// A stream was opened on a link that is dead already, which only shows later.
// As long as nothing of the program's was sent, it gets another stream; once it
// was cut with "connection lost".
func TestRegressionOpenedOnADyingLink(t *testing.T) {
	for name, sent := range map[string]string{"silent": "", "spoke first": "early"} {
		t.Run(name, func(t *testing.T) {
			a, b := newNode(t, overTCP), newNode(t)
			expose(t, a, "hello", service(t, func(c net.Conn) {
				fmt.Fprint(c, "welcome")
				io.Copy(c, c)
			}), AllowAny())
			k := newLink(t, a)
			b.Remember(a.id, k.addr())
			if err := b.Connect(t.Context(), a.id); err != nil {
				t.Fatal(err)
			}
			info, err := b.Dial(t.Context(), nil, a.id, "hello", ma.StringCast("/ip4/127.0.0.1/tcp/0"))
			if err != nil {
				t.Fatal(err)
			}
			port, _ := info.Address.ValueForProtocol(ma.P_TCP)
			k.set(0, true)
			c := dial(t, "127.0.0.1:"+port)
			io.WriteString(c, sent)
			eventually(t, "a stream is open", func() bool {
				s := b.Streams.List()
				return len(s) == 1 && !s[0].Waiting && s[0].BytesOut == uint64(len(sent))
			})
			k.cut()
			if sent != "" {
				wantReset(t, c)
				eventually(t, "the reason", func() bool {
					e := b.Listeners.List()[0].LastError
					return e != nil && e.Reason == ReasonLost
				})
				return
			}
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			got := make([]byte, len("welcome"))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != "welcome" {
				t.Fatalf("%q, %v", got, err)
			}
			roundTrip(t, c, "and it works")
			if n := b.Streams.Len(); n != 1 {
				t.Errorf("%d streams are listed", n)
			}
		})
	}
}

// The peer does not come back: the connection ends with the reason, after the
// wait and not before, and Cut ends the second attempt. (When whoever answered at
// the peer's address hung up, the error held an io.EOF, and was taken for one.)
func TestDyingLinkAndNoOtherOne(t *testing.T) {
	for name, cut := range map[string]bool{"waits in vain": false, "is cut": true} {
		t.Run(name, func(t *testing.T) {
			a, b := newNode(t, overTCP), newNode(t)
			expose(t, a, "hello", service(t, echo), AllowAny())
			k := newLink(t, a)
			b.Remember(a.id, k.addr())
			if err := b.Connect(t.Context(), a.id); err != nil {
				t.Fatal(err)
			}
			wait := time.Second
			if cut {
				wait = time.Hour
			}
			info, err := b.Dial(t.Context(), nil, a.id, "hello", ma.StringCast("/ip4/127.0.0.1/tcp/0"), func(c *ForwardConfig) { c.Wait = wait })
			if err != nil {
				t.Fatal(err)
			}
			port, _ := info.Address.ValueForProtocol(ma.P_TCP)
			k.set(0, true)
			c := dial(t, "127.0.0.1:"+port)
			eventually(t, "a stream is open", func() bool { return b.Streams.Len() == 1 })
			a.P2P.Close()
			a.h.Close()
			k.cut()
			want := ReasonUnreachable
			if cut {
				eventually(t, "the second attempt", func() bool { return b.dials.why(a.id) != nil })
				b.Streams.Reset(b.Streams.List()[0].ID)
				want = ReasonClosed
			}
			wantReset(t, c)
			eventually(t, "the reason", func() bool {
				e := b.Listeners.List()[0].LastError
				return e != nil && e.Reason == want && b.Streams.Len() == 0
			})
		})
	}
}

// Close used to pause for 50 ms, so that resets could leave. On a slow link
// that was too short: the peer saw a lost connection, and not why.
func TestRegressionCloseReturnsWhenTheResetsHaveArrived(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	k := newLink(t, a)
	b.Remember(a.id, k.addr())
	if err := b.Connect(t.Context(), a.id); err != nil {
		t.Fatal(err)
	}
	c := dial(t, forwardTo(t, b, a, "echo"))
	roundTrip(t, c, "before")
	k.set(100*time.Millisecond, false)
	if err := b.P2P.Close(); err != nil {
		t.Fatal(err)
	}
	k.cut() // what has not arrived by now never does
	eventually(t, "the end", func() bool { return a.Streams.Len() == 0 })
	if r := a.Stats().Refused; r[ReasonShutdown] != 1 || r[ReasonLost] != 0 {
		t.Errorf("reasons %v, want %v", r, ReasonShutdown)
	}
}

// A connection that waited for its peer was in no list, and could not be closed.
func TestRegressionWaitingConnectionsAreListed(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	addr := a.addr()
	a.P2P.Close()
	a.h.Close()
	info, err := b.Dial(t.Context(), addr, a.id, "x", ma.StringCast("/ip4/127.0.0.1/tcp/0"), func(c *ForwardConfig) { c.Wait = time.Hour; c.Timeout = time.Hour })
	if err != nil {
		t.Fatal(err)
	}
	port, _ := info.Address.ValueForProtocol(ma.P_TCP)
	c := dial(t, "127.0.0.1:"+port)
	var s StreamInfo
	eventually(t, "it is listed, with the reason", func() bool {
		for _, s = range b.Streams.List() {
			return s.Waiting && s.LastError != nil && s.LastError.Reason == ReasonUnreachable
		}
		return false
	})
	local := c.LocalAddr().(*net.TCPAddr)
	if s.Protocol != "x" || s.RemotePeer != a.id || s.Mount != info.ID || s.Path != nil ||
		!s.LocalAddr.Equal(ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", local.Port))) {
		t.Errorf("%+v", s)
	}
	if i := b.Listeners.List()[0]; i.Waiting != 1 || i.Connections != 0 || i.Accepted != 0 {
		t.Errorf("mount: %d waiting, %d open, %d accepted", i.Waiting, i.Connections, i.Accepted)
	}
	if !b.Streams.Reset(s.ID) {
		t.Fatal("it cannot be closed")
	}
	wantReset(t, c)
	eventually(t, "it is off the list", func() bool {
		i := b.Listeners.List()[0]
		return b.Streams.Len() == 0 && i.Waiting == 0 && i.LastError.Reason == ReasonClosed
	})
}

// Dial used to bind first and to ask the peer then: whoever connected meanwhile
// was accepted and cut.
func TestRegressionNothingIsBoundBeforeTheForwardIsAdmitted(t *testing.T) {
	b := newNode(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := "127.0.0.1:" + portOf(l)
	bind := ma.StringCast("/ip4/127.0.0.1/tcp/" + portOf(l))
	l.Close()
	bound := func() bool {
		c, err := net.Dial("tcp4", at)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	no := errors.New("no")
	asked := 0
	for _, answer := range []error{no, nil} {
		_, err = b.Dial(t.Context(), nil, newHost(t).ID(), "x", bind, func(c *ForwardConfig) {
			c.Admit = func(context.Context) error {
				asked++
				if bound() {
					t.Error("bound before it was admitted")
				}
				return answer
			}
		})
		if !errors.Is(err, answer) || bound() != (answer == nil) {
			t.Errorf("answer %v: %v, bound %v", answer, err, bound())
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	if _, err := b.Dial(t.Context(), nil, newHost(t).ID(), "bad name", bind, func(c *ForwardConfig) {
		c.Admit = func(context.Context) error { t.Error("asked although the name is bad"); return nil }
	}); !errors.Is(err, ErrName) {
		t.Error(err)
	}
}

func TestAnswers(t *testing.T) {
	a, b, other := newNode(t, overTCP), newNode(t), newNode(t, overTCP)
	bare := func(n node) ma.Multiaddr { return n.h.Addrs()[0] }
	if err := b.Answers(t.Context(), a.id, bare(a)); err != nil {
		t.Error(err)
	}
	if n := b.h.Network().Connectedness(a.id); n == network.Connected {
		t.Error("the connection was kept")
	}
	if err := b.Answers(t.Context(), a.id, bare(other)); !WrongPeer(err) {
		t.Errorf("another peer there: %v", err)
	}
	k := newLink(t, other)
	k.l.Close()
	for _, addr := range []ma.Multiaddr{k.addr(), ma.StringCast("/ip4/127.0.0.1/udp/9/webrtc-direct")} {
		if err := b.Answers(t.Context(), a.id, addr); !errors.Is(err, &Error{Reason: ReasonUnreachable}) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// When whoever answered at the address of the peer reset the connection, the error
// held an ECONNRESET, and was taken for the local program's end: the connection was
// not tried again, and the reason was wrong.
func TestRegressionResetAtThePeersAddress(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	a, b := newNode(t, overTCP), newNode(t)
	b.Remember(a.id, ma.StringCast("/ip4/127.0.0.1/tcp/"+portOf(ln)))
	_, _, err = b.openStream(t.Context(), a.id, "hello", 10*time.Second, false)
	if e, ok := errors.AsType[*Error](err); !ok || e.Reason != ReasonUnreachable || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v", err)
	}
}
