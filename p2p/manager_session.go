package p2p

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/kith-p2p/kith/connmgr"
)

// Connections that come, stay and go: the part of the core that knows sessions.

// dialled notes that a dial arrived at its peer, and says whether it may stay.
// superseded is the number of the session that has to go for it, if any.
func (c *managerCore) dialled(a NodeAddress, s session, now time.Time) (superseded uint64, err error) {
	id := a.NodeID
	d, reserved := c.dialing[id]
	if reserved && s.kind == connmgr.KindInbound { // the exported Dialed does not say
		s.kind = d.kind
	}
	from := c.unreserve(id)
	switch {
	case id == c.self:
		return 0, fmt.Errorf("%w: %v", ErrSelf, id)
	case s.kind == connmgr.KindFeeler:
		c.good(a, s)
		return 0, errFeelerDone
	}
	if err := c.banned(id); err != nil {
		return 0, err
	}
	s.direction, s.address = connmgr.Outbound, a
	old, err := c.cross(id, s)
	if err != nil {
		return 0, err
	}
	if old == nil {
		if c.crowded() || c.full() && from == "" {
			return 0, fmt.Errorf("%w (%d)", ErrTooManyPeers, c.o.MaxConnected)
		}
		if p, ok := c.book.Peer(id); !ok || len(p.Addresses) == 0 && p.LastConnected.IsZero() {
			return 0, fmt.Errorf("%w: %v was removed while it was dialled", ErrPeerUnknown, id)
		}
		if c.full() && !c.replace(from, id) {
			return 0, fmt.Errorf("%w (%d)", ErrTooManyPeers, c.o.MaxConnected)
		}
	}
	if e, ok := c.book.Entry(a); ok {
		s.failures = e.Failures
	}
	c.good(a, s)
	return c.connect(id, s, old, now), nil
}

// good tells the book that a peer was at an address, if the connection shows it: a
// peer that is connected anyway, over libp2p, must not have any address believed
// that it names.
func (c *managerCore) good(a NodeAddress, s session) {
	if !s.unproven {
		c.book.Good(a)
	}
}

// replace makes room for a dial that arrived, at the cost of from, who was to go
// for it, or of a still worse peer that has come since. When from has to go
// anyway, for a reason of its own, its place may be free already for another.
func (c *managerCore) replace(from, id NodeID) bool {
	switch s := c.connected[from]; {
	case s.evict == nil:
		if worse, ok := c.worst(c.score(from)); ok {
			from = worse
		}
	case c.leaving():
		return true
	default:
		var ok bool
		if from, ok = c.worst(c.score(id)); !ok {
			return false
		}
	}
	c.markEvict(from, ErrEvicted)
	return true
}

// accepted says whether an inbound peer may stay.
func (c *managerCore) accepted(id NodeID, s session, now time.Time) (superseded uint64, err error) {
	s.direction, s.kind = connmgr.Inbound, connmgr.KindInbound
	from, old, err := c.mayAccept(id, s)
	if err != nil {
		return 0, err
	}
	if from != "" {
		delete(c.upgrading, from) // it was promised to the same peer, if to anybody
		c.markEvict(from, ErrEvicted)
	}
	return c.connect(id, s, old, now), nil
}

// mayAccept says why an inbound connection cannot stay, and else who has to go
// for it: another peer, or an old session of the same.
func (c *managerCore) mayAccept(id NodeID, s session) (from NodeID, old *session, err error) {
	if id == c.self {
		return "", nil, fmt.Errorf("%w: %v", ErrSelf, id)
	}
	if err := c.banned(id); err != nil {
		return "", nil, err
	}
	if old, err = c.cross(id, s); err != nil || old != nil {
		return "", old, err
	}
	if c.crowded() {
		return "", nil, fmt.Errorf("%w (%d)", ErrTooManyPeers, c.o.MaxConnected)
	}
	if !c.full() || c.leaving() {
		return "", nil, nil
	}
	// The peer that we are dialling as an upgrade may come by itself.
	if from = c.promised(id); from != "" && c.connected[from].evict == nil {
		return from, nil, nil
	}
	from, ok := c.worst(c.worth(id, true))
	if !ok {
		return "", nil, fmt.Errorf("%w (%d)", ErrTooManyPeers, c.o.MaxConnected)
	}
	return from, nil, nil
}

// leaving says whether more connections are about to end than the node is
// above MaxConnected, so that one more may come without a further eviction.
func (c *managerCore) leaving() bool {
	n := 0
	for _, s := range c.connected {
		if s.evict != nil {
			n++
		}
	}
	return n > len(c.connected)-int(c.o.MaxConnected)
}

// cross decides between two connections to one peer. Two kith nodes keep the
// one that the smaller NodeID dialled, so that both keep the same; towards
// others the first stays. But a session from which nothing comes any more makes
// room for an inbound one, whose handshake has just proved that it is the peer: who
// restarts must not be kept out until a ping times out. Since the new one is not
// silent, that happens once in a ping interval at most. It returns the session
// that has to go.
func (c *managerCore) cross(id NodeID, s session) (old *session, err error) {
	old = c.connected[id]
	if old == nil {
		return nil, nil
	}
	if s.direction == connmgr.Inbound && s.replaces != 0 && s.replaces == old.number {
		return old, nil
	}
	smaller := connmgr.Outbound // the direction that stays
	if id < c.self {
		smaller = connmgr.Inbound
	}
	if s.kith && old.kith && old.direction != s.direction && s.direction == smaller && old.number != 0 {
		return old, nil
	}
	return nil, fmt.Errorf("%w: %v", ErrAlreadyConnected, id)
}

// connect enters a session, in the place of an old one of the same peer if there
// is one, whose number it returns. A peer that had to go still has to.
func (c *managerCore) connect(id NodeID, s session, old *session, now time.Time) (superseded uint64) {
	s.since = now
	if old != nil {
		superseded, s.evict = old.number, old.evict
		c.end(id, old)
	}
	c.connected[id] = &s
	if s.direction == connmgr.Outbound {
		c.outgoing++
	}
	c.book.Hold(id)
	c.book.Connected(id)
	c.evictOK = c.evictOK || s.evict != nil || c.o.MaxConnected > 0 && len(c.connected) > int(c.o.MaxConnected)
	return superseded
}

// end takes a session out of the tables and says that the peer went down.
func (c *managerCore) end(id NodeID, s *session) {
	if s.ready {
		c.updates = append(c.updates, PeerUpdate{NodeID: id, Status: PeerStatusDown})
	}
	if s.direction == connmgr.Outbound {
		c.outgoing--
	}
	delete(c.connected, id)
}

// ready says that a peer may be talked to.
func (c *managerCore) ready(id NodeID, s *session, channels ChannelIDSet) {
	if s.ready {
		return
	}
	s.ready = true
	c.updates = append(c.updates, PeerUpdate{NodeID: id, Status: PeerStatusUp, Channels: channels})
}

// lost is disconnected for a session that the Router saw end. One that we dialled
// and that did not live, because the peer refused us after the handshake or did
// what no connection survives, counts as one more failed dial: the peer rests as
// after that. What we ended for reasons of our own does not count.
func (c *managerCore) lost(id NodeID, s *session, cause error, now time.Time) {
	ours := slices.ContainsFunc(ownReasons, func(why error) bool { return errors.Is(cause, why) })
	if !ours && s.direction == connmgr.Outbound && now.Sub(s.since) < min(max(c.o.MinRetryTime, leastLife), mostLife) {
		failures := s.failures + 1
		if d := c.o.retryDelay(uint32(min(failures, math.MaxInt32)), c.isPersistent[id], c.o.Rand()); d != retryNever {
			s.notBefore = now.Add(d)
		}
		c.book.Refused(s.address, failures, s.notBefore)
	}
	c.disconnected(id, s, now)
}

// ownReasons are those for which we end sessions that did nothing wrong.
var ownReasons = []error{
	ErrEvicted, ErrSuperseded, connmgr.ErrEvicted, connmgr.ErrStopped, connmgr.ErrDropped, connmgr.ErrClosed,
}

// disconnected forgets a session.
func (c *managerCore) disconnected(id NodeID, s *session, now time.Time) {
	c.end(id, s)
	delete(c.upgrading, id)
	c.book.Disconnected(id)
	notBefore := s.notBefore
	if rested := now.Add(c.o.DisconnectCooldownPeriod); c.o.DisconnectCooldownPeriod > 0 && rested.After(notBefore) {
		notBefore = rested
	}
	if d, dialing := c.dialing[id]; dialing {
		d.notBefore = notBefore
		c.dialing[id] = d
	} else {
		c.book.Release(id, notBefore)
	}
	c.wakeAll, c.evictOK = true, true
}

// markEvict says that a connected peer has to go, and why.
func (c *managerCore) markEvict(id NodeID, cause error) {
	if s := c.connected[id]; s != nil && s.evict == nil {
		s.evict = cause
		c.evictOK = true
	}
}

// evictNext names the next connection to close: of those that have to go the
// oldest, and then of all the worst for as long as there are too many.
func (c *managerCore) evictNext() (NodeID, *session, bool) {
	next, staying := NodeID(""), 0
	for id, s := range c.connected {
		switch {
		case s.evicting:
		case s.evict == nil:
			staying++
		case next == "" || c.younger(next, id):
			next = id
		}
	}
	if next == "" && c.o.MaxConnected > 0 && staying > int(c.o.MaxConnected) {
		if next, _ = c.worst(math.MaxInt16); next != "" {
			c.connected[next].evict = ErrEvicted
		}
	}
	if next == "" {
		return "", nil, false
	}
	s := c.connected[next]
	s.evicting = true
	return next, s, true
}

// settleTime is how long a new connection is safe from others that want its
// place, unless its peer is known for bad behaviour. Without it nodes that want
// more connections than there are places drive each other out without end, each
// dialling anew at once; and an attacker who must wait gains nothing by it, for
// the youngest go first.
const settleTime = time.Minute

// victim names the inbound connection that makes room for another: the least
// useful of those with the lowest score. The engine closes it, so its session
// is over here at once and the newcomer finds the place free.
func (c *managerCore) victim(candidates []connmgr.Candidate, now time.Time) (number uint64, ok bool) {
	var lowest []connmgr.Candidate
	low, better := PeerScorePersistent, false
	for _, cand := range candidates {
		s := c.connected[NodeID(cand.Identity)]
		if cand.Protected || s == nil || s.number != cand.ID || s.evicting {
			continue
		}
		switch score := c.score(NodeID(cand.Identity)); {
		case score > low || score == PeerScorePersistent || score >= 0 && now.Sub(cand.Since) < settleTime:
			better = true
			continue
		case score < low:
			better = better || len(lowest) > 0
			low, lowest = score, lowest[:0]
		}
		lowest = append(lowest, cand)
	}
	if len(lowest) == 1 && better { // LeastUseful spares half of all, which is one of one
		number, ok = lowest[0].ID, true
	} else {
		number, ok = connmgr.LeastUseful(lowest)
	}
	for _, cand := range lowest {
		if ok && cand.ID == number {
			id := NodeID(cand.Identity)
			c.disconnected(id, c.connected[id], now)
		}
	}
	return number, ok
}
