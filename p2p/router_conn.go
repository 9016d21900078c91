package p2p

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/connmgr"
)

// Why a connection was not made. The errors of dials and handshakes wrap one of
// these, or the transport's.
var (
	// ErrNoTransport says that no transport speaks the protocol of an address.
	ErrNoTransport = errors.New("p2p: no transport for the protocol")
	// ErrWrongPeer says that somebody else answered at the address of a peer.
	ErrWrongPeer = errors.New("p2p: another node answered")
	// ErrFiltered says that FilterPeerByIP or FilterPeerByID refused the peer.
	ErrFiltered = errors.New("p2p: refused by a filter")
	// ErrFeeler says that the other side only wanted to know who answers here. It
	// had its answer, and takes nobody's place.
	ErrFeeler = errors.New("p2p: the peer only tested our address")
	// ErrPeerClosed is why a connection ended that the other side closed.
	ErrPeerClosed = errors.New("p2p: the peer closed the connection")
)

// link is a connection on its way through the engine. Its fields are written by
// one step after another, before it is announced.
type link struct {
	conn      Connection
	transport Transport
	info      NodeInfo     // what the peer said, once the handshake proved who it is
	key       PubKey       // the peer's, proved
	calls     ChannelIDSet // on which both sides announced requests
	stale     uint64       // the session of the same peer that has fallen silent; 0: none
	unproven  bool         // the dialled address may be somebody else's
	ending    <-chan struct{}
	peer      atomic.Pointer[NodeID]   // who it is, for say; set when that is proved
	farewell  atomic.Pointer[farewell] // what the peer is told at the end
	once      sync.Once
	err       error
}

// Close closes the connection, once, and tells the peer why if there is a reason
// to tell and its transport can.
func (l *link) Close() error {
	l.once.Do(func() {
		last := l.farewell.Load()
		select {
		case <-l.ending:
			if last == nil {
				last = &farewell{reason: farewellOf(ErrClosed)}
			}
		default:
		}
		if c, ok := l.conn.(ReasonCloser); ok && last != nil {
			l.err = c.CloseWithReason(last.reason, last.peers)
			return
		}
		l.err = l.conn.Close()
	})
	return l.err
}

// dial is the engine's: from an address to a connection without handshake.
func (r *Router) dial(ctx context.Context, target dialTarget) (*link, error) {
	a := target.address
	t := r.transports[a.Protocol]
	if t == nil {
		return nil, fmt.Errorf("%w %q of %v", ErrNoTransport, a.Protocol, a)
	}
	resolving, stop := context.WithTimeout(ctx, r.o.ResolveTimeout)
	endpoints, err := a.ResolveWith(resolving, r.resolver)
	stop()
	if err != nil {
		return nil, err
	}
	if len(endpoints) == 0 {
		return nil, fmt.Errorf("p2p: %v resolves to no address", a)
	}
	dialling, stop := context.WithTimeout(ctx, r.o.DialTimeout)
	defer stop()
	conn, err := dialFirst(dialling, interleave(endpoints), t.Dial)
	if err != nil {
		return nil, err
	}
	l := &link{conn: conn, transport: t, ending: r.ending}
	if p, ok := conn.(Prover); ok {
		l.unproven = !slices.ContainsFunc(endpoints, p.Proven)
	}
	return l, nil
}

// establish is the engine's: the handshake, and every check of who it is.
func (r *Router) establish(ctx context.Context, l *link, at connmgr.EstablishInfo[dialTarget]) (err error) {
	remote := l.conn.RemoteEndpoint()
	if f := r.o.FilterPeerByIP; f != nil && len(remote.IP) > 0 {
		if err := f(ctx, remote.IP, remote.Port); err != nil {
			return fmt.Errorf("%w: %v: %w", ErrFiltered, remote, err)
		}
	}
	channels := *r.channels.Load()
	mine := r.nodeInfo(channels)
	if len(remote.IP) > 0 {
		mine.Extensions.Observed = remote.IP.String()
	}
	mine.Extensions.ListenAddrs = r.listenAddrs(remote)
	mine.Extensions.Feeler = at.Dial.Kind == connmgr.KindFeeler
	info, key, err := l.conn.Handshake(ctx, mine, r.o.PrivKey)
	if err != nil {
		return fmt.Errorf("p2p: handshake with %v: %w", remote, err)
	}
	defer func() {
		if err != nil {
			r.say(l, err)
		}
	}()
	id := key.NodeID()
	l.key = key
	l.peer.Store(&id)
	expected := at.Dial.Target.address.NodeID
	switch {
	case id == r.o.NodeInfo.NodeID:
		return fmt.Errorf("%w: %v", ErrSelf, remote)
	case info.NodeID != id:
		return fmt.Errorf("%w: %v says it is %v, its key that it is %v", ErrWrongPeer, remote, info.NodeID, id)
	case at.Direction == connmgr.Outbound && expected != id:
		return fmt.Errorf("%w: %v is %v, not %v", ErrWrongPeer, remote, id, expected)
	}
	if err := info.Validate(); err != nil {
		return fmt.Errorf("p2p: node info of %v: %w", id, err)
	}
	if err := mine.CompatibleWith(info); err != nil {
		if mine.Network != info.Network {
			r.pm.otherNetwork(id, err)
		}
		return fmt.Errorf("p2p: %v: %w", id, err)
	}
	if f := r.o.FilterPeerByID; f != nil {
		if err := f(ctx, id); err != nil {
			return fmt.Errorf("%w: %v: %w", ErrFiltered, id, err)
		}
	}
	if at.Direction == connmgr.Inbound {
		l.stale = r.staleSession(id)
		err := r.pm.screen(arrival{
			id: id, number: at.ID, direction: at.Direction, remote: remote, kith: info.Extensions.Kith, replaces: l.stale,
		})
		if err != nil {
			return err
		}
		if info.Extensions.Feeler {
			return fmt.Errorf("%w: %v", ErrFeeler, id)
		}
	}
	if !info.Extensions.Kith && remote.Protocol == address.MConn {
		// What CometBFT announces above 0x7F, its packets cannot carry whole.
		info.Channels = slices.DeleteFunc(info.Channels, func(id ChannelID) bool { return id > 0x7F })
	}
	l.info, l.calls = info, make(ChannelIDSet)
	for _, id := range mine.Extensions.RequestChannels {
		if slices.Contains(info.Extensions.RequestChannels, id) {
			l.calls[id] = struct{}{}
		}
	}
	if limits, ok := l.conn.(ChannelLimits); ok {
		limits.SetChannelLimits(l.channelLimits(mine, channels))
	}
	return nil
}

// channelLimits are the channels that we announced, and their longest messages.
func (l *link) channelLimits(mine NodeInfo, channels map[ChannelID]*channelCore) map[ChannelID]int {
	limits := make(map[ChannelID]int)
	for _, id := range mine.Channels {
		limits[id] = DefaultMaxMessage
		if c := channels[id]; c != nil {
			limits[id] = c.d.RecvMessageCapacity
		}
		if l.calls.Contains(id) {
			limits[id] += callHeadMax
		}
	}
	return limits
}

// staleSession is the session of a peer that is up, but from which nothing came
// for so long that it is probably half open: the peer restarted, say, and nobody
// told us. 0: there is none.
func (r *Router) staleSession(id NodeID) uint64 {
	p := (*r.peers.Load())[id]
	if p == nil {
		return 0
	}
	if s, ok := p.conn.Raw().conn.(StaleTeller); ok && s.Stale() {
		return p.number
	}
	return 0
}

// admit is the engine's last word, which is the PeerManager's.
func (r *Router) admit(l *link, at connmgr.EstablishInfo[dialTarget]) error {
	superseded, err := r.pm.admit(arrival{
		id: l.info.NodeID, number: at.ID, direction: at.Direction, dialled: at.Dial.Target.address, kind: at.Dial.Kind,
		remote: l.conn.RemoteEndpoint(), kith: l.info.Extensions.Kith, replaces: l.stale, unproven: l.unproven,
	})
	if err != nil {
		r.say(l, err)
	}
	if superseded != 0 {
		// Not from here: the end of a connection is told to the policy, and this
		// must not block.
		r.inBackground(func() { r.end(superseded, ErrSuperseded) })
	}
	return err
}

// refused is the engine's: the limits turn a peer away.
func (r *Router) refused(l *link, refusal *connmgr.Refusal) {
	var cause error = refusal
	if refusal.Rule == connmgr.RuleDirection || refusal.Rule == connmgr.RuleTotal {
		cause = fmt.Errorf("%w: %w", ErrTooManyPeers, refusal)
	}
	r.say(l, cause)
}

// connected is the engine's: it runs the peer until its connection ends.
func (r *Router) connected(c *connmgr.Conn[dialTarget, *link]) {
	l := c.Raw()
	p, err := r.addPeer(c)
	if err != nil {
		r.say(l, err)
		_ = c.CloseWith(err)
		return
	}
	r.protect(l.transport, p.id)
	defer r.protect(l.transport, p.id)
	defer r.removePeer(p)
	r.learn(p)
	if told := r.o.Dialled; told != nil && c.Direction() == connmgr.Outbound {
		told(c.Dial().Target.address, nil)
	}
	if !r.pm.sessionReady(p.id, p.number, p.channels) {
		r.say(l, ErrSuperseded)
		_ = c.CloseWith(ErrSuperseded)
		p.end()
		return
	}
	r.o.Logger.Info("peer up", "peer", p.id, "endpoint", l.conn.RemoteEndpoint(), "moniker", p.info.Moniker)
	p.run()
}

// protect tells a transport whether the peer is wanted. It is called after every
// change; when two sessions of a peer change places, the last word is right.
func (r *Router) protect(t Transport, id NodeID) {
	protector, ok := t.(Protector)
	if !ok {
		return
	}
	wanted := func() bool {
		p := (*r.peers.Load())[id]
		return p != nil && p.conn.Raw().transport == t
	}
	for {
		is := wanted()
		if is {
			protector.Protect(id)
		} else {
			protector.Unprotect(id)
		}
		if is == wanted() {
			return
		}
	}
}

// disconnected is the engine's.
func (r *Router) disconnected(c *connmgr.Conn[dialTarget, *link], cause error) {
	id := c.Raw().info.NodeID
	r.o.Logger.Info("peer down", "peer", id, "cause", cause)
	r.pm.sessionDown(id, c.ID(), cause)
}

// learn notes what a new peer says of where it and we are.
func (r *Router) learn(p *remote) {
	at := p.conn.Raw().conn.RemoteEndpoint()
	// The key is the libp2p ID, too: from now on libp2p addresses of the peer are
	// complete without one.
	if err := r.pm.book.SetPeerID(p.conn.Raw().key.PeerID()); err != nil {
		r.o.Logger.Warn("the peer's libp2p ID is not kept", "peer", p.id, "err", err)
	}
	if seen, err := netip.ParseAddr(p.info.Extensions.Observed); err == nil {
		r.pm.observedAt(at, seen)
	}
	for _, url := range p.info.Extensions.ListenAddrs {
		if a, err := ParseNodeAddress(url); err == nil && a.NodeID == p.id {
			r.pm.saidAddress(a, at)
		}
	}
	if p.conn.Direction() == connmgr.Outbound {
		return
	}
	if _, text, err := net.SplitHostPort(strings.TrimPrefix(p.info.ListenAddr, "tcp://")); err == nil && len(at.IP) > 0 {
		if port, err := strconv.ParseUint(text, 10, 16); err == nil && port > 0 {
			r.pm.saidAddress(NodeAddress{NodeID: p.id, Protocol: at.Protocol, Hostname: at.IP.String(), Port: uint16(port)}, at)
		}
	}
}

// listenAddrs says where the transports listen, as far as a peer there can make
// use of it.
func (r *Router) listenAddrs(remote Endpoint) (urls []string) {
	to := addrbook.Audience{IP: ipOf(remote), Protocol: remote.Protocol, AnyScope: !r.pm.core.o.ScopeAddresses}
	for _, t := range r.o.Transports {
		for _, e := range t.Endpoints() {
			if a := e.NodeAddress(r.o.NodeInfo.NodeID); len(urls) < MaxNodeInfoAddresses && addrbook.MayTell(a, to) {
				urls = append(urls, a.String())
			}
		}
	}
	return urls
}

// addPeer makes the session of a connection known, unless the PeerManager has
// another one of the peer by now.
func (r *Router) addPeer(c *connmgr.Conn[dialTarget, *link]) (*remote, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := newRemote(r, c, *r.channels.Load()) // under mu: no channel may be opened meanwhile
	if err != nil {
		return nil, err
	}
	if !r.pm.sessionCurrent(p.id, p.number) {
		return nil, ErrSuperseded
	}
	peers := maps.Clone(*r.peers.Load())
	peers[p.id] = p
	r.peers.Store(&peers)
	r.sessions[p] = struct{}{}
	return p, nil
}

// removePeer forgets a session that has ended, and keeps its counts.
func (r *Router) removePeer(p *remote) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, p)
	for _, c := range *r.channels.Load() {
		c.fold(p)
	}
	old := *r.peers.Load()
	if old[p.id] != p { // superseded
		return
	}
	peers := maps.Clone(old)
	delete(peers, p.id)
	r.peers.Store(&peers)
	for _, c := range *r.channels.Load() {
		c.in.forget(p.id)
	}
}

// sessionCurrent says whether a session is the one that stands.
func (m *PeerManager) sessionCurrent(id NodeID, number uint64) (current bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.core.connected[id]
	return s != nil && s.number == number
}
