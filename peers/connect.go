package peers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kith-p2p/kith/transport"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// dial is one flight: one call of Transport.Dial, which all who want the address wait for.
type dial struct {
	key     string
	ctx     context.Context // ends at the deadline of whoever began the flight, when nobody waits, or by cancel
	cancel  context.CancelCauseFunc
	stop    context.CancelFunc // frees the deadline's timer
	waiters int                // guarded by book.mu

	done chan struct{} // closed at the end; then conn and err are set
	conn transport.Connection
	err  error
}

// shorterThan says whether it was the deadline of d that ended it, and ctx has time left.
func (d *dial) shorterThan(ctx context.Context) bool {
	if !errors.Is(d.ctx.Err(), context.DeadlineExceeded) {
		return false
	}
	deadline, ok := ctx.Deadline()
	flight, _ := d.ctx.Deadline()
	return !ok || deadline.After(flight)
}

func (b *book) Connect(ctx context.Context, maddr ma.Multiaddr) (manet.Conn, error) {
	if err := b.usable(maddr); err != nil {
		return nil, err
	}
	if b.self.is(maddr) {
		return nil, fmt.Errorf("%w: %s", ErrDialToSelf, maddr)
	}
	key := string(maddr.Bytes())
	for {
		conn, d, err := b.liveOrDial(ctx, key, maddr)
		if err != nil {
			return nil, err
		}
		if conn != nil {
			if !conn.Closed() {
				return conn, nil
			}
			b.forget(key, conn)
			continue
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			if b.leave(d) {
				return nil, fmt.Errorf("peers: connect to %s: %w", maddr, ctx.Err())
			}
			<-d.done
		}
		switch {
		case d.err == nil:
			return d.conn, nil
		case ctx.Err() == nil && d.shorterThan(ctx):
			continue // the flight had the deadline of another caller, less patient than we are
		case errors.Is(d.err, ErrClosed), errors.Is(d.err, ErrRemoved):
			return nil, d.err
		}
		return nil, fmt.Errorf("peers: connect to %s: %w", maddr, d.err)
	}
}

// liveOrDial returns the connection in the book, or joins its flight, or starts one.
func (b *book) liveOrDial(ctx context.Context, key string, maddr ma.Multiaddr) (transport.Connection, *dial, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, ErrClosed
	}
	if c := b.conns[key]; c != nil {
		return c, nil, nil
	}
	d := b.dials[key]
	if d == nil {
		if ctx.Err() != nil {
			return nil, nil, fmt.Errorf("peers: connect to %s: %w", maddr, ctx.Err())
		}
		d = &dial{key: key, done: make(chan struct{}), stop: func() {}}
		d.ctx, d.cancel = context.WithCancelCause(context.Background())
		if deadline, ok := ctx.Deadline(); ok {
			d.ctx, d.stop = context.WithDeadline(d.ctx, deadline)
		}
		b.dials[key] = d
		b.wg.Go(func() { b.fly(d, maddr) })
	}
	d.waiters++
	return nil, d, nil
}

// leave says that a caller no longer waits. The last one ends the flight, and the address is free for another. It
// returns false if the flight is over already.
func (b *book) leave(d *dial) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-d.done:
		return false
	default:
	}
	if d.waiters--; d.waiters > 0 {
		return true
	}
	if b.dials[d.key] == d {
		delete(b.dials, d.key)
	}
	// If it is the deadline that ended the wait, let the transport see that and not a cancellation, so that its breaker
	// counts a failure.
	if deadline, ok := d.ctx.Deadline(); !ok || time.Now().Before(deadline) {
		d.cancel(context.Canceled)
	}
	return true
}

// fly dials and settles who owns the result: the book, or if it is not wanted any more nobody, and then it is closed.
func (b *book) fly(d *dial, maddr ma.Multiaddr) {
	defer d.cancel(nil)
	defer d.stop()
	conn, err := b.dialOne(d.ctx, b.Transport, maddr, false)
	b.mu.Lock()
	wanted := b.dials[d.key] == d && !b.closed
	if wanted {
		delete(b.dials, d.key)
		if err == nil {
			b.conns[d.key] = conn
		}
	}
	b.mu.Unlock()
	if !wanted {
		if err == nil {
			_ = conn.Close()
		}
		if conn, err = nil, context.Cause(d.ctx); err == nil {
			err = ErrClosed // cannot be: only cancel and the deadline make it unwanted
		}
	}
	d.conn, d.err = conn, err
	b.mu.Lock()
	close(d.done) // under mu for leave
	b.mu.Unlock()
}

// dialOne calls a transport, and refuses a name that turned out to be our own.
func (b *book) dialOne(ctx context.Context, t transport.Transport, maddr ma.Multiaddr, reset bool) (transport.Connection, error) {
	conn, err := t.Dial(ctx, maddr, reset)
	switch {
	case err != nil:
		b.Logger.Debug("dial failed", "addr", maddr, "err", err)
		return nil, err
	case placeOf(maddr).name != "" && b.self.is(conn.RemoteMultiaddr()):
		_ = conn.Close()
		return nil, ErrDialToSelf
	}
	b.Logger.Debug("dialled", "addr", maddr, "remote", conn.RemoteMultiaddr())
	return conn, nil
}

// forget takes a connection that is closed out of the book, and frees what it may still hold.
func (b *book) forget(key string, conn transport.Connection) {
	b.mu.Lock()
	if b.conns[key] == conn {
		delete(b.conns, key)
	}
	b.mu.Unlock()
	_ = conn.Close()
}
