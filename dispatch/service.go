package dispatch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
	"github.com/kith-p2p/kith/p2p"
)

// Service dispatches messages inside a node and between nodes. All methods are
// safe for concurrent use.
type Service struct {
	turn sync.Mutex // one of Start and Stop at a time; nothing else takes it

	o    Options
	node interface {
		Start() error
		Stop() error
	}
	self     p2p.NodeID
	d        *Dispatcher
	channels []*p2p.TypedChannel[*dispatchv1.Envelope] // by lane; none without a Router
	peers    *peerTable
	ledger   *ledger
	squeeze  *squeezer
	relays   relayFilter
	pressed  chan struct{} // a token when somebody is to be held back, or no longer
	stopping sync.Once
	stopErr  error

	// joining makes joins and leaves of topics follow one another. Under it the
	// Backend is called, which may wait for its own loop; no path from that loop
	// takes it.
	joining sync.Mutex

	mu      sync.Mutex // guards the fields below; nothing is called under it
	state   runState
	cancel  context.CancelFunc
	work    sync.WaitGroup
	topics  map[string]*topic // those that somebody subscribed to
	subs    map[*subscription]struct{}
	nextSub int

	counters serviceCounters
}

// serviceCounters are counted by the Service's goroutines and callers.
type serviceCounters struct {
	malformed, badType, tooLarge, badSignature, stale, ours, notAllowed, copies, undecodable, otherBackend,
	sent, notSent, heldBack, relayed, notRelayed, holds, held, badHolds, badReleases, unencodable, disconnected atomic.Uint64
}

// topic is a message type with typed or raw subscriptions.
type topic struct {
	name string
	kind atomic.Pointer[protoreflect.MessageType] // of the typed ones; nil: there are none
	subs int                                      // Service.joining guards it
}

// NewService makes a Service, and opens its channels on the Router, if it has one.
// node is what Start starts and Stop stops, the Router for example; nil: nothing,
// the caller starts the Router after the Service and stops it before. Errors: the
// faults of the options, joined, or what p2p.OpenTyped returns.
func NewService(node interface {
	Start() error
	Stop() error
}, o Options) (*Service, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	d, err := NewDispatcher(o.Dispatcher)
	if err != nil {
		return nil, err
	}
	squeeze, err := newSqueezer(o.Compress, o.Dispatcher.MaxMessage)
	if err != nil {
		return nil, err
	}
	s := &Service{
		o: o, node: node, d: d, ledger: newLedger(), squeeze: squeeze, pressed: make(chan struct{}, 1),
		peers:  newPeerTable(2*o.Dispatcher.FilterMessages, o.Dispatcher.FilterAge, o.RelayRate),
		relays: relayFilter{seen: newShares(o.Dispatcher.FilterMessages, o.Dispatcher.FilterAge)},
		topics: make(map[string]*topic), subs: make(map[*subscription]struct{}),
	}
	d.up = s.peers.has
	if !o.Key.IsZero() {
		s.self = o.Key.Public().NodeID()
	}
	d.credit = func(from p2p.NodeID, messageType string, weight int) {
		if from != s.self {
			s.ledger.credit(from, messageType, weight)
		}
	}
	if o.Router == nil {
		return s, nil
	}
	s.self = o.Router.NodeInfo().NodeID
	for lane, priority := range []Priority{PriorityHigh, PriorityNormal, PriorityLow} {
		c, err := p2p.OpenTyped[*dispatchv1.Envelope](o.Router, o.Channel+p2p.ChannelID(lane), p2p.WithDescriptor(p2p.ChannelDescriptor{
			Name: "dispatch-" + priority.String(), Class: uint8(lane + 1), RecvMessageCapacity: o.Dispatcher.MaxMessage + maxOverhead,
		}))
		if err != nil {
			for _, c := range s.channels {
				_ = c.Close()
			}
			return nil, fmt.Errorf("dispatch: %w", err)
		}
		s.channels = append(s.channels, c)
	}
	return s, nil
}

// maxOverhead is the most that an Envelope adds to its data.
const maxOverhead = MaxTypeName + 256

// Start starts the Dispatcher, then the node. When the node fails, the Dispatcher
// is stopped again, the error is returned, and the Service is at its end. It starts
// once: ErrClosed after Stop, another error the second time.
func (s *Service) Start() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	switch s.state {
	case stateRunning:
		s.mu.Unlock()
		return errors.New("dispatch: the Service was started already")
	case stateStopped:
		s.mu.Unlock()
		return ErrClosed
	}
	s.state = stateRunning
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.mu.Unlock()
	if err := s.d.Start(); err != nil {
		_ = s.stop(false)
		return err
	}
	for lane, c := range s.channels {
		s.work.Go(func() { s.receive(ctx, c, lane) })
	}
	if s.o.Peers != nil {
		updates := s.o.Peers.Subscribe()
		for _, p := range s.o.Router.Stats().Peers { // those who came before
			channels := make(p2p.ChannelIDSet)
			for _, id := range p.Info.Channels {
				channels[id] = struct{}{}
			}
			s.cameUp(p.ID, channels)
		}
		s.work.Go(func() { s.watch(ctx, updates) })
		s.work.Go(func() { s.account(ctx) })
		s.work.Go(func() { s.holdBack(ctx) })
	}
	if s.node == nil {
		return nil
	}
	if err := s.node.Start(); err != nil {
		_ = s.stop(false)
		return err
	}
	return nil
}

// Stop stops the node, then the Dispatcher, and ends all subscriptions: they give
// out what they hold, then ErrClosed. It returns when nothing of the Service is
// left running, with the node's error. A second call waits for the first, and
// returns the same.
func (s *Service) Stop() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	return s.stop(true)
}

func (s *Service) stop(node bool) error {
	s.stopping.Do(func() {
		s.mu.Lock()
		was := s.state
		s.state = stateStopped
		subs := make([]*subscription, 0, len(s.subs))
		for sub := range s.subs {
			subs = append(subs, sub)
		}
		s.mu.Unlock()
		if node && was == stateRunning && s.node != nil {
			s.stopErr = s.node.Stop()
		}
		for _, c := range s.channels {
			_ = c.Close()
		}
		if s.cancel != nil {
			s.cancel()
		}
		for _, sub := range subs {
			sub.close()
		}
		s.work.Wait()
		s.d.Stop()
		s.settle()
	})
	return s.stopErr
}

// Register adds subscribers of direct messages and of what is put into the
// Dispatcher. It joins no topic: for that there is Subscribe.
func (s *Service) Register(subscribers ...*Subscriber) { s.d.Register(subscribers...) }

// Deregister removes subscribers.
func (s *Service) Deregister(subscribers ...*Subscriber) { s.d.Deregister(subscribers...) }

// Dispatcher is the Service's own, to put messages into. The Service starts and
// stops it.
func (s *Service) Dispatcher() *Dispatcher { return s.d }

// ClosePeer ends the connection to a peer and says why in the log. It may be
// dialled again; p2p.PeerManager.Ban is for those who may not.
func (s *Service) ClosePeer(id p2p.NodeID, reason error) {
	if s.o.Peers == nil {
		return
	}
	if reason == nil {
		reason = errors.New("dispatch: closed by the application")
	}
	s.o.Logger.Info("closing a peer", "peer", id, "reason", reason)
	s.o.Peers.Errored(id, reason)
}

// Peers are those who are up and speak dispatch, by ID.
func (s *Service) Peers() []Peer { return s.peers.list(nil, time.Now()) }

// watch keeps the table of peers.
func (s *Service) watch(ctx context.Context, updates *p2p.PeerUpdates) {
	defer updates.Close()
	for {
		select {
		case u, ok := <-updates.Updates():
			if !ok {
				return
			}
			if u.Status == p2p.PeerStatusUp {
				s.cameUp(u.NodeID, u.Channels)
			} else {
				s.wentDown(u.NodeID)
			}
		case <-ctx.Done():
			return
		}
	}
}

// cameUp takes in a peer that has all our channels.
func (s *Service) cameUp(id p2p.NodeID, channels p2p.ChannelIDSet) {
	for _, c := range s.channels {
		if !channels.Contains(c.ID()) {
			return
		}
	}
	s.peers.up(id, channels)
}

// wentDown forgets a peer. What it brought shares the place of all who are gone.
func (s *Service) wentDown(id p2p.NodeID) {
	s.peers.down(id)
	s.relays.gone(id)
	s.d.gone(id)
}

// account reports what peers earned.
func (s *Service) account(ctx context.Context) {
	tick := time.NewTicker(s.o.ScoreEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.settle()
		case <-ctx.Done():
			return
		}
	}
}

// settle reports what peers earned since the last time. Those who are not direct
// peers have no score.
func (s *Service) settle() {
	s.ledger.settle(func(id p2p.NodeID, b p2p.Behaviour) {
		if s.o.Peers != nil && s.peers.has(id) {
			s.o.Peers.Report(id, b)
		}
	})
}

// tooManyFaults is after how many faults within one Options.ScoreEvery a peer is
// disconnected: one that only looks at what it passes on makes some, in good faith.
const tooManyFaults = 100

// errFaults is why.
var errFaults = errors.New("dispatch: too many bad messages")

// blame notes a fault of a peer.
func (s *Service) blame(from p2p.NodeID) {
	if s.ledger.blame(from) == tooManyFaults && s.peers.has(from) {
		s.counters.disconnected.Add(1)
		s.ClosePeer(from, errFaults)
	}
}

// marshal encodes a message the same way every time, so that its content has one
// digest.
func (s *Service) marshal(m proto.Message) ([]byte, error) {
	if m == nil {
		s.counters.unencodable.Add(1)
		return nil, errors.New("dispatch: no message")
	}
	if n := proto.Size(m); n > s.o.Dispatcher.MaxMessage {
		s.counters.tooLarge.Add(1)
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, s.o.Dispatcher.MaxMessage)
	}
	data, err := (proto.MarshalOptions{Deterministic: true, UseCachedSize: true}).Marshal(m)
	if err != nil {
		s.counters.unencodable.Add(1)
		return nil, fmt.Errorf("dispatch: encode a %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return data, nil
}
