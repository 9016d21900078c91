package tunnel

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// relay carries one connection between two ends until both directions have
// ended, exactly as TCP would: an EOF on one side becomes a half-close on the
// other and the reverse direction goes on; an error on one side becomes a
// reset on both.
type relay struct {
	socket, peer end
	bufs         *buffers

	// in counts bytes from the peer, out bytes to the peer.
	in, out atomic.Uint64
	// limitIn and limitOut are the service's bandwidth; nil means none.
	limitIn, limitOut *rate.Limiter

	// ctx ends the waits for bandwidth; cancel ends it.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// failed is told why the connection is cut, once, before either end can
	// see it.
	failed func(*Error)

	idle  idleWatch
	cause atomic.Pointer[Error]
}

// run blocks until both directions have ended and both ends are closed.
func (r *relay) run(idle time.Duration) {
	defer r.idle.start(idle, func() { r.fail(refuse(ReasonIdle, "no traffic for %v", idle)) })()
	done := make(chan struct{})
	go func() {
		defer close(done)
		roomyStack()
		r.half(r.socket, r.peer, &r.in, r.limitIn)
	}()
	r.half(r.peer, r.socket, &r.out, r.limitOut)
	<-done
	// After an abort these are no-ops.
	r.peer.Close()
	r.socket.Close()
}

// half copies src to dst until its EOF, or cuts the connection.
func (r *relay) half(dst, src end, count *atomic.Uint64, limit *rate.Limiter) {
	if g, ok := dst.(interface{ greet() error }); ok {
		if err := g.greet(); err != nil {
			r.fail(reasonOf(err))
			return
		}
	}
	size := bufStart
	for {
		if limit != nil { // small pieces, so that a slow service is an even one
			size = min(size, max(bufFloor, limit.Burst()))
		}
		buf, n, err := src.read(r.bufs, size)
		if n > 0 {
			werr := waitFor(r.ctx, limit, n)
			r.idle.touch()
			if werr == nil {
				_, werr = dst.Write((*buf)[:n])
			}
			size = nextSize(len(*buf), n)
			r.bufs.put(buf)
			if werr != nil {
				r.fail(reasonOf(werr))
				return
			}
			count.Add(uint64(n))
		}
		switch {
		case err == nil:
		case err == io.EOF: // and no error that holds one, such as that of a dial that was hung up on
			dst.CloseWrite() // if the reader is gone already, its own direction says why
			return
		default:
			r.fail(reasonOf(err))
			return
		}
	}
}

// fail records the first reason and cuts both ends with it.
func (r *relay) fail(e *Error) {
	if e == nil {
		e = &Error{Reason: ReasonLost}
	}
	if r.cause.CompareAndSwap(nil, e) {
		r.failed(e)
	}
	why := r.cause.Load().Reason
	r.socket.abort(why)
	r.cancel(nil)
	r.peer.abort(why) // last: it may wait for a peer that reads nothing
}

// waitFor blocks until the service's bandwidth allows n more bytes.
func waitFor(ctx context.Context, l *rate.Limiter, n int) error {
	if l == nil {
		return nil
	}
	for n > 0 {
		part := min(n, l.Burst())
		if err := l.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}
