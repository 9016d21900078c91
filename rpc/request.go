package rpc

import (
	"errors"
	"fmt"
)

// unary reads the one message, runs the handler and sends the one answer.
func (l *serverLink) unary(m *method) error {
	body, bad, err := l.request()
	if err != nil {
		return err
	}
	if bad != nil {
		return l.fail(bad)
	}
	if refused := l.place(m); refused != nil {
		return l.fail(l.refuse(m, refused))
	}
	resp, err := l.handle(m, body)
	l.release(m) // whoever takes the answer slowly takes nobody's place
	if why := l.wasKilled(); why != nil {
		return why
	}
	if err != nil {
		return l.fail(l.redact(m, err))
	}
	return l.answer(&resp)
}

// answer sends the last message of a call, or sees to it that it is sent: run
// waits for it (see flush) before it writes anything else.
func (l *serverLink) answer(resp *Response) error {
	if len(resp.Body) > l.s.cfg.MaxBlockSize {
		return l.fail(&Error{Code: CodeResourceExhausted, Message: fmt.Sprintf("the answer has %d bytes; this server sends at most %d", len(resp.Body), l.s.cfg.MaxBlockSize)})
	}
	if len(resp.Headers) > 0 {
		if err := resp.Headers.check(); err != nil {
			return l.fail(&Error{Code: CodeInternal, Message: "the answer has impossible headers"})
		}
	}
	b := lendOut()
	f := l.acceptFlag()
	if len(resp.Headers) > 0 {
		*b = appendFrame(*b, kindHeaders, f, l.last, appendHeaders(nil, resp.Headers))
	}
	if g := &l.state.gather; g.company(&l.link, len(resp.Body)) {
		l.appendMessage(b, flagEnd|f, l.last, resp.Body, l.accepts)
		if g.post(&l.link, b) {
			l.s.serving.Go(g.run) // not 0: serve is among them
		}
		return nil
	}
	defer returnOut(b)
	return l.sendMessage(b, flagEnd|f, l.last, resp.Body, l.accepts)
}

func (l *link) acceptFlag() flags {
	if l.squeeze.on {
		return flagAccept
	}
	return 0
}

// request reads the message of a unary call. bad is what to answer with if the
// call cannot be served and the stream can go on.
func (l *serverLink) request() (body []byte, bad *Error, err error) {
	h, err := l.next()
	if h.call == l.last && h.kind == kindMessage && errors.Is(err, ErrTooLarge) {
		return nil, l.tooLarge(h), l.skipOrEnd(h.size, err)
	}
	if err != nil {
		return nil, nil, unexpected(err)
	}
	if h.call != l.last || h.kind != kindMessage && h.kind != kindCancel || h.kind == kindMessage && h.flags&flagEnd == 0 {
		return nil, nil, fmt.Errorf("%w: %s of call %d where the one message of call %d must be", ErrOutOfOrder, h.kind, h.call, l.last)
	}
	if h.kind == kindCancel {
		_, err := l.takeCancel(h)
		return nil, &Error{Code: CodeCanceled, Refused: true}, err
	}
	body, rest, err := l.in.body(h.size, l)
	if errors.Is(err, errMemory) {
		return nil, &Error{Code: CodeResourceExhausted, Message: "no memory for the request", RetryAfter: busyRetryAfter, Refused: true}, l.skipOrEnd(rest, err)
	}
	if err != nil {
		return nil, nil, err
	}
	if h.flags&flagZstd != 0 {
		if body, bad = l.expand(body); bad != nil {
			return nil, bad, nil
		}
	}
	return body, nil, nil
}

func (l *serverLink) tooLarge(h header) *Error {
	return &Error{Code: CodeInvalidArgument, Refused: true,
		Message: fmt.Sprintf("a message of %d bytes; this server takes at most %d", h.size, l.s.cfg.MaxBlockSize)}
}

// skipOrEnd drops what a refused message has left, if that is little, and
// counts the fault. If it is much, the fault ends the stream.
func (l *serverLink) skipOrEnd(n int, fault error) error {
	if n > discardMax {
		return fault
	}
	if errors.Is(fault, ErrTooLarge) {
		_ = l.s.faults.count(fault)
	}
	return l.skip(n)
}

// expand undoes a message's compression.
func (l *serverLink) expand(z []byte) ([]byte, *Error) {
	if !l.squeeze.on {
		_ = l.s.faults.count(ErrUnknownCodec)
		return nil, &Error{Code: CodeInvalidArgument, Message: "compressed, which this server has not offered to read", Refused: true}
	}
	body, err := expand(z, l.s.cfg.MaxBlockSize, l)
	if errors.Is(err, errMemory) {
		return nil, &Error{Code: CodeResourceExhausted, Message: "no memory for the request", RetryAfter: busyRetryAfter, Refused: true}
	}
	if err != nil {
		_ = l.s.faults.count(err)
		return nil, &Error{Code: CodeInvalidArgument, Message: err.Error(), Refused: true}
	}
	return body, nil
}
