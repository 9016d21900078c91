package rpc

import (
	"errors"
	"fmt"
	"io"
)

// watch is follow for a unary call.
func (l *serverLink) watch(ctx *callContext) { l.follow(ctx, nil) }

// follow starts to read ahead while a handler runs, to notice a cancel, and
// with f to take what the caller streams. The goroutine ends with the first
// frame that is not for this call, which serve gets. serve waits for it.
func (l *serverLink) follow(ctx *callContext, f *flow) {
	ahead := make(chan nextFrame, 1)
	l.ahead = ahead
	go func() {
		h, err := l.followCall(ctx, f)
		if err != nil && h.kind == 0 {
			err := cancelledBy(err)
			if err != io.EOF && !(l.s.draining() && isTimeout(err)) {
				ctx.stop(err)
			}
			f.fail(unexpected(err))
		}
		ahead <- nextFrame{h, err}
	}()
}

// cancelledBy is err, as a cancel if the caller has reset the stream to say that:
// it does so when it cannot send a cancel, and means the same.
func cancelledBy(err error) error {
	if code, _, ok := codeOfReset(err); ok && code == CodeCanceled {
		return &Error{Code: CodeCanceled, Message: "the caller gave up", cause: err}
	}
	return err
}

func (l *serverLink) followCall(ctx *callContext, f *flow) (header, error) {
	for {
		h, err := l.in.header(l.s.cfg.MaxBlockSize)
		if err != nil && h.kind == 0 {
			return h, err
		}
		l.touch()
		switch {
		case h.kind == kindPing && err == nil:
			err = l.pong(h)
		case h.kind == kindCancel && h.call == l.last && !l.cancelled && err == nil:
			var cause error
			if cause, err = l.takeCancel(h); err == nil {
				ctx.stop(cause)
				f.fail(cause)
			}
		case f != nil && h.call == l.last && (h.kind == kindMessage || h.kind == kindHalfClose || h.kind == kindWindow):
			if err == nil {
				l.partly.Store(l.clock.now.Load())
				err = l.receive(ctx, f, h)
				l.partly.Store(0)
			}
		default:
			// Nothing else may come while a handler runs; after it, neither matters.
			ctx.stop(fmt.Errorf("%w: %s while a handler runs", ErrOutOfOrder, h.kind))
			f.fail(fmt.Errorf("%w: %s while a handler runs", ErrOutOfOrder, h.kind))
			return h, err
		}
		if err != nil {
			return header{}, err
		}
	}
}

// errNoRoom is how a streaming call ends for which there is no memory.
var errNoRoom = &Error{Code: CodeResourceExhausted, Message: "no memory for a message of the stream"}

// receive takes a frame of a streaming call. If there is no memory for it, the
// call fails, and the stream goes on if little is left of the message. The handler
// has seen the call, so nothing may say that it was refused.
func (l *serverLink) receive(ctx *callContext, f *flow, h header) error {
	m := &taking{l: l}
	defer func() { m.give(m.n) }() // what was not queued
	left, err := f.receive(&l.in, h, m)
	if !errors.Is(err, errMemory) {
		return err
	}
	ctx.stop(errNoRoom)
	f.fail(errNoRoom)
	if left > discardMax {
		return errors.New("rpc: no memory for the rest of a message")
	}
	return l.in.discard(left)
}
