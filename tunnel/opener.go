package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/internal/pb/tunnelv1"
	"github.com/kith-p2p/kith/internal/wire"
	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
)

// reopenDelay paces attempts to open a stream on a connection that looks alive.
const reopenDelay = 100 * time.Millisecond

// opener opens streams to one service of a peer, and waits for the peer for as
// long as the configuration says.
type opener struct {
	p       *P2P
	remote  peer.ID
	service string
	cfg     ForwardConfig // with its defaults
	waiting func()        // told once before it waits for the peer; may be nil
}

// open gets a stream, redialling the peer while the connection may wait. ctx
// bounds it, and what the returned end does on its own account later. The
// error is an *Error.
func (o *opener) open(ctx context.Context) (*openedEnd, error) {
	c, rich, err := o.stream(ctx)
	if err != nil {
		return nil, err
	}
	end := &openedEnd{opener: o, ctx: ctx, conn: c}
	end.pending.Store(rich)
	return end, nil
}

// stream opens one. A connection that was lost a moment ago still looks alive,
// so opening may fail when connecting did not.
func (o *opener) stream(ctx context.Context) (c *stream.Conn, rich bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
	defer cancel()
	until := time.Now().Add(o.cfg.Wait)
	for {
		if !o.p.dials.connected(o.remote) {
			if o.waiting != nil {
				o.waiting()
			}
			left := time.Until(until)
			if o.cfg.Wait > 0 {
				left = max(left, 1) // over, but a bound all the same
			}
			if err := o.p.dials.connect(ctx, o.remote, left); err != nil {
				return nil, false, err
			}
		}
		c, rich, err = o.p.openStream(ctx, o.remote, o.service, o.cfg.Timeout, false)
		if err == nil {
			return c, rich, nil
		}
		e := reasonOf(err)
		if e.Reason != ReasonUnreachable && e.Reason != ReasonLost || !time.Now().Before(until) {
			return nil, false, e
		}
		select {
		case <-time.After(reopenDelay):
		case <-ctx.Done():
			return nil, false, e
		}
	}
}

// openedEnd is the peer's end of a connection that we opened. Its first read
// takes the answer to the open frame.
//
// When the link breaks before that answer, and nothing of the program's has
// been sent, nobody can have acted on the connection: it gets another stream,
// once. The writer waits for it meanwhile.
type openedEnd struct {
	*opener
	ctx     context.Context // of the second stream
	pending atomic.Bool     // until the peer has agreed; written by the reader

	mu      sync.Mutex // guards the fields below
	conn    *stream.Conn
	used    bool          // the program's bytes, or their end, were sent
	aborted *Reason       // abort was called
	moving  chan struct{} // closed when the second stream is there, or will not be; nil before
}

// current is the stream in use.
func (e *openedEnd) current() *stream.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conn
}

// writer is the stream to send the program's bytes on.
func (e *openedEnd) writer() *stream.Conn {
	e.mu.Lock()
	for e.moving != nil && !e.used {
		moving := e.moving
		e.mu.Unlock()
		<-moving
		e.mu.Lock()
		e.used = true
	}
	e.used = true
	c := e.conn
	e.mu.Unlock()
	return c
}

func (e *openedEnd) Write(b []byte) (int, error) { return e.writer().Write(b) }
func (e *openedEnd) CloseWrite() error           { return e.writer().CloseWrite() }
func (e *openedEnd) Close() error                { return e.current().Close() }
func (e *openedEnd) Read(b []byte) (int, error)  { return e.current().Read(b) }

func (e *openedEnd) abort(r Reason) {
	e.mu.Lock()
	e.aborted = &r
	c := e.conn
	e.mu.Unlock()
	c.ResetWithCode(r.code())
}

func (e *openedEnd) read(b *buffers, size int) (*[]byte, int, error) {
	if err := e.answer(); err != nil {
		return nil, 0, err
	}
	return streamEnd{e.current()}.read(b, size)
}

// answer reads the reply frame, once. A refusal is an *Error.
func (e *openedEnd) answer() error {
	if !e.pending.Load() {
		return nil
	}
	for {
		err := e.readReply(e.current())
		if err == nil {
			e.pending.Store(false)
			return nil
		}
		if r := reasonOf(err); r == nil || r.Reason != ReasonLost || r.Remote {
			return err
		}
		if again, rerr := e.reopen(); !again {
			return err
		} else if rerr != nil {
			return rerr
		}
	}
}

// reopen gets the second stream, if there may be one.
func (e *openedEnd) reopen() (again bool, err error) {
	e.mu.Lock()
	if e.used || e.aborted != nil || e.moving != nil {
		e.mu.Unlock()
		return false, nil
	}
	e.moving = make(chan struct{})
	e.mu.Unlock()
	e.p.log.Debug("the link broke before the service answered; trying again", "service", e.service, "peer", e.remote)

	c, rich, err := e.stream(e.ctx)

	e.mu.Lock()
	defer e.mu.Unlock()
	defer close(e.moving)
	if err != nil {
		return true, err
	}
	if e.aborted != nil {
		c.ResetWithCode(e.aborted.code())
		return true, &Error{Reason: *e.aborted}
	}
	e.conn.Reset() // it is dead, and this frees what it holds
	e.conn = c
	e.pending.Store(rich)
	return true, nil
}

func (e *openedEnd) readReply(c *stream.Conn) error {
	if !e.pending.Load() {
		return nil // the second stream is a raw one
	}
	c.SetReadDeadline(time.Now().Add(e.cfg.Timeout))
	body, err := wire.ReadFrame(c, maxReply)
	if err != nil {
		return e.badReply(err)
	}
	c.SetReadDeadline(time.Time{})
	var reply tunnelv1.OpenReply
	if err := proto.Unmarshal(body, &reply); err != nil {
		return e.badReply(err)
	}
	if reply.GetCode() != 0 {
		return &Error{Reason: Reason(reply.GetCode()), Service: e.service, Peer: e.remote, Detail: printable(reply.GetMessage()), Remote: true}
	}
	return nil
}

func (e *openedEnd) badReply(err error) *Error {
	r := reasonOf(err)
	switch {
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
		r = refuse(ReasonProtocol, "the peer ended the stream without an answer")
	case errors.Is(err, wire.ErrTooLarge), errors.Is(err, wire.ErrMalformed), errors.Is(err, proto.Error):
		r = refuse(ReasonProtocol, "the peer's answer is malformed")
	case errors.Is(err, stream.ErrNoSuchService):
		r.Detail = fmt.Sprintf("%s does not speak kith tunnels; only names that start with /x/ can be used with it", e.remote)
	case r.Reason == ReasonTimeout:
		r.Detail = fmt.Sprintf("the peer did not answer within %v", e.cfg.Timeout)
	}
	r.Peer, r.Service = e.remote, e.service
	return r
}
