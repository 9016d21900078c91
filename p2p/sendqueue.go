package p2p

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// sendQueue is the queue towards one peer, and the only one: a scheduler behind
// a mutex, with one writer that asks it before every chunk. Messages are byte
// slices that any number of queues may share, so a broadcast marshals once; they
// are never written to, and nobody may write to them after sending.
//
// All methods are safe for concurrent use; next, claim and nextOf are for the
// writer. Nothing is done under the mutex but bookkeeping.
type sendQueue struct {
	epoch time.Time     // zero of the scheduler's clock
	wake  chan struct{} // holds one token when the writer should look again
	done  chan struct{} // closed by close

	mu    sync.Mutex // guards all below
	sched *scheduler
}

// newSendQueue makes a queue that holds at most total, over all channels.
func newSendQueue(total queueLimits, channels ...sendChannel) (*sendQueue, error) {
	q := &sendQueue{epoch: time.Now(), wake: make(chan struct{}, 1), done: make(chan struct{})}
	q.sched = newScheduler(total, q.clock)
	for _, c := range channels {
		if err := q.sched.add(c); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (q *sendQueue) clock() time.Duration { return time.Since(q.epoch) }

// at is a deadline on the scheduler's clock; the zero time is none.
func (q *sendQueue) at(deadline time.Time) time.Duration {
	if deadline.IsZero() {
		return 0
	}
	return max(1, deadline.Sub(q.epoch))
}

// unlock ends a change, and wakes the writer if there is something new for it.
func (q *sendQueue) unlock() {
	fresh := q.sched.fresh
	q.sched.fresh = false
	q.mu.Unlock()
	if fresh {
		q.poke()
	}
}

func (q *sendQueue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// add makes a channel known or changes its settings; remove drops what waits on
// it, finishing a message that was begun.
func (q *sendQueue) add(c sendChannel) error {
	q.mu.Lock()
	defer q.unlock()
	return q.sched.add(c)
}

func (q *sendQueue) remove(id ChannelID) {
	q.mu.Lock()
	defer q.unlock()
	q.sched.remove(id)
}

// trySend queues a message or says why not: ErrQueueFull, ErrChannelUnsupported,
// ErrMessageTooLarge, ErrQueueClosed. It never blocks and allocates nothing once
// the queue has grown. A message whose deadline passes before its first chunk is
// sent is dropped then, and counted; the zero deadline is none.
func (q *sendQueue) trySend(id ChannelID, data []byte, deadline time.Time) error {
	return q.try(id, data, deadline, false)
}

// try is trySend. owned says that nobody else has the bytes: their memory is used
// again once they were sent.
func (q *sendQueue) try(id ChannelID, data []byte, deadline time.Time, owned bool) error {
	at := q.at(deadline)
	q.mu.Lock()
	v, reason := q.sched.offer(id, data, at)
	if v == mustWait {
		q.sched.giveUp(id, nil, DropFull)
		v, reason = refused, DropFull
	}
	if v == accepted && owned {
		q.sched.own(id)
	}
	q.unlock()
	if v == refused {
		return refusal(reason, id, len(data))
	}
	return nil
}

// send is trySend, but where the channel's policy is SendBlock it waits for room
// until the context ends, and then returns the context's error.
func (q *sendQueue) send(ctx context.Context, id ChannelID, data []byte, deadline time.Time) error {
	return q.put(ctx, id, data, deadline, false)
}

// put is send, with owned as in try.
func (q *sendQueue) put(ctx context.Context, id ChannelID, data []byte, deadline time.Time, owned bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at := q.at(deadline)
	q.mu.Lock()
	v, reason := q.sched.offer(id, data, at)
	if v != mustWait {
		if v == accepted && owned {
			q.sched.own(id)
		}
		q.unlock()
		if v == refused {
			return refusal(reason, id, len(data))
		}
		return nil
	}
	w := &sendWaiter{data: data, deadline: at, owned: owned, done: make(chan struct{})}
	q.sched.wait(id, w)
	q.unlock()
	select {
	case <-w.done:
		return w.refused
	case <-ctx.Done():
	}
	q.mu.Lock()
	gaveUp := q.sched.giveUp(id, w, DropCancelled)
	q.unlock()
	if gaveUp {
		return ctx.Err()
	}
	return w.refused // decided about while the context ended
}

func refusal(reason DropReason, id ChannelID, n int) error {
	if err := reason.err(); err != ErrMessageTooLarge {
		return err
	}
	return fmt.Errorf("%w: %d bytes on channel %#02x", ErrMessageTooLarge, n, uint16(id))
}

// next is the chunk to send now, of at most limit bytes (0: a whole message), or
// nothing. Asking says that the chunk before went out. It does not block.
func (q *sendQueue) next(limit int) (chunk, bool) {
	q.mu.Lock()
	defer q.unlock()
	return q.sched.next(limit)
}

// claim names a channel that has something to send and no writer at work on it,
// and takes it for the caller, whose calls of nextOf hold it until there is
// nothing more.
func (q *sendQueue) claim() (ChannelID, bool) {
	q.mu.Lock()
	defer q.unlock()
	for _, ring := range q.sched.rings {
		for _, l := range ring {
			if !l.drained {
				l.drained = true
				return l.id, true
			}
		}
	}
	return 0, false
}

// nextOf is next for a claimed channel. With false the claim is over.
func (q *sendQueue) nextOf(id ChannelID) (chunk, bool) {
	q.mu.Lock()
	defer q.unlock()
	c, ok := q.sched.nextOf(id, 0)
	if l := q.sched.lanes[id]; !ok && l != nil {
		l.drained = false
	}
	return c, ok
}

// wait blocks until there may be something new to send. It reports false when
// the queue closed.
func (q *sendQueue) wait() bool {
	select {
	case <-q.wake:
		return true
	case <-q.done:
		return false
	}
}

// close drops what waits, releases the writer and all blocked senders, and makes
// every later send say ErrQueueClosed. A chunk that the writer holds counts by
// what comes of it.
func (q *sendQueue) close() { q.shut((*scheduler).close) }

func (q *sendQueue) shut(how func(*scheduler)) {
	q.mu.Lock()
	first := !q.sched.closed
	how(q.sched)
	q.unlock()
	if first {
		close(q.done)
	}
}

// fail is close by the writer: the chunk that next gave it could not be sent.
func (q *sendQueue) fail() { q.shut((*scheduler).fail) }

// failOf is fail for a chunk of nextOf.
func (q *sendQueue) failOf(id ChannelID) { q.shut(func(s *scheduler) { s.failOf(id) }) }

// stats are the sums over all channels; statsOf those of one, false if unknown.
func (q *sendQueue) stats() SendStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sched.stats()
}

func (q *sendQueue) statsOf(id ChannelID) (SendStats, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sched.statsOf(id)
}
