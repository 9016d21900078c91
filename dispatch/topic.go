package dispatch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
	"github.com/kith-p2p/kith/p2p"
)

// Topics over direct channels: the author signs, and every node passes on what it
// has not seen. A signed message is good for half of FilterAge around its time, so
// that whoever repeats an old one finds it known or too old.

// ErrNoKey says that there is neither a Backend nor a Key to publish with.
var ErrNoKey = errors.New("dispatch: Options.Key is needed to publish over direct channels")

// signContext is that of the signatures over published messages.
const signContext = "dispatch topic v1"

// signedBytes is what the author signs: the lengths make it unambiguous.
func signedBytes(name string, at int64, data []byte) []byte {
	b := make([]byte, 0, 2+len(name)+8+len(data))
	b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	return append(b, data...)
}

// relayFilter is which published messages were seen here. Safe for concurrent
// use.
type relayFilter struct {
	mu   sync.Mutex // guards the fields below
	seen *shares
	last int64 // time of the last message of ours
}

func (f *relayFilter) has(d digest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen.has(d, time.Now())
}

func (f *relayFilter) add(d digest, from p2p.NodeID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen.add(d, from, time.Now())
}

func (f *relayFilter) gone(from p2p.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen.gone(from)
}

// stamp is the time of a new message: now, and later than the last one's.
func (f *relayFilter) stamp() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = max(f.last+1, time.Now().UnixNano())
	return f.last
}

// topicID names one published message, not only its content: the same text
// published again is another one.
func topicID(name string, author []byte, at int64, data []byte) digest {
	var when [8]byte
	binary.BigEndian.PutUint64(when[:], uint64(at))
	return digestOf(name, data, author, when[:])
}

// Publish sends a message to everybody who subscribed to the topic, here as
// well. It waits for no peer; the context bounds what a Backend may take. nil means
// sent off: who gets it, nobody knows. With nobody connected who subscribed, that
// is only ourselves; WaitPeers waits for others. Errors: ErrTooLarge, ErrType,
// ErrTopicType, ErrNoKey, ErrClosed, the context's, or the Backend's.
func (s *Service) Publish(ctx context.Context, topic string, m proto.Message) error {
	if m != nil {
		if t := s.topic(topic); t != nil {
			if kind := t.kind.Load(); kind != nil && *kind != m.ProtoReflect().Type() {
				return fmt.Errorf("%w: %s is of %s, not %s", ErrTopicType, topic, (*kind).Descriptor().FullName(), m.ProtoReflect().Descriptor().FullName())
			}
		}
	}
	data, err := s.marshal(m)
	if err != nil {
		return err
	}
	return s.PublishBytes(ctx, topic, data)
}

// PublishBytes is Publish for data that is a message already, or no Protobuf at
// all: on a topic with a typed subscription here it has to be of that type, or the
// error is ErrTopicType, or the Backend's. It keeps the data.
func (s *Service) PublishBytes(ctx context.Context, topic string, data []byte) error {
	if err := checkType(topic); err != nil {
		return err
	}
	if len(data) > s.o.Dispatcher.MaxMessage {
		s.counters.tooLarge.Add(1)
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(data), s.o.Dispatcher.MaxMessage)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.running() {
		return ErrClosed
	}
	if b := s.o.Backend; b != nil {
		return b.Publish(ctx, topic, data)
	}
	if s.o.Key.IsZero() {
		return ErrNoKey
	}
	own := &message{name: topic, from: s.self, data: data, author: s.self, authorPeer: s.o.Key.Public().PeerID()}
	t := s.topic(topic)
	if t != nil {
		if kind := t.kind.Load(); kind != nil { // others would hold it against us
			if _, err := own.decode(*kind); err != nil {
				return fmt.Errorf("%w: the data is no %s: %w", ErrTopicType, (*kind).Descriptor().FullName(), err)
			}
		}
	}
	at, author := s.relays.stamp(), s.o.Key.Public().Bytes()
	sig, err := s.o.Key.SignContext(signContext, signedBytes(topic, at, data))
	if err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	id := topicID(topic, author, at, data)
	s.relays.add(id, s.self)
	if t != nil { // a full inbox counts it
		_ = s.d.Put(own)
	}
	e := &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_TOPIC, Type: topic, Author: author, Time: at, Signature: sig}
	s.squeeze.pack(e, data)
	s.fanOut(s.peers.list(nil, time.Now()), e, id, PriorityNormal)
	return nil
}

// arrivedTopic takes a published message: cheap checks first, the signature before
// anything is remembered.
func (s *Service) arrivedTopic(ctx context.Context, from p2p.NodeID, e *dispatchv1.Envelope, lane int) error {
	if s.o.Backend != nil {
		s.counters.otherBackend.Add(1)
		return nil // a node without libp2p: our topics are elsewhere
	}
	key, err := identity.PubKeyFromBytes(e.GetAuthor())
	if err != nil || len(e.GetSignature()) != 64 {
		s.counters.badSignature.Add(1)
		return fmt.Errorf("%w: author of %d bytes, signature of %d", errMalformed, len(e.GetAuthor()), len(e.GetSignature()))
	}
	data, err := s.unpack(e)
	if err != nil {
		return err
	}
	name, at := e.GetType(), e.GetTime()
	id := topicID(name, e.GetAuthor(), at, data)
	if s.relays.has(id) {
		s.peers.note(id, time.Now(), from)
		s.counters.copies.Add(1)
		return nil
	}
	if age := time.Since(time.Unix(0, at)); age > s.o.Dispatcher.FilterAge/2 || age < -s.o.Dispatcher.FilterAge/2 {
		s.counters.stale.Add(1)
		return nil // it may have waited, or a clock is wrong
	}
	if key == s.o.Key.Public() {
		s.counters.ours.Add(1)
		return nil // of before a restart
	}
	if !key.VerifyContext(signContext, signedBytes(name, at, data), e.GetSignature()) {
		s.counters.badSignature.Add(1)
		return fmt.Errorf("dispatch: invalid signature on topic %s", name)
	}
	s.peers.note(id, time.Now(), from)
	if !s.relays.add(id, s.peers.known(from)) { // on another channel, at the same time
		s.counters.copies.Add(1)
		return nil
	}
	m := &message{name: name, from: from, data: data, author: key.NodeID(), authorPeer: key.PeerID()}
	if t := s.topic(name); t != nil {
		if err := s.decodes(t, m); err != nil {
			if from == m.author {
				return err
			}
			s.o.Logger.Debug("bad message", "topic", name, "author", m.author, "err", err)
			return nil // who passed it on may not know the type
		}
		_ = s.d.putWait(ctx, m)
	}
	if s.o.NoRelay {
		return nil
	}
	if !s.peers.mayRelay(from, len(data), time.Now()) {
		s.counters.notRelayed.Add(1)
		return nil
	}
	again := &dispatchv1.Envelope{
		Kind: e.Kind, Type: name, Author: e.Author, Time: at, Signature: e.Signature, Data: e.Data, Encoding: e.Encoding, Size: e.Size,
	}
	s.counters.relayed.Add(uint64(len(s.fanOut(s.peers.list(&id, time.Now()), again, id, PriorityHigh-Priority(lane)))))
	return nil
}

// decodes decodes a message of a typed topic, for all its subscribers.
func (s *Service) decodes(t *topic, m *message) error {
	kind := t.kind.Load()
	if kind == nil {
		return nil
	}
	if _, err := m.decode(*kind); err != nil {
		s.counters.undecodable.Add(1)
		s.d.undecodable(m.name)
		return err
	}
	return nil
}

// topic is a topic with subscriptions, or nil.
func (s *Service) topic(name string) *topic {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.topics[name]
}

func (s *Service) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == stateRunning
}

// join counts a subscription to a topic, and joins it if that is the first. kind is
// nil for a raw one. s.joining is held.
func (s *Service) join(name string, kind protoreflect.MessageType) (*topic, error) {
	t := s.topic(name)
	if t == nil {
		t = &topic{name: name}
	}
	if old := t.kind.Load(); kind != nil && old != nil && *old != kind {
		return nil, fmt.Errorf("%w: %s is of %s, not %s", ErrTopicType, name, (*old).Descriptor().FullName(), kind.Descriptor().FullName())
	}
	if kind != nil {
		t.kind.Store(&kind)
	}
	if t.subs == 0 && s.o.Backend != nil {
		check := func(a Arrival) (Message, error) { return s.check(t, a) }
		if err := s.o.Backend.Join(name, check, func(m Message) { _ = s.d.Put(m) }); err != nil {
			return nil, fmt.Errorf("dispatch: join %s: %w", name, err)
		}
	}
	t.subs++
	s.mu.Lock()
	s.topics[name] = t
	s.mu.Unlock()
	return t, nil
}

// leave ends one subscription to a topic. s.joining is held.
func (s *Service) leave(t *topic) {
	if t.subs--; t.subs > 0 {
		return
	}
	s.mu.Lock()
	delete(s.topics, t.name)
	s.mu.Unlock()
	if s.o.Backend != nil {
		if err := s.o.Backend.Leave(t.name); err != nil {
			s.o.Logger.Warn("a topic could not be left", "topic", t.name, "err", err)
		}
	}
}

// check is what a Backend asks before it delivers a message or passes it on.
func (s *Service) check(t *topic, a Arrival) (Message, error) {
	m := &message{name: t.name, from: a.From, data: a.Data, author: a.Author, authorPeer: a.AuthorPeer}
	if len(a.Data) > s.o.Dispatcher.MaxMessage {
		s.counters.tooLarge.Add(1)
		s.blameAuthor(a)
		return nil, fmt.Errorf("%w: %d bytes on %s, at most %d", ErrTooLarge, len(a.Data), t.name, s.o.Dispatcher.MaxMessage)
	}
	if err := s.decodes(t, m); err != nil {
		s.blameAuthor(a)
		return nil, err
	}
	return m, nil
}

// blameAuthor holds a message against its author, if we know him.
func (s *Service) blameAuthor(a Arrival) {
	if a.From == a.Author {
		s.blame(a.From)
	}
}

// TopicPeers are the peers we are connected to who subscribed to a topic. Over
// direct channels that is not known: there it is all who pass topics on.
func (s *Service) TopicPeers(topic string) []peer.ID {
	if s.o.Backend == nil {
		return nil
	}
	return s.o.Backend.Peers(topic)
}

// WaitPeers waits until at least n peers are there to publish a topic to, or the
// context ends, whose error it returns.
func (s *Service) WaitPeers(ctx context.Context, topic string, n int) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		have := 0
		if s.o.Backend != nil {
			have = len(s.o.Backend.Peers(topic))
		} else {
			have = len(s.Peers())
		}
		if have >= n {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
