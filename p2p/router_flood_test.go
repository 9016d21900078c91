package p2p_test

import (
	"runtime"
	"testing"

	"github.com/kith-p2p/kith/p2p"
)

// A peer that sends empty messages by the million, which no bound on bytes holds,
// to a receiver who takes none of them in time: the queue holds as many as it may,
// each of the others is counted as dropped, and memory stays where it was.
func TestMillionsOfEmptyMessages(t *testing.T) {
	const messages, room = 1_000_000, 1000
	w := &world{TB: t}
	b := w.node()
	unread := openBytes(t, b, 1, p2p.ChannelDescriptor{RecvQueueCapacity: room})
	w.start(b)
	conn := rawDial(b, testKey(50))
	defer conn.Close()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	received := func() uint64 { return unread.Stats().Received.Received }
	before := heap()
	for sent := range messages {
		if err := conn.SendChunk(1, nil, true); err != nil {
			t.Fatal(err)
		}
		if sent%(messages/4) == messages/8 {
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
			if grown := heap() - before; grown > 8<<20 {
				t.Fatalf("%d bytes more after %d messages", grown, sent)
			}
		}
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	w.until(func() bool { return received() == messages })
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("%d bytes more", grown)
	}
	if s := unread.Stats().Received; s.Queued != room || s.Dropped[p2p.DropFull] != messages-room || s.Dropped.Total() != messages-room {
		t.Errorf("%+v", s)
	}
	for range room {
		if in := next(t, unread); len(in.Message.Value) != 0 || in.From != testKey(50).Public().NodeID() {
			t.Fatalf("%+v", in)
		}
	}
	if s := unread.Stats(); s.Received.Delivered != room || s.Received.Queued != 0 || s.Undecodable != 0 {
		t.Errorf("%+v", s)
	}
	balance(t, unread.Stats())
}
