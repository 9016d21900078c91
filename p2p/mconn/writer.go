package mconn

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// What is collected before it is sealed and written. 64 KiB is enough for one
// system call to cost little beside the sealing; on a slow link it is less, so
// that what is urgent never waits behind more than maxDrain of it.
const (
	maxBatch = 64 << 10
	minBatch = frameData
	maxDrain = 2 * time.Millisecond

	// drainWindow is over how many of the last bytes the link is measured.
	drainWindow = 128 << 10
)

// sendBuffers are lent to a writer between the first byte of a batch and the flush.
type sendBuffers struct {
	// plain: in front the room that sealing takes, then a batch, the packet that
	// made it full, and zeros up to a whole frame.
	plain  [frameHead + maxBatch + maxPacketHead + widePacketData + frameData]byte
	sealed [(maxBatch/frameData + 2 + widePacketData/frameData) * frameSealed]byte
}

var sendPool = sync.Pool{New: func() any { return new(sendBuffers) }}

// A writer packs packets densely into frames and writes many frames at once.
// It belongs to whoever has the turn (Connection.turn).
type writer struct {
	conn   net.Conn
	cipher frameCipher
	long   bool // always whole batches, however slow the link
	bufs   *sendBuffers
	n      int // bytes in bufs.plain after the room in front
	limit  atomic.Int64
	err    error // of the first write that failed; nothing is written after it

	sent, took float64 // bytes, and seconds they took to drain, of late

	rate bucket       // of bytes written; its zero value does not limit
	free atomic.Int64 // unix nanoseconds: when the rate lets more be written

	packets, messages int64 // counted here, published with each write
	stats             *writeStats
}

// writeStats are the counters of a writer, readable by anyone.
type writeStats struct {
	bytes, frames, writes, packets, messages atomic.Int64
	pings, pongs                             atomic.Int64
}

func newWriter(conn net.Conn, stats *writeStats) *writer {
	w := &writer{conn: conn, stats: stats}
	w.limit.Store(maxBatch)
	return w
}

// message appends one message packet of at most packetMax bytes of data, and
// writes when that makes a batch.
func (w *writer) message(channel uint16, data []byte, eof bool) error {
	if w.err != nil {
		return w.err
	}
	if w.cipher.wide && w.n+maxPacketHead+len(data) > wideMaxData {
		// A packet that no frame cuts need not be put together again.
		if err := w.write(true); err != nil {
			return err
		}
	}
	b := w.buffer()
	w.n = len(appendMessage(b, channel, eof, data)) - frameHead
	w.packets++
	if eof {
		w.messages++
	}
	if w.n >= int(w.limit.Load()) {
		return w.write(w.cipher.wide)
	}
	return nil
}

// control appends a packet that has been encoded, and writes all.
func (w *writer) control(encoded []byte) error {
	if w.bufs == nil && len(encoded) <= frameData && w.err == nil {
		// Nothing is under way: a ping needs no batch.
		plain := make([]byte, frameHead+frameData)
		copy(plain[frameHead:], encoded)
		return w.seal(make([]byte, 0, frameSealed), plain, len(encoded))
	}
	if w.n+len(encoded) > maxBatch {
		if err := w.write(true); err != nil {
			return err
		}
	}
	w.n = len(append(w.buffer(), encoded...)) - frameHead
	return w.write(true)
}

// buffer returns what was appended so far, with the room in front.
func (w *writer) buffer() []byte {
	if w.bufs == nil {
		w.bufs = sendPool.Get().(*sendBuffers)
	}
	return w.bufs.plain[:frameHead+w.n]
}

// write seals and writes: all, or as many whole frames as there are. It
// blocks on the socket.
func (w *writer) write(all bool) error {
	if w.err != nil || w.bufs == nil {
		return w.err
	}
	n := w.n
	if !all {
		n -= n % frameData
	}
	err := w.seal(w.bufs.sealed[:0], w.bufs.plain[:], n)
	if err == nil {
		copy(w.bufs.plain[frameHead:], w.bufs.plain[frameHead+n:frameHead+w.n])
		w.n -= n
	} else {
		w.n = 0
	}
	if w.n == 0 {
		sendPool.Put(w.bufs)
		w.bufs = nil
	}
	return err
}

// seal seals n bytes of plain into dst and writes them.
func (w *writer) seal(dst, plain []byte, n int) error {
	sealed, err := w.cipher.seal(dst, plain, n)
	if err == nil {
		start := time.Now()
		var k int
		if k, err = w.conn.Write(sealed); err == nil && k < len(sealed) {
			err = io.ErrShortWrite // half a frame went out: nothing may follow it
		}
		now := time.Now()
		w.measure(len(sealed), now.Sub(start))
		if w.rate.rate > 0 {
			w.free.Store(now.Add(w.rate.take(float64(len(sealed)), now)).UnixNano())
		}
		w.stats.packets.Store(w.packets)
		w.stats.messages.Store(w.messages)
		w.stats.bytes.Add(int64(len(sealed)))
		w.stats.frames.Add(int64(w.frames(n)))
		w.stats.writes.Add(1)
	}
	w.err = err
	return err
}

func (w *writer) frames(n int) int {
	if w.cipher.wide {
		return (n + wideMaxData - 1) / wideMaxData
	}
	return (n + frameData - 1) / frameData
}

// measure learns how fast the link drains, and from it how much a batch may
// hold. A write takes as long as the kernel's queue, which is short
// (notSentLowat), needs to take it in; while that queue has room writes take next
// to no time, so times and bytes are summed, not rates.
func (w *writer) measure(n int, took time.Duration) {
	if w.long {
		return
	}
	keep := max(0, 1-float64(n)/drainWindow)
	w.sent = w.sent*keep + float64(n)
	w.took = w.took*keep + took.Seconds()
	batch := int64(maxBatch)
	if most := w.sent / maxBatch * maxDrain.Seconds(); w.took > most {
		batch = max(minBatch, int64(w.sent/w.took*maxDrain.Seconds()))
	}
	w.limit.Store(batch)
}
