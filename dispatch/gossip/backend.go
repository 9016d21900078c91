package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
)

// DefaultMaxMessage is the longest message in bytes: with what GossipSub adds,
// 1 MiB, which is what other libp2p programs take.
const DefaultMaxMessage = 1<<20 - overhead

// overhead is the most that GossipSub adds to a message: topic, author, key,
// signature.
const overhead = 16 << 10

// maxOwnScore is the most that Options.Score adds.
const maxOwnScore = 100

// Errors of a Backend.
var (
	// ErrClosed says that the Backend was closed.
	ErrClosed = errors.New("gossip: closed")
	// ErrJoined says that the topic was joined already.
	ErrJoined = errors.New("gossip: topic joined already")
)

// Options is what a Backend is made of. The zero value of a field is its default.
type Options struct {
	// Preset says for what kind of network the parameters are. Default Open.
	Preset Preset
	// Allow says who may take part: neither are messages taken from others, nor
	// sent to them, nor are theirs taken that somebody passed on. Required for
	// Permissioned. It is called for every message and must not block. nil: all may.
	Allow func(p2p.NodeID) bool
	// Score is what the program thinks of a peer, and is added to its score, up to
	// 100: nobody is trusted whatever he sends. Peers below -500 get no gossip, below
	// -1,000 no messages, and below -2,500 nothing from them is read. It is called
	// every second and must not block. nil: 0.
	Score func(peer.ID) float64
	// MaxMessage is the longest message in bytes, the same on all nodes. Default
	// DefaultMaxMessage.
	MaxMessage int
	// Options are appended to those that the preset makes: the way down to every
	// parameter of go-libp2p-pubsub.
	Options []pubsub.Option

	Logger *slog.Logger // nil: discard
}

// Backend carries topics over GossipSub: a dispatch.Backend. All methods are safe
// for concurrent use.
type Backend struct {
	o      Options
	host   host.Host
	ps     *pubsub.PubSub
	cancel context.CancelFunc
	trace  *tracer
	names  names
	hush   *hush

	// mu guards the fields below. Under it pubsub's loop is waited for, which calls
	// nothing that takes it.
	mu     sync.Mutex
	topics map[string]*topic
	uses   uint64
	closed bool
}

var _ dispatch.Backend = (*Backend)(nil)

// topic is one that was joined or published to.
type topic struct {
	handle *pubsub.Topic
	sub    *pubsub.Subscription // nil: only published to
	busy   int                  // calls of Publish that go on
	used   uint64               // when it was last published to, by Backend.uses
}

// maxPublished is how many topics are kept open that are only published to.
const maxPublished = 64

// New starts GossipSub on a host. The host stays the caller's. Errors: the
// options' faults, or pubsub's.
func New(h host.Host, o Options) (*Backend, error) {
	if o.Preset == "" {
		o.Preset = Open
	}
	if o.MaxMessage == 0 {
		o.MaxMessage = DefaultMaxMessage
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxMessage < 1 || o.MaxMessage > 1<<28 {
		return nil, fmt.Errorf("gossip: MaxMessage is %d, at least 1 and at most %d", o.MaxMessage, 1<<28)
	}
	if o.Preset == Permissioned && o.Allow == nil {
		return nil, errors.New("gossip: the preset permissioned needs Options.Allow")
	}
	preset, err := o.Preset.params()
	if err != nil {
		return nil, err
	}
	b := &Backend{o: o, host: h, trace: newTracer(preset.mesh), hush: new(hush), topics: make(map[string]*topic), names: names{known: make(map[peer.ID]p2p.NodeID)}}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	b.ps, err = pubsub.NewGossipSub(ctx, watchedHost{h, b.trace}, append(b.options(preset), o.Options...)...)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("gossip: %w", err)
	}
	return b, nil
}

// options are those of every preset.
func (b *Backend) options(p params) []pubsub.Option {
	if b.o.Score != nil {
		p.score.AppSpecificScore = func(id peer.ID) float64 { return min(b.o.Score(id), maxOwnScore) }
	}
	opts := []pubsub.Option{
		pubsub.WithMessageSignaturePolicy(pubsub.StrictSign),
		pubsub.WithGossipSubParams(p.mesh),
		pubsub.WithPeerScore(p.score, p.thresholds),
		pubsub.WithPeerScoreInspect(b.trace.scored, scoreEvery),
		pubsub.WithFloodPublish(true), // our own messages go to all: one hop fewer, and no neighbour can hide them
		pubsub.WithPeerExchange(false),
		pubsub.WithMaxMessageSize(b.o.MaxMessage + overhead),
		pubsub.WithValidateQueueSize(1024),     // 32 lose messages in a burst
		pubsub.WithPeerOutboundQueueSize(256),  // as above
		pubsub.WithSubscriptionFilter(b.trace), // bounded, by peer
		pubsub.WithRawTracer(b.trace),
		pubsub.WithLogger(slog.New(&hushed{b.o.Logger.Handler(), b.hush})),
		pubsub.WithRPCLogger(slog.New(slog.DiscardHandler)),
	}
	allows := func(id peer.ID) bool { return id == b.host.ID() || b.Allows(b.names.of(id)) }
	if b.o.Allow != nil {
		opts = append(opts,
			pubsub.WithBlacklist(notAllowed(allows)),
			pubsub.WithPeerFilter(func(id peer.ID, _ string) bool { return allows(id) }))
	}
	return append(opts, pubsub.WithAppSpecificRpcInspector(func(id peer.ID, _ *pubsub.RPC) error {
		if b.o.Allow != nil && !allows(id) {
			b.trace.notAllowed.Add(1)
			return errNotHeard
		}
		if b.trace.shuns(id) {
			b.trace.shunned.Add(1)
			return errNotHeard
		}
		return nil
	}))
}

var errNotHeard = errors.New("gossip: nothing of this peer is read")

// notAllowed is a list of everybody who is not on the other one.
type notAllowed func(peer.ID) bool

// Add is pubsub.Blacklist's. Who may take part is Options.Allow's to say.
func (n notAllowed) Add(peer.ID) bool { return false }

// Contains is pubsub.Blacklist's.
func (n notAllowed) Contains(id peer.ID) bool { return !n(id) }

// Join is dispatch.Backend's. It returns ErrJoined for a topic that is joined,
// ErrClosed after Close.
func (b *Backend) Join(name string, check func(dispatch.Arrival) (dispatch.Message, error), deliver func(dispatch.Message)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, err := b.open(name)
	if err != nil {
		return err
	}
	if t.sub != nil {
		return fmt.Errorf("%w: %s", ErrJoined, name)
	}
	validate := func(_ context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
		author := m.GetFrom()
		// Who passes on another's message may have no type to check it by; it is let
		// go, but costs nobody his score but the author.
		refuse := pubsub.ValidationIgnore
		if author == from {
			refuse = pubsub.ValidationReject
		}
		if len(m.Data) > b.o.MaxMessage {
			b.trace.tooLarge.Add(1)
			return refuse
		}
		got, err := check(dispatch.Arrival{Topic: name, Data: m.Data, From: b.names.of(from), Author: b.names.of(author), AuthorPeer: author})
		if err != nil {
			b.o.Logger.Debug("message refused", "topic", name, "peer", from, "author", author, "err", err)
			if author != from {
				return pubsub.ValidationIgnore
			}
			forgiven, first := b.trace.mistake(from)
			if first {
				b.o.Logger.Warn("a peer publishes what is not of the topic's type; it is left out, and fifty times an hour are forgiven", "topic", name, "peer", from, "err", err)
			}
			if forgiven {
				return pubsub.ValidationIgnore
			}
			return pubsub.ValidationReject
		}
		m.ValidatorData = got
		return pubsub.ValidationAccept
	}
	// A topic that is only published to needs no score, and pubsub forgets none.
	if err := t.handle.SetScoreParams(topicScore()); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	if err := b.ps.RegisterTopicValidator(name, pubsub.ValidatorEx(validate), pubsub.WithValidatorInline(true)); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	b.trace.joined(name, true)
	// pubsub drops what does not fit into a subscription's channel. Nothing has to:
	// the filter takes every message, on pubsub's loop, and lets none into the channel.
	t.sub, err = t.handle.Subscribe(pubsub.WithBufferSize(1), pubsub.WithMessageFilter(func(m *pubsub.Message) bool {
		if got, ok := m.ValidatorData.(dispatch.Message); ok {
			deliver(got)
		}
		// pubsub passes it on next, to the neighbours in the mesh. Who subscribed a
		// moment ago is none before the next heartbeat, and never hears of what came
		// earlier. So while there is such a peer, all who subscribed get the message, as
		// they get what we publish: pubsub knows that by who it is from.
		if b.trace.misses(name, m.ReceivedFrom, m.GetFrom()) {
			m.ReceivedFrom = b.host.ID()
		}
		return false
	}))
	if err != nil {
		b.trace.joined(name, false)
		return errors.Join(fmt.Errorf("gossip: %w", err), b.ps.UnregisterTopicValidator(name))
	}
	return nil
}

// open is the handle of a topic. b.mu is held.
func (b *Backend) open(name string) (*topic, error) {
	if b.closed {
		return nil, ErrClosed
	}
	if t := b.topics[name]; t != nil {
		return t, nil
	}
	handle, err := b.ps.Join(name)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	t := &topic{handle: handle}
	b.topics[name] = t
	return t, nil
}

// Leave is dispatch.Backend's.
func (b *Backend) Leave(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[name]
	if t == nil || t.sub == nil {
		return nil
	}
	t.sub.Cancel()
	t.sub = nil
	b.trace.joined(name, false)
	if b.closed {
		return nil
	}
	err := b.ps.UnregisterTopicValidator(name)
	if t.busy == 0 {
		delete(b.topics, name)
		err = errors.Join(err, t.handle.Close())
	}
	if err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// Publish is dispatch.Backend's. It returns dispatch.ErrTooLarge, ErrClosed, the
// context's error or pubsub's, which is a pubsub.ValidationError when data is not of
// the type of the topic that was joined here.
func (b *Backend) Publish(ctx context.Context, name string, data []byte) error {
	if n := len(data); n > b.o.MaxMessage {
		return fmt.Errorf("%w: %d bytes, GossipSub takes at most %d here", dispatch.ErrTooLarge, n, b.o.MaxMessage)
	}
	b.mu.Lock()
	t, err := b.open(name)
	if err != nil {
		b.mu.Unlock()
		return err
	}
	t.busy++
	b.mu.Unlock()
	err = t.handle.Publish(ctx, data)
	b.mu.Lock()
	t.busy--
	b.uses++
	t.used = b.uses
	b.forget()
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("gossip: publish on %s: %w", name, err)
	}
	return nil
}

// forget closes the topics that are only published to, but for the last
// maxPublished of them. b.mu is held.
func (b *Backend) forget() {
	for !b.closed {
		n, oldest := 0, ""
		for name, t := range b.topics {
			if t.sub != nil || t.busy > 0 {
				continue
			}
			if n++; oldest == "" || t.used < b.topics[oldest].used {
				oldest = name
			}
		}
		if n <= maxPublished {
			return
		}
		if err := b.topics[oldest].handle.Close(); err != nil {
			b.o.Logger.Debug("a topic could not be closed", "topic", oldest, "err", err)
		}
		delete(b.topics, oldest)
	}
}

// Peers is dispatch.Backend's.
func (b *Backend) Peers(name string) []peer.ID { return b.ps.ListPeers(name) }

// Allows is dispatch.Backend's.
func (b *Backend) Allows(id p2p.NodeID) bool {
	return b.o.Allow == nil || id != "" && b.o.Allow(id)
}

// PubSub is what the Backend stands on, for what it does not offer itself. A
// subscription of one's own to a topic that was joined may have ourselves as
// ReceivedFrom of a message that somebody else passed on.
func (b *Backend) PubSub() *pubsub.PubSub { return b.ps }

// Close ends all topics. pubsub's goroutines end soon after, when those that wait
// for the network have noticed. A second call does nothing. The error is always nil.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	b.trace.close()
	for _, id := range pubsub.GossipSubDefaultProtocols {
		b.host.RemoveStreamHandler(id)
	}
	b.cancel()
	b.hush.mu.Lock()
	b.hush.closed = true
	b.hush.mu.Unlock()
	return nil
}

// hush ends what pubsub logs: its goroutines live on for a moment after Close, and
// the logger may not.
type hush struct {
	mu     sync.RWMutex // held over a record, so that Close waits for the last
	closed bool
}

// hushed is a handler that does nothing once its hush is closed.
type hushed struct {
	slog.Handler
	hush *hush
}

// Handle implements slog.Handler. What pubsub says of its own comings and goings is
// for its developers.
func (h *hushed) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == slog.LevelInfo {
		r.Level = slog.LevelDebug
	}
	h.hush.mu.RLock()
	defer h.hush.mu.RUnlock()
	if h.hush.closed || !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h *hushed) WithAttrs(as []slog.Attr) slog.Handler {
	return &hushed{h.Handler.WithAttrs(as), h.hush}
}

func (h *hushed) WithGroup(name string) slog.Handler {
	return &hushed{h.Handler.WithGroup(name), h.hush}
}

// names remembers what peers are called, which takes a hash to compute. Safe for
// concurrent use.
type names struct {
	mu    sync.Mutex // guards known
	known map[peer.ID]p2p.NodeID
}

const maxNames = 4096

// of is the NodeID of a peer, "" for a key of another type than Ed25519.
func (n *names) of(id peer.ID) p2p.NodeID {
	n.mu.Lock()
	name, known := n.known[id]
	n.mu.Unlock()
	if known {
		return name
	}
	name, _ = identity.NodeIDFromPeerID(id)
	n.mu.Lock()
	defer n.mu.Unlock()
	for other := range n.known {
		if len(n.known) < maxNames {
			break
		}
		delete(n.known, other)
	}
	n.known[id] = name
	return name
}
