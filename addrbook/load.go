package addrbook

import (
	"cmp"
	crand "crypto/rand"
	"fmt"
	"net/netip"
	"slices"
)

// saved is a store's rows, read but not yet placed.
type saved struct {
	entries []savedEntry
	records []record
	bans    map[netip.Prefix]sanction
	meta    meta
	aside   []Change // rows that cannot be read
}

// maxAside is how much of the key of a row that is set aside is kept.
const maxAside = 1024

// row takes one row of the store.
func (s *saved) row(key string, value []byte) {
	if err := s.decode(key, value); err != nil {
		name := string(rowAside) + key[:min(len(key), maxAside)]
		s.aside = append(s.aside, Change{name, append([]byte{}, value...)}, Change{Key: key})
	}
}

func (s *saved) decode(key string, value []byte) error {
	if key == "" {
		return errRow
	}
	kind, name := key[0], key[1:]
	switch kind {
	case rowAddress:
		e, err := decodeEntry(name, value)
		if err != nil {
			return err
		}
		s.entries = append(s.entries, e)
	case rowPeer:
		r, err := decodeRecord(name, value)
		if err != nil {
			return err
		}
		s.records = append(s.records, r)
	case rowPrefix:
		p, ban, err := decodeBan(name, value)
		if err != nil {
			return err
		}
		s.bans[p] = ban
	case rowMeta:
		return s.meta.decode(name, value)
	case rowAside:
	default:
		return errRow
	}
	return nil
}

// load fills an empty core with saved rows and says what is not as it was.
func (c *core) load(s *saved, now stamp) (notices []string) {
	say := func(format string, args ...any) {
		notices = append(notices, "address book: "+fmt.Sprintf(format, args...))
	}
	if n := len(s.aside) / 2; n > 0 {
		say("%d rows could not be read and are set aside", n)
		c.dirty.aside = s.aside
	}
	if copy(c.hash.secret[:], s.meta.secret) == 0 {
		c.newSecret()
		if len(s.entries) > 0 {
			say("its secret was missing: all %d addresses were placed anew", len(s.entries))
		}
	}
	shape := [3]int{c.o.NewBuckets, c.o.TriedBuckets, c.o.BucketSize}
	keep := len(s.meta.secret) > 0 && s.meta.shape == shape
	if s.meta.shape != shape {
		c.touchMeta(metaShape)
	}
	if s.meta.self != c.o.Self {
		c.touchMeta(metaSelf)
		if s.meta.self != "" && c.o.Self != "" {
			say("our ID was %s and is now %s", s.meta.self, c.o.Self)
		}
	}
	for _, r := range s.records {
		if r.id == c.o.Self {
			c.dirty.peers[r.id] = struct{}{}
			continue
		}
		r.bestAt, r.looseAt = -1, -1
		if r.peerID != "" {
			r.seen = now
		}
		r.lastConnected, r.score.at = min(r.lastConnected, now), min(r.score.at, now)
		c.peers[r.id] = &r
		c.loose.add(&r)
	}
	for p, ban := range s.bans {
		if ban.active(now) {
			c.bans.set(p, ban)
		} else {
			c.touchPrefix(p)
		}
	}
	// The best first: when there is less room than there was, they stay.
	slices.SortStableFunc(s.entries, func(a, b savedEntry) int {
		a.from, b.from = &a.source, &b.source
		return cmp.Or(cmp.Compare(b.rank(), a.rank()), cmp.Compare(a.failures, b.failures), cmp.Compare(b.success, a.success))
	})
	lost := 0
	for i := range s.entries {
		if e := &s.entries[i]; !c.restore(e, keep, now) {
			c.touchGone(&e.entry)
			if e.addr.NodeID != c.o.Self {
				lost++
			}
		}
	}
	if lost > 0 {
		say("there is no room any more for %d addresses", lost)
	}
	if gone := c.trim(now); gone > 0 {
		say("%d peers were above the limit of %d and are forgotten", gone, c.o.MaxPeers)
	}
	for _, r := range slices.Clone(c.loose.items) {
		c.settle(r, now)
	}
	for _, a := range s.meta.anchors {
		if a.NodeID != c.o.Self {
			c.anchors = append(c.anchors, a)
		}
	}
	c.woke = false
	return notices
}

func (c *core) newSecret() {
	c.touchMeta(metaSecret)
	if !c.o.seeded {
		crand.Read(c.hash.secret[:]) // never fails
		return
	}
	for i := range c.hash.secret {
		c.hash.secret[i] = byte(below(c.random, 256))
	}
}

// restore puts one saved entry back; keep says that its buckets still hold.
func (c *core) restore(s *savedEntry, keep bool, now stamp) bool {
	r := c.peers[s.addr.NodeID]
	if s.addr.NodeID == c.o.Self || c.addrs[s.addr] != nil || r != nil && len(r.entries) >= c.o.AddressesPerPeer {
		return false
	}
	e := new(entry)
	*e = s.entry
	e.heapAt, e.allAt = -1, -1
	for _, t := range []*stamp{&e.added, &e.heard, &e.attempt, &e.success, &e.failure} {
		*t = min(*t, now) // the clock was ahead
	}
	e.retry = min(e.retry, now.after(c.o.MaxRetry))
	var places []slot
	take := func(t *table, b uint16, start uint8) {
		if int(b) >= len(t.buckets) || slices.ContainsFunc(places, func(p slot) bool { return p.bucket == b }) {
			return
		}
		if p, opponent := t.find(b, start); opponent == nil {
			places = append(places, p)
		}
	}
	url := e.addr.String()
	if e.tried {
		b, start := c.hash.triedPlace(c.tried, groupOf(e.addr), url)
		if take(c.tried, b, start); len(places) == 0 {
			e.tried = false
			c.touch(e)
		}
	}
	if !e.tried && keep {
		for _, b := range s.buckets {
			take(c.fresh, b, c.hash.newPosition(c.fresh, b, url))
		}
	}
	if len(places) == 0 {
		b, start := c.newPlace(e.addr, s.source)
		take(c.fresh, b, start)
		c.touch(e)
	}
	if len(places) == 0 {
		return false
	}
	e.peer, e.from = c.record(e.addr.NodeID), c.source(s.source)
	e.addr.NodeID = e.peer.id
	c.link(e)
	for _, p := range places {
		c.refer(e, p)
	}
	c.place(e, now)
	return true
}
