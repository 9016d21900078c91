package p2p

import (
	"cmp"
	"time"
)

// pexCore decides whom to ask for addresses and when, and who asks us too
// often: pure, owned by PEX.mu.
type pexCore struct {
	peers map[NodeID]*pexPeer
	fresh float64   // share of new addresses in the replies of late, 0 to 1
	last  time.Time // when somebody was asked last
}

type pexPeer struct {
	asked   time.Time // zero: never
	owed    int       // replies that did not come yet
	tokens  float64   // questions that the peer may ask now
	counted time.Time // when tokens was right
}

func newPEXCore() pexCore { return pexCore{peers: make(map[NodeID]*pexPeer), fresh: 1} }

func (c *pexCore) peer(id NodeID) *pexPeer {
	p := c.peers[id]
	if p == nil {
		p = &pexPeer{tokens: pexBurst}
		c.peers[id] = p
	}
	return p
}

// keep forgets peers that are not up.
func (c *pexCore) keep(up map[NodeID]*remote) {
	for id := range c.peers {
		if up[id] == nil {
			delete(c.peers, id)
		}
	}
}

// next is whom to ask now ("": nobody), and how long to wait before asking again.
func (c *pexCore) next(up []NodeID, now time.Time) (id NodeID, pause time.Duration) {
	pause = pexFast + time.Duration(float64(pexSlow-pexFast)*(1-c.fresh)*(1-c.fresh))
	if !c.last.IsZero() && now.Sub(c.last) < pause {
		return "", pause - now.Sub(c.last)
	}
	var best *pexPeer
	for _, u := range up {
		p := c.peer(u)
		if p.owed > 0 && now.Sub(p.asked) < pexReplyWait || !p.asked.IsZero() && now.Sub(p.asked) < pexAskEvery {
			continue
		}
		if best == nil || cmp.Or(p.asked.Compare(best.asked), cmp.Compare(u, id)) < 0 {
			id, best = u, p
		}
	}
	if best == nil {
		return "", min(pause, pexAskEvery)
	}
	best.asked, c.last = now, now
	best.owed = min(best.owed+1, pexMostOwed)
	return id, pause
}

// replied says whether a reply of a peer was asked for. It is also for questions
// that could not be sent.
func (c *pexCore) replied(id NodeID) bool {
	p := c.peer(id)
	if p.owed == 0 {
		return false
	}
	p.owed--
	return true
}

// learnt notes how many of the addresses of a reply were new.
func (c *pexCore) learnt(added, n int) {
	share := 0.0
	if n > 0 {
		share = min(1, float64(added)/float64(n))
	}
	c.fresh = (c.fresh + share) / 2
}

// mayAsk takes a token for a question of a peer.
func (c *pexCore) mayAsk(id NodeID, now time.Time) bool {
	p := c.peer(id)
	if !p.counted.IsZero() {
		p.tokens = min(pexBurst, p.tokens+float64(now.Sub(p.counted))/float64(pexRefill))
	}
	p.counted = now
	if p.tokens < 1 {
		return false
	}
	p.tokens--
	return true
}
