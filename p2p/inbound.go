package p2p

import "fmt"

// inbound is what one channel has received and nobody has taken yet: a queue of
// bytes for each peer, served round robin, message by message. Like scheduler it
// is a state machine without goroutine, lock or I/O; inboundQueue wraps it.
//
// A peer is held to perPeer and all of them to total. When the total is full the
// peer that holds most of what is short makes room, not the one that happens to
// come next, so that a peer that floods loses its own messages:
//
//   - ReceiveDropNewest drops the new message of a peer that is full; when the
//     total is, the newest of the fullest peer, which may be the new one.
//   - ReceiveDropOldest drops the oldest messages of the peer that is full; when
//     the total is, the oldest of the fullest peer.
//   - ReceivePause drops nothing: push says that its caller has to wait, and with
//     it the peer. When there is room those who wait come in in order.
//
// What a peer sent before it left stays, and is delivered: it was received.
// forget only frees what is kept of a peer once that is done; discard drops what
// a peer sent, for one that turned out to be hostile.
type inbound struct {
	policy         ReceivePolicy
	perPeer, total queueLimits

	peers    map[NodeID]*inboundPeer
	last     *inboundPeer         // whom the latest message came from; nil if that is not in peers
	turns    fifo[*inboundPeer]   // those with messages, in the order they are served
	waiters  fifo[*inboundWaiter] // at most one for each read loop
	messages int
	bytes    int
	stats    ReceiveStats
	closed   bool
}

// inboundPeer is what one peer has in the queue of a channel, which owns it.
type inboundPeer struct {
	id      NodeID
	queue   fifo[[]byte]
	bytes   int
	waiting int  // read loops that wait
	gone    bool // forgotten when empty
	queued  bool // it has a turn
}

// inboundRings are the rings of queues that grew large.
var inboundRings ringPool

// inboundWaiter is a message whose read loop waits. done is closed when it was
// decided about: refused is then why not, or nil.
type inboundWaiter struct {
	from    *inboundPeer
	data    []byte
	refused error
	done    chan struct{}
}

// inboundLimits says what is wrong with limits for messages of up to most bytes:
// one has to fit.
func inboundLimits(perPeer, total queueLimits, most int) error {
	if perPeer.messages < 1 || perPeer.bytes < most || total.messages < perPeer.messages || total.bytes < perPeer.bytes {
		return fmt.Errorf("p2p: a queue of %d messages and %d bytes for a peer, %d and %d in all, for messages of up to %d bytes: "+
			"one must fit, and all peers may have no less than one of them",
			perPeer.messages, perPeer.bytes, total.messages, total.bytes, most)
	}
	return nil
}

func newInbound(policy ReceivePolicy, perPeer, total queueLimits) *inbound {
	return &inbound{policy: policy, perPeer: perPeer, total: total, peers: make(map[NodeID]*inboundPeer)}
}

// push takes a message of a peer. The verdict is accepted; refused, for a reason
// that is counted; or mustWait, and then wait follows. A message that is longer
// than any queue may be is refused as too large.
func (q *inbound) push(id NodeID, data []byte) (verdict, DropReason) {
	q.stats.Received++
	q.stats.ReceivedBytes += uint64(len(data))
	if q.closed {
		return q.refuse(DropGone)
	}
	if len(data) > min(q.perPeer.bytes, q.total.bytes) {
		return q.refuse(DropTooLarge)
	}
	p := q.last
	if p == nil || p.id != id {
		p = q.peers[id]
	}
	if p == nil {
		p = &inboundPeer{id: id, queue: fifo[[]byte]{rings: &inboundRings}}
		q.peers[id] = p
	}
	q.last = p
	p.gone = false
	n := len(data)
	switch q.policy {
	case ReceivePause:
		if p.waiting > 0 || !q.perPeer.takes(p.queue.len(), p.bytes, n) || q.short() || !q.total.takes(q.messages, q.bytes, n) {
			return mustWait, 0
		}
	case ReceiveDropOldest:
		for !q.perPeer.takes(p.queue.len(), p.bytes, n) {
			q.drop(p, p.queue.pop(), DropOldest)
		}
		for !q.total.takes(q.messages, q.bytes, n) {
			victim := q.fullest()
			q.drop(victim, victim.queue.pop(), DropOldest)
		}
	default:
		if !q.perPeer.takes(p.queue.len(), p.bytes, n) {
			return q.refuse(DropFull)
		}
		for !q.total.takes(q.messages, q.bytes, n) {
			victim := q.fullest()
			if q.share(p)+q.shareOf(n) >= q.share(victim) {
				return q.refuse(DropFull)
			}
			q.drop(victim, victim.queue.popBack(), DropFull)
		}
	}
	q.accept(p, data)
	return accepted, 0
}

func (q *inbound) refuse(reason DropReason) (verdict, DropReason) {
	q.stats.Dropped[reason]++
	return refused, reason
}

func (q *inbound) accept(p *inboundPeer, data []byte) {
	p.queue.push(data)
	p.bytes += len(data)
	q.messages++
	q.bytes += len(data)
	if !p.queued {
		p.queued = true
		q.turns.push(p)
	}
}

// short reports whether somebody waits for the total, whom nobody may overtake.
func (q *inbound) short() bool {
	for i := range q.waiters.len() {
		w := *q.waiters.at(i)
		if q.perPeer.takes(w.from.queue.len(), w.from.bytes, len(w.data)) && !q.waitsBefore(w.from, i) {
			return true
		}
	}
	return false
}

// share is how much of the total a peer holds, in the measure that is shorter:
// the larger of its shares of bytes and of messages, in parts of a million.
func (q *inbound) share(p *inboundPeer) int {
	return max(parts(p.bytes, q.total.bytes), parts(p.queue.len(), q.total.messages))
}

func (q *inbound) shareOf(n int) int { return max(parts(n, q.total.bytes), parts(1, q.total.messages)) }

func parts(of, whole int) int { return int(float64(of) / float64(whole) * 1e6) }

// fullest is the peer that holds the largest share, the first such in the order
// of turns. There is one: the total is only full when somebody holds something.
func (q *inbound) fullest() *inboundPeer {
	best := *q.turns.front()
	for i := 1; i < q.turns.len(); i++ {
		if p := *q.turns.at(i); q.share(p) > q.share(best) {
			best = p
		}
	}
	return best
}

// drop takes a message that was just taken from p's queue out of the books.
func (q *inbound) drop(p *inboundPeer, data []byte, reason DropReason) {
	q.stats.Dropped[reason]++
	q.release(p, data)
	if p.queue.len() == 0 {
		q.unturn(p)
	}
}

func (q *inbound) release(p *inboundPeer, data []byte) {
	p.bytes -= len(data)
	q.messages--
	q.bytes -= len(data)
}

// unturn takes the turn from a peer that has nothing more.
func (q *inbound) unturn(p *inboundPeer) {
	for i := range q.turns.len() {
		if *q.turns.at(i) == p {
			q.turns.remove(i)
			break
		}
	}
	p.queued = false
	q.tidy(p)
}

// tidy forgets a peer that left and has nothing more here.
func (q *inbound) tidy(p *inboundPeer) {
	if p.gone && p.queue.len() == 0 && p.waiting == 0 {
		delete(q.peers, p.id)
		q.last = nil
	}
}

// pop takes the next message: of the peer whose turn it is.
func (q *inbound) pop() (NodeID, []byte, bool) {
	if q.messages == 0 {
		return "", nil, false
	}
	p := q.turns.pop()
	data := p.queue.pop()
	q.release(p, data)
	q.stats.Delivered++
	q.stats.DeliveredBytes += uint64(len(data))
	if p.queue.len() > 0 {
		q.turns.push(p)
	} else {
		p.queued = false
		q.tidy(p)
	}
	q.admit()
	return p.id, data, true
}

// wait queues a read loop that was told to wait.
func (q *inbound) wait(id NodeID, data []byte) *inboundWaiter {
	w := &inboundWaiter{from: q.peers[id], data: data, done: make(chan struct{})}
	q.waiters.push(w)
	w.from.waiting++
	return w
}

// unwait takes out the waiter i places behind the front.
func (q *inbound) unwait(i int) *inboundWaiter {
	w := q.waiters.remove(i)
	w.from.waiting--
	return w
}

// giveUp ends a wait: the connection ended. It reports false when the message
// was decided about in the meantime.
func (q *inbound) giveUp(w *inboundWaiter) bool {
	for i := range q.waiters.len() {
		if *q.waiters.at(i) == w {
			q.unwait(i)
			q.refuse(DropCancelled)
			q.tidy(w.from)
			q.admit()
			return true
		}
	}
	return false
}

// admit lets waiting messages in. One that waits for its own peer's queue holds
// up only that peer; one that waits for the total holds up all behind it, or a
// long message would never come in.
func (q *inbound) admit() {
	for i := 0; i < q.waiters.len(); {
		w := *q.waiters.at(i)
		if !q.perPeer.takes(w.from.queue.len(), w.from.bytes, len(w.data)) || q.waitsBefore(w.from, i) {
			i++
			continue
		}
		if !q.total.takes(q.messages, q.bytes, len(w.data)) {
			return
		}
		q.unwait(i)
		q.accept(w.from, w.data)
		close(w.done)
	}
}

// waitsBefore reports whether a message of the peer waits before the i-th.
func (q *inbound) waitsBefore(p *inboundPeer, i int) bool {
	for j := 0; p.waiting > 1 && j < i; j++ {
		if (*q.waiters.at(j)).from == p {
			return true
		}
	}
	return false
}

// forget says that a peer has left: what it sent stays until it is taken.
func (q *inbound) forget(id NodeID) {
	if p := q.peers[id]; p != nil {
		p.gone = true
		q.tidy(p)
	}
}

// discard drops what a peer sent and returns how many messages that were.
func (q *inbound) discard(id NodeID) int {
	p := q.peers[id]
	if p == nil {
		return 0
	}
	p.gone = true
	n := q.empty(p)
	for i := 0; i < q.waiters.len(); {
		if w := *q.waiters.at(i); w.from == p {
			q.turnAway(q.unwait(i))
			n++
			continue
		}
		i++
	}
	q.tidy(p)
	q.admit()
	return n
}

func (q *inbound) turnAway(w *inboundWaiter) {
	q.refuse(DropClosed)
	w.refused = ErrQueueClosed
	close(w.done)
}

func (q *inbound) empty(p *inboundPeer) int {
	n := p.queue.len()
	for p.queue.len() > 0 {
		q.drop(p, p.queue.pop(), DropClosed)
	}
	return n
}

// close drops everything, and whatever comes later.
func (q *inbound) close() {
	q.closed = true
	for q.waiters.len() > 0 {
		q.turnAway(q.unwait(0))
	}
	for q.turns.len() > 0 {
		q.empty(*q.turns.front())
	}
	clear(q.peers)
	q.last = nil
}

// count are the counts as they are now.
func (q *inbound) count() ReceiveStats {
	st := q.stats
	st.Queued, st.QueuedBytes, st.Paused = q.messages, q.bytes, q.waiters.len()
	return st
}

// check returns what is wrong with the books, for tests.
func (q *inbound) check() error {
	messages, bytes, turns := 0, 0, 0
	for id, p := range q.peers {
		held := 0
		for i := range p.queue.len() {
			held += len(*p.queue.at(i))
		}
		if held != p.bytes || held > q.perPeer.bytes || p.queue.len() > q.perPeer.messages || p.queued != (p.queue.len() > 0) || p.id != id {
			return fmt.Errorf("peer %s: %d messages, %d bytes, %+v", id, p.queue.len(), held, p)
		}
		if p.gone && p.queue.len() == 0 && p.waiting == 0 {
			return fmt.Errorf("peer %s left and is still here", id)
		}
		messages, bytes = messages+p.queue.len(), bytes+held
		if p.queued {
			turns++
		}
	}
	if messages != q.messages || bytes != q.bytes || turns != q.turns.len() || messages > q.total.messages || bytes > q.total.bytes {
		return fmt.Errorf("%d of %d messages, %d of %d bytes, %d of %d turns", messages, q.messages, bytes, q.bytes, turns, q.turns.len())
	}
	return q.count().check()
}
