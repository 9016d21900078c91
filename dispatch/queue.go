package dispatch

import (
	"context"
	"sync"

	"github.com/kith-p2p/kith/p2p"
)

// queue is what waits for one subscription: one line for all, or with Hold one
// for each peer, served in turn. All methods are safe for concurrent use; only
// next blocks.
type queue struct {
	policy  Policy
	changed func() // called without the lock when a peer begins or ends to be held

	wake chan struct{} // holds one token when there is something to take
	done chan struct{} // closed by close

	mu       sync.Mutex // guards the fields below
	lines    map[p2p.NodeID]*line
	turns    fifo[*line] // those with messages
	messages int
	bytes    int
	closed   bool
	took     uint64
	dropped  [numDrops]uint64

	// out is what receivers have taken together and not given out yet, so that each
	// message does not cost the lock that the Dispatcher wants. outMu guards it and
	// is taken before mu.
	outMu sync.Mutex
	out   []Message
	outAt int
}

// line is what waits of one peer, or of all of them.
type line struct {
	from  p2p.NodeID
	queue fifo[Message]
	bytes int
	held  bool
}

// Why a subscriber lost a message.
const (
	droppedNewest = iota
	droppedOldest
	droppedLarge
	droppedClosed

	numDrops
)

// holdPeers is how many full lines fit into a queue that holds peers back.
const holdPeers = 8

func newQueue(p Policy, changed func()) *queue {
	return &queue{
		policy: p, changed: changed, wake: make(chan struct{}, 1), done: make(chan struct{}),
		lines: make(map[p2p.NodeID]*line),
	}
}

func poke(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// push adds messages, and marks those that it took. It leaves out, and counts,
// those whose content came before, unless missed is nil, and notes there what it has
// no room for.
func (q *queue) push(run []parcel, missed *losses, weight int32) (repeats uint64) {
	anyHeld, any := false, false
	q.mu.Lock()
	empty := q.messages == 0
	for i := range run {
		p := &run[i]
		if missed.repeats(p) {
			repeats++
			continue
		}
		var from p2p.NodeID
		if q.policy.Overflow == Hold {
			from = p.m.MessageFrom()
		}
		took, held := q.add(p, from, missed)
		if took {
			missed.took(p)
			p.taken, p.worth, any = true, max(p.worth, weight), true
		}
		anyHeld = anyHeld || held
	}
	q.mu.Unlock()
	if empty && any {
		poke(q.wake)
	}
	if anyHeld {
		q.changed()
	}
	return repeats
}

func (q *queue) add(p *parcel, from p2p.NodeID, missed *losses) (took, held bool) {
	size := p.size
	switch {
	case q.closed:
		q.dropped[droppedClosed]++
		return false, false
	case size > q.policy.QueueBytes:
		q.dropped[droppedLarge]++
		return false, false
	}
	l := q.lines[from]
	if l == nil {
		l = &line{from: from}
		q.lines[from] = l
	}
	full := func() bool { return l.queue.len() >= q.policy.Queue || l.bytes+size > q.policy.QueueBytes }
	if q.policy.Overflow == DropOldest {
		for full() {
			q.take(l)
			q.dropped[droppedOldest]++
		}
	}
	if full() || !q.makeRoom(l, size, missed) {
		if l.queue.len() == 0 && q.policy.Overflow == Hold {
			delete(q.lines, from)
		}
		q.dropped[droppedNewest]++
		missed.lost(p)
		return false, false
	}
	if l.queue.len() == 0 {
		q.turns.push(l)
	}
	l.queue.push(p.m)
	l.bytes += size
	q.messages++
	q.bytes += size
	q.took++
	if q.policy.Overflow == Hold && !l.held && (2*l.queue.len() >= q.policy.Queue || 2*l.bytes >= q.policy.QueueBytes) {
		l.held, held = true, true
	}
	return true, held
}

// makeRoom makes room in a queue that is full of what all peers together have
// there: the one that has most loses its newest message. It reports false when
// that is l.
func (q *queue) makeRoom(l *line, size int, missed *losses) bool {
	for q.messages >= holdPeers*q.policy.Queue || q.bytes+size > holdPeers*q.policy.QueueBytes {
		fullest := l
		for i := range q.turns.len() {
			if o := *q.turns.at(i); q.share(o) > q.share(fullest) {
				fullest = o
			}
		}
		if fullest == l {
			return false
		}
		out := fullest.queue.popBack()
		if missed != nil {
			missed.lost(&parcel{m: out, digest: digestOf(out.MessageType(), out.Data()), hashed: true})
		}
		q.release(fullest, len(out.Data()))
		q.took--
		q.dropped[droppedNewest]++
		if fullest.queue.len() == 0 {
			q.unturn(fullest)
			delete(q.lines, fullest.from)
		}
	}
	return true
}

// share is how full a line is.
func (q *queue) share(l *line) float64 {
	return max(float64(l.queue.len())/float64(q.policy.Queue), float64(l.bytes)/float64(q.policy.QueueBytes))
}

func (q *queue) release(l *line, size int) {
	l.bytes -= size
	q.messages--
	q.bytes -= size
}

func (q *queue) unturn(l *line) {
	for i := range q.turns.len() {
		if *q.turns.at(i) == l {
			q.turns.remove(i)
			return
		}
	}
}

// take takes the oldest message of a line, which has one.
func (q *queue) take(l *line) Message {
	m := l.queue.pop()
	q.release(l, len(m.Data()))
	if l.queue.len() == 0 {
		q.unturn(l)
	}
	return m
}

// pop takes the next message of the line whose turn it is.
func (q *queue) pop() (m Message, released, ok bool) {
	if q.messages == 0 {
		return nil, false, false
	}
	l := q.turns.pop()
	m = l.queue.pop()
	q.release(l, len(m.Data()))
	if l.queue.len() > 0 {
		q.turns.push(l)
	}
	if l.held && 4*l.queue.len() <= q.policy.Queue && 4*l.bytes <= q.policy.QueueBytes {
		l.held, released = false, true
	}
	if l.queue.len() == 0 && q.policy.Overflow == Hold {
		delete(q.lines, l.from)
	}
	return m, released, true
}

// outMost is how many messages receivers take together: few of a short queue,
// which is to be as short as it says.
func (q *queue) outMost() int { return min(max(q.policy.Queue/16, 1), 64) }

// tryNext takes the next message, if there is one.
func (q *queue) tryNext() (m Message, ok, closed bool) {
	q.outMu.Lock()
	defer q.outMu.Unlock()
	if q.outAt == len(q.out) {
		released := false
		q.out, q.outAt = q.out[:0], 0
		q.mu.Lock()
		for range q.outMost() {
			m, free, ok := q.pop()
			if !ok {
				break
			}
			q.out, released = append(q.out, m), released || free
		}
		closed = q.closed
		q.mu.Unlock()
		if released {
			q.changed()
		}
	}
	if q.outAt == len(q.out) {
		return nil, false, closed
	}
	m, q.out[q.outAt] = q.out[q.outAt], nil
	if q.outAt++; q.outAt < len(q.out) || q.outAt == q.outMost() {
		poke(q.wake) // there is, or may be, more: for another receiver, or the next call
	}
	return m, true, false
}

// next takes the next message, and blocks until there is one. After close it
// returns what is left, then ErrClosed; or the context's error when that ends.
func (q *queue) next(ctx context.Context) (Message, error) {
	for {
		m, ok, closed := q.tryNext()
		if ok {
			return m, nil
		}
		if closed {
			return nil, ErrClosed
		}
		select {
		case <-q.wake:
		case <-q.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// held lists the peers that are held back.
func (q *queue) held() (peers []p2p.NodeID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, l := range q.lines {
		if l.held {
			peers = append(peers, id)
		}
	}
	return peers
}

// close lets nothing more in.
func (q *queue) close() {
	q.mu.Lock()
	first := !q.closed
	q.closed = true
	q.mu.Unlock()
	if first {
		close(q.done)
	}
}

// depth is what waits now, what came in and what was dropped.
func (q *queue) depth() (messages, bytes int, took uint64, dropped [numDrops]uint64) {
	q.outMu.Lock()
	messages = len(q.out) - q.outAt
	for _, m := range q.out[q.outAt:] {
		bytes += len(m.Data())
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.outMu.Unlock()
	return messages + q.messages, bytes + q.bytes, q.took, q.dropped
}
