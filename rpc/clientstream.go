package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"
)

// ClientStream is a call with streams of messages, as its caller sees it. Recv
// and Send may be called concurrently with each other. End it with Close, or by
// receiving to the end; until then it holds a stream to the peer.
type ClientStream struct {
	l      *clientLink
	f      *flow
	ctx    context.Context
	cancel context.CancelFunc
	zstd   bool // the peer reads it, as far as was known when the call began

	begun  chan struct{} // closed when the answer has begun, or the call is over
	once   sync.Once     // closes begun
	over   chan struct{} // closed when the stream is given back
	gaveUp chan struct{} // closed when giveUp has run

	headers Headers // set before begun is closed
}

// Open opens a method as a stream of messages: Peer, Method and Headers of r
// say which, its Body is not used. The call lasts until the peer ends it, ctx
// ends or Close. The peer's window of messages and the deadline of ctx apply;
// ReadTimeout does not. Errors are those of Send. Open does not wait for the
// peer's answer: that it refuses is learnt by Recv. A call that was refused is
// not made again.
func (c *Client) Open(ctx context.Context, r *Request, opts ...CallOption) (*ClientStream, error) {
	var o callOptions
	for _, opt := range opts {
		opt(&o)
	}
	if len(o.headers) > 0 {
		merged := *r
		merged.Headers = mergeHeaders(r.Headers, o.headers)
		r = &merged
	}
	c.calls.Add(1)
	st, err := c.openStream(ctx, r, o)
	if err != nil {
		c.failed.Add(1)
		return nil, asError(err, ctx)
	}
	return st, nil
}

func (c *Client) openStream(ctx context.Context, r *Request, o callOptions) (*ClientStream, error) {
	if len(r.Method) == 0 || len(r.Method) > methodMax {
		return nil, Errorf(CodeInvalidArgument, "a method of %d bytes: must be between 1 and %d", len(r.Method), methodMax)
	}
	if err := r.Headers.check(); err != nil {
		return nil, err
	}
	p, l, _, err := c.enter(ctx, r.Peer, true)
	if err != nil {
		return nil, err
	}
	if l == nil {
		if l, err = c.open(ctx, p, Protocol, o.limited); err != nil {
			c.leave(p, true)
			return nil, err
		}
	}
	l.id++
	l.pings = pingCount{}
	st := &ClientStream{l: l, f: newFlow(&l.link, l.id), zstd: l.accepts, begun: make(chan struct{}), over: make(chan struct{}), gaveUp: make(chan struct{})}
	st.ctx, st.cancel = context.WithCancel(ctx)
	var wire time.Duration
	if _, ok := ctx.Deadline(); ok {
		wire, _ = c.timeoutOf(ctx)
	}
	b := lendOut()
	defer returnOut(b)
	l.appendInvoke(b, r, wire, l.acceptFlag())
	g := l.guard(ctx, false)
	err = l.write(*b)
	if !g.release() || err != nil {
		st.cancel()
		_ = c.faults.count(l.notOurs(ctx, err))
		_ = l.conn.ResetWithCode(resetCode(CodeCanceled))
		c.finish(l, false, true)
		return nil, l.why(ctx, err)
	}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.work.Go(st.read)
	}
	c.mu.Unlock()
	if closed {
		st.cancel()
		_ = l.conn.Reset()
		c.finish(l, false, true)
		return nil, ErrClientClosed
	}
	return st, nil
}

// read follows the answer to its end and gives the stream back.
func (st *ClientStream) read() {
	l, c := st.l, st.l.c
	stop := context.AfterFunc(st.ctx, st.giveUp)
	err := st.readAnswer()
	cancelled := !stop()
	e, answered := err.(*Error)
	answered = answered && e.Peer != ""
	switch {
	case err == nil:
		st.f.fail(io.EOF)
	case answered:
		st.f.fail(err)
	default:
		_ = c.faults.count(l.notOurs(st.ctx, err))
		st.f.fail(asError(l.why(st.ctx, err), st.ctx))
		_ = l.conn.ResetWithCode(resetCode(CodeCanceled))
	}
	if cancelled {
		<-st.gaveUp
	}
	clean := false
	if err == nil || answered {
		c.learnFramed(l)
		// A write that is under way must end first, as it soon does: the peer
		// reads, and no new one begins.
		_ = l.conn.SetWriteDeadline(time.Now().Add(drainTime))
		st.f.settle()
		if clean = st.f.sound() && !l.stalled.Load() && l.conn.SetDeadline(time.Time{}) == nil; !clean {
			_ = l.conn.ResetWithCode(resetCode(CodeCanceled))
		}
	}
	st.finish(clean)
}

func (st *ClientStream) finish(clean bool) {
	st.once.Do(func() { close(st.begun) })
	st.cancel()
	st.l.c.finish(st.l, clean, true)
	close(st.over)
}

// ended is how methods fail after the call's context has ended.
func (st *ClientStream) ended(cause error) error {
	return &Error{Code: CodeOf(cause), cause: cause, inner: true}
}

// readAnswer returns nil at the end of the answer, and the peer's *Error.
func (st *ClientStream) readAnswer() error {
	var resp Response
	begun := false
	for {
		h, err := st.l.answer(&resp)
		if err != nil {
			return err
		}
		switch h.kind {
		case kindHeaders, kindMessage, kindHalfClose:
			if begun && h.kind == kindHeaders {
				return fmt.Errorf("%w: headers after a message", ErrOutOfOrder)
			}
			begun = true
			st.once.Do(func() {
				st.headers = resp.Headers
				close(st.begun)
			})
		}
		switch h.kind {
		case kindMessage, kindWindow, kindHalfClose:
			if _, err := st.f.receive(&st.l.in, h, unmetered{}); err != nil {
				return err
			}
		}
		st.l.touch()
		if h.kind == kindHalfClose || h.kind == kindMessage && h.flags&flagEnd != 0 {
			return nil
		}
	}
}

// giveUp runs when ctx ends, or Close is called, before the answer has ended.
// The reader goes on to the peer's confirmation, so that the stream can be
// used again.
func (st *ClientStream) giveUp() {
	defer close(st.gaveUp)
	cause := context.Cause(st.ctx)
	st.f.fail(st.ended(cause))
	st.f.drop()
	// Cut short what is being written. If nothing is, say goodbye.
	_ = st.l.conn.SetWriteDeadline(time.Now().Add(cancelTimeout))
	err := st.l.send(kindCancel, 0, st.f.call, []byte{byte(CodeOf(cause))})
	st.f.settle()
	if err != nil || !st.f.sound() {
		_ = st.l.conn.ResetWithCode(resetCode(CodeCanceled))
		return
	}
	_ = st.l.conn.SetReadDeadline(time.Now().Add(drainTime))
}

// Headers returns the headers of the answer. It blocks until the answer has
// begun.
func (st *ClientStream) Headers() (Headers, error) {
	select {
	case <-st.begun:
	case <-st.ctx.Done():
	}
	select {
	case <-st.begun:
		return st.headers, nil
	default:
		return nil, st.ended(context.Cause(st.ctx))
	}
}

// Send sends a message. It blocks while the peer has a full window of messages
// that it has not taken. io.EOF says that the peer has ended the call; Recv
// says why.
func (st *ClientStream) Send(message []byte) error { return st.send(message, 0) }

// SendLast is Send and CloseSend in one.
func (st *ClientStream) SendLast(message []byte) error { return st.send(message, flagEnd) }

func (st *ClientStream) send(message []byte, f flags) error {
	if most := st.l.c.cfg.MaxBlockSize; len(message) > most {
		return &Error{Code: CodeInvalidArgument, cause: ErrTooLarge, inner: true, Message: fmt.Sprintf("a message of %d bytes; this client sends at most %d", len(message), most)}
	}
	b := lendOut()
	defer returnOut(b)
	return st.sendError(st.f.send(st.ctx, b, f|st.l.acceptFlag(), message, st.zstd))
}

func (st *ClientStream) sendError(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, errSendClosed) {
		return err
	}
	if e, ok := err.(*Error); ok && e.Peer != "" {
		return io.EOF
	}
	return asError(err, st.ctx)
}

// CloseSend says that the caller has sent its last message. Receiving goes on.
func (st *ClientStream) CloseSend() error {
	st.f.mu.Lock()
	if err := st.f.outDone; err != nil {
		st.f.mu.Unlock()
		if err == errSendClosed || err == io.EOF {
			return nil
		}
		return st.sendError(err)
	}
	st.f.outDone = errSendClosed
	st.f.senders++
	st.f.mu.Unlock()
	defer st.f.wrote()
	err := st.l.send(kindHalfClose, 0, st.f.call, nil)
	if err != nil {
		st.f.tear()
	}
	return st.sendError(err)
}

// Recv returns the peer's next message. It blocks until there is one. io.EOF
// says that the call has ended well; any other error is an *Error as of Send.
func (st *ClientStream) Recv() ([]byte, error) {
	q, err := st.f.recv(st.ctx)
	if err == io.EOF {
		return nil, err
	}
	if err != nil {
		return nil, asError(err, st.ctx)
	}
	body := q.body
	if q.zstd {
		if body, err = st.l.expand(body); err != nil {
			err = asError(st.l.c.faults.count(err), st.ctx) // before the context is ended by us
			_ = st.Close()
			return nil, err
		}
	}
	if err := st.f.took(q.cost); err != nil {
		st.f.fail(asError(err, st.ctx))
	}
	return body, nil
}

// Messages iterates over what the peer sends, to the end of the call. An error
// is the last element. To stop early ends the call.
func (st *ClientStream) Messages() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		defer st.Close()
		messages(st.Recv)(yield)
	}
}

// Close ends the call if it has not ended: the peer is told, its handler's
// context ends. It does not wait for the peer. It returns nil.
func (st *ClientStream) Close() error {
	st.cancel()
	return nil
}
