package dispatch

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
	"github.com/kith-p2p/kith/p2p"
)

// Errors of sending to peers, beside those of p2p.TypedChannel.
var (
	// ErrHeldBack says that the peer asked for no more messages of the type for
	// now: its subscriber does not keep up. Send slower, and later again.
	ErrHeldBack = errors.New("dispatch: the peer holds messages of the type back")
	// ErrNoRouter says that the Service has no direct peers.
	ErrNoRouter = errors.New("dispatch: the service has no router")
)

// Broadcast queues a message for every direct peer and returns those it was
// queued for, by ID: not those whose queue is full, or who hold the type back. It
// waits for nobody. A message that cannot be encoded, is too large, or has no valid
// type, is queued for none; the counts and the log say so.
func (s *Service) Broadcast(msgType string, m proto.Message, p Priority) []p2p.NodeID {
	return s.SendMessageToPeers(msgType, m, p, AllPeers)
}

// SendMessageToPeers is Broadcast to the peers that a filter chooses; nil chooses
// all.
func (s *Service) SendMessageToPeers(msgType string, m proto.Message, p Priority, f PeerFilter) []p2p.NodeID {
	data, err := s.marshal(m)
	if err == nil {
		err = checkType(msgType)
	}
	if err != nil {
		s.o.Logger.Warn("message not sent", "type", msgType, "err", err)
		return nil
	}
	peers := s.peers.list(nil, time.Now())
	if f != nil {
		peers = choose(peers, f)
	}
	return s.fanOut(peers, s.direct(msgType, data), digestOf(msgType, data), p)
}

// choose applies a filter, and keeps it to what it was given.
func choose(peers []Peer, f PeerFilter) []Peer {
	given := make(map[p2p.NodeID]bool, len(peers))
	for _, p := range peers {
		given[p.ID] = true
	}
	chosen := make([]Peer, 0, len(peers))
	for _, p := range f(peers) {
		if given[p.ID] {
			given[p.ID] = false // no peer twice
			chosen = append(chosen, p)
		}
	}
	return chosen
}

// Relay is Broadcast to those peers only that are not known to have the message:
// that neither sent it to us nor were sent it, within Options.FilterAge. What it
// is known by is its content, so a message that another program encoded is better
// passed on with RelayMessage.
func (s *Service) Relay(msgType string, m proto.Message, p Priority) []p2p.NodeID {
	data, err := s.marshal(m)
	if err != nil {
		s.o.Logger.Warn("message not relayed", "type", msgType, "err", err)
		return nil
	}
	return s.relay(msgType, data, p)
}

// RelayMessage is Relay for a message that arrived: its data is sent on as it is.
func (s *Service) RelayMessage(m Message, p Priority) []p2p.NodeID {
	return s.relay(m.MessageType(), m.Data(), p)
}

func (s *Service) relay(msgType string, data []byte, p Priority) []p2p.NodeID {
	err := checkType(msgType)
	if err == nil && len(data) > s.o.Dispatcher.MaxMessage {
		err = ErrTooLarge
	}
	if err != nil {
		s.o.Logger.Warn("message not relayed", "type", msgType, "err", err)
		return nil
	}
	d := digestOf(msgType, data)
	return s.fanOut(s.peers.list(&d, time.Now()), s.direct(msgType, data), d, p)
}

// SendMessageToPeer queues a message for one peer. It does not block. nil means
// queued, not delivered. Errors: ErrHeldBack, ErrTooLarge, ErrType, ErrNoRouter, or
// what p2p.TypedChannel.TrySend returns: p2p.ErrPeerUnknown, p2p.ErrQueueFull, ...
func (s *Service) SendMessageToPeer(msgType string, m proto.Message, p Priority, to p2p.NodeID) error {
	data, err := s.marshal(m)
	if err != nil {
		return err
	}
	if err := checkType(msgType); err != nil {
		return err
	}
	return s.send(to, s.direct(msgType, data), digestOf(msgType, data), p)
}

// direct is the envelope of a message for its receivers.
func (s *Service) direct(msgType string, data []byte) *dispatchv1.Envelope {
	e := &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_DIRECT, Type: msgType}
	s.squeeze.pack(e, data)
	return e
}

// fanOut queues an envelope for peers, and says for which.
func (s *Service) fanOut(peers []Peer, e *dispatchv1.Envelope, d digest, p Priority) []p2p.NodeID {
	if len(s.channels) == 0 {
		return nil
	}
	now := time.Now()
	to := make([]p2p.NodeID, 0, len(peers))
	for _, peer := range peers {
		if s.heldBack(peer.ID, e, now) {
			s.o.Logger.Debug("message held back", "type", e.Type, "peer", peer.ID)
			continue
		}
		to = append(to, peer.ID)
	}
	queued, err := s.channels[p.lane()].SendMany(to, e)
	if err != nil {
		s.counters.notSent.Add(uint64(len(to) - len(queued)))
		s.o.Logger.Debug("message not sent to all", "type", e.Type, "err", err)
	}
	s.counters.sent.Add(uint64(len(queued)))
	s.peers.note(d, now, queued...)
	return queued
}

// heldBack says whether a peer wants no messages of this type now, and counts it.
func (s *Service) heldBack(to p2p.NodeID, e *dispatchv1.Envelope, now time.Time) bool {
	if e.Kind != dispatchv1.Kind_KIND_DIRECT || !s.peers.holding(to, e.Type, now) {
		return false
	}
	s.counters.heldBack.Add(1)
	return true
}

// send queues an envelope for one peer.
func (s *Service) send(to p2p.NodeID, e *dispatchv1.Envelope, d digest, p Priority) error {
	now := time.Now()
	if err := s.queue(to, e, p, now); err != nil {
		return err
	}
	s.peers.note(d, now, to)
	return nil
}

// queue is send that does not note it.
func (s *Service) queue(to p2p.NodeID, e *dispatchv1.Envelope, p Priority, now time.Time) error {
	if len(s.channels) == 0 {
		return ErrNoRouter
	}
	if s.heldBack(to, e, now) {
		return fmt.Errorf("%w: %s of %v", ErrHeldBack, e.Type, to)
	}
	if err := s.channels[p.lane()].TrySend(to, e); err != nil {
		s.counters.notSent.Add(1)
		return fmt.Errorf("dispatch: %w", err)
	}
	s.counters.sent.Add(1)
	return nil
}
