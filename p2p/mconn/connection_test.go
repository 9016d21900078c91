package mconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// A message of a test.
type message struct {
	channel p2p.ChannelID
	data    []byte
}

// receiveAll receives n messages.
func receiveAll(c *Connection, n int) ([]message, error) {
	var got []message
	for range n {
		ch, data, err := c.ReceiveMessage()
		if err != nil {
			return got, err
		}
		got = append(got, message{ch, data})
	}
	return got, nil
}

func TestMessages(t *testing.T) {
	goroutines(t)
	for name, opts := range modes {
		t.Run(name, func(t *testing.T) {
			x, y := tcpPair(t, opts)
			limits := map[p2p.ChannelID]int{0: 2 << 20, 1: 2 << 20, 0x40: 2 << 20}
			y.SetChannelLimits(limits)
			random := rand.NewChaCha8([32]byte{5})
			var sent []message
			for i, n := range []int{0, 1, 5, 1023, 1024, 1025, 2048, 5000, widePacketData - 1, widePacketData, widePacketData + 1, 100_000, 1 << 20, 0, 3, 1<<20 + 1, 70_000, 12} {
				data := make([]byte, n)
				random.Read(data)
				sent = append(sent, message{[]p2p.ChannelID{0, 1, 0x40}[i%3], data})
			}
			var got []message
			err := both(func() error {
				for _, m := range sent {
					keep := bytes.Clone(m.data)
					if err := x.SendMessage(m.channel, m.data); err != nil {
						return err
					}
					if !bytes.Equal(keep, m.data) {
						t.Error("sending changed the message")
					}
				}
				return nil
			}, func() (err error) {
				got, err = receiveAll(y, len(sent))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for i, m := range got {
				if m.channel != sent[i].channel || !bytes.Equal(m.data, sent[i].data) || m.data == nil {
					t.Fatalf("message %d: %#x with %d bytes, want %#x with %d", i, m.channel, len(m.data), sent[i].channel, len(sent[i].data))
				}
				if cap(m.data) > 2*len(m.data)+16 {
					t.Errorf("message %d: %d bytes in %d", i, len(m.data), cap(m.data))
				}
			}
			if s := x.Stats().Sent; s.Messages != int64(len(sent)) || s.Packets < s.Messages || s.Frames == 0 || s.Bytes == 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Chunks of several channels interleave; each channel keeps its order, and
// what was buffered comes with the flush.
func TestChunksInterleave(t *testing.T) {
	for name, opts := range modes {
		x, y := tcpPair(t, opts)
		var got []message
		received := make(chan error, 1)
		go func() {
			var err error
			got, err = receiveAll(y, 3)
			received <- err
		}()
		var sent [3][]byte
		random := rand.New(rand.NewPCG(1, 2))
		for range 300 {
			ch := random.IntN(3)
			part := bytes.Repeat([]byte{byte(random.Int())}, random.IntN(8000))
			sent[ch] = append(sent[ch], part...)
			if err := x.SendChunk(p2p.ChannelID(ch), part, false); err != nil {
				t.Fatal(err)
			}
		}
		for ch := range 3 {
			if err := x.SendChunk(p2p.ChannelID(2-ch), nil, true); err != nil {
				t.Fatal(err)
			}
		}
		if err := x.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := <-received; err != nil {
			t.Error(name, err)
		}
		for i, m := range got {
			if m.channel != p2p.ChannelID(2-i) || !bytes.Equal(m.data, sent[2-i]) {
				t.Errorf("%s: message %d is of channel %d and has %d bytes, want %d", name, i, m.channel, len(m.data), len(sent[2-i]))
			}
		}
	}
}

// Small messages share frames and writes: a batch is one of each kind, or as
// many frames as its bytes need. LongQueues: a busy machine looks like a slow link,
// where batches are shorter.
func TestBatches(t *testing.T) {
	for name, c := range map[string]struct {
		opts   Options
		frames int64
	}{"comet": {Options{CometOnly: true, LongQueues: true}, 107}, "kith": {Options{LongQueues: true}, 2}} {
		x, y := tcpPair(t, c.opts)
		before := x.Stats().Sent
		small := make([]byte, 100)
		for range 1000 {
			if err := x.SendChunk(1, small, true); err != nil {
				t.Fatal(err)
			}
		}
		if err := x.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := x.Flush(); err != nil { // nothing to do
			t.Fatal(err)
		}
		after := x.Stats().Sent
		if writes, frames := after.Blocks-before.Blocks, after.Frames-before.Frames; writes != 2 || frames != c.frames {
			t.Errorf("%s: %d writes of %d frames, want 2 of %d", name, writes, frames, c.frames)
		}
		if _, err := receiveAll(y, 1000); err != nil {
			t.Fatal(err)
		}
		x.Close()
		if _, _, err := y.ReceiveMessage(); err == nil {
			t.Error("more")
		}
		s := y.Stats().Received
		if s.Packets != 1000 || s.Frames != c.frames+2 { // and the handshake's
			t.Errorf("%s: received %+v", name, s)
		}
	}
}

// Sending allocates nothing, receiving the message alone, and not even that
// when messages are given back.
func TestAllocations(t *testing.T) {
	for name, opts := range modes {
		x, y := tcpPair(t, opts)
		data := make([]byte, 4000)
		round := func() {
			if err := x.SendMessage(1, data); err != nil {
				t.Fatal(err)
			}
			_, m, err := y.ReceiveMessage()
			if err != nil || len(m) != len(data) {
				t.Fatal(len(m), err)
			}
		}
		round()
		if n := testing.AllocsPerRun(200, round); n > 1.5 {
			t.Errorf("%s: %v allocations a message", name, n)
		}
	}
}

func TestRecycle(t *testing.T) {
	x, y := tcpPair(t, Options{})
	for i := range 200 {
		data := bytes.Repeat([]byte{byte(i)}, 500*i)
		go x.SendMessage(1, data)
		_, m, err := y.ReceiveMessage()
		if err != nil || !bytes.Equal(m, data) {
			t.Fatalf("message %d: %d bytes, %v", i, len(m), err)
		}
		clear(m[:cap(m)])
		y.Recycle(m)
	}
	y.Recycle(nil)
	y.Recycle(make([]byte, 4<<20))
}

// direct is a connection as after a handshake, whose peer is the test: what it
// receives are the packets given, sealed in frames.
func direct(t testing.TB, kith bool, stream []byte) *Connection {
	t.Helper()
	seal, open := aeads(t)
	send := frameCipher{aead: seal, wide: kith}
	c := connect(t, fakeConn{r: bytes.NewReader(sealAll(t, &send, stream))}, Options{})
	return shaken(c, kith, open)
}

// shaken puts a connection where its handshake would.
func shaken(c *Connection, kith bool, open interface {
	Seal(dst, nonce, plaintext, additionalData []byte) []byte
	Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error)
	NonceSize() int
	Overhead() int
}) *Connection {
	c.in.cipher = frameCipher{aead: open, wide: kith}
	c.out.cipher = frameCipher{aead: open, wide: kith}
	c.kith, c.packetMax = kith, packetData
	if kith {
		c.packetMax = widePacketData
	}
	c.common = channelsUpTo(3)
	c.SetChannelLimits(defaultLimits(c.common))
	c.ready.Store(true)
	c.keep()
	return c
}

// What a peer does wrong closes the connection with the error of its fault.
func TestFaults(t *testing.T) {
	goroutines(t)
	part := func(ch uint16, n int, eof bool) []byte { return appendMessage(nil, ch, eof, make([]byte, n)) }
	full := bytes.Repeat(part(1, 1024, false), p2p.DefaultMaxMessage/1024)
	raw := func(body string) []byte { b := unhex(t, body); return append([]byte{byte(len(b))}, b...) }
	for name, c := range map[string]struct {
		in   []byte
		kith bool
		got  int // messages before
		want error
	}{
		"an end":                     {part(1, 5, true), false, 1, io.EOF},
		"an end in a packet":         {part(1, 500, true)[:400], false, 0, io.ErrUnexpectedEOF},
		"an end in a message":        {part(1, 500, false), false, 0, io.EOF},
		"a full channel":             {append(bytes.Clone(full), part(1, 0, true)...), false, 1, io.EOF},
		"one byte above":             {append(bytes.Clone(full), part(1, 1, true)...), false, 0, ErrMessageTooLarge},
		"one byte above, no end":     {append(bytes.Clone(full), part(1, 1, false)...), false, 0, ErrMessageTooLarge},
		"endless":                    {bytes.Repeat(part(2, 1024, false), 5000), false, 0, ErrMessageTooLarge},
		"an unknown channel":         {append(part(1, 5, true), part(3, 5, true)...), false, 1, ErrUnknownChannel},
		"a high channel":             {part(0xffff, 5, true), true, 0, ErrUnknownChannel},
		"a negative channel":         {raw("1a0b08ffffffffffffffffff01"), false, 0, ErrUnknownChannel},
		"channel 65537":              {raw("1a0408818004"), false, 0, ErrUnknownChannel},
		"an unknown packet":          {raw("2a00"), false, 0, ErrUnknownPacket},
		"an empty packet":            {[]byte{0}, false, 0, ErrUnknownPacket},
		"a goodbye of a stranger":    {raw("2200"), false, 0, ErrUnknownPacket},
		"a malformed packet":         {raw("1a05"), false, 0, ErrMalformed},
		"1,025 bytes":                {part(1, 1025, true), false, 0, ErrPacketTooLarge},
		"1,024 and unknown fields":   {part(1, 1100, true), false, 0, ErrPacketTooLarge},
		"16 KiB and one":             {part(1, widePacketData+1, true), true, 0, ErrPacketTooLarge},
		"16 KiB":                     {part(1, widePacketData, true), true, 1, io.EOF},
		"a packet of 2^31":           {[]byte{0x80, 0x80, 0x80, 0x80, 8}, false, 0, ErrPacketTooLarge},
		"a packet of 2^63":           {[]byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1}, false, 0, ErrPacketTooLarge},
		"a packet of -1":             {bytes.Repeat([]byte{0xff}, 10), false, 0, ErrMalformed},
		"a length without end":       {bytes.Repeat([]byte{0x80}, 30), false, 0, ErrMalformed},
		"a ping flood":               {bytes.Repeat(raw("0a00"), noiseBurst+50), false, 0, ErrFlood},
		"a pong flood":               {bytes.Repeat(raw("1200"), noiseBurst+50), false, 0, ErrFlood},
		"a flood of nothing":         {bytes.Repeat(part(1, 0, false), noiseBurst+50), false, 0, ErrFlood},
		"pings, but not too many":    {bytes.Repeat(raw("0a00"), noiseBurst-1), false, 0, io.EOF},
		"a goodbye":                  {appendGoodbye(nil, "full", nil), true, 0, io.EOF},
		"a packet cut by kith's":     {bytes.Repeat(part(1, 10_000, true), 20), true, 20, io.EOF},
		"an end in kith's packet":    {part(1, 10_000, true)[:9000], true, 0, io.ErrUnexpectedEOF},
		"a short packet and nothing": {[]byte{5}, false, 0, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // what may come in a second does, however slow this machine is
				victim := direct(t, c.kith, c.in)
				got := 0
				var err error
				for err == nil {
					if _, _, err = victim.ReceiveMessage(); err == nil {
						got++
					}
				}
				if got != c.got || !errors.Is(err, c.want) {
					t.Errorf("%d messages, then %v; want %d, then %v", got, err, c.got, c.want)
				}
				if _, _, again := victim.ReceiveMessage(); again.Error() != err.Error() {
					t.Errorf("first %v, then %v", err, again)
				}
				if sendErr := victim.SendMessage(1, []byte("x")); sendErr == nil || sendErr.Error() != err.Error() {
					t.Errorf("received %v, sent %v", err, sendErr)
				}
				victim.Close()
				counted(t, victim.Stats().Faults, c.want)
			})
		})
	}
}

// counted checks that an end with this error has counted one fault, or none if it
// is no fault.
func counted(t *testing.T, f Faults, want error) {
	t.Helper()
	n, total := int64(0), int64(0)
	if i := faultOf(want, false); i >= 0 {
		counts := newFaultCounts()
		counts[i].Store(1)
		if total = 1; f == counts.faults() {
			n = 1
		}
	}
	if f.Total() != total || n != total {
		t.Errorf("%v counted as %+v", want, f)
	}
}

// A million empty messages are a million messages and take no memory.
func TestEmptyMessagesByTheMillion(t *testing.T) {
	const n = 1_000_000
	x, y := tcpPair(t, Options{CometOnly: true})
	go func() {
		for range n {
			if x.SendChunk(1, nil, true) != nil {
				return
			}
		}
		x.Flush()
	}()
	if _, _, err := y.ReceiveMessage(); err != nil {
		t.Fatal(err)
	}
	var err error
	bounded(t, 1<<20, func() {
		for i := 1; i < n && err == nil; i++ {
			var m []byte
			if _, m, err = y.ReceiveMessage(); len(m) != 0 {
				err = errors.New("not empty")
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Either side's Close releases both sides' calls with io.EOF, and is clean.
func TestClose(t *testing.T) {
	goroutines(t)
	for name, opts := range modes {
		for _, who := range []string{"own", "peer's"} {
			t.Run(name+"/"+who, func(t *testing.T) {
				x, y := tcpPair(t, opts)
				closer := x
				if who == "peer's" {
					closer = y
				}
				big := make([]byte, 1<<20)
				var wg sync.WaitGroup
				stuck := make(chan struct{}, 1)
				wg.Go(func() {
					_, _, err := x.ReceiveMessage()
					if !errors.Is(err, io.EOF) {
						t.Errorf("receiving: %v", err)
					}
				})
				wg.Go(func() {
					if err := x.SendMessage(1, []byte("first")); err != nil {
						t.Error(err)
					}
					stuck <- struct{}{}
					for {
						if err := x.SendMessage(1, big); err != nil {
							if !errors.Is(err, io.EOF) {
								t.Errorf("sending: %v", err)
							}
							return
						}
					}
				})
				<-stuck
				closer.Close()
				if err := closer.Close(); err != nil {
					t.Error(err)
				}
				wg.Wait()
				for range 2 {
					if _, _, err := x.ReceiveMessage(); !errors.Is(err, io.EOF) {
						t.Error(err)
					}
					if err := x.Flush(); !errors.Is(err, io.EOF) {
						t.Error(err)
					}
				}
				x.Close()
				y.Close()
			})
		}
	}
}

// Messages that were sent before the peer closed arrive, even when our own
// sending finds the connection closed first.
func TestMessagesBeforeTheEnd(t *testing.T) {
	x, y := tcpPair(t, Options{})
	for i := range 20 { // in one segment: what TCP has not sent when we close may be lost
		if err := x.SendChunk(1, bytes.Repeat([]byte{byte(i)}, 1000), true); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Flush(); err != nil {
		t.Fatal(err)
	}
	x.Close()
	for {
		if err := y.SendMessage(1, make([]byte, 1000)); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
	}
	got, err := receiveAll(y, 20)
	if err != nil || got[19].data[0] != 19 {
		t.Errorf("%d messages, %v", len(got), err)
	}
	if _, _, err := y.ReceiveMessage(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestGoodbye(t *testing.T) {
	goroutines(t)
	x, y := tcpPair(t, Options{})
	if err := x.SendChunk(1, []byte("last words"), true); err != nil {
		t.Fatal(err)
	}
	if err := x.CloseWithReason("too many peers", []string{"mconn://a@h:1"}); err != nil {
		t.Fatal(err)
	}
	if _, m, err := y.ReceiveMessage(); string(m) != "last words" || err != nil {
		t.Errorf("%q, %v", m, err)
	}
	_, _, err := y.ReceiveMessage()
	bye, ok := errors.AsType[*GoodbyeError](err)
	if !ok || bye.Reason != "too many peers" || len(bye.Peers) != 1 || !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "too many peers") {
		t.Error(err)
	}
	if _, _, err := x.ReceiveMessage(); err != io.EOF {
		t.Error(err)
	}
	// To others it is a close.
	x, y = tcpPair(t, Options{CometOnly: true})
	x.CloseWithReason("why", nil)
	if _, _, err := y.ReceiveMessage(); !errors.Is(err, io.EOF) {
		t.Error(err)
	} else if _, ok := errors.AsType[*GoodbyeError](err); ok {
		t.Error(err)
	}
	if (&GoodbyeError{}).Error() == "" {
		t.Error("no text")
	}
}

// A goodbye does not wait long for a peer that takes nothing in.
func TestGoodbyeToADeafPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nx, ny := net.Pipe()
		x, _ := pairOver(t, nx, ny, Options{})
		sent := make(chan error, 1)
		go func() { sent <- x.SendMessage(1, make([]byte, 1<<20)) }()
		synctest.Wait()
		start := time.Now()
		x.CloseWithReason("", nil)
		if took := time.Since(start); took > 2*goodbyeTimeout {
			t.Error(took)
		}
		if err := <-sent; err == nil {
			t.Error("sent")
		}
	})
}

// A node that is not kith and closes without a word refused us, and what may
// have been the reason is said.
func TestRefusal(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*p2p.NodeInfo)
		want   string
	}{
		"network":  {func(i *p2p.NodeInfo) { i.Network = "other" }, `its network is "other", ours "test"`},
		"block":    {func(i *p2p.NodeInfo) { i.ProtocolVersion.Block = 10 }, "its block version is 10, ours 11"},
		"channels": {func(i *p2p.NodeInfo) { i.Channels = []p2p.ChannelID{0x70} }, "no common channel: it has 0x70, we have 0x00 0x01 0x02 0x40"},
		"none":     {func(i *p2p.NodeInfo) { i.Channels = nil }, "no common channel: it has none"},
		"nothing":  {func(*p2p.NodeInfo) {}, "the node infos agree"},
	} {
		nx, ny := rawPair(t)
		x, y := connect(t, nx, Options{}), connect(t, ny, Options{CometOnly: true})
		key, other := seeded(t, 3), seeded(t, 4)
		theirs := infoOf(other)
		c.change(&theirs)
		err := both(func() error {
			_, _, err := x.Handshake(t.Context(), infoOf(key), key)
			return err
		}, func() error {
			_, _, err := y.Handshake(t.Context(), theirs, other)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		y.Close()
		_, _, err = x.ReceiveMessage()
		refused, ok := errors.AsType[*RefusedError](err)
		if !ok || !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), c.want) || refused.Peer.Moniker != "kith" {
			t.Errorf("%s: %v", name, err)
		}
		x.Close()
	}
	if got := channelList(channelsUpTo(40)); !strings.HasSuffix(got, "and 8 more") {
		t.Error(got)
	}
}

// Channels above 0x7F exist between kith nodes only.
func TestWideChannels(t *testing.T) {
	x, y := tcpPair(t, Options{})
	y.SetChannelLimits(map[p2p.ChannelID]int{0x80: 10, 0xffff: 10})
	for _, ch := range []p2p.ChannelID{0x80, 0xffff} {
		if err := x.SendMessage(ch, []byte("wide")); err != nil {
			t.Fatal(err)
		}
		if got, m, err := y.ReceiveMessage(); got != ch || string(m) != "wide" || err != nil {
			t.Errorf("%#x: %#x, %q, %v", ch, got, m, err)
		}
	}
	x, y = tcpPair(t, Options{CometOnly: true})
	if err := x.SendMessage(0x80, nil); !errors.Is(err, p2p.ErrChannelUnsupported) {
		t.Error(err)
	}
	if err := x.SendChunk(0x80, nil, true); !errors.Is(err, p2p.ErrChannelUnsupported) {
		t.Error(err)
	}
	if err := x.SendMessage(1, []byte("still here")); err != nil {
		t.Error(err)
	}
	if _, m, err := y.ReceiveMessage(); string(m) != "still here" || err != nil {
		t.Errorf("%q, %v", m, err)
	}
}

// Towards a node that is not kith the 16 channels that were announced are all there
// are, also when our node info and the limits have more; kith nodes have them all.
func TestRegressionUnannouncedChannels(t *testing.T) {
	type sender func(c *Connection, ch p2p.ChannelID) error
	senders := map[string]sender{
		"message": func(c *Connection, ch p2p.ChannelID) error { return c.SendMessage(ch, []byte("x")) },
		"chunk": func(c *Connection, ch p2p.ChannelID) error {
			if err := c.SendChunk(ch, []byte("x"), true); err != nil {
				return err
			}
			return c.Flush()
		},
	}
	ours := slices.Concat([]p2p.ChannelID{0x80, 0x7f}, channelsUpTo(20)) // 0x7f and 0 to 14 are announced
	pair := func(t *testing.T, theirs Options) (x, y *Connection) {
		nx, ny := rawPair(t)
		x, y = connect(t, nx, Options{}), connect(t, ny, theirs)
		kx, ky := seeded(t, 3), seeded(t, 4)
		err := both(func() error {
			_, _, err := x.Handshake(t.Context(), infoOf(kx, ours...), kx)
			return err
		}, func() error {
			_, _, err := y.Handshake(t.Context(), infoOf(ky, channelsUpTo(16)...), ky)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		x.SetChannelLimits(defaultLimits(ours))
		return x, y
	}
	for name, send := range senders {
		t.Run(name, func(t *testing.T) {
			x, y := pair(t, Options{CometOnly: true})
			seen, _ := y.Peer()
			if want := slices.Concat([]p2p.ChannelID{0x7f}, channelsUpTo(15)); !slices.Equal(seen.Channels, want) {
				t.Errorf("announced %v, want %v", seen.Channels, want)
			}
			for _, ch := range []p2p.ChannelID{15, 16, 19, 100, 0x80, 0xffff} {
				if err := send(x, ch); !errors.Is(err, p2p.ErrChannelUnsupported) {
					t.Errorf("a send on %#x: %v", uint16(ch), err)
				}
			}
			y.SetChannelLimits(defaultLimits(seen.Channels)) // y itself announced 0 to 15
			for _, ch := range []p2p.ChannelID{0, 14} {
				if err := send(x, ch); err != nil {
					t.Fatal(err)
				}
				if got, m, err := y.ReceiveMessage(); got != ch || string(m) != "x" || err != nil {
					t.Errorf("%#x: %#x, %q, %v", uint16(ch), uint16(got), m, err)
				}
			}
			// y has announced 15, x has not: it has no such channel, whatever its limits say.
			if err := send(y, 15); err != nil {
				t.Fatal(err)
			}
			if _, _, err := x.ReceiveMessage(); !errors.Is(err, ErrUnknownChannel) {
				t.Errorf("a message on a channel that was not announced: %v", err)
			}
			if f := x.Stats().Faults; f != (Faults{UnknownChannel: 1}) {
				t.Errorf("%+v", f)
			}
		})
		t.Run(name+" between kith nodes", func(t *testing.T) {
			x, y := pair(t, Options{})
			y.SetChannelLimits(defaultLimits(ours))
			for _, ch := range ours {
				if err := send(x, ch); err != nil {
					t.Fatal(err)
				}
				if got, _, err := y.ReceiveMessage(); got != ch || err != nil {
					t.Errorf("%#x: %#x, %v", uint16(ch), uint16(got), err)
				}
				if err := send(y, ch); err != nil {
					t.Fatal(err)
				}
				if got, _, err := x.ReceiveMessage(); got != ch || err != nil {
					t.Errorf("%#x: %#x, %v", uint16(ch), uint16(got), err)
				}
			}
		})
	}
}

func TestNothingBeforeTheHandshake(t *testing.T) {
	nx, _ := net.Pipe()
	c := connect(t, nx, Options{})
	if err := c.SendMessage(1, nil); !errors.Is(err, ErrHandshake) {
		t.Error(err)
	}
	if err := c.SendChunk(1, nil, true); !errors.Is(err, ErrHandshake) {
		t.Error(err)
	}
	if err := c.Flush(); !errors.Is(err, ErrHandshake) {
		t.Error(err)
	}
	if _, _, err := c.ReceiveMessage(); !errors.Is(err, ErrHandshake) {
		t.Error(err)
	}
	if c.MaxChunk() < packetData {
		t.Error(c.MaxChunk())
	}
	c.CloseWithReason("nobody", nil)
	key := seeded(t, 3)
	if _, _, err := c.Handshake(context.Background(), infoOf(key), key); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(appendMessage(nil, 1, true, []byte("data")), false)
	f.Add(append(appendControl(nil, packetPing), appendMessage(nil, 2, false, make([]byte, 1000))...), true)
	f.Add(bytes.Repeat(appendMessage(nil, 1, false, []byte{1}), 30), false)
	f.Add(append(appendMessage(nil, 1, false, make([]byte, 100)), appendMessage(nil, 1, true, nil)...), true)
	f.Add(appendGoodbye(nil, "why", []string{"mconn://x@h:1"}), true)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, false)
	f.Fuzz(func(t *testing.T, in []byte, kith bool) {
		receiveBounded(t, kith, in)
	})
}

// receiveBounded receives all of a stream in no more memory than it is worth.
func receiveBounded(t testing.TB, kith bool, in []byte) {
	t.Helper()
	c := direct(t, kith, in)
	defer c.Close()
	c.in.resize(len(sealedSizes) - 1) // lent, and of one size for all
	var err error
	bounded(t, len(in), func() {
		for err == nil {
			_, _, err = c.ReceiveMessage()
		}
	})
}

// The memory of messages grows with what came: not by what the message before
// had, nor by how many channels there are.
func TestAssemblyMemory(t *testing.T) {
	packet := func(ch uint16, n int, eof bool) []byte { return appendMessage(nil, ch, eof, make([]byte, n)) }
	many := func(n int, b []byte) []byte { return bytes.Repeat(b, n) }
	big := append(many(1023, packet(1, 1024, false)), packet(1, 0, true)...)
	for name, in := range map[string][]byte{
		"a byte on each channel":           slices.Concat(packet(0, 1, false), packet(1, 1, false), packet(2, 1, false)),
		"bytes":                            many(10_000, packet(1, 1, false)),
		"just above a power of two":        append(many(64, packet(1, 1024, false)), packet(1, 1, false)...),
		"a large one, then the start of":   append(bytes.Clone(big), packet(1, 1, false)...),
		"a large one, then a sixteenth of": append(bytes.Clone(big), many(65, packet(1, 1024, false))...),
		"large and small in turn":          many(3, append(bytes.Clone(big), append(packet(1, 1, false), packet(1, 1, true)...)...)),
	} {
		t.Run(name, func(t *testing.T) { receiveBounded(t, false, in) })
	}
}
