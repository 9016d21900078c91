package rpc

import (
	"context"
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
			if err != io.EOF && !(l.s.draining() && isTimeout(err)) {
				ctx.stop(err)
			}
			f.fail(unexpected(err))
		}
		ahead <- nextFrame{h, err}
	}()
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
			l.cancelled = true
			l.s.cancels.Add(1)
			if err = l.in.discard(h.size); err == nil {
				ctx.stop(context.Canceled)
				f.fail(context.Canceled)
			}
		case f != nil && h.call == l.last && (h.kind == kindMessage || h.kind == kindHalfClose || h.kind == kindWindow):
			if err == nil {
				err = f.receive(&l.in, h, l)
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
