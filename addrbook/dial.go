package addrbook

import (
	"cmp"
	"slices"

	"github.com/kith-p2p/kith/address"
)

// Table names a part of the book.
type Table uint8

// The tables.
const (
	Any   Table = iota // both, half and half
	New                // addresses that were told
	Tried              // addresses that worked
)

// String returns "any", "new" or "tried".
func (t Table) String() string { return [...]string{"any", "new", "tried"}[t%3] }

// mature is how many entries whose time has come are moved for one pick, so
// that no pick pays for all of them.
const mature = 64

// readyAt is the moment from which an entry may be dialled; never when no
// moment will do.
func (c *core) readyAt(e *entry, now stamp) stamp {
	r := e.peer
	if r.held || c.usable != nil && !c.usable[e.addr.Protocol] {
		return never
	}
	return c.freeAt(e, now)
}

// freeAt is readyAt for a caller that has the peer.
func (c *core) freeAt(e *entry, now stamp) stamp {
	r := e.peer
	at := max(e.retry, r.notBefore, r.ban.end(), r.shun.end())
	if len(c.bans.rows) > 0 {
		at = max(at, c.bans.until(ipOf(e.addr), now))
	}
	return at
}

// place puts an entry into the state that it belongs in.
func (c *core) place(e *entry, now stamp) {
	at := c.readyAt(e, now)
	if at <= now {
		c.waiting.remove(e)
		if !e.due {
			c.setDue(e, true)
			c.woke = true
			c.rerank(e.peer)
		}
		return
	}
	c.setIdle(e)
	if at == never {
		c.waiting.remove(e)
		return
	}
	e.dueAt = at
	c.waiting.fix(e)
}

func (c *core) setIdle(e *entry) {
	if e.due {
		c.setDue(e, false)
		c.rerank(e.peer)
	}
}

func (c *core) setDue(e *entry, due bool) {
	e.due = due
	for _, s := range e.refs {
		c.table(e).setDue(s, due)
	}
}

func (c *core) unplace(e *entry) {
	c.setIdle(e)
	c.waiting.remove(e)
}

// replace places all entries of a peer anew.
func (c *core) replace(r *record, now stamp) {
	for _, e := range r.entries {
		c.place(e, now)
	}
	c.rerank(r)
}

// rerank puts a peer where it belongs in the order of the best.
func (c *core) rerank(r *record) {
	if r.score.value > 0 && slices.ContainsFunc(r.entries, func(e *entry) bool { return e.due }) {
		c.best.fix(r)
	} else {
		c.best.remove(r)
	}
}

// advance moves entries whose time has come, up to mature of them.
func (c *core) advance(now stamp) {
	woke := c.woke
	for range mature {
		e, ok := c.waiting.top()
		if !ok || e.dueAt > now {
			break
		}
		c.waiting.remove(e)
		c.place(e, now)
	}
	c.woke = woke // time did it, not a call
}

// pick returns a random due entry.
func (c *core) pick(t Table, now stamp) *entry {
	c.advance(now)
	switch t {
	case New:
		return c.fresh.pick(c.random)
	case Tried:
		return c.tried.pick(c.random)
	}
	first, second := c.fresh, c.tried
	if c.random() < 0.5 {
		first, second = second, first
	}
	if e := first.pick(c.random); e != nil {
		return e
	}
	return second.pick(c.random)
}

// feeler returns what is most worth a test: who holds a contested slot, then
// any new address.
func (c *core) feeler(now stamp) *entry {
	c.advance(now)
	c.contest = slices.DeleteFunc(c.contest, func(x contest) bool { return now-x.since > stamp(testWindow) })
	for _, x := range c.contest {
		if x.opponent.due {
			return x.opponent
		}
	}
	return c.fresh.pick(c.random)
}

// bestDue returns the best due address of the peer with the highest positive
// score.
func (c *core) bestDue(now stamp) *entry {
	c.advance(now)
	r, ok := c.best.top()
	if !ok || r.score.score(now, c.o.ScoreHalfLife) <= 0 {
		return nil
	}
	for _, e := range c.sorted(r) {
		if e.due {
			return e
		}
	}
	return nil
}

// sorted returns the addresses of a peer, the best first: fewest failures in a
// row, then verified, then by rank, then who worked last.
func (c *core) sorted(r *record) []*entry {
	es := slices.Clone(r.entries)
	slices.SortStableFunc(es, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.failures, b.failures), cmp.Compare(b.rank(), a.rank()), cmp.Compare(b.success, a.success), cmp.Compare(a.added, b.added))
	})
	return es
}

// next is when the next waiting entry becomes due; 0: none waits.
func (c *core) next() stamp {
	if e, ok := c.waiting.top(); ok {
		return e.dueAt
	}
	return 0
}

// nextOf is the same for one peer, whether it is held or not.
func (c *core) nextOf(r *record, now stamp) stamp {
	at := never
	for _, e := range r.entries {
		if c.usable == nil || c.usable[e.addr.Protocol] {
			at = min(at, c.freeAt(e, now))
		}
	}
	if at == never {
		return 0
	}
	return max(1, at)
}

func (c *core) attempt(e *entry, now stamp) {
	e.attempt = now
	c.count.kind(e.from.Kind).Attempts++
	c.touch(e)
}

// reserve is hold and attempt of an address that was picked: the peer has a record,
// and something due.
func (c *core) reserve(e *entry, now stamp) {
	r := e.peer
	r.held = true
	for _, e := range r.entries {
		if e.due {
			c.setDue(e, false)
		}
		c.waiting.remove(e)
	}
	c.best.remove(r)
	c.attempt(e, now)
}

// failed notes a dial in vain. The loser of a contested slot is who does not
// answer its feeler.
func (c *core) failed(e *entry, retry, now stamp) {
	defer c.sweep(now)
	if e.failures < 1<<16-1 {
		e.failures++
	}
	e.failure = now
	if e.retry = retry; retry == 0 {
		e.retry = never
	}
	c.touch(e)
	c.place(e, now)
	if i := slices.IndexFunc(c.contest, func(x contest) bool { return x.opponent == e }); i >= 0 {
		x := c.contest[i]
		c.contest = slices.Delete(c.contest, i, i+1)
		c.oust(e, now)
		c.promote(x.candidate, now)
		return
	}
	if e.verified && e.failures >= lapseFails && now-e.success > stamp(lapseTime) {
		e.verified = false
		c.concede(e)
		if e.tried {
			c.oust(e, now)
		}
	}
}

// refused notes that what good told of did not last: the address has failed so
// many times in a row.
func (c *core) refused(e *entry, failures int, retry, now stamp) {
	e.failures = uint16(max(0, min(failures-1, 1<<16-1)))
	c.failed(e, retry, now)
}

// good notes that a handshake proved who is there.
func (c *core) good(e *entry, now stamp) {
	defer c.sweep(now)
	if e.success == 0 {
		c.count.kind(e.from.Kind).Proven++
	}
	e.success, e.heard = now, max(e.heard, now)
	e.failures, e.retry, e.verified = 0, 0, true
	c.touch(e)
	c.contest = slices.DeleteFunc(c.contest, func(x contest) bool { return x.opponent == e })
	c.promote(e, now)
	c.place(e, now)
}

// promote moves a verified entry to its slot among the tried. A slot that is
// taken is contested: whoever has it is tested before it has to go.
func (c *core) promote(e *entry, now stamp) {
	if e.tried {
		return
	}
	b, start := c.hash.triedPlace(c.tried, groupOf(e.addr), e.addr.String())
	s, opponent := c.tried.find(b, start)
	switch {
	case opponent == nil:
	case opponent.failures >= unprovenFails && !opponent.peer.held:
		c.oust(opponent, now) // ordinary dials have tested it
	case opponent.peer.held || now-opponent.success < stamp(freshTime) || len(c.contest) >= maxContests ||
		slices.ContainsFunc(c.contest, func(x contest) bool { return x.opponent == opponent || x.candidate == e }):
		return
	default:
		c.contest = append(c.contest, contest{e, opponent, now})
		c.count.Contests++
		return
	}
	due, woke := e.due, c.woke
	c.concede(e)
	c.unplace(e)
	c.unreferAll(e)
	e.tried = true
	c.refer(e, s)
	c.touch(e)
	if c.place(e, now); due {
		c.woke = woke // it was due before
	}
}

// concede ends the contests that an entry is part of.
func (c *core) concede(e *entry) {
	c.contest = slices.DeleteFunc(c.contest, func(x contest) bool { return x.candidate == e || x.opponent == e })
}

// oust moves an entry from the tried back to the new, if there is room for it,
// else out of the book.
func (c *core) oust(e *entry, now stamp) {
	c.count.Ousted++
	c.concede(e)
	c.unplace(e)
	c.unreferAll(e)
	e.tried = false
	s, opponent := c.fresh.find(c.newPlace(e.addr, *e.from))
	if opponent != nil && !c.unseat(opponent, s, e.rank() == rankManual, now) {
		c.remove(e, now)
		return
	}
	c.refer(e, s)
	c.touch(e)
	c.place(e, now)
}

// peerDue returns the best address of a peer that may be dialled now by who
// holds the peer, or by anybody.
func (c *core) peerDue(a *record, now stamp) (address.NodeAddress, bool) {
	for _, e := range c.sorted(a) {
		if (c.usable == nil || c.usable[e.addr.Protocol]) && c.freeAt(e, now) <= now {
			return e.addr, true
		}
	}
	return address.NodeAddress{}, false
}
