package rpc

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// gather lets the small frames of concurrent calls of one peer leave together.
//
// A caller that writes for itself wakes the muxer's sender, waits for its answer
// and so hands its processor to the sender, which finds one frame and makes a
// system call for it, though other callers are ready to write theirs. So a call
// that is not alone puts its frames into a queue and goes on to wait for the
// answer. One goroutine, which the first of them starts, lets those that can run
// do so, and then gives all that has gathered to the streams in a row: the muxer
// finds many frames, and sends them in one piece. There is no timer; nothing waits
// for a frame that may not come. Where it gathers nothing, because there are few
// other calls or long ones, it is used less and less, down to one call in 64.
//
// A stream that blocks holds up those behind it, all of them the same peer's.
// Frames are small and open or answer a call, when half of a stream's window is
// free at a peer that reads what it asked for; WriteTimeout and the caller's own
// deadline, which count from post on, end the wait at others.
type gather struct {
	active atomic.Int32  // calls under way
	wrote  atomic.Uint32 // requests or answers, of all streams
	direct atomic.Int32  // so many of the next are to write for themselves

	mu      sync.Mutex // guards what follows
	queue   []posted
	spare   []posted // for the next queue
	running bool
	alone   int // so many times in a row nothing was gathered
}

// gatherMax is up to which size a body is gathered.
const gatherMax = 4 << 10

type posted struct {
	l *link
	b *[]byte
}

// crowd is from how many writes of others between two of one stream on there is
// no question that there is something to gather.
const crowd = 8

// company says whether to gather what is to be written now: there are many other
// calls, not only long ones, or there are some and it has been of use.
func (g *gather) company(l *link, size int) bool {
	n := g.wrote.Add(1)
	others := n - l.wrote
	l.wrote = n
	return size <= gatherMax && g.active.Load() > 1 &&
		(others > crowd || g.direct.Load() <= 0 || g.direct.Add(-1) < 0)
}

// post queues frames, of a stream that has none queued, and returns whether the
// caller must see to it that run runs. b is given away.
func (g *gather) post(l *link, b *[]byte) (start bool) {
	l.out.Store(outQueued)
	l.writing.Store(l.clock.now.Load())
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = append(g.queue, posted{l, b})
	start = !g.running
	g.running = true
	return start
}

// run writes what was posted, until there is nothing.
func (g *gather) run() {
	for {
		runtime.Gosched() // whoever is ready posts first
		g.mu.Lock()
		queue := g.queue
		g.queue, g.spare = g.spare, nil
		g.running = len(queue) > 0
		switch len(queue) {
		case 0:
		case 1:
			g.alone = min(g.alone+1, 6)
			g.direct.Store(1<<g.alone - 1)
		default:
			g.alone = 0
		}
		g.mu.Unlock()
		if len(queue) == 0 {
			return
		}
		for i, p := range queue {
			p.l.writePosted(*p.b)
			returnOut(p.b)
			queue[i] = posted{}
		}
		g.mu.Lock()
		g.spare = queue[:0]
		g.mu.Unlock()
	}
}

// The bits of link.out: what became of what was posted. None: it was written, or
// outErr says why not.
const (
	outQueued uint32 = 1 << iota
	outWriting
	outDropped // the stream is given up: it is not to be written
	outAwaited // somebody waits for a token in outDone
)

// writePosted writes what was posted, unless it was dropped.
func (l *link) writePosted(b []byte) {
	for {
		s := l.out.Load()
		if s&outDropped != 0 {
			l.writing.Store(0)
			return
		}
		if l.out.CompareAndSwap(s, s&^outQueued|outWriting) {
			break
		}
	}
	err := l.write(b)
	l.outErr = err
	if err != nil {
		_ = l.conn.SetReadDeadline(longAgo) // whoever waits for an answer need not
	}
	if l.out.Swap(0)&outAwaited != 0 {
		l.outDone <- struct{}{}
	}
}

// flush waits until what was posted is written, and says how that went.
func (l *link) flush() error {
	for s := l.out.Load(); s != 0; s = l.out.Load() {
		if l.out.CompareAndSwap(s, s|outAwaited) {
			<-l.outDone
			break
		}
	}
	return l.outErr
}

// settle is flush for who does not want to wait, as the peer has answered or the
// call is given up. It returns false if what was posted was not sent whole; the
// stream is of no use then.
func (l *link) settle() bool {
	if l.out.Load() == 0 {
		return l.outErr == nil
	}
	if l.out.CompareAndSwap(outQueued, outQueued|outDropped) {
		return false
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(cancelTimeout))
	return l.flush() == nil && l.conn.SetWriteDeadline(time.Time{}) == nil
}
