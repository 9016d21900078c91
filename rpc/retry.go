package rpc

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/kith-p2p/kith/internal/backoff"
	"github.com/kith-p2p/kith/stream"
)

// maxRetryWait bounds the wait before one retry, unless RetryInterval is longer.
const maxRetryWait = 30 * time.Second

var (
	errConnectTimeout = errors.New("rpc: ConnectTimeout passed")
	// errUnreachable is a stream that could not be opened. Nothing was sent; but
	// the host has tried all that it knows, so there is no use in trying again.
	errUnreachable = errors.New("rpc: the peer cannot be reached")
)

// goneError is a stream that the peer has ended with a goaway: the call on it
// has not been served.
type goneError struct{ g goaway }

func (e *goneError) Error() string { return "rpc: the peer ended the stream: " + e.g.message }

// again decides whether a failed call may be made once more, and when. It is
// safe if the peer has certainly not given it to a handler, or if the caller
// says so.
func (c *Client) again(ctx context.Context, err error, attempt int, moved *int, o callOptions) (wait time.Duration, ok bool) {
	if c.cfg.MaxRetries < 0 || ctx.Err() != nil {
		return 0, false
	}
	if gone, ok := errors.AsType[*goneError](err); ok && gone.g.code == CodeOK {
		// This stream has served its share; another is as good as new.
		*moved++
		return 0, *moved <= c.cfg.MaxConnsPerPeer
	}
	if attempt-*moved >= c.cfg.MaxRetries {
		return 0, false
	}
	safe, asked := transient(err, o.idempotent)
	if !safe {
		return 0, false
	}
	most := max(maxRetryWait, c.cfg.RetryInterval)
	wait = backoff.Jittered(attempt-*moved+1, c.cfg.RetryInterval, most)
	if asked > 0 {
		// The server knows better; spread who it has told the same.
		wait = asked + time.Duration(rand.Int64N(int64(asked)/2+1))
	}
	if wait > most {
		return 0, false
	}
	if by, has := ctx.Deadline(); has && time.Until(by) < wait {
		return 0, false
	}
	if !c.budget.spend() {
		c.spent.Add(1)
		return 0, false
	}
	return wait, true
}

// transient says whether it is safe and of use to make a call again, and how
// long the peer has asked to wait.
func transient(err error, idempotent bool) (bool, time.Duration) {
	if gone, ok := errors.AsType[*goneError](err); ok {
		return true, gone.g.retryAfter
	}
	if errors.Is(err, ErrClientClosed) || errors.Is(err, stream.ErrNoSuchService) || errors.Is(err, errUnreachable) {
		return false, 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		if e.Code != CodeUnavailable && e.Code != CodeResourceExhausted {
			return false, 0
		}
		return e.Refused || idempotent && e.Code == CodeUnavailable, e.RetryAfter
	}
	return idempotent, 0
}

// sleep waits, and returns false if the wait was cut short.
func sleep(ctx context.Context, done <-chan struct{}, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-done:
	}
	return false
}

// cutShort is how a call ends whose wait for the next attempt was cut short, by
// Close or by the end of ctx. How the last attempt failed is a cause, too.
func (c *Client) cutShort(ctx context.Context, last error) *Error {
	code, why := CodeOf(ctx.Err()), context.Cause(ctx)
	select {
	case <-c.done:
		code, why = CodeCanceled, ErrClientClosed
	default:
	}
	return callErrorf(code, "before the call was made again: %w; the last attempt: %w", why, last)
}

// budget bounds retries to a share of the calls: each call earns the share,
// each retry costs one.
type budget struct {
	share float64

	mu   sync.Mutex
	have float64 // guarded by mu
}

const budgetMax = 10

func (b *budget) earn() {
	b.mu.Lock()
	b.have = min(b.have+b.share, budgetMax)
	b.mu.Unlock()
}

func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.have < 1 {
		return false
	}
	b.have--
	return true
}

// asError is err as callers of this package get it.
func asError(err error, ctx context.Context) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		if e.inner {
			return e
		}
		own := *e
		own.inner = true
		return &own
	}
	e := &Error{Code: CodeUnavailable, Message: err.Error(), cause: err, inner: true}
	if gone, ok := errors.AsType[*goneError](err); ok {
		e.Refused, e.RetryAfter = true, gone.g.retryAfter
		if gone.g.code != CodeOK {
			e.Code = gone.g.code
		}
		return e
	}
	switch {
	case errors.Is(err, ErrClientClosed):
		e.Code = CodeCanceled
		e.Message = "the client is closed"
	case ctx.Err() != nil:
		e.Code = CodeOf(ctx.Err())
		e.Message = ""
		e.cause = context.Cause(ctx)
	case errors.Is(err, errReadTimeout), errors.Is(err, context.DeadlineExceeded):
		e.Code = CodeDeadlineExceeded
	case errors.Is(err, stream.ErrNoSuchService):
		e.Code, e.Refused = CodeUnimplemented, true
	case errors.Is(err, errUnreachable):
		e.Refused = true
		if errors.Is(err, network.ErrResourceLimitExceeded) {
			e.Code, e.Message = CodeResourceExhausted, limitText(err)
		}
	case errors.Is(err, ErrMalformed), errors.Is(err, ErrOutOfOrder), errors.Is(err, ErrUnknownCall), errors.Is(err, ErrBomb), errors.Is(err, ErrTooLarge):
		e.Code = CodeInternal
	}
	return e
}
