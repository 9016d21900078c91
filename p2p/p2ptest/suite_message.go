package p2ptest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/kith-p2p/kith/p2p"
)

// How a Connection has to carry messages.
var messageTests = []test{
	{"Order", testOrder},
	{"Sizes", testSizes},
	{"OwnBytes", testOwnBytes},
	{"BothWays", testBothWays},
	{"Backpressure", testBackpressure},
	{"Chunks", testChunks},
	{"ChunksInterleave", testChunksInterleave},
	{"Limits", testLimits},
	{"UnknownChannel", testUnknownChannel},
	{"ConcurrentChannels", testConcurrentChannels},
	{"Recycle", testRecycle},
}

// numbered is message i of a channel.
func numbered(id p2p.ChannelID, i uint32) []byte {
	data := binary.BigEndian.AppendUint16(nil, uint16(id))
	data = binary.BigEndian.AppendUint32(data, i)
	return append(data, make([]byte, i%97)...)
}

// checkNumbered returns what is wrong with a message of which n came before on its
// channel.
func checkNumbered(m message, n uint32) error {
	if want := numbered(m.channel, n); string(m.data) != string(want) {
		return fmt.Errorf("message %d of channel %#x is %s, want %s", n, m.channel, brief(m.data), brief(want))
	}
	return nil
}

// receiveNumbered takes count messages and checks that those of each channel come
// whole, once, and in order.
func receiveNumbered(c p2p.Connection, count int) error {
	seen := map[p2p.ChannelID]uint32{}
	for range count {
		id, data, err := c.ReceiveMessage()
		if err != nil {
			return err
		}
		if err := checkNumbered(message{id, data}, seen[id]); err != nil {
			return err
		}
		seen[id]++
	}
	return nil
}

// Messages of a channel come in the order they were sent, each once and whole.
func testOrder(b *bench) {
	x, y := b.pair()
	const each = 1000
	var tasks []*task
	for _, ends := range [][2]p2p.Connection{{x, y}, {y, x}} {
		tasks = append(tasks, b.start("a sender", func() error {
			for i := range uint32(each) {
				for _, id := range b.Channels {
					if err := ends[0].SendMessage(id, numbered(id, i)); err != nil {
						return err
					}
				}
			}
			return nil
		}), b.start("a receiver", func() error { return receiveNumbered(ends[1], each*len(b.Channels)) }))
	}
	for _, t := range tasks {
		t.must()
	}
}

// Messages of every length arrive, empty ones and the longest.
func testSizes(b *bench) {
	x, y := b.pair()
	sizes := []int{0, 1, 1023, 1024, 1025, 64 << 10, b.MaxMessage, 0}
	if c, ok := x.(p2p.ChunkSender); ok {
		most := c.MaxChunk()
		sizes = append(sizes, most-1, most, most+1, 2*most-1, 2*most, 2*most+1)
	}
	for i, n := range sizes {
		if n > b.MaxMessage {
			continue
		}
		id := b.Channels[i%len(b.Channels)]
		want := fill(n, byte(i))
		send := b.start(fmt.Sprintf("SendMessage of %d bytes", n), func() error { return x.SendMessage(id, want) })
		m := b.receive(y)
		send.must()
		if m.channel != id || string(m.data) != string(want) {
			b.Errorf("sent %s on channel %#x, received %s on %#x", brief(want), id, brief(m.data), m.channel)
		}
	}
}

// The sender keeps its bytes and the receiver owns what it gets: neither sees what
// the other does with them later.
func testOwnBytes(b *bench) {
	x, y := b.pair()
	const count = 50
	buffer := make([]byte, 3000)
	send := b.start("a sender that uses one buffer", func() error {
		for i := range count {
			copy(buffer, fill(len(buffer), byte(i)))
			if err := x.SendMessage(b.Channels[0], buffer); err != nil {
				return err
			}
		}
		clear(buffer)
		return nil
	})
	var got [][]byte
	for i := range count {
		m := b.receive(y)
		if want := fill(len(buffer), byte(i)); string(m.data) != string(want) {
			b.Fatalf("message %d is %s, want %s", i, brief(m.data), brief(want))
		}
		for _, old := range got {
			clear(old)
		}
		got = append(got, m.data)
	}
	send.must()
	if string(got[count-1]) != string(fill(len(buffer), count-1)) {
		b.Error("the last message was changed by the sender's or the receiver's use of others")
	}
	for _, data := range got[:count-1] {
		if string(data) != string(make([]byte, len(data))) {
			b.Fatal("a message was changed after it was received")
		}
	}
}

// Every message received is what was sent, also while both sides send at once more
// than fits on the way.
func testBothWays(b *bench) {
	x, y := b.pair()
	const count = 20
	size := min(b.MaxMessage, 256<<10)
	var tasks []*task
	for i, ends := range [][2]p2p.Connection{{x, y}, {y, x}} {
		tasks = append(tasks, b.start("a sender", func() error {
			for j := range count {
				if err := ends[0].SendMessage(b.Channels[j%3], fill(size, byte(i*count+j))); err != nil {
					return err
				}
			}
			return nil
		}), b.start("a receiver", func() error {
			// Only the order within a channel is promised.
			var next [3]int
			for range count {
				id, data, err := ends[1].ReceiveMessage()
				if err != nil {
					return err
				}
				for k, c := range b.Channels[:3] {
					if c != id {
						continue
					}
					j := 3*next[k] + k
					next[k]++
					if want := fill(size, byte(i*count+j)); string(data) != string(want) {
						return fmt.Errorf("message %d is %s, want %s", j, brief(data), brief(want))
					}
				}
			}
			return nil
		}))
	}
	for _, t := range tasks {
		t.must()
	}
}

// A sender whose peer does not read blocks before much is on the way, and goes on
// when it reads.
func testBackpressure(b *bench) {
	x, y := b.pair()
	size := min(b.MaxMessage, 1<<20)
	count := 64 << 20 / size
	var messages [8][]byte // made before, so that only sending takes time
	for i := range messages {
		messages[i] = fill(size, byte(i))
	}
	var sent atomic.Int64
	send := b.start("a sender whose peer does not read", func() error {
		for i := range count {
			if err := x.SendMessage(b.Channels[0], messages[i%len(messages)]); err != nil {
				return err
			}
			sent.Add(1)
		}
		return nil
	})
	for before := int64(-1); before != sent.Load(); { // a slow machine gets on, too
		before = sent.Load()
		if !b.ends(send) {
			continue
		}
		if err := send.wait(); err != nil {
			b.Fatalf("sending to a peer that does not read: %v", err)
		}
		b.Fatal("64 MiB were taken for a peer that reads nothing")
	}
	for i, want := range messages {
		if m := b.receive(y); string(m.data) != string(want) {
			b.Fatalf("message %d is %s", i, brief(m.data))
		}
	}
	b.do("Close", x.Close)
	_ = send.wait()
}

// Chunks make a message, of whatever lengths they are; it has arrived after Flush,
// and SendMessage takes with it what was not flushed.
func testChunks(b *bench) {
	x, y := b.pair()
	c, ok := x.(p2p.ChunkSender)
	if !ok {
		return
	}
	most := c.MaxChunk()
	if most < 1 {
		b.Fatalf("MaxChunk is %d", most)
	}
	id := b.Channels[0]
	for i, lengths := range [][]int{{0}, {1}, {most}, {most, 0}, {0, 0, 5, 0}, {most, most, 1}, {1, 2, 3, 4, 5}, {most / 2, most, 0, most}} {
		var want []byte
		buffer := make([]byte, most)
		b.do("Flush of nothing", c.Flush)
		for j, n := range lengths {
			want = append(want, fill(n, byte(i*16+j))...)
		}
		send := b.start(fmt.Sprintf("SendChunk of %v", lengths), func() error {
			for j, n := range lengths {
				part := buffer[:n]
				copy(part, fill(n, byte(i*16+j)))
				if err := c.SendChunk(id, part, j == len(lengths)-1); err != nil {
					return err
				}
				clear(part) // the caller's, again
			}
			return c.Flush()
		})
		if m := b.receive(y); m.channel != id || string(m.data) != string(want) {
			b.Errorf("chunks of %v: received %s on channel %#x, want %s", lengths, brief(m.data), m.channel, brief(want))
		}
		send.must()
	}
	send := b.start("SendChunk, then SendMessage", func() error {
		if err := c.SendChunk(id, []byte("first"), true); err != nil {
			return err
		}
		return x.SendMessage(id, []byte("second"))
	})
	for _, want := range []string{"first", "second"} {
		if m := b.receive(y); string(m.data) != want {
			b.Errorf("received %q, want %q", m.data, want)
		}
	}
	send.must()
}

// Chunks of different channels interleave: a message does not wait for the end of
// one that was begun before it on another channel.
func testChunksInterleave(b *bench) {
	x, y := b.pair()
	c, ok := x.(p2p.ChunkSender)
	if !ok {
		return
	}
	most := min(c.MaxChunk(), 1024)
	slow, fast := b.Channels[0], b.Channels[1]
	var want []byte
	for i := range 10 {
		part := fill(most, byte(i))
		want = append(want, part...)
		send := b.start("SendChunk", func() error {
			if err := c.SendChunk(slow, part, i == 9); err != nil {
				return err
			}
			if err := c.SendChunk(fast, numbered(fast, uint32(i)), true); err != nil {
				return err
			}
			return c.Flush()
		})
		whole := i < 9
		for range 1 + i/9 {
			switch m := b.receive(y); {
			case m.channel == fast:
				if err := checkNumbered(m, uint32(i)); err != nil {
					b.Error(err)
				}
			case m.channel == slow && !whole:
				whole = true
				if string(m.data) != string(want) {
					b.Errorf("the message sent in pieces is %s, want %s", brief(m.data), brief(want))
				}
			default:
				b.Fatalf("received %s on channel %#x, want what was sent on %#x", brief(m.data), m.channel, fast)
			}
		}
		send.must()
	}
}

// A message as long as its channel allows arrives; one byte more ends the
// connection with an error that is not io.EOF, whatever other channels allow.
func testLimits(b *bench) {
	for _, n := range []int{1, 100, 5000} {
		x, y := b.pair()
		limits, ok := y.(p2p.ChannelLimits)
		if !ok {
			return
		}
		limits.SetChannelLimits(map[p2p.ChannelID]int{b.Channels[0]: n, b.Channels[1]: 3 * n})
		for i, size := range []int{3 * n, n} {
			want := fill(size, byte(i))
			send := b.start("SendMessage", func() error { return x.SendMessage(b.Channels[1-i], want) })
			if m := b.receive(y); string(m.data) != string(want) {
				b.Errorf("received %s, want %s", brief(m.data), brief(want))
			}
			send.must()
		}
		b.refuses(x, y, b.Channels[0], fill(n+1, 9))
	}
}

// A message on a channel that is not there ends the connection, too.
func testUnknownChannel(b *bench) {
	x, y := b.pair()
	limits, ok := y.(p2p.ChannelLimits)
	if !ok {
		return
	}
	limits.SetChannelLimits(map[p2p.ChannelID]int{b.Channels[0]: 100})
	b.refuses(x, y, b.Channels[1], []byte("nobody asked"))
}

// refuses checks that y ends the connection over a message that x sends.
func (b *bench) refuses(x, y p2p.Connection, id p2p.ChannelID, data []byte) {
	b.Helper()
	send := b.start("SendMessage of what is refused", func() error { return x.SendMessage(id, data) })
	receive := b.start("ReceiveMessage of what is refused", func() error {
		_, got, err := y.ReceiveMessage()
		if err == nil {
			return fmt.Errorf("delivered: %s", brief(got))
		}
		if errors.Is(err, io.EOF) {
			return errors.New("io.EOF, which is for a connection that was closed by choice")
		}
		return nil
	})
	if err := receive.wait(); err != nil {
		b.Errorf("%d bytes on channel %#x that should end the connection: %v", len(data), id, err)
		_ = y.Close()
	}
	_ = send.wait()
	b.sendsFail(x)
	again := b.start("ReceiveMessage on the closed connection", func() error {
		_, _, err := y.ReceiveMessage()
		return err
	})
	if err := again.wait(); err == nil {
		b.Error("a connection goes on after it was ended for a fault of the peer")
	}
}

// Where channels do not wait for each other, each may have a sender of its own.
func testConcurrentChannels(b *bench) {
	x, y := b.pair()
	if _, ok := x.(p2p.ConcurrentSender); !ok {
		return
	}
	const each = 300
	var tasks []*task
	for _, id := range b.Channels {
		tasks = append(tasks, b.start("a sender of one channel", func() error {
			for i := range uint32(each) {
				if err := x.SendMessage(id, numbered(id, i)); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	b.do("a receiver", func() error { return receiveNumbered(y, each*len(b.Channels)) })
	for _, t := range tasks {
		t.must()
	}
}

// Memory that is given back is used for nothing that anybody still has; giving
// back is allowed from anywhere, and after Close.
func testRecycle(b *bench) {
	x, y := b.pair()
	r, ok := y.(p2p.Recycler)
	if !ok {
		return
	}
	const count = 200
	size := func(i int) int { return []int{0, 1, 600, 3000, 40_000}[i%5] + i }
	send := b.start("a sender", func() error {
		for i := range count {
			if err := x.SendMessage(b.Channels[0], fill(size(i), byte(i))); err != nil {
				return err
			}
		}
		return nil
	})
	kept := map[int][]byte{}
	for i := range count {
		m := b.receive(y)
		if want := fill(size(i), byte(i)); string(m.data) != string(want) {
			b.Fatalf("message %d is %s, want %s", i, brief(m.data), brief(want))
		}
		if i%2 == 0 {
			kept[i] = m.data
		} else {
			r.Recycle(m.data)
		}
	}
	send.must()
	for i, data := range kept {
		if want := fill(size(i), byte(i)); string(data) != string(want) {
			b.Errorf("message %d, which was not given back, is now %s, want %s", i, brief(data), brief(want))
		}
	}
	b.do("Close", y.Close)
	b.do("Recycle after Close, and of nothing", func() error {
		r.Recycle(kept[0])
		r.Recycle(nil)
		return nil
	})
}
