package p2p

import (
	"errors"

	"github.com/kith-p2p/kith/connmgr"
)

// offeredPeers is how many others a full node names to a peer that it turns away.
const offeredPeers = 8

// farewell is what a peer is told when we end its connection.
type farewell struct {
	reason string
	peers  []string // others to try instead
}

// say notes what the peer of a connection is to be told when it is closed. The
// first word stays.
func (r *Router) say(l *link, cause error) {
	f := &farewell{reason: farewellOf(cause)}
	if id := l.peer.Load(); id != nil && !r.o.NoReferrals && (errors.Is(cause, ErrTooManyPeers) || errors.Is(cause, ErrEvicted)) {
		for _, a := range r.pm.Advertise(*id, offeredPeers) {
			if a.NodeID != r.o.NodeInfo.NodeID {
				f.peers = append(f.peers, a.String())
			}
		}
	}
	l.farewell.CompareAndSwap(nil, f)
}

// sayTo is say for the session with that number, if it is up.
func (r *Router) sayTo(number uint64, cause error) {
	r.mu.Lock()
	var found *link
	for p := range r.sessions {
		if p.number == number {
			found = p.conn.Raw()
		}
	}
	r.mu.Unlock()
	if found != nil {
		r.say(found, cause)
	}
}

// end ends a session for a reason that the peer is told.
func (r *Router) end(number uint64, cause error) {
	r.sayTo(number, cause)
	r.engine.Close(number, cause)
}

// farewellOf is a cause as the peer is told. What is only for us, such as the
// reason of a ban or the words of a filter, is left out.
func farewellOf(cause error) string {
	if e, ok := errors.AsType[*IncompatibleError](cause); ok {
		return e.Error()
	}
	for _, known := range []struct {
		err error
		say string
	}{
		{ErrEvicted, "evicted for a better peer"},
		{connmgr.ErrEvicted, "evicted to make room"},
		{ErrTooManyPeers, "too many peers"},
		{connmgr.ErrRefused, "refused by this node's limits"},
		{ErrAlreadyConnected, "you are connected already"},
		{ErrSuperseded, "another connection to you stands"},
		{ErrBanned, "banned"},
		{ErrFiltered, "refused by a filter"},
		{ErrWrongPeer, "another node was expected"},
		{ErrFeeler, "you only wanted to know who is here"},
		{ErrSelf, "you have our own key"},
		{ErrClosed, "shutting down"},
		{connmgr.ErrStopped, "shutting down"},
	} {
		if errors.Is(cause, known.err) {
			return known.say
		}
	}
	return clipText(cause.Error())
}

// routerPolicy is the PeerManager as the engine's policy, for a Router that tells
// victims why they have to go, and its user how dials ended.
type routerPolicy struct {
	dialPolicy
	r *Router
}

// Ended is connmgr.Policy's.
func (p routerPolicy) Ended(d connmgr.Dial[dialTarget], o connmgr.Outcome) {
	p.dialPolicy.Ended(d, o)
	if told := p.r.o.Dialled; told != nil && !o.Established && !ours(o.Cause) {
		cause := o.Cause
		if errors.Is(cause, errFeelerDone) || errors.Is(cause, ErrAlreadyConnected) {
			cause = nil // it was there
		}
		told(d.Target.address, cause)
	}
}

// Victim is connmgr.Policy's.
func (p routerPolicy) Victim(candidates []connmgr.Candidate) (id uint64, ok bool) {
	if id, ok = p.dialPolicy.Victim(candidates); ok {
		p.r.sayTo(id, connmgr.ErrEvicted)
	}
	return id, ok
}
