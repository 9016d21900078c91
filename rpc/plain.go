package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kith-p2p/kith/stream"
)

// The plain wire, as PointSub v0.0.2 speaks it: on the method's own protocol
// ID, a body behind its length in 4 bytes, big-endian, each way.
//
//	+------------------+--------------+
//	| length u32, BE   | length bytes |
//	+------------------+--------------+
//
// There is no room for an error: the stream is reset with its code instead.

// servePlain takes one stream of the plain wire.
func (s *Server) servePlain(c *stream.Conn, m *method) {
	l := &serverLink{s: s, plain: m}
	l.link.init(c, s.bufs, &s.clock)
	if !s.add(l) {
		_ = c.ResetWithCode(resetCode(CodeResourceExhausted))
		return
	}
	l.setPhase(phaseNew)
	s.serving.Go(l.serve)
}

// runPlain answers requests, one after the other, until the caller has no more.
func (l *serverLink) runPlain() error {
	for {
		if l.s.draining() || l.s.cfg.MaxRequestsPerConn > 0 && l.calls >= l.s.cfg.MaxRequestsPerConn {
			return nil
		}
		if l.calls > 0 {
			l.setPhase(phaseIdle)
		}
		// Waited for apart, so that a body that is late is told from a caller
		// that is idle.
		if l.in.buffered() == 0 {
			if err := l.in.more(); err != nil {
				if l.s.draining() || l.leaving() && isTimeout(err) {
					return nil
				}
				return err
			}
		}
		if !l.toRead() {
			return &Error{Code: CodeResourceExhausted} // no handler has seen it
		}
		n, err := l.in.length(l.s.cfg.MaxBlockSize)
		if err != nil {
			return err
		}
		l.calls++
		l.s.calls.Add(1)
		l.method.Store(l.plain)
		l.headers, l.deadline, l.pending, l.ran = nil, time.Time{}, nil, 0
		if err := l.callPlain(l.plain, n); err != nil {
			return err
		}
		l.free()
		l.method.Store(nil)
	}
}

func (l *serverLink) callPlain(m *method, n int) error {
	if refused := l.vet(m, flagUnary); refused != nil {
		return l.refuse(m, refused) // the reset says so
	}
	body, _, err := l.in.body(n, l)
	if err != nil {
		return err
	}
	if refused := l.place(m); refused != nil {
		return l.refuse(m, refused)
	}
	resp, herr := l.handle(m, body)
	l.release(m)
	if l.ahead != nil { // it waits for bytes or the end
		_ = l.conn.SetReadDeadline(longAgo)
		f := <-l.ahead
		l.ahead = nil
		_ = l.conn.SetReadDeadline(time.Time{})
		if !isTimeout(f.err) && f.err != io.EOF {
			return f.err
		}
	}
	if why := l.wasKilled(); why != nil {
		return why
	}
	if herr != nil {
		return &handledError{l.redact(m, herr)}
	}
	if len(resp.Body) > l.s.cfg.MaxBlockSize {
		return &handledError{&Error{Code: CodeResourceExhausted}}
	}
	return l.writePlain(resp.Body)
}

// handledError is how a handler's error ends a stream of the plain wire.
type handledError struct{ err *Error }

func (e *handledError) Error() string { return e.err.Error() }

// followPlain waits for the end of the stream while a handler runs. Bytes that
// come before the answer are kept, as many as a buffer holds: a next request may
// begin with them. Beyond that the caller has broken the protocol.
func (l *serverLink) followPlain(ctx *callContext) {
	ahead := make(chan nextFrame, 1)
	l.ahead = ahead
	go func() {
		var err error
		for err == nil {
			err = l.in.ahead()
		}
		if err == errAhead {
			err = fmt.Errorf("%w: %d bytes of a request before the answer to the last", ErrOutOfOrder, l.in.buffered())
		}
		if err != io.EOF && !isTimeout(err) {
			ctx.stop(cancelledBy(err))
		}
		ahead <- nextFrame{err: err}
	}()
}

// writePlain sends one body behind its length.
func (l *link) writePlain(body []byte) error {
	b := lendOut()
	defer returnOut(b)
	*b = binary.BigEndian.AppendUint32(*b, uint32(len(body)))
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if len(body) <= together {
		*b = append(*b, body...)
		return l.writeLocked(*b)
	}
	if err := l.writeLocked(*b); err != nil {
		return err
	}
	return l.writeLocked(body)
}

func isTimeout(err error) bool {
	te, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && te.Timeout()
}
