package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/kith-p2p/kith/stream"
)

// Client calls methods of other peers over streams that it keeps and uses
// again. All methods may be called concurrently.
type Client struct {
	h    host.Host
	cfg  ClientConfig
	bufs *bufferPool
	done chan struct{} // closed by Close

	clock clock
	work  sync.WaitGroup // the janitor, drains, readers of streaming calls

	mu     sync.Mutex // guards what follows, and the fields of clientPeer
	closed bool
	peers  map[peer.ID]*clientPeer
	links  map[*clientLink]struct{} // all open streams of the framed protocol
	idle   int                      // of these, in a pool

	drains atomic.Int64
	budget budget

	calls, failed, retries, dials, reused, fallbacks, spent atomic.Uint64
	faults                                                  faultCounters
}

// NewClient makes a client on the host. A nil config means the defaults. It
// returns what Validate returns. Close it before the host.
func NewClient(h host.Host, config *ClientConfig) (*Client, error) {
	if config == nil {
		config = DefaultClientConfig()
	}
	if err := config.Validate(); err != nil {
		return nil, err
	}
	c := &Client{
		h: h, cfg: config.withDefaults(), done: make(chan struct{}),
		peers: map[peer.ID]*clientPeer{}, links: map[*clientLink]struct{}{},
	}
	c.bufs = newBufferPool(readBuffer)
	c.budget.share, c.budget.have = c.cfg.RetryBudget, budgetMax
	c.clock.start(c.cfg.ReadTimeout, c.cfg.WriteTimeout, c.cfg.IdleConnTimeout)
	c.work.Go(c.janitor)
	return c, nil
}

// readBuffer is how much a client reads at a time.
const readBuffer = 4 << 10

// Send calls a method and returns its answer. It blocks until the answer is
// there, ctx ends or a timeout of ClientConfig passes; the answer is the
// caller's. Kith nodes are called with the framed protocol, others over the
// plain wire, which is found out by itself and remembered.
//
// The error is an *Error: what the handler returned, why it was not called, or
// why nobody knows. It is context.Canceled or context.DeadlineExceeded by
// errors.Is if ctx ended; the peer is told, and the handler's context ends too.
// ErrClientClosed comes after Close.
func (c *Client) Send(ctx context.Context, peerID peer.ID, protocolID protocol.ID, request []byte) ([]byte, error) {
	resp, err := c.call(ctx, &Request{Peer: peerID, Method: protocolID, Body: request}, callOptions{})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Do is Send with headers and options. Headers cannot go to a peer that speaks
// only the plain wire: such a call fails with CodeUnimplemented.
func (c *Client) Do(ctx context.Context, r *Request, opts ...CallOption) (*Response, error) {
	var o callOptions
	for _, opt := range opts {
		opt(&o)
	}
	if len(o.headers) > 0 {
		merged := *r
		merged.Headers = mergeHeaders(r.Headers, o.headers)
		r = &merged
	}
	return c.call(ctx, r, o)
}

func mergeHeaders(a, b Headers) Headers {
	m := make(Headers, len(a)+len(b))
	for k, v := range a {
		m[k] = v
	}
	for k, v := range b {
		m[k] = v
	}
	return m
}

// CallOption changes one call. Idempotent, AllowLimited and WithHeaders make
// them.
type CallOption func(*callOptions)

type callOptions struct {
	idempotent, limited bool
	headers             Headers
}

// Idempotent declares that it does no harm if the handler runs more than once,
// so that the call may be made again when nobody knows whether it was made.
func Idempotent() CallOption { return func(o *callOptions) { o.idempotent = true } }

// AllowLimited lets the call go over a relay that limits time and bytes.
func AllowLimited() CallOption { return func(o *callOptions) { o.limited = true } }

// WithHeaders sends headers with the request.
func WithHeaders(h Headers) CallOption {
	return func(o *callOptions) { o.headers = mergeHeaders(o.headers, h) }
}

// call makes a call, again if that is safe and may help.
func (c *Client) call(ctx context.Context, r *Request, o callOptions) (*Response, error) {
	c.calls.Add(1)
	resp, err := c.attempts(ctx, r, o)
	if err != nil {
		c.failed.Add(1)
		return nil, asError(err, ctx)
	}
	return resp, nil
}

func (c *Client) attempts(ctx context.Context, r *Request, o callOptions) (*Response, error) {
	if len(r.Body) > c.cfg.MaxBlockSize {
		return nil, &Error{Code: CodeInvalidArgument, Refused: true, cause: ErrTooLarge,
			Message: fmt.Sprintf("the request has %d bytes; this client sends at most %d", len(r.Body), c.cfg.MaxBlockSize)}
	}
	if len(r.Method) == 0 || len(r.Method) > methodMax {
		return nil, Errorf(CodeInvalidArgument, "a method of %d bytes: must be between 1 and %d", len(r.Method), methodMax)
	}
	if err := r.Headers.check(); err != nil {
		return nil, err
	}
	c.budget.earn()
	moved := 0
	for attempt := 0; ; attempt++ {
		resp, err := c.attempt(ctx, r, o)
		if err == nil {
			return resp, nil
		}
		wait, again := c.again(ctx, err, attempt, &moved, o)
		if !again {
			return nil, err
		}
		c.retries.Add(1)
		if !sleep(ctx, c.done, wait) {
			return nil, c.cutShort(ctx, err)
		}
	}
}

// attempt makes a call once, in the way that the peer speaks.
func (c *Client) attempt(ctx context.Context, r *Request, o callOptions) (*Response, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	p, l, speaks, err := c.enter(ctx, r.Peer, false)
	if err != nil {
		return nil, err
	}
	if l != nil || speaks != speaksPlain {
		resp, err := c.framed(ctx, p, l, r, o)
		if !errors.Is(err, stream.ErrNoSuchService) {
			return resp, err
		}
		// It does not speak the framed protocol. The place is given back.
		if p, l, _, err = c.enter(ctx, r.Peer, false); err != nil {
			return nil, err
		}
		if l != nil { // somebody else was luckier
			return l.unary(ctx, r)
		}
	}
	resp, err := c.callPlain(ctx, p, r, o)
	switch {
	case errors.Is(err, stream.ErrNoSuchService) && speaks == speaksPlain:
		c.learn(p, speaksUnknown) // it may have changed: offer both the next time
	case err == nil && speaks != speaksPlain:
		c.learn(p, speaksPlain)
	}
	return resp, err
}

// framed makes a call with the framed protocol, on the stream l or a new one.
func (c *Client) framed(ctx context.Context, p *clientPeer, l *clientLink, r *Request, o callOptions) (*Response, error) {
	if l == nil {
		var err error
		if l, err = c.open(ctx, p, Protocol, o.limited); err != nil {
			c.leave(p, false)
			return nil, err
		}
	}
	return l.unary(ctx, r)
}

// Close ends all calls with ErrClientClosed and closes all streams. When it
// returns, nothing of the client runs. It returns nil.
func (c *Client) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.done)
	}
	links := make([]*clientLink, 0, len(c.links))
	for l := range c.links {
		links = append(links, l)
	}
	for _, p := range c.peers {
		for _, l := range p.idle {
			c.dropLocked(l)
		}
		c.idle -= len(p.idle)
		p.idle = nil
	}
	c.mu.Unlock()
	for _, l := range links {
		_ = l.conn.ResetWithCode(resetCode(CodeCanceled))
	}
	c.work.Wait()
	return nil
}

// Stats returns the counters. It may be called at any time.
func (c *Client) Stats() ClientStats {
	c.mu.Lock()
	conns, idle := len(c.links), c.idle
	c.mu.Unlock()
	return ClientStats{
		Conns: conns, Idle: idle, Calls: c.calls.Load(), Failed: c.failed.Load(), Retries: c.retries.Load(),
		Dials: c.dials.Load(), Reused: c.reused.Load(), Fallbacks: c.fallbacks.Load(), BudgetSpent: c.spent.Load(),
		Faults: c.faults.snapshot(),
	}
}

// Ping measures a round trip to the peer and back, below all handlers. It
// returns what Send would.
func (c *Client) Ping(ctx context.Context, peerID peer.ID) (time.Duration, error) {
	p, l, _, err := c.enter(ctx, peerID, false)
	if err != nil {
		return 0, asError(err, ctx)
	}
	if l == nil {
		if l, err = c.open(ctx, p, Protocol, false); err != nil {
			c.leave(p, false)
			return 0, asError(err, ctx)
		}
	}
	d, err := l.ping(ctx)
	return d, asError(err, ctx)
}
