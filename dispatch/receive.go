package dispatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
	"github.com/kith-p2p/kith/p2p"
)

// errMalformed says that a peer's envelope makes no sense.
var errMalformed = errors.New("dispatch: malformed envelope")

// receive takes what arrives on the channel of one priority. It may wait for the
// Dispatcher, whose loop waits for nobody; the Router's read loops go on
// meanwhile, and its queues give each peer its turn.
func (s *Service) receive(ctx context.Context, c *p2p.TypedChannel[*dispatchv1.Envelope], lane int) {
	for in, err := range c.Receive(ctx) {
		if err != nil {
			return
		}
		if err := s.arrived(ctx, in.From, in.Message, lane); err != nil {
			s.o.Logger.Debug("bad message", "peer", in.From, "err", err)
			s.blame(in.From)
		}
	}
}

// arrived takes one envelope. An error is the sender's fault.
func (s *Service) arrived(ctx context.Context, from p2p.NodeID, e *dispatchv1.Envelope, lane int) error {
	if err := checkType(e.GetType()); err != nil {
		s.counters.badType.Add(1)
		return err
	}
	switch e.GetKind() {
	case dispatchv1.Kind_KIND_DIRECT:
		return s.arrivedDirect(ctx, from, e)
	case dispatchv1.Kind_KIND_TOPIC:
		return s.arrivedTopic(ctx, from, e, lane)
	case dispatchv1.Kind_KIND_HOLD:
		if !s.peers.hold(from, e.GetType(), time.Now()) {
			s.counters.badHolds.Add(1)
			return nil
		}
		s.counters.held.Add(1)
		return nil
	case dispatchv1.Kind_KIND_RELEASE:
		if !s.peers.release(from, e.GetType()) {
			s.counters.badReleases.Add(1) // no fault: the hold may just have ended by itself
		}
		return nil
	}
	s.counters.malformed.Add(1)
	return fmt.Errorf("%w: unknown kind %d", errMalformed, e.GetKind())
}

// unpack takes out an envelope's data and counts what is wrong with it.
func (s *Service) unpack(e *dispatchv1.Envelope) ([]byte, error) {
	data, err := s.squeeze.unpack(e)
	switch {
	case errors.Is(err, ErrTooLarge):
		s.counters.tooLarge.Add(1)
	case err != nil:
		s.counters.malformed.Add(1)
	}
	return data, err
}

func (s *Service) arrivedDirect(ctx context.Context, from p2p.NodeID, e *dispatchv1.Envelope) error {
	data, err := s.unpack(e)
	if err != nil {
		return err
	}
	if s.o.Backend != nil && s.topic(e.GetType()) != nil && !s.o.Backend.Allows(from) {
		s.counters.notAllowed.Add(1)
		return nil // it may not know
	}
	m := &message{name: e.GetType(), from: from, data: data, author: from, direct: true}
	m.digest, m.hashed = digestOf(m.name, data), true
	s.peers.note(m.digest, time.Now(), from)
	_ = s.d.putWait(ctx, m)
	return nil
}
