package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/libp2p/go-libp2p/core/protocol"
)

// ServerStream is a call with streams of messages, as its handler sees it. Recv
// and Send may be called concurrently with each other; all of it is over when
// the handler returns.
type ServerStream struct {
	l   *serverLink
	f   *flow
	ctx *callContext
	req *Request

	mu      sync.Mutex // guards what follows
	started bool       // the answer has begun
}

// HandleStream serves a method whose callers open it as a stream: either side
// sends any number of messages. The call ends when fn returns; nil tells the
// caller that all is well. There is no plain form of it. Errors are those of
// StartHandler. HandleServerStream, HandleClientStream and HandleBidi are the
// typed forms.
func (s *Server) HandleStream(protocolID protocol.ID, fn func(ctx context.Context, st *ServerStream) error, opts ...HandleOption) error {
	if fn == nil {
		return fmt.Errorf("rpc: start %q: no handler given", protocolID)
	}
	return s.start(&method{id: protocolID, stream: fn}, opts)
}

// errCallOver is what a stream's methods return when its call is over.
var errCallOver = &Error{Code: CodeCanceled, Message: "the call is over"}

func (l *serverLink) serveStream(m *method) error {
	call := l.newCall(m, nil)
	st := &ServerStream{l: l, f: newFlow(&l.link, l.last), ctx: &call.ctx, req: &call.req}
	st.f.popped = l.give
	l.follow(st.ctx, st.f)
	if refused := l.place(m); refused != nil {
		st.f.fail(errCallOver)
		st.f.drop()
		return l.fail(l.refuse(m, refused))
	}
	err := l.guarded(m, st.ctx, func() error { return m.stream(st.ctx, st) })
	l.release(m)
	st.f.fail(errCallOver)
	st.f.drop()
	st.f.settle() // what other goroutines of the handler send: nothing may follow the end
	if why := l.wasKilled(); why != nil {
		return why
	}
	if err != nil {
		return l.fail(l.redact(m, err))
	}
	return l.send(kindHalfClose, 0, l.last, nil)
}

// Request returns who calls, which method and with which headers. Body is nil.
func (st *ServerStream) Request() *Request { return st.req }

// Recv returns the caller's next message. It blocks until there is one. io.EOF
// says that the caller has sent its last; any other error, that the call is
// over.
func (st *ServerStream) Recv() ([]byte, error) {
	q, err := st.f.recv(st.ctx)
	if err != nil {
		return nil, err
	}
	body := q.body
	if q.zstd {
		if !st.l.squeeze.on {
			return nil, st.l.s.faults.count(fmt.Errorf("%w: compressed, which was not offered", ErrUnknownCodec))
		}
		if body, err = expand(q.body, st.l.s.cfg.MaxBlockSize, unmetered{}); err != nil {
			return nil, &Error{Code: CodeInvalidArgument, Message: st.l.s.faults.count(err).Error(), cause: err}
		}
	}
	return body, st.f.took(q.cost)
}

// Messages iterates over what the caller sends, until its last message. An
// error is the last element.
func (st *ServerStream) Messages() iter.Seq2[[]byte, error] { return messages(st.Recv) }

func messages(recv func() ([]byte, error)) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for {
			b, err := recv()
			if err == io.EOF || !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// SendHeaders sends the headers of the answer, once, before the first message.
func (st *ServerStream) SendHeaders(h Headers) error {
	if err := h.check(); err != nil {
		return err
	}
	st.mu.Lock()
	started := st.started
	st.started = true
	st.mu.Unlock()
	if started {
		return errors.New("rpc: headers after the answer has begun")
	}
	return st.l.send(kindHeaders, st.l.acceptFlag(), st.f.call, appendHeaders(nil, h))
}

// Send sends a message. It blocks while the caller has a full window of
// messages that it has not taken. It returns an error once the call is over,
// whatever for; the handler should return then.
func (st *ServerStream) Send(message []byte) error {
	if len(message) > st.l.s.cfg.MaxBlockSize {
		return &Error{Code: CodeResourceExhausted, cause: ErrTooLarge, Message: fmt.Sprintf("a message of %d bytes; this server sends at most %d", len(message), st.l.s.cfg.MaxBlockSize)}
	}
	st.mu.Lock()
	st.started = true
	st.mu.Unlock()
	b := lendOut()
	defer returnOut(b)
	return st.f.send(st.ctx, b, st.l.acceptFlag(), message, st.l.accepts)
}
