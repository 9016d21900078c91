package gossip

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// tracer counts what pubsub does, and bounds what peers say they subscribe to.
// pubsub calls it from its loop and its validators; nothing blocks.
type tracer struct {
	duplicates, invalidSignature, refused, ignored, throttled, notAllowed, fromSelf, tooLarge,
	undeliverable, received, sent, dropped, refusedRPCs, shunned, tooManyTopics atomic.Uint64

	// A mesh has at least and at most so many neighbours, but for some heartbeats.
	least, most int
	heartbeat   time.Duration
	forming     time.Duration // how long a mesh that somebody joined may take to have the least

	mu      sync.Mutex // guards the fields below
	byTopic map[string]*topicTrace
	senders map[peer.ID]*sender     // those with a stream to us
	takers  map[peer.ID]protocol.ID // those with a stream from us: what it speaks
	faults  map[peer.ID]*faults
	scores  map[peer.ID]float64
	closed  bool
}

// sender is a peer that has streams to us.
type sender struct {
	streams int
	since   time.Time
	topics  map[string]struct{} // those it subscribed to
}

// faults are what a peer did wrong since a moment. pubsub scores only peers that
// it can open a stream to, so one that takes none could send rubbish for ever.
type faults struct {
	since    time.Time
	n        int
	mistakes int
}

// A peer with so many faults within the time is not listened to until that is
// over. So many peers are remembered.
const (
	maxFaults  = 5
	faultsLast = time.Hour
	// So many messages of the wrong type are forgiven in that time: a person at a
	// shell may have meant another topic.
	maxMistakes = 50
	maxFaulty   = 4096
)

// topicTrace are the counts of a topic that was joined.
type topicTrace struct {
	since time.Time
	mesh  map[peer.ID]struct{}
	subs  map[peer.ID]time.Time // who subscribed to it, and when, or before we did
	TopicStats
}

// What is kept of peers' subscriptions: a node with more topics than that is not
// known to have them all, and gets them by luck.
const (
	maxTopicsOfPeer = 1024
	maxTopicName    = 1024
)

func newTracer(mesh pubsub.GossipSubParams) *tracer {
	return &tracer{
		least: mesh.Dlo, most: mesh.Dhi, heartbeat: mesh.HeartbeatInterval,
		// Neighbours of before do not want us back until we have been gone for a while.
		forming: mesh.UnsubscribeBackoff + grafting*mesh.HeartbeatInterval,
		byTopic: make(map[string]*topicTrace), senders: make(map[peer.ID]*sender),
		takers: make(map[peer.ID]protocol.ID), faults: make(map[peer.ID]*faults),
	}
}

// joined begins or ends the counts of a topic.
func (t *tracer) joined(name string, is bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !is {
		delete(t.byTopic, name)
	} else {
		t.of(name)
	}
}

// of is a topic's counts. t.mu is held.
func (t *tracer) of(name string) *topicTrace {
	c := t.byTopic[name]
	if c == nil {
		c = &topicTrace{since: time.Now(), mesh: make(map[peer.ID]struct{}), subs: make(map[peer.ID]time.Time), TopicStats: TopicStats{Topic: name}}
		for id, who := range t.senders {
			if _, has := who.topics[name]; has {
				c.subs[id] = time.Time{}
			}
		}
		t.byTopic[name] = c
	}
	return c
}

// count counts something in a topic that was joined.
func (t *tracer) count(name string, what func(*topicTrace)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.byTopic[name]; c != nil {
		what(c)
	}
}

func (t *tracer) scored(scores map[peer.ID]float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.scores = scores
}

// CanSubscribe is pubsub.SubscriptionFilter's: we may.
func (t *tracer) CanSubscribe(string) bool { return true }

// FilterIncomingSubscriptions is pubsub.SubscriptionFilter's: of a peer, so many
// topics are remembered.
func (t *tracer) FilterIncomingSubscriptions(from peer.ID, subs []*pb.RPC_SubOpts) ([]*pb.RPC_SubOpts, error) {
	if len(subs) > 4*maxTopicsOfPeer {
		t.tooManyTopics.Add(1)
		return nil, errTooManyTopics
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	who := t.senders[from]
	if who == nil {
		return nil, nil // it has gone since
	}
	has := who.topics
	return slices.DeleteFunc(subs, func(s *pb.RPC_SubOpts) bool {
		name := s.GetTopicid()
		if !s.GetSubscribe() {
			delete(has, name)
			if c := t.byTopic[name]; c != nil {
				delete(c.subs, from)
			}
			return false
		}
		_, known := has[name]
		if !known && (len(has) >= maxTopicsOfPeer || len(name) > maxTopicName) {
			t.tooManyTopics.Add(1)
			return true
		}
		has[name] = struct{}{}
		if c := t.byTopic[name]; c != nil && !known {
			c.subs[from] = time.Now()
		}
		return false
	}), nil
}

// opened and ended count the streams of peers.
func (t *tracer) opened(from peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.senders[from] == nil {
		t.senders[from] = &sender{since: time.Now(), topics: make(map[string]struct{})}
	}
	t.senders[from].streams++
}

func (t *tracer) ended(from peer.ID, refused bool) {
	t.mu.Lock()
	if who := t.senders[from]; who.streams == 1 {
		delete(t.senders, from)
		for name := range who.topics {
			if c := t.byTopic[name]; c != nil {
				delete(c.subs, from)
			}
		}
	} else {
		who.streams--
	}
	refused = refused && !t.closed
	t.mu.Unlock()
	if refused {
		t.refusedRPCs.Add(1)
		t.fault(from)
	}
}

// How long it may take until we have a stream to a peer that has one to us, and, in
// heartbeats, until a peer that subscribed is a neighbour.
const (
	settling = 10 * time.Second
	grafting = 3
)

// misses says whether what from handed to us and author wrote has to go to all who
// subscribed to the topic, for the mesh does not reach one of them. It should: while
// it has fewer neighbours than it wants, and shortly after somebody subscribed. With
// more subscribers than a mesh may have, only the first holds, and only until the mesh
// has had its time: if it is small then, it is because the others have neighbours
// enough, and each message would go to all of them for ever. Peers that can be no neighbours
// do not count: those of a bad score, those who take no stream, and those who speak
// floodsub and get everything.
func (t *tracer) misses(name string, from, author peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.byTopic[name]
	if c == nil {
		return false
	}
	now := time.Now()
	if len(c.subs) > t.most && (len(c.mesh) >= t.least || now.Sub(c.since) > t.forming) {
		return false
	}
	for id, since := range c.subs {
		if _, in := c.mesh[id]; in || id == from || id == author || t.scores[id] < 0 {
			continue
		}
		if len(c.mesh) >= t.least && now.Sub(since) > grafting*t.heartbeat {
			continue
		}
		speaks, takes := t.takers[id]
		if takes && speaks != pubsub.FloodSubID || !takes && now.Sub(t.senders[id].since) < settling {
			return true
		}
	}
	return false
}

func (t *tracer) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// fault notes what a peer did wrong.
func (t *tracer) fault(from peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.record(from); f != nil {
		f.n++
	}
}

// mistake notes a message of the wrong type, and says whether it is forgiven, and
// whether it is the first.
func (t *tracer) mistake(from peer.ID) (forgiven, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.record(from)
	if f == nil {
		return false, false
	}
	f.mistakes++
	return f.mistakes <= maxMistakes, f.mistakes == 1
}

// record is what is remembered of a peer; nil when too many others are. The lock
// is held.
func (t *tracer) record(from peer.ID) *faults {
	now := time.Now()
	f := t.faults[from]
	if f == nil || now.Sub(f.since) > faultsLast {
		for id, old := range t.faults {
			if len(t.faults) < maxFaulty {
				break
			}
			if now.Sub(old.since) > faultsLast || old.n < maxFaults {
				delete(t.faults, id)
			}
		}
		if len(t.faults) >= maxFaulty {
			return nil
		}
		f = &faults{since: now}
		t.faults[from] = f
	}
	return f
}

// shuns says whether a peer is not listened to.
func (t *tracer) shuns(id peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.faults[id]
	return f != nil && f.n >= maxFaults && time.Since(f.since) <= faultsLast
}

var errTooManyTopics = errors.New("gossip: too many subscriptions at once")

// The rest is pubsub.RawTracer.

func (t *tracer) OnNewOutboundStream(id peer.ID, speaks protocol.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.takers[id] = speaks
}

func (t *tracer) OnClosedOutboundStream(id peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.takers, id)
	for _, c := range t.byTopic {
		delete(c.mesh, id)
	}
}

func (t *tracer) Join(string) {}

func (t *tracer) Leave(name string) { t.count(name, func(c *topicTrace) { clear(c.mesh) }) }

func (t *tracer) Graft(id peer.ID, name string) {
	t.count(name, func(c *topicTrace) { c.mesh[id] = struct{}{} })
}

func (t *tracer) Prune(id peer.ID, name string) {
	t.count(name, func(c *topicTrace) { delete(c.mesh, id) })
}

func (t *tracer) ValidateMessage(*pubsub.Message) {}

func (t *tracer) DeliverMessage(m *pubsub.Message) {
	t.count(m.GetTopic(), func(c *topicTrace) { c.Delivered++ })
}

func (t *tracer) RejectMessage(m *pubsub.Message, reason string) {
	t.count(m.GetTopic(), func(c *topicTrace) { c.Rejected++ })
	switch reason {
	case pubsub.RejectMissingSignature, pubsub.RejectInvalidSignature, pubsub.RejectUnexpectedSignature, pubsub.RejectUnexpectedAuthInfo:
		t.invalidSignature.Add(1)
		t.fault(m.ReceivedFrom)
	case pubsub.RejectValidationQueueFull, pubsub.RejectValidationThrottled:
		t.throttled.Add(1)
	case pubsub.RejectBlacklstedPeer, pubsub.RejectBlacklistedSource:
		t.notAllowed.Add(1)
	case pubsub.RejectSelfOrigin:
		t.fromSelf.Add(1) // a stock peer may give us back our own from before a restart
	case pubsub.RejectValidationIgnored:
		t.ignored.Add(1)
	default:
		t.refused.Add(1)
		t.fault(m.ReceivedFrom)
	}
}

func (t *tracer) DuplicateMessage(m *pubsub.Message) {
	t.duplicates.Add(1)
	t.count(m.GetTopic(), func(c *topicTrace) { c.Duplicates++ })
}

func (t *tracer) ThrottlePeer(peer.ID)                 { t.throttled.Add(1) }
func (t *tracer) RecvRPC(*pubsub.RPC)                  { t.received.Add(1) }
func (t *tracer) SendRPC(*pubsub.RPC, peer.ID)         { t.sent.Add(1) }
func (t *tracer) DropRPC(*pubsub.RPC, peer.ID)         { t.dropped.Add(1) }
func (t *tracer) UndeliverableMessage(*pubsub.Message) { t.undeliverable.Add(1) }

// TopicStats are the counts of one topic that we subscribed to, since then.
type TopicStats struct {
	Topic string
	// Peers have subscribed to it, of those we are connected to; Mesh of them send
	// us everything, and we them.
	Peers, Mesh int
	// Delivered went to our subscribers, Rejected did not pass, and Duplicates were
	// copies.
	Delivered, Rejected, Duplicates uint64
}

// Stats is the state of a Backend at one moment.
type Stats struct {
	Topics []TopicStats // by name
	// Peers are those we speak GossipSub with, and Scores what is thought of them.
	Peers  int
	Scores map[peer.ID]float64
	// Messages that did not pass. InvalidSignature ones had a wrong one or none.
	// Refused ones were sent by their author and are too long, or not of the topic's
	// type for the fifty-first time within an hour. Ignored ones are those of the first
	// fifty, and what somebody passed on who may not know the type.
	// TooLarge is how many of both were too long. Throttled ones came faster than they
	// could be checked; NotAllowed is what came from, or was written by, peers that may
	// not take part; FromSelf claimed to be ours.
	InvalidSignature, Refused, Ignored, TooLarge, Throttled, NotAllowed, FromSelf uint64
	Duplicates                                                                    uint64
	// Undeliverable is what pubsub could not deliver to us: always 0.
	Undeliverable uint64
	// RPCs are what GossipSub sends: messages and talk about them. Dropped ones were
	// for peers that do not keep up.
	ReceivedRPCs, SentRPCs, DroppedRPCs uint64
	// RefusedRPCs were none, or above MaxMessage and 16 KiB: the stream they came on
	// was ended.
	RefusedRPCs uint64
	// Shunned RPCs were of peers that had done wrong five times within an hour.
	Shunned uint64
	// TooManyTopics is how many subscriptions of peers were not remembered.
	TooManyTopics uint64
}

// Stats is what a Backend does and did. It is meant for people and metrics.
func (b *Backend) Stats() Stats {
	t := b.trace
	s := Stats{
		Peers:            len(b.ps.ListPeers("")),
		InvalidSignature: t.invalidSignature.Load(), Refused: t.refused.Load(), TooLarge: t.tooLarge.Load(), Ignored: t.ignored.Load(),
		Throttled: t.throttled.Load(), NotAllowed: t.notAllowed.Load(), FromSelf: t.fromSelf.Load(), Duplicates: t.duplicates.Load(),
		Undeliverable: t.undeliverable.Load(), ReceivedRPCs: t.received.Load(), SentRPCs: t.sent.Load(), DroppedRPCs: t.dropped.Load(),
		RefusedRPCs: t.refusedRPCs.Load(), Shunned: t.shunned.Load(), TooManyTopics: t.tooManyTopics.Load(),
	}
	t.mu.Lock()
	s.Scores = maps.Clone(t.scores)
	for _, c := range t.byTopic {
		c.Mesh = len(c.mesh)
		s.Topics = append(s.Topics, c.TopicStats)
	}
	t.mu.Unlock()
	slices.SortFunc(s.Topics, func(a, b TopicStats) int { return cmp.Compare(a.Topic, b.Topic) })
	for i := range s.Topics {
		s.Topics[i].Peers = len(b.ps.ListPeers(s.Topics[i].Topic))
	}
	return s
}

// Topic is the counts of one topic, zero without any.
func (s Stats) Topic(name string) TopicStats {
	for _, t := range s.Topics {
		if t.Topic == name {
			return t
		}
	}
	return TopicStats{}
}
