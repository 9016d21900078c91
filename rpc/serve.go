package rpc

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/access"
	"github.com/kith-p2p/kith/stream"
)

// What a serverLink is doing, for the janitor.
const (
	phaseNew   int32 = iota // nothing has come yet
	phaseIdle               // between two calls
	phaseLeave              // the same, for longer than IdleTimeout: no further call is taken
	phaseRead               // in the middle of a request
	phaseWait               // a request has come whole and waits for its places
	phaseRun                // in a handler
)

// discardMax is the largest body that is read for nothing, so that a stream
// survives the refusal of a call.
const discardMax = 1 << 20

// nextFrame is a header that was read ahead.
type nextFrame struct {
	h   header
	err error
}

// serverLink is one stream with the server's end of the protocol. serve runs
// in one goroutine and has the reader, unless a follower has it: then serve
// gets it back with the next frame from ahead.
type serverLink struct {
	link
	s     *Server
	state *peerState
	plain *method // set on the plain wire

	phase  atomic.Int32
	since  atomic.Int64 // when phase began, by clock
	partly atomic.Int64 // when a follower began to read a payload, by clock; 0: it reads none
	method atomic.Pointer[method]
	killed atomic.Pointer[error] // why the stream was reset from outside
	held   atomic.Int64          // bytes taken from the server's memory
	ctx    atomic.Pointer[callContext]

	// Owned by the goroutine of serve, or of the follower in its turn.
	last      uint64         // the newest call
	headers   Headers        // of the call last
	deadline  time.Time      // of the call last; zero: none
	pending   *serverCall    // the call last, if its handler gets one, or it had to wait
	calls     int            // on this stream
	ran       time.Duration  // the handler of the call last
	ahead     chan nextFrame // not nil: a follower reads
	discarded int            // bytes of the ended call last
	refusal   *Error         // of the call last
	cancelled bool           // a cancel for the call last has come
	pings     pingCount
}

// serveFramed takes one stream of the framed protocol.
func (s *Server) serveFramed(c *stream.Conn) {
	l := &serverLink{s: s}
	l.link.init(c, s.bufs, &s.clock)
	l.squeeze.on, l.squeeze.min = s.cfg.EnableCompression, s.cfg.CompressMinSize
	if !s.add(l) {
		b := appendGoaway(nil, goaway{code: CodeResourceExhausted, retryAfter: busyRetryAfter,
			message: fmt.Sprintf("this peer serves %d streams at a time, %d of one peer, and does", s.cfg.MaxConcurrentConns, s.cfg.MaxConnsPerPeer)})
		_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // a new stream has a window: this does not block
		_ = l.send(kindGoaway, 0, 0, b)
		_ = c.Close()
		return
	}
	l.setPhase(phaseNew)
	s.serving.Go(l.serve)
}

// busyRetryAfter is what a peer is told that finds all streams taken.
const busyRetryAfter = 250 * time.Millisecond

func (l *serverLink) setPhase(p int32) {
	l.since.Store(l.clock.now.Load())
	l.phase.Store(p)
}

// check is the janitor's look at the stream.
func (l *serverLink) check() {
	cfg := &l.s.cfg
	if w := l.writing.Load(); w != 0 && l.clock.passed(w, cfg.WriteTimeout) {
		l.kill(errStalled)
		return
	}
	phase := l.phase.Load()
	since := l.since.Load() // after the phase, which is set after it
	switch phase {
	case phaseNew:
		if l.clock.passed(since, cfg.ConnectTimeout) {
			l.kill(errUnfinished)
		}
	case phaseIdle:
		// A payload of the call that is over: its rest is not waited for any longer
		// than that of a request.
		if p := l.partly.Load(); p != 0 && l.clock.passed(max(p, since), cfg.ReadTimeout) && l.phase.CompareAndSwap(phaseIdle, phaseLeave) {
			l.kill(errUnfinished)
			return
		}
		// serve says goodbye, unless a call has begun this moment.
		if l.clock.passed(since, cfg.IdleTimeout) && l.phase.CompareAndSwap(phaseIdle, phaseLeave) {
			_ = l.conn.SetReadDeadline(longAgo)
		}
	case phaseRead:
		if l.clock.passed(since, cfg.ReadTimeout) {
			l.kill(errUnfinished)
		}
	case phaseRun:
		if l.clock.passed(l.active.Load(), cfg.MaxIdleTime) {
			l.kill(errForgotten)
		}
	}
}

// toRead begins a request, unless the stream was given up in the same moment.
func (l *serverLink) toRead() bool {
	if l.leaving() {
		return false
	}
	l.since.Store(l.clock.now.Load())
	return l.phase.CompareAndSwap(phaseIdle, phaseRead) || l.phase.CompareAndSwap(phaseNew, phaseRead)
}

func (l *serverLink) leaving() bool { return l.phase.Load() == phaseLeave }

// kill resets the stream from outside, for a reason that serve then finds.
func (l *serverLink) kill(why error) {
	if !l.killed.CompareAndSwap(nil, &why) {
		return
	}
	if c := l.ctx.Load(); c != nil {
		c.stop(why)
	}
	_ = l.conn.ResetWithCode(resetCode(faultCode(why)))
}

// wasKilled returns the reason of a kill. A handler whose stream was killed gets no
// answer through, not even when it is quicker than the reset: its caller would make
// the next call on this stream.
func (l *serverLink) wasKilled() error {
	if why := l.killed.Load(); why != nil {
		return *why
	}
	return nil
}

// wake releases a stream that waits for its next call, or for the rest of one,
// so that it sees that the server drains.
func (l *serverLink) wake() {
	if l.phase.Load() != phaseRun {
		_ = l.conn.SetReadDeadline(longAgo)
	}
}

// serve is the life of the stream.
func (l *serverLink) serve() {
	err := l.run()
	if l.ahead != nil { // a follower is left: let it see the end
		_ = l.conn.SetReadDeadline(longAgo)
		<-l.ahead
	}
	l.end(err)
}

// end closes or resets the stream and says why in the counters.
func (l *serverLink) end(err error) {
	l.free()
	l.in.giveBack()
	_ = l.flush()
	if why := l.wasKilled(); why != nil {
		err = why
	} else if l.s.draining() && l.phase.Load() == phaseRead && isTimeout(err) {
		err = &Error{Code: CodeResourceExhausted} // no handler has seen it
	}
	switch {
	case err == nil || err == io.EOF:
		_ = l.conn.Close()
	default:
		code := resetCode(faultCode(err))
		switch e := err.(type) {
		case *Error: // a refusal
		case *handledError:
			code = resetCode(e.err.Code) | resetHandled
		default:
			// Between two calls a stream may end in any way.
			if p := l.phase.Load(); p != phaseIdle && p != phaseNew || !isLoss(err) {
				_ = l.s.faults.count(err)
			}
		}
		l.s.cfg.Logger.Debug("rpc: stream ended", "peer", l.peer, "method", l.methodName(), "cause", err)
		_ = l.conn.ResetWithCode(code)
	}
	l.s.remove(l)
}

func (l *serverLink) methodName() string {
	if m := l.method.Load(); m != nil {
		return string(m.id)
	}
	return ""
}

// faultCode is what the peer is told about an error that ends a stream.
func faultCode(err error) Code {
	e, refused := err.(*Error)
	switch {
	case refused:
		return e.Code
	case errors.Is(err, ErrMalformed), errors.Is(err, ErrOutOfOrder), errors.Is(err, ErrTooLarge), errors.Is(err, ErrBomb):
		return CodeInvalidArgument
	case errors.Is(err, errMemory): // of a request that no handler has seen
		return CodeResourceExhausted
	case errors.Is(err, errUnfinished), errors.Is(err, errForgotten):
		return CodeDeadlineExceeded
	}
	return CodeUnavailable
}

// run returns nil or io.EOF when the stream is done with.
func (l *serverLink) run() error {
	if l.plain != nil {
		return l.runPlain()
	}
	for begun := false; ; begun = true {
		if begun {
			l.setPhase(phaseIdle)
		}
		if l.s.draining() {
			return l.goaway(CodeUnavailable, "the server is stopping")
		}
		h, err := l.next()
		if werr := l.flush(); werr != nil {
			return werr
		}
		if err != nil && h.kind == 0 {
			if l.s.draining() {
				return l.goaway(CodeUnavailable, "the server is stopping")
			}
			if !l.leaving() || !isTimeout(err) {
				return err
			}
		}
		if !l.toRead() {
			return l.goaway(CodeOK, "not used for long")
		}
		if h.kind == kindInvoke && err == nil {
			err = l.call(h)
		} else {
			err = l.between(h, err)
		}
		l.free()
		l.method.Store(nil)
		if err != nil {
			return err
		}
		if l.s.cfg.MaxRequestsPerConn > 0 && l.calls >= l.s.cfg.MaxRequestsPerConn {
			return l.goaway(CodeOK, "enough calls for one stream")
		}
	}
}

func (l *serverLink) goaway(code Code, message string) error {
	if err := l.flush(); err != nil {
		return err
	}
	return l.send(kindGoaway, 0, 0, appendGoaway(nil, goaway{last: l.last, code: code, message: message}))
}

// next returns the next frame's header, from whoever reads.
func (l *serverLink) next() (header, error) {
	if l.ahead != nil {
		f := <-l.ahead
		l.ahead = nil
		return f.h, f.err
	}
	return l.in.header(l.s.cfg.MaxBlockSize)
}

// between deals with a frame that opens no call: pings, and what is left of a
// call that has ended on our side.
func (l *serverLink) between(h header, tooLarge error) error {
	switch {
	case tooLarge != nil:
		return tooLarge
	case h.kind == kindPing:
		return l.pong(h)
	case h.kind == kindHeaders || h.kind == kindError || h.kind == kindGoaway || h.kind == kindInvoke || h.call == 0 || h.call > l.last:
		return fmt.Errorf("%w: %s for call %d after call %d", ErrOutOfOrder, h.kind, h.call, l.last)
	case h.kind == kindCancel:
		if h.call == l.last && l.cancelled {
			return fmt.Errorf("%w: call %d cancelled twice", ErrOutOfOrder, h.call)
		}
		_, err := l.takeCancel(h)
		return err
	case h.kind == kindWindow:
		p, err := l.in.view(h.size)
		if err == nil {
			_, err = parseNumber(p)
		}
		if err != nil {
			return err
		}
		return l.skip(0)
	}
	return l.skip(h.size)
}

// takeCancel reads a cancel, of the call last or of an older one. cause is what
// the context of the call is to end with.
func (l *serverLink) takeCancel(h header) (cause error, err error) {
	p, err := l.in.view(h.size)
	if err != nil {
		return nil, err
	}
	if cause, err = parseCancel(p); err != nil {
		return nil, err
	}
	l.s.cancels.Add(1)
	if h.call == l.last {
		l.cancelled = true
		return cause, nil
	}
	return cause, l.skip(0)
}

// skip drops a payload of a call that is over, within reason. A refused call
// whose message is larger ends the stream with the code of the refusal.
func (l *serverLink) skip(n int) error {
	if l.discarded += n + messageCost; l.discarded > 2*discardMax {
		if l.refusal != nil {
			return l.refusal
		}
		return fmt.Errorf("%w: %d bytes for a call that is over", ErrOutOfOrder, l.discarded)
	}
	return l.in.discard(n)
}

// pong answers a ping, unless there are too many.
func (l *serverLink) pong(h header) error {
	p, err := l.in.view(h.size)
	if err != nil {
		return err
	}
	if h.flags&flagAnswer != 0 || h.call != 0 {
		return fmt.Errorf("%w: a ping of call %d, flags %d", ErrOutOfOrder, h.call, h.flags)
	}
	if err := l.pings.more(); err != nil {
		return err
	}
	l.s.pings.Add(1)
	return l.answerPing(p)
}

// call serves one call from its invoke frame to the last frame of its answer.
// An error ends the stream.
func (l *serverLink) call(h header) error {
	p, err := l.in.view(h.size)
	if err != nil {
		return err
	}
	inv, err := parseInvoke(p)
	if err != nil {
		return err
	}
	if h.call <= l.last {
		return fmt.Errorf("%w: call %d after call %d", ErrOutOfOrder, h.call, l.last)
	}
	l.state.gather.active.Add(1)
	defer l.state.gather.active.Add(-1)
	l.last = h.call
	l.calls++
	l.discarded, l.cancelled, l.refusal = 0, false, nil
	l.accepts = h.flags&flagAccept != 0
	l.s.calls.Add(1)
	l.headers, l.deadline, l.pending, l.ran = inv.headers, time.Time{}, nil, 0
	if inv.timeout > 0 {
		l.deadline = time.Now().Add(inv.timeout)
	}
	m := (*l.s.methods.Load())[string(inv.method)]
	if m == nil {
		l.s.refused.Add(1)
		return l.fail(&Error{Code: CodeUnimplemented, Message: fmt.Sprintf("no method %q here", cutText(string(inv.method), 100)), Refused: true})
	}
	l.method.Store(m)
	if refused := l.vet(m, h.flags); refused != nil {
		return l.fail(l.refuse(m, refused))
	}
	if m.stream != nil {
		return l.serveStream(m)
	}
	return l.unary(m)
}

// serverCall is a call as its handler has it.
type serverCall struct {
	req Request
	ctx callContext
}

// newCall makes what a handler is given.
func (l *serverLink) newCall(m *method, watch func(*callContext)) *serverCall {
	l.pending = &serverCall{
		req: Request{Peer: l.peer, Method: m.id, Headers: l.headers},
		ctx: callContext{base: l.s.ctx, caller: Caller{Peer: l.peer, Method: string(m.id)}, deadline: l.deadline, watch: watch},
	}
	return l.pending
}

// unaryCall is newCall for one message each way.
func (l *serverLink) unaryCall(m *method) *serverCall {
	if l.plain != nil {
		return l.newCall(m, l.followPlain)
	}
	return l.newCall(m, l.watch)
}

// handle runs the handler of a unary method with the request's body.
func (l *serverLink) handle(m *method, body []byte) (resp Response, err error) {
	call := l.pending // not nil: it has waited for its places
	if m.simple != nil {
		var ctx *callContext
		if call != nil {
			ctx = &call.ctx
		}
		err = l.guarded(m, ctx, func() (err error) {
			resp.Body, err = m.simple(body)
			return err
		})
		return resp, err
	}
	if call == nil {
		call = l.unaryCall(m)
	}
	call.req.Body = body
	err = l.guarded(m, &call.ctx, func() error {
		r, err := m.handler(&call.ctx, &call.req)
		if r != nil {
			resp = *r
		}
		return err
	})
	return resp, err
}

// guarded runs a handler, between setting up its context, if it has one, and
// ending it. A panic is an error.
func (l *serverLink) guarded(m *method, ctx *callContext, f func() error) (err error) {
	l.ctx.Store(ctx)
	l.setPhase(phaseRun)
	if why := l.wasKilled(); why != nil && ctx != nil {
		ctx.stop(why)
	}
	l.s.running.Add(1)
	start := tick()
	defer func() {
		if r := recover(); r != nil {
			l.s.panics.Add(1)
			m.panics.Add(1)
			l.s.cfg.Logger.Error("rpc: a handler panicked", "method", m.id, "peer", l.peer, "panic", r, "stack", string(debug.Stack()))
			err = &Error{Code: CodeInternal, Message: "the handler panicked"}
		}
		if ctx != nil {
			ctx.end()
			l.ctx.Store(nil)
		}
		l.s.running.Add(-1)
		l.ran = time.Duration(tick() - start)
		m.ran(l.ran, err)
		if err != nil {
			l.s.failed.Add(1)
		}
	}()
	return f()
}

// redact is what the caller gets to see of a handler's error.
func (l *serverLink) redact(m *method, err error) *Error {
	e, typed := errors.AsType[*Error](err)
	if typed && !e.inner && e.Peer == "" {
		return &Error{Code: or(e.Code, CodeUnknown), Message: e.Message, Details: e.Details, RetryAfter: e.RetryAfter}
	}
	code := CodeOf(err)
	if code == CodeCanceled && l.s.ctx.Err() != nil {
		return &Error{Code: CodeUnavailable, Message: "the server is stopping"}
	}
	if code == CodeUnknown || typed {
		if errors.Is(err, access.ErrNotAllowed) || errors.Is(err, access.ErrNoRule) {
			code = CodePermissionDenied
		}
		l.s.cfg.Logger.Warn("rpc: a handler failed; the caller sees only that", "method", m.id, "peer", l.peer, "error", err)
	}
	return &Error{Code: or(code, CodeUnknown), Message: "the handler failed; the reason is in the log there"}
}

// fail ends the call with an error.
func (l *serverLink) fail(e *Error) error {
	var f flags
	if e.Refused {
		f = flagRefused
		l.refusal = e
	}
	b := lendOut()
	defer returnOut(b)
	var scratch [256]byte
	*b = appendFrame(*b, kindError, f, l.last, appendError(scratch[:0], e))
	return l.write(*b)
}
