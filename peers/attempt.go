package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/transport"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/grpc/credentials"
)

// patience is how many connections in a row may end before gRPC has spoken on them, until look-ups are told. A server
// that restarts does that once; one that is no gRPC server, or wants TLS, does it for ever, and no breaker opens on it.
const patience = 3

// dial is gRPC's dialer: one attempt, at each address in turn. The time that gRPC gives is shared out between those that
// are left.
func (c *channel) dial(ctx context.Context, _ string) (net.Conn, error) {
	if !c.b.enter() {
		return nil, ErrClosed
	}
	defer c.b.wg.Done()
	try, addrs, reset := c.begin()
	f := failure{final: true, refused: true}
	var errs []error
	for i, addr := range addrs {
		conn, err := c.dialInTurn(ctx, addr, reset, len(addrs)-i)
		if err == nil {
			return &dialled{conn, try}, nil
		}
		if errors.Is(err, transport.ErrAddress) {
			c.unlearn(addr)
		}
		f.refused = f.refused && errors.Is(err, transport.ErrBreakerOpen)
		wait, held, err := c.heldBack(addr, err)
		if held && (f.held == 0 || wait < f.held) {
			f.held = wait
		}
		f.final = f.final && (held || errors.Is(err, transport.ErrAddress) || errors.Is(err, ErrDialToSelf))
		if len(addrs) > 1 {
			err = fmt.Errorf("%s: %w", addr, err)
		}
		errs = append(errs, err)
	}
	f.err = joined(errs)
	c.failed(try, f)
	return nil, f.err
}

func (c *channel) dialInTurn(ctx context.Context, addr ma.Multiaddr, reset bool, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	return c.b.dialOne(ctx, c.b.GRPCTransport, addr, reset)
}

// heldBack says for how long the breaker of an address refuses, if it does after a dial that ended with err. If err is
// the very failure that opened it, the refusal is added.
func (c *channel) heldBack(addr ma.Multiaddr, err error) (wait time.Duration, held bool, _ error) {
	if open, ok := errors.AsType[*transport.OpenError](err); ok {
		return open.Wait, true, err
	}
	if errors.Is(err, transport.ErrBreakerOpen) || errors.Is(err, transport.ErrAddress) {
		return 0, errors.Is(err, transport.ErrBreakerOpen), err
	}
	t, ok := c.b.GRPCTransport.(interface{ Panel() *transport.Panel })
	if !ok {
		return 0, false, err
	}
	done, refusal := t.Panel().Lookup(addr).Allow()
	if refusal == nil {
		done(context.Canceled) // it was only a question
		return 0, false, err
	}
	open, ok := errors.AsType[*transport.OpenError](refusal)
	if !ok {
		return 0, false, err
	}
	return open.Wait, true, fmt.Errorf("%w; %w", err, refusal)
}

// isBroken: the connection ended, which says nothing about the other side's identity.
func isBroken(err error) bool {
	_, isNet := errors.AsType[net.Error](err)
	return isNet || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, context.Canceled)
}

// begin notes that an attempt begins.
func (c *channel) begin() (try int, addrs []ma.Multiaddr, reset bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries++
	c.trying, c.heldUntil = true, time.Time{}
	reset, c.resetting, c.reset = c.reset, c.reset, false
	return c.tries, c.addrs, reset
}

// failure is how an attempt failed.
type failure struct {
	err     error
	final   bool          // waiting for gRPC to repeat it is of no use
	refused bool          // nothing was dialled, the breakers refused
	held    time.Duration // for how long all breakers refuse from now on
}

// failed notes that an attempt failed, and tells the look-ups if that is final.
func (c *channel) failed(try int, f failure) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if try != c.tries {
		return // gRPC has given it up and begun another
	}
	switch {
	case !f.refused:
		c.cause = f.err
	case c.cause != nil:
		f.err = fmt.Errorf("%w; the last dial: %w", f.err, c.cause)
	}
	c.trying, c.last = false, f.err
	if f.final {
		c.heldUntil = now.Add(f.held)
		c.tell(try, f.err)
	}
}

// broke notes that the connection of an attempt ended before gRPC had spoken on it.
func (c *channel) broke(try int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if try != c.tries {
		return
	}
	c.trying, c.last = false, err
	if c.unanswered++; c.unanswered >= patience {
		c.tell(try, err)
	}
}

// shaken notes that an attempt has passed the handshake.
func (c *channel) shaken(try int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if try == c.tries {
		c.trying = false
	}
}

// spoke notes that a gRPC server has answered, unless a later attempt has begun.
func (c *channel) spoke(try int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if try != c.tries {
		return
	}
	c.proven, c.reset = true, false
	c.unanswered, c.last, c.cause = 0, nil, nil
}

// tell ends the waits of those for whom the result of an attempt counts. Called under mu.
func (c *channel) tell(try int, err error) {
	for w := range c.waiters {
		if try > w.after && w.refusal == nil {
			w.refusal = err
			w.wake()
		}
	}
}

// dialled is what the handshake is given: the transport's connection, and which attempt it belongs to.
type dialled struct {
	net.Conn
	try int
}

// NetConn leads grpcid to the transport's connection.
func (d *dialled) NetConn() net.Conn { return d.Conn }

// handshake is credentials that tell the channel how the handshake went, which gRPC tells nobody.
type handshake struct {
	credentials.TransportCredentials
	c *channel
}

func (h *handshake) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, raw)
	d, ok := raw.(*dialled)
	switch {
	case !ok:
		return conn, info, err
	case err == nil:
		h.c.shaken(d.try)
		return &spoken{Conn: conn, c: h.c, try: d.try}, info, nil
	case isBroken(err):
		h.c.broke(d.try, err)
	default:
		h.c.failed(d.try, failure{err: err, final: true})
	}
	return nil, nil, err
}

// Clone keeps telling the channel.
func (h *handshake) Clone() credentials.TransportCredentials {
	return &handshake{h.TransportCredentials.Clone(), h.c}
}

// spoken is the connection after the handshake. It tells the channel when a server speaks HTTP/2 on it, or that none did.
type spoken struct {
	net.Conn
	c        *channel
	try      int
	seen     int // bytes read so far, up to the frame type; owned by gRPC's one reader
	answered atomic.Bool
}

// A server's first frame is SETTINGS (RFC 9113, section 3.4): three bytes of length, then this type.
const (
	frameTypeAt   = 3
	frameSettings = 4
)

func (s *spoken) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if s.seen <= frameTypeAt && n > 0 {
		if i := frameTypeAt - s.seen; i < n && p[i] == frameSettings {
			s.answered.Store(true)
			s.c.spoke(s.try)
		}
		s.seen += n
	}
	return n, err
}

func (s *spoken) Close() error {
	err := s.Conn.Close()
	if !s.answered.Load() {
		s.c.broke(s.try, ErrNotGRPC)
	}
	return err
}
