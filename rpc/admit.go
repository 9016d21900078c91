package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/access"
)

// A call is let in twice. vet decides by what the invoke frame tells, so that
// nothing is read for who may not call, nor while all places are taken and all
// places in the queue too. place takes the places themselves, once the request is
// there: who sends an invoke and nothing else holds none.

// vet decides, before the body is read, whether the call may be made.
func (l *serverLink) vet(m *method, f flags) *Error {
	if (m.stream == nil) != (f&flagUnary != 0) {
		return &Error{Code: CodeUnimplemented, Refused: true,
			Message: "the method and the call are not of one kind: one message each way, and a stream of messages"}
	}
	if err := l.s.authorize(l.peer, m); err != nil {
		return err
	}
	if l.s.draining() {
		return l.stopping()
	}
	if after, full := l.state.limiter.full(); full {
		return tooMany("from this peer", after)
	}
	if after, full := m.limiter.full(); full {
		return tooMany("of this method", after)
	}
	return nil
}

// place takes the places of a call in both limiters, and may wait for them. The
// wait ends with the call's deadline, with its caller, and after ReadTimeout.
// nil: it has them.
func (l *serverLink) place(m *method) *Error {
	l.setPhase(phaseWait)
	w := wait{l.s.cfg.ReadTimeout, l.s.drain, l}
	if after, ok := l.state.limiter.acquire(w); !ok {
		return l.gaveUp(tooMany("from this peer", after))
	}
	if after, ok := m.limiter.acquire(w); !ok {
		l.state.limiter.release(0)
		return l.gaveUp(tooMany("of this method", after))
	}
	if !l.deadline.IsZero() && !time.Now().Before(l.deadline) {
		l.release(m)
		return l.gaveUp(errLate)
	}
	m.calls.Add(1)
	return nil
}

func tooMany(which string, after time.Duration) *Error {
	return &Error{Code: CodeResourceExhausted, Message: "too many calls " + which, RetryAfter: after, Refused: true}
}

// stopping refuses a call because of Stop. The plain wire has but one reset code
// that says that nobody has seen the call.
func (l *serverLink) stopping() *Error {
	code := CodeUnavailable
	if l.plain != nil {
		code = CodeResourceExhausted
	}
	return &Error{Code: code, Message: "the server is stopping", Refused: true}
}

var errLate = &Error{Code: CodeDeadlineExceeded, Message: "the deadline passed before the call had its turn", Refused: true}

// gone implements the caller of a wait: it begins to look at the stream.
func (l *serverLink) gone() <-chan struct{} {
	if l.pending == nil {
		l.unaryCall(l.method.Load())
	}
	ctx := &l.pending.ctx
	l.ctx.Store(ctx)
	if why := l.wasKilled(); why != nil {
		ctx.stop(why)
	}
	return ctx.Done()
}

// gaveUp is why a call is refused whose wait has ended without a place: e,
// unless its caller did not want to wait any longer, or Stop has begun.
func (l *serverLink) gaveUp(e *Error) *Error {
	if e != errLate && l.s.draining() {
		e = l.stopping()
	}
	c := l.pending
	if c == nil {
		return e
	}
	l.ctx.Store(nil)
	switch cause := c.ctx.end(); {
	case errors.Is(cause, context.DeadlineExceeded):
		return errLate
	case errors.Is(cause, context.Canceled):
		return &Error{Code: CodeCanceled, Refused: true}
	case cause != nil && !l.s.draining():
		return &Error{Code: CodeUnavailable, Message: "the call ended before it had its turn", Refused: true}
	}
	return e
}

// refuse counts a refusal.
func (l *serverLink) refuse(m *method, e *Error) *Error {
	l.s.refused.Add(1)
	m.refused.Add(1)
	return e
}

// release gives the places of a call back.
func (l *serverLink) release(m *method) {
	m.limiter.release(l.ran)
	l.state.limiter.release(l.ran)
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
