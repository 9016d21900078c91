package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Streams of messages have windows of their own, in each direction: a sender
// may send a message while it has credit left, which the message's payload and
// messageCost are taken from; it may fall below zero with the last one. The
// receiver gives credit back as messages are taken. So the reader of a stream
// never waits for its consumer, buffers at most a window and one message, and
// sees a cancel at once.
const (
	streamWindow = 256 << 10
	messageCost  = 64
)

// flow is one call with streams of messages, at either end.
type flow struct {
	l    *link
	call uint64

	mu      sync.Mutex // guards what follows
	queue   []queued   // arrived, not taken
	owed    int        // what the peer has sent beyond what we gave back
	taken   int        // to be given back
	inDone  error      // why no more will arrive: io.EOF in good order
	credit  int        // what we may send
	outDone error      // why no more may be sent
	senders int        // writes under way
	torn    bool       // one has failed

	popped func(size int) // told of what leaves the queue, under mu; nil: nobody

	arrived chan struct{} // holds one token when the queue or inDone changed
	allowed chan struct{} // the same for credit and outDone
	quieted chan struct{} // the same for senders
}

type queued struct {
	body []byte
	zstd bool
	cost int
}

func newFlow(l *link, call uint64) *flow {
	return &flow{l: l, call: call, credit: streamWindow, arrived: make(chan struct{}, 1), allowed: make(chan struct{}, 1), quieted: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// receive takes one frame of the call: a message, a half-close or a window.
// Whoever reads the stream calls it. left is what was not read of the payload,
// if m had no room for it.
func (f *flow) receive(in *reader, h header, m queueMeter) (left int, err error) {
	switch h.kind {
	case kindWindow:
		p, err := in.view(h.size)
		if err != nil {
			return 0, err
		}
		n, err := parseNumber(p)
		if err != nil {
			return 0, err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if n == 0 || n > uint64(maxBlockSize)*2 || f.credit+int(n) > streamWindow {
			return 0, fmt.Errorf("%w: a window of %d bytes more than was used", ErrOutOfOrder, n)
		}
		f.credit += int(n)
		signal(f.allowed)
		return 0, nil
	case kindMessage:
		cost := h.size + messageCost
		f.mu.Lock()
		err := f.inDone
		full := f.owed >= streamWindow
		f.mu.Unlock()
		switch {
		case err == io.EOF:
			return 0, fmt.Errorf("%w: a message after the last", ErrOutOfOrder)
		case full:
			return 0, fmt.Errorf("%w: a message beyond the window", ErrOutOfOrder)
		}
		body, left, err := in.body(h.size, m)
		if err != nil {
			return left, err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.owed += cost
		if f.inDone != nil { // nobody will take it
			m.give(cap(body))
			return 0, nil
		}
		m.keep()
		f.queue = append(f.queue, queued{body, h.flags&flagZstd != 0, cost})
		if h.flags&flagEnd != 0 {
			f.inDone = io.EOF
		}
		signal(f.arrived)
		return 0, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inDone == io.EOF {
		return 0, fmt.Errorf("%w: a second half-close", ErrOutOfOrder)
	}
	if f.inDone == nil {
		f.inDone = io.EOF
		signal(f.arrived)
	}
	return 0, nil
}

// fail ends both directions, unless they have ended. A nil flow has none.
func (f *flow) fail(err error) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inDone == nil {
		f.inDone = err
	}
	if f.outDone == nil {
		f.outDone = err
	}
	signal(f.arrived)
	signal(f.allowed)
}

// drop forgets what was not taken.
func (f *flow) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = nil
}

// recv blocks until there is a message, the stream ends or ctx does. The
// result is as it came; the caller gives back the credit (see give).
func (f *flow) recv(ctx context.Context) (queued, error) {
	for {
		f.mu.Lock()
		if len(f.queue) > 0 {
			q := f.queue[0]
			f.queue[0] = queued{}
			f.queue = f.queue[1:]
			if f.popped != nil {
				f.popped(cap(q.body))
			}
			if len(f.queue) > 0 || f.inDone != nil {
				signal(f.arrived)
			}
			f.mu.Unlock()
			return q, nil
		}
		err := f.inDone
		f.mu.Unlock()
		if err != nil {
			signal(f.arrived) // for the next
			return queued{}, err
		}
		select {
		case <-f.arrived:
		case <-ctx.Done():
			return queued{}, context.Cause(ctx)
		}
	}
}

// give returns how much credit is to be sent back now, after a message of that
// cost was taken, or 0: it is gathered.
func (f *flow) give(cost int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken += cost
	if f.taken < streamWindow/2 || f.inDone != nil {
		return 0
	}
	n := f.taken
	f.taken = 0
	f.owed -= n
	f.senders++
	return n
}

// took gives credit back for a message.
func (f *flow) took(cost int) error {
	n := f.give(cost)
	if n == 0 {
		return nil
	}
	defer f.wrote()
	var p [binary.MaxVarintLen64]byte
	err := f.l.send(kindWindow, 0, f.call, binary.AppendUvarint(p[:0], uint64(n)))
	if err != nil {
		f.tear()
	}
	return err
}

// spend takes credit for a message of n bytes, and blocks until there is any.
func (f *flow) spend(ctx context.Context, n int) error {
	for {
		f.mu.Lock()
		if err := f.outDone; err != nil {
			f.mu.Unlock()
			signal(f.allowed) // for the next
			return err
		}
		if f.credit > 0 {
			f.credit -= n + messageCost
			f.senders++
			if f.credit > 0 {
				signal(f.allowed)
			}
			f.mu.Unlock()
			return nil
		}
		f.mu.Unlock()
		select {
		case <-f.allowed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// send sends one message, when there is credit for it, behind the frames in
// head.
func (f *flow) send(ctx context.Context, head *[]byte, fl flags, body []byte, zstd bool) error {
	body, squeezed := f.l.squeeze.squeeze(body, zstd)
	if err := f.spend(ctx, len(body)); err != nil {
		return err
	}
	defer f.wrote()
	if err := f.l.writeMessage(head, fl|squeezed, f.call, body); err != nil {
		f.tear()
		return err
	}
	if fl&flagEnd != 0 {
		f.closeSend()
	}
	return nil
}

// wrote ends a write that give or spend has begun.
func (f *flow) wrote() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.senders--; f.senders == 0 {
		signal(f.quieted)
	}
}

// quiet says whether no write is under way; after fail none will begin.
func (f *flow) quiet() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.senders == 0
}

// tear notes that a frame may have been sent in part.
func (f *flow) tear() {
	f.mu.Lock()
	f.torn = true
	f.mu.Unlock()
}

// sound says that all frames were sent whole.
func (f *flow) sound() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.torn
}

// settle waits until no write is under way. Whoever calls has seen to it that
// writes end.
func (f *flow) settle() {
	for !f.quiet() {
		<-f.quieted
	}
}

// closeSend notes that our side has sent its last. It returns false if it had
// already.
func (f *flow) closeSend() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.outDone != nil {
		return false
	}
	f.outDone = errSendClosed
	signal(f.allowed)
	return true
}

var errSendClosed = errors.New("rpc: sent after the last message")
