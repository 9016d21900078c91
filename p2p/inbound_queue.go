package p2p

import (
	"context"
	"sync"
)

// received is one message as it arrived: who sent it, and its bytes, which
// belong to the receiver.
type received struct {
	from NodeID
	data []byte
}

// inboundQueue is the queue of one channel between the read loops of all peers
// and whoever receives: an inbound behind a mutex. Read loops push bytes; the
// receiver's goroutine takes and decodes them. All methods are safe for
// concurrent use, with any number of receivers.
type inboundQueue struct {
	wake chan struct{} // holds one token when there is something to take
	done chan struct{} // closed by close

	mu   sync.Mutex // guards core
	core *inbound
}

// newInboundQueue makes a queue for messages of up to most bytes, which perPeer
// and total have to be able to hold.
func newInboundQueue(policy ReceivePolicy, perPeer, total queueLimits, most int) (*inboundQueue, error) {
	if err := inboundLimits(perPeer, total, most); err != nil {
		return nil, err
	}
	return &inboundQueue{wake: make(chan struct{}, 1), done: make(chan struct{}), core: newInbound(policy, perPeer, total)}, nil
}

func (q *inboundQueue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// push hands over a message, whose bytes it keeps. It returns nil, or what the
// message was dropped for: ErrQueueFull, ErrMessageTooLarge, ErrQueueClosed; all
// are counted, and none is a reason to end the connection. Only where the policy
// is ReceivePause does it block, until there is room or stop closes: then the
// message is dropped with ErrQueueClosed.
func (q *inboundQueue) push(stop <-chan struct{}, from NodeID, data []byte) error {
	q.mu.Lock()
	v, reason := q.core.push(from, data)
	if v != mustWait {
		q.mu.Unlock()
		if v == refused {
			return reason.err()
		}
		q.poke()
		return nil
	}
	w := q.core.wait(from, data)
	q.mu.Unlock()
	select {
	case <-w.done:
		return w.refused
	case <-stop:
	}
	q.mu.Lock()
	gaveUp := q.core.giveUp(w)
	q.mu.Unlock()
	if gaveUp {
		q.poke() // it may have held up others
		return ErrQueueClosed
	}
	return w.refused
}

// tryReceive takes the next message if there is one.
func (q *inboundQueue) tryReceive() (received, bool) {
	q.mu.Lock()
	from, data, ok := q.core.pop()
	more := q.core.messages > 0
	q.mu.Unlock()
	if more {
		q.poke() // for another receiver, or the next call
	}
	return received{from, data}, ok
}

// receive takes the next message, and blocks until there is one. It returns
// ErrQueueClosed after close, and the context's error when that ends.
func (q *inboundQueue) receive(ctx context.Context) (received, error) {
	for {
		if m, ok := q.tryReceive(); ok {
			return m, nil
		}
		select {
		case <-q.wake:
		case <-q.done:
			return received{}, ErrQueueClosed
		case <-ctx.Done():
			return received{}, ctx.Err()
		}
	}
}

// forget says that a peer's last connection ended. What it sent before is still
// delivered; its read loops must have ended.
func (q *inboundQueue) forget(id NodeID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.core.forget(id)
}

// discard drops what a peer has in the queue, counted as DropClosed, and returns
// how many messages that were. For peers that are banned.
func (q *inboundQueue) discard(id NodeID) int {
	q.mu.Lock()
	n := q.core.discard(id)
	q.mu.Unlock()
	q.poke() // others may have come in instead
	return n
}

// close drops what waits and releases everybody who does.
func (q *inboundQueue) close() {
	q.mu.Lock()
	first := !q.core.closed
	q.core.close()
	q.mu.Unlock()
	if first {
		close(q.done)
	}
}

// stats are the counts as they are now.
func (q *inboundQueue) stats() ReceiveStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.core.count()
}

// queued is what one peer has waiting.
func (q *inboundQueue) queued(id NodeID) (messages, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p := q.core.peers[id]; p != nil {
		return p.queue.len(), p.bytes
	}
	return 0, 0
}
