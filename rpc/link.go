package rpc

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/stream"
)

// epoch is where the clocks of this package begin.
var epoch = time.Now()

// tick is the time since epoch in nanoseconds, never 0.
func tick() int64 { return int64(time.Since(epoch)) | 1 }

// clock is the tick at which a janitor last looked. To ask the real clock for
// every frame would cost more than many frames do, and nobody but the janitor
// wants to know. What is dated by it may seem older than it is, by up to every,
// so the janitor allows for that.
type clock struct {
	now   atomic.Int64
	every time.Duration // how often the janitor looks
}

// start wants the times that the janitor enforces; it will look at a quarter of
// the shortest, but every 5 ms at most and every second at least.
func (c *clock) start(times ...time.Duration) {
	c.every = min(max(slices.Min(times)/4, 5*time.Millisecond), time.Second)
	c.now.Store(tick())
}

// passed says whether d has certainly passed since a date.
func (c *clock) passed(since int64, d time.Duration) bool {
	return c.now.Load()-since > int64(d+c.every)
}

const (
	// together is up to which size a header and its body leave in one write.
	together = 32 << 10
	// writePiece is how much of a larger body is written at a time, and so what
	// a peer must take within one WriteTimeout.
	writePiece = 256 << 10
)

// outbuf lends buffers for frames that are put together.
var outbuf = sync.Pool{New: func() any {
	b := make([]byte, 0, 4<<10)
	return &b
}}

func lendOut() *[]byte { return outbuf.Get().(*[]byte) }

func returnOut(b *[]byte) {
	if cap(*b) <= 2*together {
		*b = (*b)[:0]
		outbuf.Put(b)
	}
}

// link is one stream, at either end.
//
// in belongs to one goroutine at a time: whose turn it is, serve and clientCall
// say. wmu orders the writers, and as in stream.Conn it is held over the write,
// so that a frame in several pieces stays whole: the deadline or the reset of
// the connection releases the holder, and so each waiter. Who reads never waits for
// it: the peer may have stopped reading because it has answered already, and what
// there is to say to a ping is left to the holder, in owed.
type link struct {
	conn  *stream.Conn
	peer  peer.ID
	in    reader
	clock *clock

	wmu     sync.Mutex
	omu     sync.Mutex // guards owed, and comes after wmu
	owed    []byte     // answers to pings, for the holder of wmu to send
	squeeze squeezer
	accepts bool // the peer reads zstd; owned by who reads

	out     atomic.Uint32 // what becomes of what was posted (see gather)
	outErr  error         // why it was not written; owned by who writes while out is not 0
	outDone chan struct{} // made by init
	wrote   uint32        // gather.wrote as it was last; owned by who makes or serves the call

	writing atomic.Int64 // when the write under way began, by clock, or 0
	sent    atomic.Int64 // bytes
	active  atomic.Int64 // when the last frame went, in either direction, by clock
}

func (l *link) init(conn *stream.Conn, pool *bufferPool, c *clock) {
	l.conn, l.peer, l.clock = conn, conn.RemotePeer(), c
	l.outDone = make(chan struct{}, 1)
	l.in.init(conn, pool)
	l.touch()
}

// touch notes that a frame went by.
func (l *link) touch() { l.active.Store(l.clock.now.Load()) }

// write sends frames that are put together already.
func (l *link) write(b []byte) error {
	l.wmu.Lock()
	return l.unlock(l.writeLocked(b))
}

// unlock ends what lock of wmu began, with what is owed by then. err is how the
// holder's own write went.
func (l *link) unlock(err error) error {
	for {
		l.omu.Lock()
		owed := l.owed
		l.owed = nil
		if len(owed) == 0 || err != nil {
			l.wmu.Unlock() // under omu, so that nothing is owed that nobody sends
			l.omu.Unlock()
			return err
		}
		l.omu.Unlock()
		err = l.writeLocked(owed)
	}
}

// answerPing sends the answer to a ping, or leaves it to who is writing. An error
// may leave half a frame behind.
func (l *link) answerPing(p []byte) error {
	l.omu.Lock()
	if !l.wmu.TryLock() {
		defer l.omu.Unlock()
		if len(l.owed) >= pingsMost*(pingMax+8) {
			return fmt.Errorf("%w: pings whose answers are not read", ErrOutOfOrder)
		}
		l.owed = appendFrame(l.owed, kindPing, flagAnswer, 0, p)
		return nil
	}
	l.omu.Unlock()
	b := lendOut()
	defer returnOut(b)
	*b = appendFrame(*b, kindPing, flagAnswer, 0, p)
	return l.unlock(l.writeLocked(*b))
}

func (l *link) writeLocked(b []byte) error {
	for len(b) > 0 {
		piece := b[:min(len(b), writePiece)]
		now := l.clock.now.Load()
		l.writing.Store(now)
		l.active.Store(now)
		n, err := l.conn.Write(piece)
		l.writing.Store(0)
		l.sent.Add(int64(n))
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// send writes one frame.
func (l *link) send(k kind, f flags, call uint64, payload []byte) error {
	b := lendOut()
	defer returnOut(b)
	*b = appendFrame(*b, k, f, call, payload)
	return l.write(*b)
}

// sendMessage writes a message, behind the frames in head, which it may extend.
// zstd says whether the peer reads it.
func (l *link) sendMessage(head *[]byte, f flags, call uint64, body []byte, zstd bool) error {
	body, squeezed := l.squeeze.squeeze(body, zstd)
	return l.writeMessage(head, f|squeezed, call, body)
}

// appendMessage appends a small message to the frames in b.
func (l *link) appendMessage(b *[]byte, f flags, call uint64, body []byte, zstd bool) {
	body, squeezed := l.squeeze.squeeze(body, zstd)
	*b = append(appendHeader(*b, kindMessage, f|squeezed, call, len(body)), body...)
}

// writeMessage is sendMessage for a body that is as it will travel.
func (l *link) writeMessage(head *[]byte, f flags, call uint64, body []byte) (err error) {
	l.wmu.Lock()
	defer func() { err = l.unlock(err) }()
	*head = appendHeader(*head, kindMessage, f, call, len(body))
	if len(body) <= together {
		*head = append(*head, body...)
		return l.writeLocked(*head)
	}
	if err := l.writeLocked(*head); err != nil {
		return err
	}
	return l.writeLocked(body)
}

// pingsMost is how many pings, and answers to pings, a peer may send within a second.
const pingsMost = 100

// pingCount counts the pings of a peer. It belongs to whoever reads.
type pingCount struct {
	n    int
	from int64 // the tick from which on n were counted
}

// more counts one more, and says if that is too many.
func (c *pingCount) more() error {
	if now := tick(); now-c.from > int64(time.Second) {
		c.n, c.from = 0, now
	}
	if c.n++; c.n > pingsMost {
		return fmt.Errorf("%w: more than %d pings in a second", ErrOutOfOrder, pingsMost)
	}
	return nil
}

// longAgo as a deadline releases whoever is blocked.
var longAgo = time.Unix(1, 0)
