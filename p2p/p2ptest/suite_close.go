package p2ptest

import (
	"errors"
	"io"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// What Close of a Connection has to do.
var closeTests = []test{
	{"CloseReleasesReceive", testCloseReleasesReceive},
	{"CloseReleasesSend", testCloseReleasesSend},
	{"CloseDeliversSent", testCloseDeliversSent},
	{"PeerCloseEndsReceive", testPeerCloseEndsReceive},
	{"PeerCloseEndsSend", testPeerCloseEndsSend},
	{"CloseTwice", testCloseTwice},
	{"CloseWhileBusy", testCloseWhileBusy},
}

// ends waits a moment and reports whether a task ended in it. A test that wants it
// not to end does not depend on how long the moment is.
func (b *bench) ends(t *task) bool {
	select {
	case <-t.done:
		return true
	case <-time.After(300 * time.Millisecond):
		return false
	}
}

// sendsFail checks that sending fails with io.EOF, at the latest when more was
// sent than a network holds.
func (b *bench) sendsFail(c p2p.Connection) {
	b.Helper()
	send := b.start("sending to a side that is gone", func() error {
		data := make([]byte, 64<<10)
		for range 1 << 10 {
			if err := c.SendMessage(b.Channels[0], data); err != nil {
				return err
			}
		}
		return errors.New("64 MiB were taken")
	})
	if err := send.wait(); !errors.Is(err, io.EOF) {
		b.Errorf("sending to a side that is gone: %v, want io.EOF", err)
	}
}

// Close releases ReceiveMessage, which returns io.EOF then and later.
func testCloseReleasesReceive(b *bench) {
	for _, dialler := range []bool{true, false} {
		x, y := b.pair()
		if !dialler {
			x = y
		}
		receive := func() error {
			_, _, err := x.ReceiveMessage()
			return err
		}
		waiting := b.start("ReceiveMessage", receive)
		b.do("Close", x.Close)
		if err := waiting.wait(); !errors.Is(err, io.EOF) {
			b.Errorf("ReceiveMessage returns %v after Close, want io.EOF", err)
		}
		if err := b.start("ReceiveMessage", receive).wait(); !errors.Is(err, io.EOF) {
			b.Errorf("ReceiveMessage on a closed connection returns %v, want io.EOF", err)
		}
	}
}

// Close releases a SendMessage that waits for a peer that does not read; it and
// later ones return io.EOF.
func testCloseReleasesSend(b *bench) {
	x, _ := b.pair()
	size := min(b.MaxMessage, 1<<20)
	send := b.start("a SendMessage that blocks", func() error {
		for range 64 << 20 / size {
			if err := x.SendMessage(b.Channels[0], make([]byte, size)); err != nil {
				return err
			}
		}
		return errors.New("64 MiB were taken for a peer that reads nothing")
	})
	b.ends(send)
	b.do("Close", x.Close)
	if err := send.wait(); !errors.Is(err, io.EOF) {
		b.Errorf("SendMessage returns %v after Close, want io.EOF", err)
	}
	late := b.start("SendMessage on a closed connection", func() error { return x.SendMessage(b.Channels[0], nil) })
	if err := late.wait(); !errors.Is(err, io.EOF) {
		b.Errorf("SendMessage on a closed connection returns %v, want io.EOF", err)
	}
	if c, ok := x.(p2p.ChunkSender); ok {
		chunk := b.start("SendChunk and Flush on a closed connection", func() error {
			if err := c.SendChunk(b.Channels[0], nil, true); err != nil {
				return err
			}
			return c.Flush()
		})
		if err := chunk.wait(); !errors.Is(err, io.EOF) {
			b.Errorf("SendChunk or Flush on a closed connection: %v, want io.EOF", err)
		}
	}
}

// What SendMessage took before Close arrives, and then io.EOF.
func testCloseDeliversSent(b *bench) {
	for _, dialler := range []bool{true, false} {
		x, y := b.pair()
		if !dialler {
			x, y = y, x
		}
		send := b.start("SendMessage and Close", func() error {
			for i := range 3 {
				if err := x.SendMessage(b.Channels[i], fill(100*i, byte(i))); err != nil {
					return err
				}
			}
			return x.Close()
		})
		got := map[p2p.ChannelID]string{}
		for range 3 {
			m := b.receive(y)
			got[m.channel] = string(m.data)
		}
		send.must()
		for i, id := range b.Channels[:3] {
			if got[id] != string(fill(100*i, byte(i))) {
				b.Errorf("message %d that was sent before Close is %s", i, brief([]byte(got[id])))
			}
		}
		end := b.start("ReceiveMessage", func() error {
			_, _, err := y.ReceiveMessage()
			return err
		})
		if err := end.wait(); !errors.Is(err, io.EOF) {
			b.Errorf("after the last message: %v, want io.EOF", err)
		}
	}
}

// The other side's Close ends a ReceiveMessage that waits, with io.EOF.
func testPeerCloseEndsReceive(b *bench) {
	for _, dialler := range []bool{true, false} {
		x, y := b.pair()
		if !dialler {
			x, y = y, x
		}
		waiting := b.start("ReceiveMessage", func() error {
			_, _, err := x.ReceiveMessage()
			return err
		})
		b.do("Close", y.Close)
		if err := waiting.wait(); !errors.Is(err, io.EOF) {
			b.Errorf("ReceiveMessage returns %v after the peer's Close, want io.EOF", err)
		}
	}
}

// The other side's Close ends sending, too, with io.EOF, one that blocks as well.
func testPeerCloseEndsSend(b *bench) {
	x, y := b.pair()
	b.do("Close", y.Close)
	b.sendsFail(x)
	x, y = b.pair()
	size := min(b.MaxMessage, 1<<20)
	blocked := b.start("a SendMessage that blocks", func() error {
		for range 64 << 20 / size {
			if err := x.SendMessage(b.Channels[0], make([]byte, size)); err != nil {
				return err
			}
		}
		return errors.New("64 MiB were taken for a peer that reads nothing")
	})
	b.ends(blocked)
	b.do("Close", y.Close)
	if err := blocked.wait(); !errors.Is(err, io.EOF) {
		b.Errorf("a blocked SendMessage returns %v after the peer's Close, want io.EOF", err)
	}
}

// Close may come more than once, from anywhere, before the handshake, too.
func testCloseTwice(b *bench) {
	x, y := b.connect()
	b.do("Close before the handshake", x.Close)
	b.do("Close before the handshake", y.Close)
	x, _ = b.pair()
	var closers []*task
	for range 4 {
		closers = append(closers, b.start("Close", func() error {
			_ = x.Close()
			return nil
		}))
	}
	for _, t := range closers {
		t.must()
	}
}

// A connection that closes while both sides send and receive ends all four, and
// corrupts nothing. Intended for use with the race detector.
func testCloseWhileBusy(b *bench) {
	for round := range 8 {
		x, y := b.pair()
		var tasks []*task
		reached := make(chan struct{}, 2)
		for _, ends := range [][2]p2p.Connection{{x, y}, {y, x}} {
			tasks = append(tasks, b.start("a sender", func() error {
				for i := range uint32(1 << 30) {
					if err := ends[0].SendMessage(b.Channels[0], numbered(b.Channels[0], i)); err != nil {
						return nil
					}
				}
				return nil
			}), b.start("a receiver", func() error {
				for i := range uint32(1 << 30) {
					if i == uint32(20*round) {
						reached <- struct{}{}
					}
					id, data, err := ends[1].ReceiveMessage()
					if err != nil {
						return nil
					}
					if err := checkNumbered(message{id, data}, i); err != nil {
						return err
					}
				}
				return nil
			}))
		}
		b.do("some traffic", func() error {
			<-reached
			return nil
		})
		b.do("Close", x.Close)
		if round%4 == 3 {
			b.do("Close", y.Close)
		}
		for _, t := range tasks {
			t.must()
		}
	}
}
