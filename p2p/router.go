package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/connmgr"
)

// RouterOptions is what a Router is made of.
type RouterOptions struct {
	// NodeInfo is what the node says of itself. Its NodeID has to be PrivKey's;
	// "" is filled in. Channels are added as they are opened.
	NodeInfo NodeInfo
	// PrivKey is the node's key. Required.
	PrivKey PrivKey
	// PeerManager decides about peers. Required; the caller closes it after Stop.
	PeerManager *PeerManager
	// Transports carry the connections, at least one, each for protocols of its
	// own. The Router closes them in Stop.
	Transports []Transport

	ResolveTimeout   time.Duration // of the names in one address; default 5 s
	DialTimeout      time.Duration // of all endpoints of one address together; default 10 s
	HandshakeTimeout time.Duration // default 10 s; the filters' time is part of it

	// FilterPeerByIP and FilterPeerByID refuse connections in both directions
	// with an error: the first before the handshake, the second after it. They
	// may block for as long as the handshake may take, and must not call Stop.
	// Nil: none is refused.
	FilterPeerByIP func(context.Context, net.IP, uint16) error
	FilterPeerByID func(context.Context, NodeID) error
	// Dialled is told the outcome of every dial: nil when the peer was there and
	// may stay, otherwise why not. Dials that we gave up ourselves, because the
	// Router stopped or its limits left no room, are not told. It must not block.
	// Nil: nobody is told.
	Dialled func(NodeAddress, error)

	// NoReferrals keeps the Router from naming other peers to those for whom there
	// is no place. It is for who exchanges no addresses at all.
	NoReferrals bool
	// Limits guard the accepting side. Nil: connmgr.DefaultLimits, without the
	// totals, which are the PeerManager's, and without the refusal of duplicates,
	// which it decides, too.
	Limits *connmgr.Limits
	// SendQueueMessages and SendQueueBytes bound what waits for one peer on all
	// channels together. Defaults 8,192 messages, and 64 MiB or four times the
	// largest channel's SendQueueBytes, whichever is more.
	SendQueueMessages, SendQueueBytes int

	// Logger is told what happens. Nil: discard. Of bad messages, at debug level, it
	// hears from a goroutine of its own, so that peers who send them and a handler
	// that blocks stop nothing; those it does not keep up with are only counted.
	Logger *slog.Logger
}

func (o RouterOptions) withDefaults() RouterOptions {
	if o.ResolveTimeout == 0 {
		o.ResolveTimeout = 5 * time.Second
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 10 * time.Second
	}
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = 10 * time.Second
	}
	if o.SendQueueMessages == 0 {
		o.SendQueueMessages = 8192
	}
	if o.SendQueueBytes == 0 {
		o.SendQueueBytes = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.NodeInfo.NodeID == "" && !o.PrivKey.IsZero() {
		o.NodeInfo.NodeID = o.PrivKey.Public().NodeID()
	}
	return o
}

// Validate reports every fault of the options, joined.
func (o RouterOptions) Validate() error {
	o = o.withDefaults()
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf("p2p: "+format, args...)) }
	if o.PrivKey.IsZero() {
		bad("RouterOptions.PrivKey is missing")
	} else {
		if o.NodeInfo.NodeID != o.PrivKey.Public().NodeID() {
			bad("NodeInfo.NodeID %v is not the ID of PrivKey, %v", o.NodeInfo.NodeID, o.PrivKey.Public().NodeID())
		}
		if err := o.NodeInfo.Validate(); err != nil {
			bad("NodeInfo: %w", err)
		}
	}
	if o.PeerManager == nil {
		bad("RouterOptions.PeerManager is missing")
	} else if o.PeerManager.core.self != o.NodeInfo.NodeID && !o.PrivKey.IsZero() {
		bad("the PeerManager is that of %v, not of %v", o.PeerManager.core.self, o.NodeInfo.NodeID)
	}
	if len(o.Transports) == 0 {
		bad("RouterOptions.Transports is empty")
	}
	seen := make(map[Protocol]bool)
	for i, t := range o.Transports {
		if t == nil {
			bad("transport %d is nil", i)
			continue
		}
		if len(t.Protocols()) == 0 {
			bad("transport %d speaks no protocol", i)
		}
		for _, p := range t.Protocols() {
			if seen[p] {
				bad("two transports speak %q", p)
			}
			seen[p] = true
		}
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"ResolveTimeout", o.ResolveTimeout}, {"DialTimeout", o.DialTimeout}, {"HandshakeTimeout", o.HandshakeTimeout}} {
		if d.d < 0 || d.d > maxTimeout {
			bad("%s is %v, at least 0 and at most %v", d.name, d.d, maxTimeout)
		}
	}
	if o.SendQueueMessages < 0 || o.SendQueueBytes < 0 {
		bad("the send queue cannot hold less than nothing")
	}
	if o.Limits != nil {
		if err := o.Limits.Validate(); err != nil {
			bad("Limits: %w", err)
		}
	}
	return errors.Join(faults...)
}

// maxTimeout bounds the timeouts, so that no sum of them overflows.
const maxTimeout = 24 * time.Hour

// Router carries the messages of channels between peers. It dials and accepts
// through connmgr's engine, whom and when is the PeerManager's to say; each peer
// has one scheduler, which is the only queue towards it, a goroutine that writes
// and one that reads. What arrives is queued as bytes, for the receiver to
// decode: no code of a user runs between a peer and the wire.
//
// All methods are safe for concurrent use.
type Router struct {
	o          RouterOptions
	pm         *PeerManager
	transports map[Protocol]Transport
	resolver   address.Resolver
	engine     *connmgr.Engine[dialTarget, *link]

	// mu guards the fields below. Under it PeerManager.mu and the queues' locks
	// may be taken, nothing else; it is never taken under theirs.
	mu       sync.Mutex
	state    routerState
	cancel   context.CancelFunc
	finished chan struct{}        // closed when the engine and its callbacks are gone
	ending   chan struct{}        // closed by Stop
	sessions map[*remote]struct{} // those that are up, and those about to be gone

	// Read by every message, so replaced, not changed; mu guards the replacing.
	channels atomic.Pointer[map[ChannelID]*channelCore]
	peers    atomic.Pointer[map[NodeID]*remote]

	// recycler is the latest connection, where the only transport wants the memory
	// of messages back: any connection of a transport takes it.
	recycler atomic.Pointer[Recycler]

	counters   routerCounters
	faults     faultLog
	background sync.WaitGroup // see inBackground
}

type routerState uint8

const (
	routerNew routerState = iota
	routerRunning
	routerStopped
)

// NewRouter makes a Router. It does nothing before Start, but channels may be
// opened, and should be: peers learn of them in the handshake. The error holds
// every fault of the options.
func NewRouter(o RouterOptions) (*Router, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	r := &Router{
		o: o, pm: o.PeerManager, transports: make(map[Protocol]Transport), sessions: make(map[*remote]struct{}),
		finished: make(chan struct{}), ending: make(chan struct{}), resolver: net.DefaultResolver,
		faults: faultLog{logger: o.Logger},
	}
	r.channels.Store(&map[ChannelID]*channelCore{})
	r.peers.Store(&map[NodeID]*remote{})
	cfg := connmgr.EngineConfig[dialTarget, *link]{
		Policy: routerPolicy{dialPolicy{r.pm}, r}, Dial: r.dial, Stop: r.closeTransports,
		Establish: r.establish, Identify: func(l *link) string { return string(l.info.NodeID) }, Admit: r.admit, Refused: r.refused,
		RemoteIP:  func(l *link) netip.Addr { return ipOf(l.conn.RemoteEndpoint()) },
		Connected: r.connected, Disconnected: r.disconnected,
		Limits: r.limits(), DialTimeout: o.ResolveTimeout + o.DialTimeout, EstablishTimeout: o.HandshakeTimeout,
		Logger: o.Logger, Now: r.pm.core.o.Now, Rand: r.pm.core.o.Rand,
	}
	for _, t := range o.Transports {
		for _, p := range t.Protocols() {
			r.transports[p] = t
		}
		cfg.Accept = append(cfg.Accept, func() (*link, error) {
			conn, err := t.Accept()
			if err != nil {
				return nil, err
			}
			return &link{conn: conn, transport: t, ending: r.ending}, nil
		})
	}
	engine, err := connmgr.NewEngine(cfg)
	if err != nil {
		return nil, fmt.Errorf("p2p: %w", err)
	}
	r.engine = engine
	return r, nil
}

// limits are the gate's, without what the PeerManager decides.
func (r *Router) limits() connmgr.Limits {
	if r.o.Limits != nil {
		return *r.o.Limits
	}
	l := connmgr.DefaultLimits()
	l.Total, l.Inbound.Total, l.Outbound.Total, l.RefuseDuplicates = 0, 0, 0, false
	if c := r.pm.core.o; c.MaxConnected > 0 {
		// The places that are not for our own dials. When they are taken, the
		// least useful inbound peer makes room.
		l.Inbound.Total = int(c.MaxConnected - c.MaxOutgoingConnections)
		if l.Inbound.Total == 0 {
			l.Inbound.Total = connmgr.None
		}
	}
	return l
}

// Start begins to dial and accept. It does not block. A Router starts once:
// ErrClosed after Stop, another error the second time.
func (r *Router) Start() error {
	listen := r.listenAddress()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.state {
	case routerRunning:
		return errors.New("p2p: the Router was started already")
	case routerStopped:
		return ErrClosed
	}
	r.state = routerRunning
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.pm.attach(listen, r.engine.Wake)
	go func() {
		defer close(r.finished)
		var evictions sync.WaitGroup
		evictions.Go(func() { r.evict(ctx) })
		if err := r.engine.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			r.o.Logger.Error("the connection engine ended", "err", err)
		}
		cancel()
		evictions.Wait()
		r.pm.detach()
	}()
	return nil
}

// Stop closes every connection, channel and transport, and returns when nothing
// of the Router is left running; it waits for filters that block, but for a second
// at most for a Logger that has not taken the bad messages yet. A second call
// waits for the first; one before Start makes Start impossible. The error is
// always nil.
func (r *Router) Stop() error {
	r.mu.Lock()
	was := r.state
	r.state = routerStopped
	cancel := r.cancel
	if was != routerStopped {
		close(r.ending)
	}
	r.mu.Unlock()
	switch was {
	case routerNew:
		r.closeTransports()
		close(r.finished)
	case routerRunning:
		cancel()
	}
	<-r.finished
	for _, c := range *r.channels.Load() {
		c.close()
	}
	r.background.Wait()
	r.faults.close()
	return nil
}

// inBackground runs f on a goroutine that Stop waits for, unless Stop has begun.
func (r *Router) inBackground(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == routerStopped {
		return false
	}
	r.background.Go(f)
	return true
}

func (r *Router) closeTransports() {
	for _, t := range r.o.Transports {
		if err := t.Close(); err != nil {
			r.o.Logger.Warn("a transport could not be closed", "err", err)
		}
	}
}

// evict closes the connections that the PeerManager wants gone.
func (r *Router) evict(ctx context.Context) {
	for {
		id, number, cause, err := r.pm.nextEviction(ctx)
		if err != nil {
			return
		}
		r.counters.evicted.Add(1)
		r.o.Logger.Info("closing a peer", "peer", id, "cause", cause)
		// On its own: a Close that takes its time delays no other.
		r.inBackground(func() { r.end(number, cause) })
	}
}

// NodeInfo is what the node says of itself now, with the channels that are open.
func (r *Router) NodeInfo() NodeInfo { return r.nodeInfo(*r.channels.Load()) }

func (r *Router) nodeInfo(channels map[ChannelID]*channelCore) NodeInfo {
	info := r.o.NodeInfo
	info.Channels = slices.Clone(info.Channels)
	info.Extensions.Kith, info.Extensions.RequestChannels = true, nil
	for _, id := range slices.Sorted(maps.Keys(channels)) {
		if !slices.Contains(info.Channels, id) {
			info.Channels = append(info.Channels, id)
		}
		if channels[id].d.Requests {
			info.Extensions.RequestChannels = append(info.Extensions.RequestChannels, id)
		}
	}
	return info
}

// listenAddress is where the first transport that listens does.
func (r *Router) listenAddress() NodeAddress {
	for _, t := range r.o.Transports {
		for _, e := range t.Endpoints() {
			return e.NodeAddress(r.o.NodeInfo.NodeID)
		}
	}
	return NodeAddress{}
}

// addChannel opens a channel.
func (r *Router) addChannel(c *channelCore) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == routerStopped {
		return ErrClosed
	}
	old := *r.channels.Load()
	if _, taken := old[c.id]; taken {
		return fmt.Errorf("%w: %#02x", ErrChannelOpen, uint16(c.id))
	}
	channels := maps.Clone(old)
	channels[c.id] = c
	r.channels.Store(&channels)
	for p := range r.sessions { // they may know it from earlier
		if p.channels.Contains(c.id) {
			// It says no when the session has ended, or when the channel's longest
			// message is above what was reserved for the session: then sends say
			// ErrChannelUnsupported, as to any peer without the channel.
			_ = p.queue.add(p.sendChannel(c))
		}
	}
	return nil
}

// removeChannel closes a channel, towards every peer too. What waits for them is
// dropped; of each, a message that was begun is finished.
func (r *Router) removeChannel(c *channelCore) {
	r.mu.Lock()
	defer r.mu.Unlock()
	channels := maps.Clone(*r.channels.Load())
	if channels[c.id] != c {
		return
	}
	delete(channels, c.id)
	r.channels.Store(&channels)
	for p := range r.sessions {
		c.fold(p)
		p.queue.remove(c.id)
	}
}
