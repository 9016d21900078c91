package rpc

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/access"
	"github.com/kith-p2p/kith/stream"
)

// What a serverLink is doing, for the janitor.
const (
	phaseNew  int32 = iota // nothing has come yet
	phaseIdle              // between two calls
	phaseRead              // in the middle of a request
	phaseRun               // in a handler
)

const (
	// discardMax is the largest body that is read for nothing, so that a stream
	// survives the refusal of a call.
	discardMax = 1 << 20
	// pingsBetween is how many pings in a row a peer may send without a call
	// within a second.
	pingsBetween = 100
)

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
	method atomic.Pointer[method]
	killed atomic.Pointer[error] // why the stream was reset from outside
	held   atomic.Int64          // bytes taken from the server's memory
	ctx    atomic.Pointer[callContext]

	// Owned by the goroutine of serve, or of the follower in its turn.
	last      uint64         // the newest call
	calls     int            // on this stream
	ran       time.Duration  // the handler of the call last
	ahead     chan nextFrame // not nil: a follower reads
	discarded int            // bytes of the ended call last
	refusal   *Error         // of the call last
	cancelled bool           // a cancel for the call last has come
	pings     int            // since pingsFrom
	pingsFrom int64
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
	cfg, since := &l.s.cfg, l.since.Load()
	if w := l.writing.Load(); w != 0 && l.clock.passed(w, cfg.WriteTimeout) {
		l.kill(errStalled)
		return
	}
	switch l.phase.Load() {
	case phaseNew:
		if l.clock.passed(since, cfg.ConnectTimeout) {
			l.kill(errUnfinished)
		}
	case phaseIdle:
		if l.clock.passed(since, cfg.IdleTimeout) {
			l.kill(nil)
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

// kill resets the stream from outside, for a reason that serve then finds.
func (l *serverLink) kill(why error) {
	if !l.killed.CompareAndSwap(nil, &why) {
		return
	}
	code := CodeUnavailable
	if errors.Is(why, errUnfinished) || errors.Is(why, errForgotten) {
		code = CodeDeadlineExceeded
	}
	if c := l.ctx.Load(); c != nil {
		c.stop(why)
	}
	_ = l.conn.ResetWithCode(resetCode(code))
}

// wake releases a stream that waits for its next call, or for the rest of one,
// so that it sees that the server drains.
func (l *serverLink) wake() {
	if l.phase.Load() != phaseRun {
		_ = l.conn.SetReadDeadline(longAgo)
	}
}

// take is the meter of requests.
func (l *serverLink) take(n int) error {
	if n == 0 {
		return nil
	}
	if l.s.memory.Add(int64(n)) > int64(min(l.s.cfg.MaxMemoryUsage, 1<<62)) {
		l.s.memory.Add(-int64(n))
		return errMemory
	}
	l.held.Add(int64(n))
	return nil
}

func (l *serverLink) give(n int) {
	l.s.memory.Add(-int64(n))
	l.held.Add(-int64(n))
}

var errMemory = errors.New("rpc: all memory for requests is in use")

// free gives back what the call has taken.
func (l *serverLink) free() {
	if n := l.held.Swap(0); n != 0 {
		l.s.memory.Add(-n)
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
	if why := l.killed.Load(); why != nil {
		err = *why
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
	case errors.Is(err, errMemory):
		return CodeResourceExhausted
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
		if err != nil && h.kind == 0 {
			if l.s.draining() {
				return l.goaway(CodeUnavailable, "the server is stopping")
			}
			return err
		}
		l.setPhase(phaseRead)
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
		if h.call == l.last {
			if l.cancelled {
				return fmt.Errorf("%w: call %d cancelled twice", ErrOutOfOrder, h.call)
			}
			l.cancelled = true
		}
		l.s.cancels.Add(1)
	}
	return l.skip(h.size)
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
	now := tick()
	if now-l.pingsFrom > int64(time.Second) {
		l.pings, l.pingsFrom = 0, now
	}
	if l.pings++; l.pings > pingsBetween {
		return fmt.Errorf("%w: more than %d pings in a second", ErrOutOfOrder, pingsBetween)
	}
	l.s.pings.Add(1)
	return l.send(kindPing, flagAnswer, 0, p)
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
	l.last = h.call
	l.calls++
	l.discarded, l.cancelled, l.refusal = 0, false, nil
	l.accepts = h.flags&flagAccept != 0
	l.s.calls.Add(1)
	var deadline time.Time
	if inv.timeout > 0 {
		deadline = time.Now().Add(inv.timeout)
	}
	m := (*l.s.methods.Load())[string(inv.method)]
	if m == nil {
		l.s.refused.Add(1)
		return l.fail(&Error{Code: CodeUnimplemented, Message: fmt.Sprintf("no method %q here", cutText(string(inv.method), 100)), Refused: true})
	}
	l.method.Store(m)
	if refused := l.admit(m, h.flags, deadline); refused != nil {
		l.s.refused.Add(1)
		m.refused.Add(1)
		return l.fail(refused)
	}
	m.calls.Add(1)
	l.ran = 0
	defer l.release(m)
	if m.stream != nil {
		return l.serveStream(m, inv.headers, deadline)
	}
	return l.unary(m, inv.headers, deadline)
}

// release gives the places of a call back.
func (l *serverLink) release(m *method) {
	m.limiter.release(l.ran)
	l.state.limiter.release(l.ran)
}

// admit decides, before the body is read, whether the call may be made now. It
// may wait for its turn. nil: it may, and has its places in both limiters.
func (l *serverLink) admit(m *method, f flags, deadline time.Time) *Error {
	if (m.stream == nil) != (f&flagUnary != 0) {
		return &Error{Code: CodeUnimplemented, Refused: true,
			Message: "the method and the call are not of one kind: one message each way, and a stream of messages"}
	}
	if err := l.s.authorize(l.peer, m); err != nil {
		return err
	}
	if l.s.draining() {
		return &Error{Code: CodeUnavailable, Message: "the server is stopping", Refused: true}
	}
	if after, ok := l.state.limiter.acquire(l.s.drain); !ok {
		return &Error{Code: CodeResourceExhausted, Message: "too many calls from this peer", RetryAfter: after, Refused: true}
	}
	after, ok := m.limiter.acquire(l.s.drain)
	if !ok {
		l.state.limiter.release(0)
		return &Error{Code: CodeResourceExhausted, Message: "too many calls of this method", RetryAfter: after, Refused: true}
	}
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		m.limiter.release(0)
		l.state.limiter.release(0)
		return &Error{Code: CodeDeadlineExceeded, Message: "the deadline passed before the call had its turn", Refused: true}
	}
	return nil
}

// authorize asks the hook. Built-in methods are asked for like any other.
func (s *Server) authorize(p peer.ID, m *method) *Error {
	if s.cfg.Authorize == nil {
		return nil
	}
	err := s.cfg.Authorize(Caller{Peer: p, Method: string(m.id)})
	switch e, ok := errors.AsType[*Error](err); {
	case err == nil:
		return nil
	case ok:
		refused := *e
		refused.Refused = true
		return &refused
	case errors.Is(err, access.ErrNoRule):
		// As if it did not exist: who may not use it need not know of it.
		return &Error{Code: CodeUnimplemented, Message: fmt.Sprintf("no method %q here", m.id), Refused: true}
	}
	return &Error{Code: CodePermissionDenied, Message: fmt.Sprintf("you may not use %q", m.id), Refused: true}
}

// serverCall is a call as its handler has it.
type serverCall struct {
	req Request
	ctx callContext
}

// newCall makes what a handler is given.
func (l *serverLink) newCall(m *method, h Headers, deadline time.Time) *serverCall {
	return &serverCall{
		req: Request{Peer: l.peer, Method: m.id, Headers: h},
		ctx: callContext{base: l.s.ctx, caller: Caller{Peer: l.peer, Method: string(m.id)}, deadline: deadline},
	}
}

// handle runs the handler of a unary method with the request's body.
func (l *serverLink) handle(m *method, h Headers, deadline time.Time, body []byte, watch func(*callContext)) (resp Response, err error) {
	if m.simple != nil {
		err = l.guarded(m, nil, func() (err error) {
			resp.Body, err = m.simple(body)
			return err
		})
		return resp, err
	}
	call := l.newCall(m, h, deadline)
	call.req.Body = body
	call.ctx.watch = watch
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
	if why := l.killed.Load(); why != nil && ctx != nil {
		ctx.stop(*why)
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
	if e, ok := errors.AsType[*Error](err); ok {
		return &Error{Code: or(e.Code, CodeUnknown), Message: e.Message, Details: e.Details, RetryAfter: e.RetryAfter}
	}
	code := CodeOf(err)
	if code == CodeCanceled && l.s.ctx.Err() != nil {
		return &Error{Code: CodeUnavailable, Message: "the server is stopping"}
	}
	if code == CodeUnknown {
		if errors.Is(err, access.ErrNotAllowed) || errors.Is(err, access.ErrNoRule) {
			code = CodePermissionDenied
		}
		l.s.cfg.Logger.Warn("rpc: a handler failed; the caller sees only that", "method", m.id, "peer", l.peer, "error", err)
	}
	return &Error{Code: code, Message: "the handler failed; the reason is in the log there"}
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
