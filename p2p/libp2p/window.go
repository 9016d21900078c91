package libp2p

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// How much of a channel may be on its way without being taken: what a stream begins
// with, and what it grows to while it is taken quickly; and by how much all streams of a
// session may have grown together.
const (
	firstWindow = 256 << 10
	mostWindow  = 4 << 20
	growth      = 16 << 20
	// growWithin: a window of which half is taken within this time doubles. So it
	// holds what comes in 200 ms, a round trip around the earth.
	growWithin = int64(100 * time.Millisecond)
)

// drainAfter is how long nobody may have read a stream before it is drained into
// memory. It is short, because what is unread may fill the window that all streams of a
// QUIC connection share, and not shorter, because most of those who do not read just
// now are about to.
const drainAfter = 10 * time.Millisecond

// An inStream is a channel's stream from the peer, as the reader of its messages sees
// it. It grants the peer credit as the reader takes bytes (spec.md, "Credit"), and
// when the reader stays away, busy handing over a message that nobody takes, another
// goroutine reads what is on the way into memory, at most the credit. So nothing of a
// channel is left lying where other channels have to pass.
type inStream struct {
	c *Connection
	s network.Stream

	// Read's goroutine owns these.
	taken  uint64
	window uint64 // 0: the peer does not know credit
	grants int64  // when the last went out, by clock

	granted atomic.Uint64 // written by Read's goroutine
	came    uint64        // owned by whoever reads the stream: Read, or the drainer
	// turns is even while Read runs, odd while the reader is away. seen is what it was
	// when the watch looked last; Connection.mu guards it.
	turns atomic.Uint32
	seen  uint32
	// draining says that the drain is, or may be, where bytes come from. It is set by
	// the watch and cleared by Read.
	draining atomic.Bool

	mu    sync.Mutex // guards drain and what is in it
	drain *drain
}

// newInStream makes one of a stream whose header was read. Its reader is away at first.
func newInStream(c *Connection, s network.Stream) *inStream {
	in := &inStream{c: c, s: s}
	in.granted.Store(firstWindow)
	in.turns.Store(1)
	return in
}

// begin is called when the handshake is over, before the first Read.
func (in *inStream) begin() {
	if in.c.credit > 0 {
		in.window = firstWindow
	} else {
		_ = in.s.CloseWrite() // there is nothing to answer
	}
}

// end gives back what the window grew by. Nothing is read afterwards.
func (in *inStream) end() {
	if in.window > firstWindow {
		in.c.grown.Add(-int64(in.window - firstWindow))
	}
}

// Read reads what has come, waiting for a byte at least.
func (in *inStream) Read(p []byte) (n int, err error) {
	in.turns.Add(1)
	ok := false
	if in.draining.Load() {
		n, ok, err = in.fromDrain(p)
	}
	if !ok {
		n, err = in.s.Read(p)
		if err = in.arrived(n, err); errors.Is(err, ErrCredit) {
			n = 0 // or the credit for these bytes would cover the fault
		}
	}
	in.turns.Add(1)
	in.c.watch()
	in.take(n)
	return n, err
}

// arrived counts bytes that came, against the credit.
func (in *inStream) arrived(n int, err error) error {
	if n == 0 {
		return err
	}
	in.c.heard.Store(in.c.clock())
	in.came += uint64(n)
	if granted := in.granted.Load(); in.c.credit > 0 && in.came > granted {
		return fmt.Errorf("%w: %d bytes came, %d were granted", ErrCredit, in.came, granted)
	}
	return err
}

// take counts bytes that the reader took, and grants as many when half the window is
// used up.
func (in *inStream) take(n int) {
	in.taken += uint64(n)
	granted := in.granted.Load()
	if in.window == 0 || granted-in.taken > in.window/2 {
		return
	}
	now := in.c.clock()
	if now-in.grants < growWithin && in.window < mostWindow {
		if in.c.grown.Add(int64(in.window)) <= growth {
			in.window *= 2
		} else {
			in.c.grown.Add(-int64(in.window))
		}
	}
	in.grants = now
	in.granted.Store(in.taken + in.window)
	// A failure will show in reading.
	_, _ = in.s.Write(binary.BigEndian.AppendUint32(nil, uint32(in.taken+in.window-granted)))
}

// watch makes sure that somebody looks soon for readers that stay away. It is called
// after the handshake, by whoever goes away.
func (c *Connection) watch() {
	if !c.watching.Load() && c.watching.CompareAndSwap(false, true) {
		c.watchdog.Reset(drainAfter)
	}
}

// look starts to drain streams whose reader was away when it looked last, and since. It
// is called again as long as there are readers who may be about to.
func (c *Connection) look() {
	c.watching.Store(false) // before it looks, so that whoever goes away after that asks again
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		return
	}
	again := false
	for _, ch := range c.ins {
		for _, in := range ch.live {
			if in != nil && in.look() {
				again = true
			}
		}
	}
	if again {
		c.watch()
	}
}

// look says whether it should be called again. The caller holds Connection.mu.
func (in *inStream) look() bool {
	turns := in.turns.Load()
	switch {
	case turns%2 == 0 || in.draining.Load():
		return false
	case turns != in.seen:
		in.seen = turns
		return true
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	// Either Read sees draining, or we see that it has begun.
	in.draining.Store(true)
	if in.turns.Load() != turns {
		in.draining.Store(false)
		return true
	}
	d := &drain{}
	d.came.L = &in.mu
	in.drain = d
	in.c.tasks.Go(func() { d.run(in) })
	return false
}

// A drain is what was read in place of a reader that is away.
type drain struct {
	came     sync.Cond // signalled when bytes came, or it is over
	chunks   [][]byte  // not taken yet; the last may have room
	held     int       // bytes in them
	reserved int       // counted in the stream's scope
	back     bool      // the reader waits for bytes
	over     bool      // nobody drains any more
	err      error     // that ended it
}

// Chunks of a drain: the first, and those that follow.
const (
	firstChunk = 4 << 10
	laterChunk = 32 << 10
)

// fromDrain reads what was drained. false: there is nothing, and the stream itself is
// to be read.
func (in *inStream) fromDrain(p []byte) (n int, ok bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	d := in.drain
	if d == nil { // the watch thought better of it
		in.draining.Store(false)
		return 0, false, nil
	}
	for d.held == 0 && !d.over {
		d.back = true
		d.came.Wait()
	}
	d.back = false
	for n < len(p) && d.held > 0 {
		m := copy(p[n:], d.chunks[0])
		n, d.held = n+m, d.held-m
		if d.chunks[0] = d.chunks[0][m:]; len(d.chunks[0]) == 0 && (len(d.chunks) > 1 || d.over) {
			d.chunks[0], d.chunks = nil, d.chunks[1:]
		}
	}
	if n > 0 {
		in.s.Scope().ReleaseMemory(n)
		d.reserved -= n
		return n, true, nil
	}
	if d.err != nil {
		return 0, true, d.err
	}
	in.s.Scope().ReleaseMemory(d.reserved)
	in.drain = nil
	in.draining.Store(false)
	return 0, false, nil
}

// run drains the stream until the reader is back and has caught up, or the stream
// ends. A peer that knows no credit is left to the stream's window after firstWindow.
func (d *drain) run(in *inStream) {
	var free []byte // of the last chunk
	first := true
	for {
		var fresh []byte
		if len(free) == 0 {
			size := laterChunk
			if first {
				size, first = firstChunk, false
			}
			if in.s.Scope().ReserveMemory(size, network.ReservationPriorityMedium) != nil {
				size = 0 // the peer has as much as it may: the rest waits in the stream
			}
			fresh = make([]byte, size)
			free = fresh
		}
		var n int
		var err error
		if len(free) > 0 {
			n, err = in.s.Read(free)
			err = in.arrived(n, err)
		}
		in.mu.Lock()
		if d.reserved += len(fresh); len(fresh) > 0 {
			d.chunks = append(d.chunks, fresh[:0])
		}
		last := len(d.chunks) - 1
		if n > 0 {
			d.chunks[last] = d.chunks[last][:len(d.chunks[last])+n]
			d.held += n
		}
		full := len(free) == 0 || in.c.credit == 0 && d.held >= firstWindow
		d.err = err
		d.over = err != nil || full || d.back && n > 0
		over := d.over
		d.came.Signal()
		in.mu.Unlock()
		if errors.Is(err, ErrCredit) {
			in.c.fault(err) // the reader may not come back
		}
		if over {
			return
		}
		free = free[n:]
	}
}
