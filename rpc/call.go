package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/kith-p2p/kith/stream"
)

var errReadTimeout = errors.New("rpc: no answer within ReadTimeout")

// guard makes a call that blocks on the stream end with ctx, and if it is
// bounded with ReadTimeout: it moves the deadlines of the stream into the past.
// release says whether it did so, after which the stream is of no more use but
// to say goodbye.
type guard struct {
	l    *clientLink
	stop func() bool
}

func (l *clientLink) guard(ctx context.Context, bounded bool) guard {
	g := guard{l: l}
	if ctx.Done() != nil {
		g.stop = context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(longAgo) })
	}
	if bounded {
		l.began.Store(l.clock.now.Load())
	} else {
		l.began.Store(0) // the call before may have expired, and been drained
	}
	return g
}

func (g guard) release() (untouched bool) {
	untouched = g.stop == nil || g.stop()
	if b := g.l.began.Load(); b != 0 {
		untouched = b != expired && g.l.began.CompareAndSwap(b, 0) && untouched
	}
	return untouched && !g.l.stalled.Load()
}

// timeoutOf is how long a call may take: until the context's deadline, which
// the context itself enforces, or else ReadTimeout, which bounds it.
func (c *Client) timeoutOf(ctx context.Context) (wire time.Duration, bounded bool) {
	if by, ok := ctx.Deadline(); ok {
		return max(time.Until(by), time.Microsecond), false
	}
	return c.cfg.ReadTimeout, true
}

// unary makes one call on the stream and gives stream and place back.
func (l *clientLink) unary(ctx context.Context, r *Request) (*Response, error) {
	wire, bounded := l.c.timeoutOf(ctx)
	l.p.gather.active.Add(1)
	defer l.p.gather.active.Add(-1)
	g := l.guard(ctx, bounded)
	l.id++
	l.pings = pingCount{}
	sent := false
	resp, err := l.exchange(r, wire, &sent)
	untouched := g.release()
	if !l.settle() {
		l.cut, sent = true, false
		if err != nil && isTimeout(err) && l.outErr != nil {
			err = l.outErr
		}
	}
	whole := untouched && !l.cut
	if err == nil && whole {
		l.c.learnFramed(l)
		l.c.finish(l, true, false)
		return resp, nil
	}
	answered := false
	if e, ok := err.(*Error); ok && e.Peer != "" {
		answered = true // the peer's own last word on this call
	}
	if answered && whole {
		l.c.learnFramed(l)
		l.c.finish(l, true, false)
		return nil, err
	}
	l.giveUp(ctx, err, sent && !answered && err != nil && !untouched && !l.in.torn && !l.cut, false)
	if err == nil {
		return resp, nil // it came in time, only just
	}
	return nil, l.why(ctx, err)
}

// exchange sends the request and reads the answer. sent is set when the whole
// request is on its way.
func (l *clientLink) exchange(r *Request, timeout time.Duration, sent *bool) (*Response, error) {
	if len(r.Body) > together {
		return l.exchangeBoth(r, timeout, sent)
	}
	if err := l.sendRequest(r, timeout, l.accepts); err != nil {
		return nil, err
	}
	*sent = true
	return l.receive()
}

// exchangeBoth reads while it sends: a request that is larger than the peer's
// window may never leave if the peer has answered already, with a goaway or an
// error, and waits for nothing but the end. The stream is of no use after a
// request that was cut short.
func (l *clientLink) exchangeBoth(r *Request, timeout time.Duration, sent *bool) (*Response, error) {
	wrote := make(chan error, 1)
	accepts := l.accepts // receive writes it
	go func() { wrote <- l.sendRequest(r, timeout, accepts) }()
	resp, err := l.receive()
	var werr error
	select {
	case werr = <-wrote:
	default:
		// It may just be about to end; if not, the peer does not read it.
		_ = l.conn.SetWriteDeadline(time.Now().Add(cancelTimeout))
		werr = <-wrote
		if werr == nil && l.conn.SetWriteDeadline(time.Time{}) != nil {
			l.cut = true
		}
	}
	if werr != nil {
		l.cut = true
	}
	*sent = werr == nil
	return resp, err
}

// receive reads the answer to a unary call.
func (l *clientLink) receive() (*Response, error) {
	resp := new(Response)
	for {
		h, err := l.answer(resp)
		if err != nil {
			return nil, err
		}
		switch h.kind {
		case kindHalfClose, kindWindow:
			return nil, fmt.Errorf("%w: %s answers a single request", ErrOutOfOrder, h.kind)
		case kindMessage:
		default:
			continue
		}
		if h.flags&flagEnd == 0 {
			return nil, fmt.Errorf("%w: a message that is not the last answers a single request", ErrOutOfOrder)
		}
		body, _, err := l.in.body(h.size, unmetered{})
		if err != nil {
			return nil, err
		}
		if h.flags&flagZstd != 0 {
			if body, err = l.expand(body); err != nil {
				return nil, err
			}
		}
		resp.Body = body
		return resp, nil
	}
}

func (l *clientLink) sendRequest(r *Request, timeout time.Duration, accepts bool) error {
	b := lendOut()
	f := l.acceptFlag()
	l.appendInvoke(b, r, timeout, f|flagUnary)
	if l.p.gather.company(&l.link, len(r.Body)) {
		l.post(b, f, r.Body)
		return nil
	}
	defer returnOut(b)
	return l.sendMessage(b, flagEnd|f, l.id, r.Body, accepts)
}

// post sends a request together with those of other calls.
func (l *clientLink) post(b *[]byte, f flags, body []byte) {
	l.appendMessage(b, flagEnd|f, l.id, body, l.accepts)
	g, c := &l.p.gather, l.c
	if !g.post(&l.link, b) {
		return
	}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.work.Go(g.run)
	}
	c.mu.Unlock()
	if closed {
		g.run() // which finds the streams reset
	}
}

func (l *clientLink) appendInvoke(b *[]byte, r *Request, timeout time.Duration, f flags) {
	var scratch [256]byte
	p := appendInvoke(scratch[:0], string(r.Method), timeout, r.Headers)
	*b = appendFrame(*b, kindInvoke, f, l.id, p)
}

// expand undoes an answer's compression.
func (l *clientLink) expand(z []byte) ([]byte, error) {
	if !l.squeeze.on {
		return nil, fmt.Errorf("%w: compressed, which was not offered", ErrOutOfOrder)
	}
	return expand(z, l.c.cfg.MaxBlockSize, unmetered{})
}

// answer reads the next frame of the answer to the newest call, up to the
// payload if it is a message or a half-close. Headers go into resp. An *Error
// with a Peer is the peer's answer.
func (l *clientLink) answer(resp *Response) (header, error) {
	h, err := l.in.header(l.c.cfg.MaxBlockSize)
	if err != nil {
		return header{}, unexpected(err)
	}
	switch h.kind {
	case kindPing, kindGoaway:
		if h.call != 0 {
			return h, fmt.Errorf("%w: %s of call %d", ErrOutOfOrder, h.kind, h.call)
		}
	}
	switch h.kind {
	case kindPing:
		p, err := l.in.view(h.size)
		if err == nil {
			err = l.pings.more()
		}
		if err != nil || h.flags&flagAnswer != 0 { // to whoever waits for it, if there is one
			return h, err
		}
		if err = l.answerPing(p); err != nil {
			l.cut = true
		}
		return h, err
	case kindGoaway:
		p, err := l.in.view(h.size)
		if err != nil {
			return h, err
		}
		g, err := parseGoaway(p)
		if err != nil {
			return h, err
		}
		if g.last < l.id {
			return h, &goneError{g}
		}
		if l.gone {
			return h, fmt.Errorf("%w: a second goaway", ErrOutOfOrder)
		}
		l.gone = true // after this call
		return h, nil
	case kindInvoke, kindCancel:
		return h, fmt.Errorf("%w: %s from a server", ErrOutOfOrder, h.kind)
	}
	if h.call != l.id {
		return h, fmt.Errorf("%w: %s of call %d, at call %d", ErrUnknownCall, h.kind, h.call, l.id)
	}
	if h.flags&flagAccept != 0 {
		l.accepts = true
	}
	switch h.kind {
	case kindHeaders:
		p, err := l.in.view(h.size)
		if err != nil {
			return h, err
		}
		if resp.Headers != nil {
			return h, fmt.Errorf("%w: headers twice", ErrOutOfOrder)
		}
		if resp.Headers, err = parseHeaders(p); err == nil && resp.Headers == nil {
			resp.Headers = Headers{}
		}
		return h, err
	case kindError:
		p, err := l.in.view(h.size)
		if err != nil {
			return h, err
		}
		e, err := parseError(p)
		if err != nil {
			return h, err
		}
		e.Peer, e.Refused = l.peer, h.flags&flagRefused != 0
		return h, e
	}
	return h, nil
}

// giveUp ends a call that has no answer. A stream on which the whole request
// went out can be used again, once the peer has confirmed the cancel.
func (l *clientLink) giveUp(ctx context.Context, err error, soft, streaming bool) {
	c := l.c
	_ = c.faults.count(l.notOurs(ctx, err))
	if soft && !l.stalled.Load() && c.drains.Add(1) <= maxDrains {
		code := CodeOf(ctx.Err())
		if code == CodeOK {
			code = CodeDeadlineExceeded
		}
		_ = l.conn.SetDeadline(time.Now().Add(cancelTimeout))
		if l.send(kindCancel, 0, l.id, []byte{byte(code)}) == nil {
			c.mu.Lock()
			closed := c.closed
			if !closed {
				c.work.Go(func() { l.drain(streaming) })
			}
			c.mu.Unlock()
			if !closed {
				return
			}
		}
		c.drains.Add(-1)
	} else if soft {
		c.drains.Add(-1)
	}
	_ = l.conn.ResetWithCode(resetCode(CodeCanceled))
	c.finish(l, false, streaming)
}

// notOurs is err unless it is the end of ctx, a timeout of ours or an answer. That
// an answer has begun to come and its end has not within ReadTimeout is the peer's.
func (l *clientLink) notOurs(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return nil
	case isTimeout(err) && l.began.Load() == expired && (l.in.torn || l.in.buffered() > 0):
		return errUnfinished
	case isTimeout(err):
		return nil
	}
	if e, ok := err.(*Error); ok && e.Peer != "" {
		return nil
	}
	if _, gone := errors.AsType[*goneError](err); gone || errors.Is(err, stream.ErrNoSuchService) {
		return nil
	}
	return err
}

const (
	// maxDrains bounds the streams of a client that wait for the end of a
	// cancelled call. Further ones are reset.
	maxDrains = 16
	// drainTime is how long each may wait.
	drainTime = 2 * time.Second
	// lingerTime is how long a call over the plain wire may keep its place after its
	// answer. Others may be waiting for it.
	lingerTime = 200 * time.Millisecond
	// cancelTimeout bounds the sending of a cancel, for which a window that has
	// room needs no time.
	cancelTimeout = 5 * time.Millisecond
)

// drain reads on until the peer ends a cancelled call, and gives the stream
// back.
func (l *clientLink) drain(streaming bool) {
	defer l.c.drains.Add(-1)
	_ = l.conn.SetDeadline(time.Now().Add(drainTime))
	clean := l.drained() == nil && l.conn.SetDeadline(time.Time{}) == nil
	if !clean {
		_ = l.conn.ResetWithCode(resetCode(CodeCanceled))
	}
	l.c.finish(l, clean, streaming)
}

func (l *clientLink) drained() error {
	left := 2 * streamWindow
	for {
		var resp Response
		h, err := l.answer(&resp)
		if e, ok := err.(*Error); ok && e.Peer != "" {
			return nil
		}
		if err != nil {
			return err
		}
		switch h.kind {
		case kindMessage, kindWindow:
			if left -= h.size + messageCost; left < 0 {
				return ErrOutOfOrder
			}
			if err := l.in.discard(h.size); err != nil {
				return err
			}
			if h.flags&flagEnd != 0 {
				return nil
			}
		case kindHalfClose:
			return nil
		}
	}
}

// why says why a call on the stream failed, if it was not answered.
func (l *clientLink) why(ctx context.Context, err error) error {
	if e, ok := err.(*Error); ok {
		return e
	}
	return l.c.why(ctx, l, err)
}

func (c *Client) why(ctx context.Context, l *clientLink, err error) error {
	select {
	case <-c.done:
		return ErrClientClosed
	default:
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if l.began.Load() == expired {
		return errReadTimeout
	}
	if l.stalled.Load() {
		return &Error{Code: CodeUnavailable, Message: "the peer did not take the request within WriteTimeout", cause: errStalled}
	}
	if gone, ok := errors.AsType[*goneError](err); ok {
		if gone.g.code != CodeOK {
			c.dropIdle(l.p)
		}
		return err
	}
	if code, refused, ok := codeOfReset(err); ok {
		return &Error{Code: code, Message: "the peer reset the stream of the call", Refused: refused, Peer: l.peer, cause: err}
	}
	if se, ok := errors.AsType[*network.StreamError](err); ok && se.Remote && !l.reused &&
		(se.ErrorCode == network.StreamResourceLimitExceeded || se.ErrorCode == network.StreamShutdown) {
		// Turned away before anything was read.
		return &Error{Code: CodeUnavailable, Message: "the peer takes no more streams now: a resource limit of its node, or it is stopping", Refused: true, cause: err}
	}
	if errors.Is(err, stream.ErrNoSuchService) {
		return err
	}
	return &Error{Code: codeOfFault(err), Message: err.Error(), cause: err}
}

// codeOfFault is for what the peer did wrong: CodeInternal if it broke the
// protocol, otherwise it was lost.
func codeOfFault(err error) Code {
	for _, fault := range []error{ErrMalformed, ErrOutOfOrder, ErrUnknownCall, ErrBomb, ErrTooLarge} {
		if errors.Is(err, fault) {
			return CodeInternal
		}
	}
	return CodeUnavailable
}

// learnFramed notes that the peer speaks the framed protocol.
func (c *Client) learnFramed(l *clientLink) {
	if !l.reused {
		c.learn(l.p, speaksFramed)
	}
}

// ping makes a round trip without a call.
func (l *clientLink) ping(ctx context.Context) (time.Duration, error) {
	_, bounded := l.c.timeoutOf(ctx)
	g := l.guard(ctx, bounded)
	start := time.Now()
	l.pings = pingCount{}
	err := l.send(kindPing, 0, 0, []byte("kith"))
	for err == nil {
		var h header
		if h, err = l.answer(&Response{}); err == nil && h.kind == kindPing && h.flags&flagAnswer != 0 {
			break
		}
		if err == nil && h.kind != kindPing && h.kind != kindGoaway {
			err = fmt.Errorf("%w: %s where the answer to a ping must be", ErrOutOfOrder, h.kind)
		}
	}
	d := time.Since(start)
	if g.release() && err == nil {
		l.c.learnFramed(l)
		l.c.finish(l, true, false)
		return d, nil
	}
	l.giveUp(ctx, err, false, false)
	if err == nil {
		return d, nil
	}
	return 0, l.why(ctx, unexpected(err))
}

// callPlain makes a call over the plain wire: a stream for each, closed well.
func (c *Client) callPlain(ctx context.Context, p *clientPeer, r *Request, o callOptions) (*Response, error) {
	if _, codec := r.Headers[headerCodec]; len(r.Headers) > 1 || len(r.Headers) == 1 && !codec {
		c.leave(p, false)
		return nil, Errorf(CodeUnimplemented, "peer %s speaks the plain wire only, which has no headers", p.id)
	}
	l, err := c.open(ctx, p, r.Method, o.limited)
	if err != nil {
		c.leave(p, false)
		return nil, err
	}
	_, bounded := c.timeoutOf(ctx)
	g := l.guard(ctx, bounded)
	body, err := l.exchangePlain(r.Body)
	untouched := g.release()
	if err != nil {
		_ = c.faults.count(l.notOurs(ctx, err))
		_ = l.conn.ResetWithCode(resetCode(CodeCanceled))
		c.finish(l, false, false)
		return nil, l.why(ctx, err)
	}
	_ = l.conn.CloseWrite()
	if !untouched || !c.linger(l) {
		_ = l.conn.Close()
		c.finish(l, false, false)
	}
	return &Response{Body: body}, nil
}

// linger keeps the place of a call over the plain wire until the peer has ended the
// stream too, and so no longer counts it against its limits; it returns false where
// it need not. A peer that never ends its half is waited for once.
func (c *Client) linger(l *clientLink) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || l.p.openEnded || l.p.busy <= c.cfg.MaxConnsPerPeer/2 {
		return false
	}
	c.work.Go(func() {
		_ = l.conn.SetReadDeadline(time.Now().Add(lingerTime))
		if _, err := l.conn.Read(make([]byte, 1)); isTimeout(err) {
			c.mu.Lock()
			l.p.openEnded = true
			c.mu.Unlock()
		}
		_ = l.conn.Close()
		c.finish(l, false, false)
	})
	return true
}

func (l *clientLink) exchangePlain(body []byte) ([]byte, error) {
	if err := l.writePlain(body); err != nil {
		return nil, err
	}
	n, err := l.in.length(l.c.cfg.MaxBlockSize)
	if err != nil {
		return nil, unexpected(err)
	}
	b, _, err := l.in.body(n, unmetered{})
	return b, err
}
