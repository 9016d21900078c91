package p2p

import (
	"math"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
)

// Whom to dial and when: the part of the core that answers DialNext.

// next decides whom to dial now. feelers says whether a feeler will do.
func (c *managerCore) next(now time.Time, feelers bool) (reservation, bool) {
	if c.room() {
		for _, id := range c.persistent {
			if d, ok := c.try(id, connmgr.KindPermanent); ok {
				return d, true
			}
		}
		if c.mayDial() {
			for len(c.anchors) > 0 {
				id := c.anchors[0].NodeID
				c.anchors = c.anchors[1:]
				if d, ok := c.try(id, connmgr.KindAnchor); ok {
					return d, true
				}
			}
			for _, id := range c.scored {
				if d, ok := c.try(id, connmgr.KindAutomatic); ok {
					return d, true
				}
			}
			if d, ok := c.pick(); ok {
				return d, true
			}
		}
	}
	if feelers && !c.nextFeeler.IsZero() && !now.Before(c.nextFeeler) {
		c.nextFeeler = now.Add(time.Duration(float64(feelerEvery) * (0.5 + c.o.Rand())))
		if a, ok := c.book.Feeler(); ok && c.free(a.NodeID) {
			return c.reserve(a, connmgr.KindFeeler), true
		}
	}
	return reservation{}, false
}

// room says that a dial may be made at all: the places of upgrades are there to
// be dialled into.
func (c *managerCore) room() bool {
	return c.o.MaxConnected == 0 || len(c.connected)+c.ordinary() < int(c.o.MaxConnected)+int(c.o.MaxConnectedUpgrade)
}

// mayDial says that MaxOutgoingConnections allows a dial to a peer that is not
// persistent.
func (c *managerCore) mayDial() bool {
	return c.o.MaxOutgoingConnections == 0 || c.outgoing+c.ordinary() < int(c.o.MaxOutgoingConnections)
}

// pick takes what the book offers, when there is room, or an upgrade when
// there is not.
func (c *managerCore) pick() (reservation, bool) {
	if c.full() {
		if a, _, ok := c.book.Best(); ok && c.free(a.NodeID) {
			if d, ok := c.take(a, connmgr.KindAutomatic); ok {
				return d, true
			}
		}
		if worst, ok := c.worst(math.MaxInt16); !ok || c.score(worst) >= 0 {
			return reservation{}, false // nobody in the book is better than this
		}
	}
	if !c.full() { // whom the book offers is free: it holds all others
		a, ok := c.book.Reserve(addrbook.Any)
		if !ok {
			return reservation{}, false
		}
		return c.reserved(a, connmgr.KindAutomatic), true
	}
	for range pickTries {
		a, ok := c.book.Pick(addrbook.Any)
		if !ok {
			break
		}
		if !c.free(a.NodeID) {
			continue
		}
		if d, ok := c.take(a, connmgr.KindAutomatic); ok {
			return d, true
		}
	}
	return reservation{}, false
}

func (c *managerCore) try(id NodeID, kind connmgr.Kind) (reservation, bool) {
	if !c.free(id) {
		return reservation{}, false
	}
	a, ok := c.book.Dialable(id)
	if !ok {
		return reservation{}, false
	}
	return c.take(a, kind)
}

// take reserves an address, as an upgrade when all places are taken.
func (c *managerCore) take(a NodeAddress, kind connmgr.Kind) (reservation, bool) {
	if c.full() {
		from, ok := c.worst(c.score(a.NodeID))
		if !ok {
			return reservation{}, false
		}
		c.upgrading[from] = a.NodeID
	}
	return c.reserve(a, kind), true
}

func (c *managerCore) reserve(a NodeAddress, kind connmgr.Kind) reservation {
	c.book.Hold(a.NodeID)
	c.book.Attempt(a)
	return c.reserved(a, kind)
}

// reserved is reserve of what the book has reserved.
func (c *managerCore) reserved(a NodeAddress, kind connmgr.Kind) reservation {
	c.dials++
	d := reservation{address: a, kind: kind, number: c.dials}
	c.dialing[a.NodeID] = d
	if kind == connmgr.KindFeeler {
		c.feelers++
	}
	return d
}

// matureAgain is how soon next is asked again when a great many addresses came
// due at one moment: the book looks at some at a time.
const matureAgain = 100 * time.Millisecond

// wake is when next may say something else without a further event; zero:
// never. It is always after now: what is due and was not taken waits for an
// event, not for time, or the Router would ask without end.
func (c *managerCore) wake(now time.Time) time.Time {
	var first time.Time
	at := func(t time.Time) {
		if t.After(now) && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	at(c.nextFeeler)
	if !c.room() {
		return first
	}
	soon := func(ids []NodeID) {
		for _, id := range ids {
			if c.free(id) {
				at(c.book.NextOf(id))
			}
		}
	}
	soon(c.persistent)
	if c.mayDial() {
		soon(c.scored)
		t := c.book.Next()
		if !t.IsZero() && !t.After(now) { // more came due at once than the book looked at
			t = now.Add(matureAgain)
		}
		at(t)
	}
	return first
}

// promised is who goes when the dial to a peer succeeds; "": nobody.
func (c *managerCore) promised(to NodeID) NodeID {
	for from, t := range c.upgrading {
		if t == to {
			return from
		}
	}
	return ""
}

// unreserve forgets a dial on its way and says who would have gone for it.
func (c *managerCore) unreserve(id NodeID) (from NodeID) {
	d, ok := c.dialing[id]
	if !ok {
		return ""
	}
	delete(c.dialing, id)
	if d.kind == connmgr.KindFeeler {
		c.feelers--
	}
	from = c.promised(id)
	delete(c.upgrading, from)
	if c.connected[id] == nil {
		c.book.Release(id, d.notBefore)
	}
	c.wakeAll = true
	return from
}

// dialFailed notes that an address could not be reached and when to try again.
func (c *managerCore) dialFailed(a NodeAddress, now time.Time) {
	if e, ok := c.book.Entry(a); ok {
		var retry time.Time
		if d := c.o.retryDelay(uint32(min(e.Failures+1, math.MaxInt32)), c.isPersistent[a.NodeID], c.o.Rand()); d != retryNever {
			retry = now.Add(d)
		}
		c.book.Failed(a, retry)
	}
	c.unreserve(a.NodeID)
}

// notDialled forgets a dial that was not made, for no fault of the peer: it may
// be dialled again after a pause.
func (c *managerCore) notDialled(id NodeID, notBefore time.Time) {
	d := c.dialing[id]
	if notBefore.After(d.notBefore) {
		d.notBefore = notBefore
		c.dialing[id] = d
	}
	c.unreserve(id)
}
