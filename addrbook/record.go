package addrbook

import (
	"slices"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
)

// record returns the record of a peer, made if need be. A new one is loose
// until it has an address.
func (c *core) record(id identity.NodeID) *record {
	r := c.peers[id]
	if r == nil {
		r = &record{id: id, bestAt: -1, looseAt: -1}
		c.peers[id] = r
		c.loose.add(r)
	}
	return r
}

// settle lets a record go when nothing is known of its peer, and makes room
// when there are too many without an address.
func (c *core) settle(r *record, now stamp) {
	switch {
	case len(r.entries) > 0 || c.peers[r.id] != r:
		return
	case !r.held && !r.ban.active(now) && !r.shun.active(now) && r.notBefore <= now &&
		r.score.score(now, c.o.ScoreHalfLife) == 0 && now-max(r.seen, r.lastConnected) > stamp(staleTime):
		c.discard(r)
		return
	}
	c.loose.add(r)
	if len(c.loose.items) <= c.o.MaxRecords {
		return
	}
	var least *record
	var low float64
	for range sampleSize {
		x := c.loose.items[below(c.random, len(c.loose.items))]
		if v, ok := c.keep(x, now); ok && (least == nil || v < low) {
			least, low = x, v
		}
	}
	if least != nil {
		c.count.Discarded++
		c.discard(least)
	}
}

// keep says how much a record without addresses is worth; false: it stays.
// Bans without end are a person's and are never dropped.
func (c *core) keep(r *record, now stamp) (float64, bool) {
	switch {
	case r.held || r.ban.active(now) && r.ban.until == never:
		return 0, false
	case r.ban.active(now):
		return 1e6 + float64(r.ban.until-now)/float64(time.Second), true
	case r.shun.active(now):
		return 1e5, true
	}
	v := r.score.now(now, c.o.ScoreHalfLife)
	return max(v, -v), true
}

func (c *core) discard(r *record) {
	c.best.remove(r)
	c.loose.remove(r)
	delete(c.peers, r.id)
	c.touchPeer(r)
}

func (c *core) hold(id identity.NodeID, now stamp) {
	r := c.record(id)
	r.held = true
	c.replace(r, now)
	c.settle(r, now)
}

func (c *core) release(id identity.NodeID, notBefore, now stamp) {
	r := c.peers[id]
	if r == nil {
		return
	}
	r.held, r.notBefore = false, notBefore
	c.replace(r, now)
	c.settle(r, now)
}

func (c *core) connected(id identity.NodeID, now stamp) {
	r := c.record(id)
	r.lastConnected = now
	c.touchPeer(r)
	if r.shun.active(now) {
		c.setShun(r, sanction{}, now)
	}
	c.settle(r, now)
}

func (c *core) disconnected(id identity.NodeID, now stamp) {
	if r := c.peers[id]; r != nil {
		r.lastConnected = now
		c.touchPeer(r)
	}
}

// adjust moves the score of a peer.
func (c *core) adjust(id identity.NodeID, delta int, now stamp) PeerScore {
	r := c.record(id)
	r.score = r.score.add(delta, now, c.o.ScoreHalfLife)
	c.touchPeer(r)
	c.rerank(r)
	v := r.score.score(now, c.o.ScoreHalfLife)
	c.settle(r, now)
	return v
}

// setPeerID remembers the key of a peer.
func (c *core) setPeerID(r *record, id peer.ID, now stamp) {
	r.seen = now
	if r.peerID != id {
		r.peerID = id
		c.touchPeer(r)
	}
}

func (c *core) setBan(r *record, s sanction, now stamp) {
	r.ban = s
	c.touchPeer(r)
	c.replace(r, now)
	c.settle(r, now)
}

func (c *core) setShun(r *record, s sanction, now stamp) {
	r.shun = s
	c.touchPeer(r)
	c.replace(r, now)
	c.settle(r, now)
}

// sanctionFor is one from now on; d <= 0: without end.
func sanctionFor(d time.Duration, reason string, now stamp) sanction {
	s := sanction{since: now, until: never, reason: reason[:min(len(reason), maxReason)]}
	if d > 0 {
		s.until = now.after(d)
	}
	return s
}

// maxReason is how much of a reason is kept, in bytes.
const maxReason = 256

// resetRetries makes everything due that only waits to be tried again.
func (c *core) resetRetries(now stamp) {
	for _, e := range c.all.items {
		if e.retry != 0 {
			e.retry = 0
			c.touch(e)
			c.place(e, now)
		}
	}
}

func (c *core) setAnchors(as []address.NodeAddress) {
	var keep []address.NodeAddress
	for _, a := range as {
		if len(keep) < maxAnchors && a.Validate() == nil && a.NodeID != c.o.Self {
			keep = append(keep, a)
		}
	}
	if !slices.Equal(keep, c.anchors) {
		c.anchors = keep
		c.touchMeta(metaAnchors)
	}
}
