package addrbook

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
)

// core is the book without clock, lock, goroutine or store: calls come in with
// the time, changes go out as rows to write. Book owns it under its mutex.
//
// Every address is one entry, found by addrs, in at least one slot of one
// table, and of one record. An entry is in exactly one state: due (its slots
// are set due), waiting (in the heap by dueAt), or neither, while its peer is
// held or nothing but a new word about it would help.
type core struct {
	o      Options // complete: defaults filled in
	hash   hasher
	random func() float64

	addrs   map[address.NodeAddress]*entry
	peers   map[identity.NodeID]*record
	sources map[Source]*sourceUse
	fresh   *table // the "new" table
	tried   *table
	all     list[*entry]
	waiting heap[*entry]
	best    heap[*record] // peers with a positive score and something due
	loose   list[*record] // records without addresses
	bans    prefixBans    // of IP prefixes
	contest []contest     // tried slots that wait for a feeler
	anchors []address.NodeAddress
	tokens  tokens
	usable  map[address.Protocol]bool // nil: all

	dirty changed
	woke  bool // something became due by a call
	count counts
}

type sourceUse struct {
	Source
	entries int
}

// contest is an address that worked and wants the slot of another.
type contest struct {
	candidate, opponent *entry
	since               stamp
}

func newCore(o Options) *core {
	c := &core{
		o:       o,
		random:  o.Rand,
		addrs:   map[address.NodeAddress]*entry{},
		peers:   map[identity.NodeID]*record{},
		sources: map[Source]*sourceUse{},
		fresh:   newTable(o.NewBuckets, o.BucketSize),
		tried:   newTable(o.TriedBuckets, o.BucketSize),
		all:     list[*entry]{place: func(e *entry) *int32 { return &e.allAt }},
		loose:   list[*record]{place: func(r *record) *int32 { return &r.looseAt }},
		bans:    prefixBans{rows: map[netip.Prefix]sanction{}},
		tokens:  tokens{rate: o.LearnRate, burst: float64(o.LearnBurst), sources: map[string]*allowance{}},
		dirty:   newChanged(),
		count:   counts{kinds: map[Kind]*KindStats{}},
	}
	c.waiting = heap[*entry]{
		before: func(a, b *entry) bool { return a.dueAt < b.dueAt },
		place:  func(e *entry) *int32 { return &e.heapAt },
	}
	c.best = heap[*record]{
		before: func(a, b *record) bool { return a.score.order(o.ScoreHalfLife) > b.score.order(o.ScoreHalfLife) },
		place:  func(r *record) *int32 { return &r.bestAt },
	}
	if len(o.Protocols) > 0 {
		c.usable = map[address.Protocol]bool{}
		for _, p := range o.Protocols {
			c.usable[p] = true
		}
	}
	return c
}

// screen is what can be said of an address without looking into the book.
func screen(a address.NodeAddress, from Source, self identity.NodeID) (Reason, error) {
	if err := a.Validate(); err != nil {
		return RefusedInvalid, err
	}
	switch {
	case a.NodeID == self:
		return RefusedSelf, nil
	case from.Kind.trusted():
		return "", nil
	case !literal(a):
		return RefusedName, nil
	case a.Hostname == "" && a.Protocol == address.Libp2p:
		return RefusedNoPlace, nil
	case !MayLearn(a, from):
		return RefusedScope, nil
	}
	return "", nil
}

// add puts a screened address in. It returns whether it is new, or why it was
// refused.
func (c *core) add(a address.NodeAddress, from Source, now stamp) (added bool, why Reason, err error) {
	defer c.sweep(now)
	r := c.peers[a.NodeID]
	id, hasID := a.PeerID()
	if a.Protocol == address.Libp2p && !hasID {
		if r == nil || r.peerID == "" {
			return false, RefusedPeerID, address.ErrPeerIDRequired
		}
		if a, err = a.WithPeerID(r.peerID); err != nil {
			return false, RefusedInvalid, err
		}
		id = r.peerID
	}
	kind := c.count.kind(from.Kind)
	if why := c.mayEnter(a, r, from, now); why != "" {
		kind.Refused++
		return false, why, nil
	}
	if e := c.addrs[a]; e != nil {
		c.again(e, from, now)
		kind.Known++
		return false, "", nil
	}
	if why := c.enter(a, id, from, now); why != "" {
		kind.Refused++
		return false, why, nil
	}
	kind.Added++
	return true, "", nil
}

// mayEnter holds the rules for learnt addresses that need the book.
func (c *core) mayEnter(a address.NodeAddress, r *record, from Source, now stamp) Reason {
	if from.Kind == Manual {
		return ""
	}
	if r != nil && r.ban.active(now) || c.bans.until(ipOf(a), now) > now {
		return RefusedBanned
	}
	if r != nil && r.shun.active(now) && r.id != from.Peer {
		return RefusedShunned
	}
	if c.addrs[a] == nil && !c.tokens.take(from, now) {
		return RefusedRate
	}
	return ""
}

// again is hearing of an address that is known: it may get another slot, with
// half the chance for each it has, and a better source.
func (c *core) again(e *entry, from Source, now stamp) {
	if now-e.heard > stamp(heardEvery) {
		e.heard = now
		c.touch(e)
	}
	if rankOf(from, e.addr) == rankSelf && !e.self {
		e.self = true
		c.touch(e)
	}
	if from.names(*e.from) {
		c.unsource(e)
		e.from = c.source(from)
		c.touch(e)
	}
	if e.retry == never || from.Kind == Manual && e.retry != 0 {
		e.retry = 0
		c.touch(e)
	}
	if from.Kind == Manual && e.peer.shun.active(now) {
		c.setShun(e.peer, sanction{}, now)
	}
	if !e.tried && len(e.refs) < maxReferences && c.random() < 1/float64(int(1)<<len(e.refs)) {
		s, opponent := c.fresh.find(c.newPlace(e.addr, from))
		known := slices.ContainsFunc(e.refs, func(r slot) bool { return r.bucket == s.bucket })
		if !known && (opponent == nil || c.unseat(opponent, s, from.Kind == Manual, now)) {
			c.refer(e, s)
			c.touch(e)
		}
	}
	c.place(e, now)
}

func (c *core) newPlace(a address.NodeAddress, from Source) (uint16, uint8) {
	group, source := groupOf(a), from.Group()
	if source == "" {
		source = "manual " + group
	}
	return c.hash.newPlace(c.fresh, group, source, a.String())
}

// enter makes a new entry.
func (c *core) enter(a address.NodeAddress, id peer.ID, from Source, now stamp) Reason {
	s, opponent := c.fresh.find(c.newPlace(a, from))
	manual := from.Kind == Manual
	if opponent != nil && !c.mayUnseat(opponent, manual, now) {
		return RefusedFull
	}
	r := c.peers[a.NodeID]
	if (r == nil || len(r.entries) == 0) && !c.roomForPeer(opponent, from, now) {
		return RefusedFull
	}
	if r != nil && len(r.entries) >= c.o.AddressesPerPeer {
		victim := slices.MinFunc(r.entries, func(x, y *entry) int { return c.worth(x, now) - c.worth(y, now) })
		if victim.rank() >= rankVerified || victim.rank() >= rankOf(from, a) && !victim.hopeless(now) {
			return RefusedPeerFull
		}
		c.count.Displaced++
		c.remove(victim, now)
	}
	if opponent != nil && c.addrs[opponent.addr] == opponent {
		if s, opponent = c.fresh.find(s.bucket, s.pos); opponent != nil {
			if !c.unseat(opponent, s, manual, now) {
				return RefusedFull
			}
		}
	}
	r = c.record(a.NodeID) // removing may have taken it away
	if id != "" {
		c.setPeerID(r, id, now)
	}
	a.NodeID = r.id // one copy of the ID for all
	e := &entry{addr: a, peer: r, from: c.source(from), self: rankOf(from, a) == rankSelf, added: now, heard: now, heapAt: -1, allAt: -1}
	c.link(e)
	c.refer(e, s)
	c.touch(e)
	if manual && r.shun.active(now) {
		c.setShun(r, sanction{}, now)
	}
	c.place(e, now)
	return ""
}

// worth orders the addresses of one peer, the first to go first.
func (c *core) worth(e *entry, now stamp) int {
	w := e.rank() * 4
	if !e.hopeless(now) {
		w += 2
	}
	if e.failures == 0 {
		w++
	}
	return w
}

// roomForPeer makes room for one more peer with addresses when their number is
// limited; leaving is an entry that goes anyway. A peer that nobody knows yet
// has score 0, so that only a worse one leaves for it.
func (c *core) roomForPeer(leaving *entry, from Source, now stamp) bool {
	if c.o.MaxPeers <= 0 || len(c.peers)-len(c.loose.items) < c.o.MaxPeers {
		return true
	}
	if leaving != nil && len(leaving.peer.entries) == 1 && len(leaving.refs) == 1 {
		return true
	}
	var worst *record
	low := float64(0)
	for i := range min(sampleSize, len(c.all.items)) {
		e := c.all.items[i]
		if len(c.all.items) > sampleSize {
			e = c.all.items[below(c.random, len(c.all.items))]
		}
		r := e.peer
		if r.held || slices.ContainsFunc(r.entries, func(e *entry) bool { return e.rank() >= rankVerified }) {
			continue
		}
		v := c.standing(r, now)
		if from.Kind == Manual {
			v--
		}
		if v < low || e.hopeless(now) && worst == nil {
			worst, low = r, min(v, low)
		}
	}
	if worst == nil {
		return false
	}
	c.count.Displaced++
	c.forget(worst, now)
	return true
}

const sampleSize = 16

// standing is the mutable score less the dial failures.
func (c *core) standing(r *record, now stamp) float64 {
	v := r.score.now(now, c.o.ScoreHalfLife)
	for _, e := range r.entries {
		v -= float64(e.failures)
	}
	return v
}

// mayUnseat reports whether a slot of the new table may be taken from who has
// it: from the hopeless, from who has other slots, and from all but the
// verified by a person.
func (c *core) mayUnseat(e *entry, manual bool, now stamp) bool {
	return len(e.refs) > 1 || e.hopeless(now) || manual && e.rank() < rankVerified && !e.peer.held
}

func (c *core) unseat(e *entry, s slot, manual bool, now stamp) bool {
	if !c.mayUnseat(e, manual, now) {
		return false
	}
	c.count.Displaced++
	if len(e.refs) == 1 {
		c.remove(e, now)
		return true
	}
	c.unrefer(e, s)
	c.touch(e)
	return true
}

// refer gives an entry a slot in the table that it is in.
func (c *core) refer(e *entry, s slot) {
	t := c.table(e)
	t.put(s, e)
	e.refs = append(e.refs, s)
	if e.due {
		t.setDue(s, true)
	}
}

func (c *core) unrefer(e *entry, s slot) {
	c.table(e).clear(s)
	e.refs = slices.DeleteFunc(e.refs, func(r slot) bool { return r == s })
}

func (c *core) unreferAll(e *entry) {
	for _, s := range e.refs {
		c.table(e).clear(s)
	}
	e.refs = e.refs[:0]
}

func (c *core) table(e *entry) *table {
	if e.tried {
		return c.tried
	}
	return c.fresh
}

// link puts an entry into everything but the tables.
func (c *core) link(e *entry) {
	c.addrs[e.addr] = e
	c.all.add(e)
	c.loose.remove(e.peer)
	e.peer.entries = append(e.peer.entries, e)
}

// remove forgets an entry, and its peer when nothing else is known of it.
func (c *core) remove(e *entry, now stamp) {
	c.unplace(e)
	c.unreferAll(e)
	c.unsource(e)
	delete(c.addrs, e.addr)
	c.all.remove(e)
	e.peer.drop(e)
	c.concede(e)
	c.touchGone(e)
	c.rerank(e.peer)
	c.settle(e.peer, now)
}

// forget removes all addresses of a peer.
func (c *core) forget(r *record, now stamp) {
	for len(r.entries) > 0 {
		c.remove(r.entries[len(r.entries)-1], now)
	}
}

func (c *core) source(s Source) *Source {
	u := c.sources[s]
	if u == nil {
		u = &sourceUse{Source: s}
		c.sources[s] = u
	}
	u.entries++
	return &u.Source
}

func (c *core) unsource(e *entry) {
	u := c.sources[*e.from]
	if u.entries--; u.entries == 0 {
		delete(c.sources, *e.from)
	}
}

// sweep looks at a few entries and records, round and round, and forgets the
// ones that time has overtaken.
func (c *core) sweep(now stamp) {
	for range sweepPerChange {
		if e, ok := c.all.walk(); ok && e.expired(now) {
			c.count.Expired++
			c.remove(e, now)
		}
		if r, ok := c.loose.walk(); ok {
			c.settle(r, now)
		}
	}
}

// touch notes that the row of an entry is to be written, touchGone that it is to be
// deleted, the others the same of other rows.
func (c *core) touch(e *entry) {
	if !e.unsaved {
		e.unsaved = true
		c.dirty.entries = append(c.dirty.entries, e)
	}
}

func (c *core) touchGone(e *entry)                { c.dirty.addrs[e.addr] = struct{}{} }
func (c *core) touchPeer(r *record)               { c.dirty.peers[r.id] = struct{}{} }
func (c *core) touchMeta(key string)              { c.dirty.meta[key] = struct{}{} }
func (c *core) touchPrefix(p netip.Prefix)        { c.dirty.bans[p] = struct{}{} }
func (c *core) find(a address.NodeAddress) *entry { return c.addrs[c.complete(a)] }

// complete returns a libp2p address with the peer ID that the book knows.
func (c *core) complete(a address.NodeAddress) address.NodeAddress {
	if a.Protocol != address.Libp2p || c.addrs[a] != nil {
		return a
	}
	if r := c.peers[a.NodeID]; r != nil && r.peerID != "" {
		if _, ok := a.PeerID(); !ok {
			if with, err := a.WithPeerID(r.peerID); err == nil {
				return with
			}
		}
	}
	return a
}

// trim forgets the worst peers until at most MaxPeers have addresses. It is
// for Open only: it sorts them all.
func (c *core) trim(now stamp) (gone int) {
	most := c.o.MaxPeers
	if most <= 0 || len(c.peers)-len(c.loose.items) <= most {
		return 0
	}
	type ranked struct {
		r        *record
		rank     int
		standing float64
	}
	var rs []ranked
	for _, r := range c.peers {
		if len(r.entries) == 0 {
			continue
		}
		x := ranked{r, 0, c.standing(r, now)}
		for _, e := range r.entries {
			x.rank = max(x.rank, e.rank())
		}
		rs = append(rs, x)
	}
	slices.SortFunc(rs, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(b.standing, a.standing), cmp.Compare(a.r.id, b.r.id))
	})
	for _, x := range rs[most:] {
		c.forget(x.r, now)
		gone++
	}
	return gone
}
