package dispatch

import (
	"context"
	"time"

	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
	"github.com/kith-p2p/kith/p2p"
)

// renewEvery is how often a hold is repeated that goes on: it lasts holdFor at the
// other side, so that a peer that does not hear of its end is not silent for ever.
const renewEvery = 2 * time.Second

// held is one hold that we asked of a peer.
type held struct {
	peer p2p.NodeID
	name string
}

// holdBack asks peers to hold back messages that subscriptions cannot take, and
// tells them when they can again. Subscriptions say only that something changed;
// what is to be held is looked up, so nothing is told in the wrong order.
func (s *Service) holdBack(ctx context.Context) {
	asked := make(map[held]time.Time)
	tick := time.NewTicker(renewEvery / 4)
	defer tick.Stop()
	for {
		select {
		case <-s.pressed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		wanted := s.holds()
		for h := range asked {
			if !wanted[h] {
				s.tell(h, dispatchv1.Kind_KIND_RELEASE)
				delete(asked, h)
			}
		}
		for h := range wanted {
			if at, again := asked[h]; again && now.Sub(at) < renewEvery {
				continue
			}
			if s.tell(h, dispatchv1.Kind_KIND_HOLD) {
				s.counters.holds.Add(1)
				asked[h] = now
			}
		}
	}
}

// holds is what has to be held back now.
func (s *Service) holds() map[held]bool {
	s.mu.Lock()
	subs := make([]*subscription, 0, len(s.subs))
	for sub := range s.subs {
		if sub.sub.queue.policy.Overflow == Hold {
			subs = append(subs, sub)
		}
	}
	s.mu.Unlock()
	wanted := make(map[held]bool)
	for _, sub := range subs {
		for _, id := range sub.sub.queue.held() {
			if s.peers.has(id) {
				wanted[held{id, sub.sub.messageType}] = true
			}
		}
	}
	return wanted
}

// tell sends a hold or its end, before everything else. What cannot be queued is
// tried again, or ends by itself.
func (s *Service) tell(h held, kind dispatchv1.Kind) bool {
	return s.channels[PriorityHigh.lane()].TrySend(h.peer, &dispatchv1.Envelope{Kind: kind, Type: h.name}) == nil
}
