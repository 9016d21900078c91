package libp2p

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/kith-p2p/kith/p2p"
)

// stuck is a session whose one end, y, is raw's peer and takes nothing on channel 1
// until release is closed.
func stuck(tb testing.TB, p pair, b *Transport) (r *raw, y *Connection, release chan struct{}, taken chan []byte, ended chan error) {
	tb.Helper()
	r, y = shakeRaw(tb, p, b, 1, 2)
	release, taken, ended = make(chan struct{}), make(chan []byte, 1000), make(chan error, 1)
	go func() {
		ended <- y.ReceiveMessages(func(id p2p.ChannelID, data []byte) {
			if id == 1 {
				<-release
			}
			taken <- data
		})
	}()
	return r, y, release, taken, ended
}

// messages are so many bytes on the wire, in messages of 1,002.
func messages(tb testing.TB, bytes int) (wire []byte, n int) {
	tb.Helper()
	for ; len(wire)+1002 <= bytes; n++ {
		wire = append(append(wire, 0xe8, 0x07), numbered(n, 1000)...)
	}
	return wire, n
}

// A peer that sends what it was granted and not more is read to the end of that though
// nobody takes it, gets more credit when it is taken, and then loses nothing.
func TestCreditIsReadThoughNobodyTakesIt(t *testing.T) {
	for _, nw := range networks[1:4] { // raw has no relay
		t.Run(nw.name, func(t *testing.T) {
			p := nw.make(t)
			p.join(t)
			goroutinesBack(t)
			_, b := transports(t, p, Options{})
			r, y, release, taken, _ := stuck(t, p, b)
			wire, n := messages(t, firstWindow)
			s := r.channel(1, 0, wire...)
			in := inboundStream(t, y, 1)
			until(t, "all of it was read", func() bool {
				in.mu.Lock()
				defer in.mu.Unlock()
				return in.drain != nil && in.drain.held+readMost >= len(wire)
			})
			in.mu.Lock()
			if most := firstWindow + laterChunk; in.drain.held > firstWindow || in.drain.reserved > most {
				t.Errorf("%d bytes are held, %d reserved", in.drain.held, in.drain.reserved)
			}
			in.mu.Unlock()
			r.channel(2, 0, 1, 'x')
			if got := <-taken; string(got) != "x" {
				t.Fatalf("%q", got)
			}
			close(release)
			for i := range n {
				if got := <-taken; number(got) != i || len(got) != 1000 {
					t.Fatalf("message %d is %d", i, number(got))
				}
			}
			if err := readAnswer(s, channelGreeting); err != nil {
				t.Fatal(err)
			}
			var grant [creditSize]byte
			if _, err := io.ReadFull(s, grant[:]); err != nil || binary.BigEndian.Uint32(grant[:]) < leastCredit {
				t.Fatalf("% x, %v", grant, err)
			}
			if _, err := s.Write([]byte{1, 'y'}); err != nil {
				t.Fatal(err)
			}
			if got := <-taken; string(got) != "y" {
				t.Fatalf("%q", got)
			}
			if _, err := s.Write([]byte{1, 'z'}); err != nil {
				t.Fatal(err)
			}
			<-taken
			until(t, "the reader reads by itself again", func() bool { return !in.draining.Load() })
			y.Close()
		})
	}
}

// inboundStream is the stream of a channel whose turn it is.
func inboundStream(tb testing.TB, c *Connection, id p2p.ChannelID) (in *inStream) {
	tb.Helper()
	until(tb, "the stream has arrived", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if ch := c.ins[id]; ch != nil {
			in = ch.live[0]
		}
		return in != nil
	})
	return in
}

// A stream that waits for its turn behind one that nobody takes is read, too, and its
// messages come after those of the first.
func TestCreditOfAStreamBeforeItsTurn(t *testing.T) {
	p := networks[2].make(t)
	p.join(t)
	goroutinesBack(t)
	_, b := transports(t, p, Options{})
	r, y, release, taken, _ := stuck(t, p, b)
	wire, n := messages(t, firstWindow)
	half := len(wire) / 1002 / 2 * 1002
	first := r.channel(1, 0, wire[:half]...)
	inboundStream(t, y, 1)
	r.channel(1, 1, wire[half:]...)
	until(t, "all of the second was read", func() bool {
		y.mu.Lock()
		in := y.ins[1].live[1]
		y.mu.Unlock()
		if in == nil {
			return false
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		return in.drain != nil && in.drain.held == len(wire)-half
	})
	if err := first.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	close(release)
	for i := range n {
		if got := <-taken; number(got) != i || len(got) != 1000 {
			t.Fatalf("message %d is %d", i, number(got))
		}
	}
	y.Close()
}

// A peer that sends more than it was granted loses the session, though nobody reads
// the channel.
func TestHostilePeerThatOverrunsItsCredit(t *testing.T) {
	for _, nw := range networks[1:4] {
		t.Run(nw.name, func(t *testing.T) {
			p := nw.make(t)
			p.join(t)
			goroutinesBack(t)
			a, b := transports(t, p, Options{})
			check := bystander(t, p, a, b)
			r, _, release, _, ended := stuck(t, p, b)
			defer close(release)
			wire, _ := messages(t, firstWindow+2*readMost)
			s := r.channel(1, 0, wire[:firstWindow]...)
			if _, err := s.Write(wire[firstWindow:]); err != nil {
				t.Log(err)
			}
			if err := <-ended; !errors.Is(err, ErrCredit) {
				t.Errorf("the session ends with %v", err)
			}
			if n := b.Stats().Faults; n != 1 {
				t.Errorf("%d faults were counted", n)
			}
			check()
		})
	}
}

// A sender keeps to what the raw peer grants, to the byte, and refuses grants that are
// not ones.
func TestASenderKeepsToItsCredit(t *testing.T) {
	for name, c := range map[string]struct {
		grants []uint32
		want   error
	}{
		"honest":              {[]uint32{leastCredit, 100_000, 2 << 20}, nil},
		"a grant of nothing":  {[]uint32{leastCredit, 0}, ErrMalformed},
		"a grant too small":   {[]uint32{leastCredit - 1}, ErrMalformed},
		"a grant above 1 GiB": {[]uint32{mostCredit + 1}, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			p := networks[1].make(t)
			p.join(t)
			goroutinesBack(t)
			_, b := transports(t, p, Options{})
			p.a.RemoveStreamHandler(ChannelProtocol)
			streams := make(chan network.Stream, 1)
			p.a.SetStreamHandler(ChannelProtocol, func(s network.Stream) { streams <- s })
			r, y := shakeRaw(t, p, b, 1)
			go func() { _, _, _ = y.ReceiveMessage() }()
			data := make([]byte, 1<<20)
			sent := make(chan error, 1)
			go func() { sent <- y.SendMessage(1, data) }()
			s := <-streams
			defer s.Reset()
			var head [headerSize]byte
			if _, err := io.ReadFull(s, head[:]); err != nil || parseHeader(&head) != (header{r.session, 1, 0}) {
				t.Fatalf("% x, %v", head, err)
			}
			left := len(data) + 3 // with the length before it
			have := firstWindow
			for _, grant := range c.grants {
				n, err := io.CopyN(io.Discard, s, int64(have))
				if err != nil {
					t.Fatalf("%d of %d bytes: %v", n, have, err)
				}
				left -= have
				_ = s.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // time enough for what may not come
				if n, err := s.Read(make([]byte, 1)); n > 0 || err == nil {
					t.Fatal("it sends more than was granted")
				}
				_ = s.SetReadDeadline(time.Time{})
				if _, err := s.Write(binary.BigEndian.AppendUint32(nil, grant)); err != nil {
					t.Fatal(err)
				}
				have = int(min(grant, mostCredit))
			}
			if c.want == nil {
				if _, err := io.CopyN(io.Discard, s, int64(left)); err != nil {
					t.Fatal(err)
				}
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				return
			}
			if err := <-sent; !errors.Is(err, io.EOF) {
				t.Errorf("sending ends with %v", err)
			}
			if err := y.ended(); !errors.Is(err, c.want) {
				t.Errorf("the session ends with %v", err)
			}
		})
	}
}

// A sender that waits for credit is released when either side closes.
func TestASenderWithoutCreditIsReleased(t *testing.T) {
	for _, nw := range networks {
		for name, by := range map[string]func(x, y *Connection){
			"us": func(x, _ *Connection) { x.Close() }, "the peer": func(_, y *Connection) { y.Close() },
		} {
			t.Run(nw.name+"/"+name, func(t *testing.T) {
				p := nw.make(t)
				p.join(t)
				goroutinesBack(t)
				a, b := transports(t, p, Options{})
				x, y := session(t, p, a, b, 1)
				sent := make(chan error, 1)
				go func() { sent <- x.SendMessage(1, make([]byte, 2*firstWindow)) }()
				in := inboundStream(t, y, 1)
				go func() { _, _, _ = x.ReceiveMessage() }()
				until(t, "the credit is used up", func() bool {
					in.mu.Lock()
					defer in.mu.Unlock()
					return in.drain != nil && in.drain.held == firstWindow
				})
				by(x, y)
				if err := <-sent; !errors.Is(err, io.EOF) {
					t.Errorf("sending ends with %v", err)
				}
			})
		}
	}
}

// A peer whose hello says nothing of a window is served without credit, in both
// directions.
func TestAPeerWithoutCredit(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	goroutinesBack(t)
	_, b := transports(t, p, Options{})
	p.a.RemoveStreamHandler(ChannelProtocol)
	received := make(chan []byte, 1)
	p.a.SetStreamHandler(ChannelProtocol, func(s network.Stream) {
		_ = s.CloseWrite()
		defer s.Close()
		data, _ := io.ReadAll(io.LimitReader(s, headerSize+3+1<<20))
		received <- data
	})
	r, y := shakeHello(t, p, b, func(hello []byte) []byte { return hello }, 1)
	data := bytes.Repeat([]byte{7}, 1<<20)
	s := r.channel(1, 0, 0x80, 0x80, 0x40)
	go s.Write(data)
	if _, got, err := y.ReceiveMessage(); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := readAnswer(s, channelGreeting); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d bytes, %v: something comes back", n, err)
	}
	if err := y.SendMessage(1, data); err != nil {
		t.Fatal(err)
	}
	if got := <-received; !bytes.HasSuffix(got, data) {
		t.Errorf("%d bytes", len(got))
	}
}
