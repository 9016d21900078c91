package p2p

import (
	"context"
	"errors"
	"iter"

	"google.golang.org/protobuf/proto"
)

// TypedChannel is a channel of messages of type T. All methods are safe for
// concurrent use.
type TypedChannel[T proto.Message] struct{ core *channelCore }

// OpenTyped opens a channel for messages of type T, a generated message type
// such as *mypb.Message. It returns what OpenChannel returns, and takes
// WithRequests.
func OpenTyped[T proto.Message](r *Router, id ChannelID, opts ...ChannelOption) (*TypedChannel[T], error) {
	var example T
	if any(example) == nil {
		return nil, errors.New("p2p: OpenTyped wants a message type, not the interface")
	}
	core, err := r.openCore(id, example, true, opts)
	if err != nil {
		return nil, err
	}
	return &TypedChannel[T]{core}, nil
}

// Incoming is a message that arrived.
type Incoming[T proto.Message] struct {
	From    NodeID
	Message T
	call    *incomingCall
}

// IsRequest says whether the sender waits for Reply.
func (in Incoming[T]) IsRequest() bool { return in.call != nil }

// Context ends when nobody waits for the reply any more: the sender's deadline
// passed, it gave up, its connection ended, or the reply was sent. For a message
// that is no request it never does.
func (in Incoming[T]) Context() context.Context {
	if in.call == nil {
		return context.Background()
	}
	return in.call.ctx
}

// Reply answers a request; only the first reply is sent. It returns
// ErrNotARequest, ErrReplyUnwanted when nobody waits any more, or what Send
// returns: after that, another reply may be tried.
func (in Incoming[T]) Reply(ctx context.Context, m T) error { return in.call.respond(ctx, m) }

// ID is the channel's number.
func (c *TypedChannel[T]) ID() ChannelID { return c.core.id }

// Send queues a message for one peer. Where the channel's SendPolicy is
// SendBlock it waits for room until the context ends; otherwise it does not
// block. nil means queued: whether the message arrives, only an answer tells.
// Errors: ErrPeerUnknown, ErrChannelUnsupported, ErrMessageTooLarge,
// ErrQueueFull, ErrQueueClosed, ErrClosed, or the context's.
func (c *TypedChannel[T]) Send(ctx context.Context, to NodeID, m T) error {
	return c.core.send(ctx, to, m, true)
}

// TrySend is Send that never waits.
func (c *TypedChannel[T]) TrySend(to NodeID, m T) error {
	return c.core.send(context.Background(), to, m, false)
}

// Broadcast queues a message for every peer that has the channel, encoded once,
// and says for how many it was queued. It never waits for a peer: one whose
// queue is full loses the message, which its counters show.
func (c *TypedChannel[T]) Broadcast(ctx context.Context, m T) (queued int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return c.core.broadcast(m)
}

// SendMany queues a message for these peers, encoded once, and says for which it
// was queued, in their order. It never waits. The error joins why it was not queued
// for the others: what TrySend returns for each, or for all.
func (c *TypedChannel[T]) SendMany(to []NodeID, m T) (queued []NodeID, err error) {
	return c.core.sendMany(to, m)
}

// Receive returns the messages that arrive, until the context ends or the
// channel closes; that error comes last. Decoding happens in the caller's
// goroutine. Several may receive at a time: each message goes to one of them,
// and one peer's messages are taken in order.
func (c *TypedChannel[T]) Receive(ctx context.Context) iter.Seq2[Incoming[T], error] {
	return func(yield func(Incoming[T], error) bool) {
		for {
			got, err := c.core.receive(ctx)
			if err != nil {
				yield(Incoming[T]{}, err)
				return
			}
			if !yield(Incoming[T]{From: got.from, Message: got.message.(T), call: got.call}, nil) {
				return
			}
		}
	}
}

// Request sends a message and waits for the reply, until the context ends; the
// peer is told, then, that nobody waits any more (unless the queue towards it is
// full), and of the context's deadline from the start. Beside what Send returns: ErrRequestUnsupported,
// ErrTooManyRequests, ErrPeerClosed when the connection ends first.
func (c *TypedChannel[T]) Request(ctx context.Context, to NodeID, m T) (reply T, err error) {
	got, err := c.core.request(ctx, to, m)
	if err != nil {
		return reply, err
	}
	return got.(T), nil
}

// Report says what a user holds against a peer.
func (c *TypedChannel[T]) Report(e PeerError) { c.core.report(e) }

// Done is closed by Close and when the Router stops.
func (c *TypedChannel[T]) Done() <-chan struct{} { return c.core.done }

// Close closes the channel. A second call does nothing.
func (c *TypedChannel[T]) Close() error {
	c.core.close()
	return nil
}

// Stats are the channel's counts.
func (c *TypedChannel[T]) Stats() ChannelStats { return c.core.stats() }
