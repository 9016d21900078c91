package addrbook

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Entry is what the book knows of one address. Zero times: never.
type Entry struct {
	Address     address.NodeAddress
	Source      Source    // a person, else the first that taught it; the peer itself only if nobody else has
	Table       Table     // New or Tried
	Slots       int       // how many slots it has: 1 to 8 among the new
	Verified    bool      // it worked, and has not failed for a week since
	Added       time.Time // when it came in
	Heard       time.Time // when it was last taught, to the day
	LastAttempt time.Time
	LastSuccess time.Time
	LastFailure time.Time
	Failures    int       // dials in vain since the last success
	Retry       time.Time // not dialled before; zero: no pause, or Given
	Given       bool      // given up: not dialled until it is taught anew
	Dialable    bool      // Pick may return it now
}

// Peer is what the book knows of one peer.
type Peer struct {
	ID            identity.NodeID
	PeerID        peer.ID // empty: not known
	Addresses     []Entry // the best first
	Score         PeerScore
	Ban           *Ban // nil: not banned
	Shun          *Ban // nil: not shunned
	LastConnected time.Time
	Held          bool
}

// Stats counts what a book has and did since it was opened.
type Stats struct {
	Peers     int // all, those without an address too
	Addresses int
	New       int // slots taken among the new; an address has up to 8
	Tried     int // slots taken among the tried: one an address
	Due       int // buckets with something to dial
	Waiting   int // addresses that wait for their time
	Contests  int // tried slots that wait for a feeler
	Prefixes  int // banned ones

	Displaced uint64 // addresses and slots that gave way to another
	Expired   uint64 // addresses given up after 30 days
	Discarded uint64 // peers without an address that were too many
	Contested uint64 // tried slots that were wanted by another
	Ousted    uint64 // addresses that lost their tried slot

	Kinds   map[Kind]KindStats
	Save    SaveStats
	Unsaved int // rows that wait to be saved
}

// KindStats counts what one kind of source taught and what came of it.
type KindStats struct {
	Added, Known, Refused uint64 // addresses taught
	Attempts, Proven      uint64 // dials of such addresses; addresses that worked for the first time
}

// SaveStats counts what went into the store.
type SaveStats struct {
	Saves, Rows, Failed uint64
	Err                 error // of the last save; nil: it succeeded
}

// counts are the counters of a core.
type counts struct {
	Displaced, Expired, Discarded, Contests, Ousted uint64
	kinds                                           map[Kind]*KindStats
}

// maxKinds bounds the counters of sources.
const maxKinds = 64

func (c *counts) kind(k Kind) *KindStats {
	s := c.kinds[k]
	if s == nil {
		if len(c.kinds) >= maxKinds {
			k = "other"
		}
		if s = c.kinds[k]; s == nil {
			s = &KindStats{}
			c.kinds[k] = s
		}
	}
	return s
}

func (e *entry) inspect(now stamp) Entry {
	t := New
	if e.tried {
		t = Tried
	}
	return Entry{
		Address: e.addr, Source: *e.from, Table: t, Slots: len(e.refs), Verified: e.verified, Added: e.added.time(), Heard: e.heard.time(),
		LastAttempt: e.attempt.time(), LastSuccess: e.success.time(), LastFailure: e.failure.time(), Failures: int(e.failures),
		Retry: e.retry.time(), Given: e.retry == never, Dialable: e.due || e.heapAt >= 0 && e.dueAt <= now,
	}
}

func (s sanction) inspect(id identity.NodeID, now stamp) *Ban {
	if !s.active(now) {
		return nil
	}
	b := s.ban()
	b.Peer = id
	return &b
}

// Entry returns what is known of an address; false: it is not in the book.
func (b *Book) Entry(a address.NodeAddress) (info Entry, ok bool) {
	ok = b.entry(a, func(_ *core, e *entry, now stamp) { info = e.inspect(now) })
	return info, ok
}

// Peer returns what is known of a peer; false: nothing.
func (b *Book) Peer(id identity.NodeID) (p Peer, ok bool) {
	b.do(func(c *core, now stamp) {
		r := c.peers[id]
		if ok = r != nil; !ok {
			return
		}
		p = Peer{
			ID: id, PeerID: r.peerID, Score: r.score.score(now, c.o.ScoreHalfLife), LastConnected: r.lastConnected.time(), Held: r.held,
			Ban: r.ban.inspect(id, now), Shun: r.shun.inspect(id, now),
		}
		for _, e := range c.sorted(r) {
			p.Addresses = append(p.Addresses, e.inspect(now))
		}
	})
	return p, ok
}

// PeerID returns the libp2p ID of a peer, if the book knows it.
func (b *Book) PeerID(id identity.NodeID) (p peer.ID, ok bool) {
	b.do(func(c *core, _ stamp) {
		if r := c.peers[id]; r != nil {
			p = r.peerID
		}
	})
	return p, p != ""
}

// Addresses returns the addresses of a peer, the best first: those that failed
// least since they last worked.
func (b *Book) Addresses(id identity.NodeID) (as []address.NodeAddress) {
	b.do(func(c *core, _ stamp) {
		if r := c.peers[id]; r != nil {
			for _, e := range c.sorted(r) {
				as = append(as, e.addr)
			}
		}
	})
	return as
}

// Peers returns the peers that have an address, sorted.
func (b *Book) Peers() (ids []identity.NodeID) {
	b.do(func(c *core, _ stamp) {
		for id, r := range c.peers {
			if len(r.entries) > 0 {
				ids = append(ids, id)
			}
		}
	})
	slices.Sort(ids)
	return ids
}

// Len returns how many peers have an address.
func (b *Book) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.c.peers) - len(b.c.loose.items)
}

// Score returns the score of a peer, 0 for one that has none.
func (b *Book) Score(id identity.NodeID) (s PeerScore) {
	b.do(func(c *core, now stamp) {
		if r := c.peers[id]; r != nil {
			s = r.score.score(now, c.o.ScoreHalfLife)
		}
	})
	return s
}

// Scores returns all scores but 0.
func (b *Book) Scores() map[identity.NodeID]PeerScore {
	scores := map[identity.NodeID]PeerScore{}
	b.do(func(c *core, now stamp) {
		for id, r := range c.peers {
			if s := r.score.score(now, c.o.ScoreHalfLife); s != 0 {
				scores[id] = s
			}
		}
	})
	return scores
}

// Failures returns the dial failures of a peer: of each address since it last
// worked, summed.
func (b *Book) Failures(id identity.NodeID) (n int) {
	b.do(func(c *core, _ stamp) {
		if r := c.peers[id]; r != nil {
			for _, e := range r.entries {
				n += int(e.failures)
			}
		}
	})
	return n
}

// Banned returns the ban that a peer is under.
func (b *Book) Banned(id identity.NodeID) (ban Ban, banned bool) {
	b.do(func(c *core, now stamp) {
		if r := c.peers[id]; r != nil && r.ban.active(now) {
			ban, banned = *r.ban.inspect(id, now), true
		}
	})
	return ban, banned
}

// BannedIP returns the ban of a prefix that holds longest for an IP.
func (b *Book) BannedIP(ip netip.Addr) (ban Ban, banned bool) {
	b.do(func(c *core, now stamp) {
		var p netip.Prefix
		var s sanction
		if p, s, banned = c.bans.find(ip, now); banned {
			ban = s.ban()
			ban.Prefix = p
		}
	})
	return ban, banned
}

// Bans returns all bans that hold, peers first, in a stable order.
func (b *Book) Bans() (bans []Ban) {
	b.do(func(c *core, now stamp) {
		for id, r := range c.peers {
			if s := r.ban.inspect(id, now); s != nil {
				bans = append(bans, *s)
			}
		}
		for p, s := range c.bans.rows {
			if s.active(now) {
				ban := s.ban()
				ban.Prefix = p
				bans = append(bans, ban)
			}
		}
	})
	slices.SortFunc(bans, func(x, y Ban) int {
		return cmp.Or(-cmp.Compare(x.Peer, y.Peer), x.Prefix.Compare(y.Prefix))
	})
	return bans
}

// Sample returns up to n random addresses that may be told to somebody. It
// takes time in proportion to n.
func (b *Book) Sample(n int, to Audience) (as []address.NodeAddress) {
	to.IP = to.IP.Unmap().WithZone("")
	b.do(func(c *core, now stamp) { as = c.sample(n, to, now) })
	return as
}

// Anchors returns the addresses to dial first after a restart, at most 2.
func (b *Book) Anchors() (as []address.NodeAddress) {
	b.do(func(c *core, _ stamp) { as = slices.Clone(c.anchors) })
	return as
}

// Stats returns the counters.
func (b *Book) Stats() (s Stats) {
	b.do(func(c *core, _ stamp) {
		s = Stats{
			Peers: len(c.peers), Addresses: len(c.all.items), New: c.fresh.count, Tried: c.tried.count,
			Due: len(c.fresh.ready) + len(c.tried.ready), Waiting: len(c.waiting.items), Contests: len(c.contest), Prefixes: len(c.bans.rows),
			Displaced: c.count.Displaced, Expired: c.count.Expired, Discarded: c.count.Discarded, Contested: c.count.Contests, Ousted: c.count.Ousted,
			Kinds: map[Kind]KindStats{}, Unsaved: c.dirty.len(),
		}
		for k, v := range maps.All(c.count.kinds) {
			s.Kinds[k] = *v
		}
	})
	b.w.mu.Lock()
	s.Save = b.w.stats
	b.w.mu.Unlock()
	return s
}
