package dispatch

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kith-p2p/kith/p2p"
)

// ErrTopicType says that a topic has messages of another type: all typed
// subscriptions to a topic, and what is published on it, are of one.
var ErrTopicType = errors.New("dispatch: the topic has another message type")

// Received is a message that a subscription gives out. T is the message type, or
// []byte.
type Received[T any] struct {
	// Message is shared with the other subscribers, and not to be changed.
	Message T
	// From handed it to us: a direct peer. "" when its key is of another type
	// than Ed25519.
	From p2p.NodeID
	// Author wrote it: whoever signed it, or From for a direct message. "" as From.
	Author p2p.NodeID
	// Direct says that From sent it to us, and did not publish it.
	Direct bool

	raw *message
}

// AuthorPeer is the peer ID of the author: "" where only the NodeID is known, as
// that of a direct peer.
func (r Received[T]) AuthorPeer() peer.ID {
	if r.raw == nil {
		return ""
	}
	return r.raw.authorPeer
}

// Raw is the message as it arrived, for Service.RelayMessage.
func (r Received[T]) Raw() Message {
	if r.raw == nil {
		return nil
	}
	return r.raw
}

// subscription is what Subscription and BytesSubscription have in common.
type subscription struct {
	s     *Service
	topic *topic
	sub   *Subscriber
	kind  protoreflect.MessageType // nil: bytes
	once  sync.Once
}

// subscribe makes a subscription and joins its topic.
func (s *Service) subscribe(name string, kind protoreflect.MessageType, p Policy) (*subscription, error) {
	p = p.withDefaults()
	if err := errors.Join(checkType(name), p.validate()); err != nil {
		return nil, err
	}
	s.joining.Lock()
	defer s.joining.Unlock()
	s.mu.Lock()
	stopped := s.state == stateStopped
	s.mu.Unlock()
	if stopped {
		return nil, ErrClosed
	}
	t, err := s.join(name, kind)
	if err != nil {
		return nil, err
	}
	sub := &subscription{s: s, topic: t, kind: kind}
	sub.sub = newQueued("subscription", name, p, func() { poke(s.pressed) })
	s.mu.Lock()
	if s.state == stateStopped {
		s.mu.Unlock()
		s.leave(t)
		return nil, ErrClosed
	}
	s.subs[sub] = struct{}{}
	s.nextSub++
	sub.sub.id = fmt.Sprintf("subscription-%d", s.nextSub)
	s.mu.Unlock()
	s.d.Register(sub.sub)
	return sub, nil
}

// close ends a subscription.
func (b *subscription) close() {
	b.once.Do(func() {
		b.s.d.Deregister(b.sub)
		b.sub.queue.close()
		b.s.joining.Lock()
		b.s.leave(b.topic)
		b.s.joining.Unlock()
		b.s.mu.Lock()
		delete(b.s.subs, b)
		b.s.mu.Unlock()
		poke(b.s.pressed)
	})
}

// next is the next message, decoded if the subscription is typed. One that cannot
// be decoded is counted, held against its sender, and passed over.
func (b *subscription) next(ctx context.Context) (raw *message, decoded proto.Message, err error) {
	for {
		m, err := b.sub.queue.next(ctx)
		if err != nil {
			return nil, nil, err
		}
		raw, ours := m.(*message)
		if !ours { // somebody put one of his own into the Dispatcher
			raw = &message{name: m.MessageType(), from: m.MessageFrom(), data: m.Data(), author: m.MessageFrom(), direct: true}
		}
		if b.kind == nil {
			return raw, nil, nil
		}
		if decoded, err = raw.decode(b.kind); err == nil {
			return raw, decoded, nil
		}
		b.s.d.undecodable(raw.name)
		b.s.counters.undecodable.Add(1)
		b.s.blame(raw.from)
	}
}

// Subscription gives out the messages of a topic as values of type T. All methods
// are safe for concurrent use.
type Subscription[T proto.Message] struct{ b *subscription }

// Subscribe subscribes to a topic, whose messages are of type T, a generated type
// such as *mypb.Block: those that are published on it, and those that peers send
// us under its name. A message is decoded once for all subscribers. Close the
// subscription, or it fills. It may come before Service.Start. Errors: ErrType,
// ErrTopicType, ErrClosed, the faults of the policy, or the Backend's.
func Subscribe[T proto.Message](s *Service, topic string, p Policy) (*Subscription[T], error) {
	var example T
	if any(example) == nil {
		return nil, errors.New("dispatch: Subscribe wants a message type, not the interface")
	}
	b, err := s.subscribe(topic, example.ProtoReflect().Type(), p)
	if err != nil {
		return nil, err
	}
	return &Subscription[T]{b}, nil
}

// Messages gives out the messages, until the context ends or the subscription is
// closed; that error, the context's or ErrClosed, comes last. Several may range
// at a time: each message goes to one of them.
func (s *Subscription[T]) Messages(ctx context.Context) iter.Seq2[Received[T], error] {
	return func(yield func(Received[T], error) bool) {
		for {
			raw, m, err := s.b.next(ctx)
			if err != nil {
				yield(Received[T]{}, err)
				return
			}
			if !yield(Received[T]{Message: m.(T), From: raw.from, Author: raw.author, Direct: raw.direct, raw: raw}, nil) {
				return
			}
		}
	}
}

// Stats are its counts.
func (s *Subscription[T]) Stats() SubscriberStats { return s.b.sub.Stats() }

// Close ends the subscription. Messages gives out what it holds, then ErrClosed. A
// second call does nothing.
func (s *Subscription[T]) Close() error {
	s.b.close()
	return nil
}

// BytesSubscription gives out the messages of a topic as bytes, not to be changed.
// All methods are safe for concurrent use.
type BytesSubscription struct{ b *subscription }

// SubscribeBytes is Subscribe without a message type: for topics of any content,
// and for those who only look. A typed subscription may stand beside it.
func (s *Service) SubscribeBytes(topic string, p Policy) (*BytesSubscription, error) {
	b, err := s.subscribe(topic, nil, p)
	if err != nil {
		return nil, err
	}
	return &BytesSubscription{b}, nil
}

// Messages is Subscription.Messages.
func (s *BytesSubscription) Messages(ctx context.Context) iter.Seq2[Received[[]byte], error] {
	return func(yield func(Received[[]byte], error) bool) {
		for {
			raw, _, err := s.b.next(ctx)
			if err != nil {
				yield(Received[[]byte]{}, err)
				return
			}
			if !yield(Received[[]byte]{Message: raw.data, From: raw.from, Author: raw.author, Direct: raw.direct, raw: raw}, nil) {
				return
			}
		}
	}
}

// Stats are its counts.
func (s *BytesSubscription) Stats() SubscriberStats { return s.b.sub.Stats() }

// Close is Subscription.Close.
func (s *BytesSubscription) Close() error {
	s.b.close()
	return nil
}
