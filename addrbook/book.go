package addrbook

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Book is an open address book. It is safe for concurrent use. No method but
// Open, Close, Flush, Ban and Unban blocks on the store.
type Book struct {
	o       Options
	store   Store
	notices []string
	w       writer

	mu sync.Mutex // guards core; never held over the store, a send or Options.Wake
	c  *core
}

// Open reads the store and returns a book on it, which saves to it until
// Close. It blocks on the store. Errors: ErrOptions, or what the store could
// not do; damage is not an error, see Notices.
func Open(store Store, o Options) (*Book, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	s := &saved{bans: map[netip.Prefix]sanction{}}
	notices, err := store.Load(s.row)
	if err != nil {
		return nil, fmt.Errorf("addrbook: cannot read the store: %w", err)
	}
	b := &Book{o: o, store: store, c: newCore(o)}
	b.notices = append(notices, b.c.load(s, b.now())...)
	b.w.start(b)
	return b, nil
}

// Close saves what is not saved yet and ends the goroutine of the book. It
// blocks on the store, and returns its error if the last save failed. The book
// can still be used, without being saved. It does not close the store.
func (b *Book) Close() error { return b.w.close() }

// Flush returns when all that was changed before the call is saved, or with
// the store's error when that failed (it will be tried again), or with ctx's.
func (b *Book) Flush(ctx context.Context) error { return b.w.flush(ctx) }

// Notices says what Open found damaged, repaired or missing, a sentence each.
func (b *Book) Notices() []string { return b.notices }

func (b *Book) now() stamp { return max(1, stampOf(b.o.Now())) }

// do runs fn on the core and does outside the lock what follows from it.
func (b *Book) do(fn func(c *core, now stamp)) {
	now := b.now()
	b.mu.Lock()
	fn(b.c, now)
	woke, dirty := b.c.woke, b.c.dirty.len() > 0
	b.c.woke = false
	b.mu.Unlock()
	if dirty {
		b.w.changed()
	}
	if woke {
		b.o.Wake()
	}
}

// entry runs fn on an address of the book, if it is there.
func (b *Book) entry(a address.NodeAddress, fn func(c *core, e *entry, now stamp)) (found bool) {
	b.do(func(c *core, now stamp) {
		if e := c.find(a); e != nil {
			found = true
			fn(c, e, now)
		}
	})
	return found
}

// Add puts an address in. It returns true when the address is new here, false
// when it was known, and false with a *RefusedError when it is not taken:
// errors.Is(err, ErrFull) when there is no free slot for it.
func (b *Book) Add(a address.NodeAddress, from Source) (added bool, err error) {
	from = from.normal()
	why, cause := screen(a, from, b.o.Self)
	b.do(func(c *core, now stamp) {
		if why != "" {
			c.count.kind(from.Kind).Refused++
			return
		}
		added, why, cause = c.add(a, from, now)
	})
	if why != "" {
		return false, &RefusedError{a, why, cause}
	}
	return added, nil
}

// Learned says what became of addresses that were taught.
type Learned struct {
	Added, Known int
	Refused      map[Reason]int // nil when none was
}

// Learn puts addresses in. It takes the lock for each by itself, so that a
// long list holds nobody up.
func (b *Book) Learn(from Source, as []address.NodeAddress) Learned {
	var l Learned
	for _, a := range as {
		added, err := b.Add(a, from)
		switch refused, _ := err.(*RefusedError); {
		case refused != nil:
			if l.Refused == nil {
				l.Refused = map[Reason]int{}
			}
			l.Refused[refused.Reason]++
		case added:
			l.Added++
		default:
			l.Known++
		}
	}
	return l
}

// Remove forgets an address and reports whether it was there.
func (b *Book) Remove(a address.NodeAddress) bool {
	return b.entry(a, func(c *core, e *entry, now stamp) { c.remove(e, now) })
}

// Forget forgets all addresses of a peer and reports whether there were any.
// Its ban, score and shun stay.
func (b *Book) Forget(id identity.NodeID) (any bool) {
	b.do(func(c *core, now stamp) {
		if r := c.peers[id]; r != nil && len(r.entries) > 0 {
			any = true
			c.forget(r, now)
		}
	})
	return any
}

// Pick returns a random address that may be dialled now: not of a peer that is
// held, banned, shunned or in its pause, not before its retry time, and of one
// of Options.Protocols. False: there is none. It changes nothing, so that the
// next call may return the same: Hold the peer that you dial. It takes constant
// time, whatever the size of the book.
func (b *Book) Pick(t Table) (address.NodeAddress, bool) {
	return b.take(func(c *core, now stamp) *entry { return c.pick(t, now) })
}

// Reserve is Pick, with Hold of the peer and Attempt of the address, in one step:
// what dialling a random address begins with. Release follows. It takes constant
// time, as Pick does.
func (b *Book) Reserve(t Table) (a address.NodeAddress, ok bool) {
	b.do(func(c *core, now stamp) {
		if e := c.pick(t, now); e != nil {
			a, ok = e.addr, true
			c.reserve(e, now)
		}
	})
	return a, ok
}

// Feeler returns the address that a short test connection would tell most
// about: one whose slot another wants that worked too, else any new one.
// Report the result with Good or Failed.
func (b *Book) Feeler() (address.NodeAddress, bool) {
	return b.take(func(c *core, now stamp) *entry { return c.feeler(now) })
}

func (b *Book) take(fn func(c *core, now stamp) *entry) (address.NodeAddress, bool) {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := fn(b.c, now); e != nil {
		return e.addr, true
	}
	return address.NodeAddress{}, false
}

// Best returns the best address that may be dialled now of the peer with the
// highest positive score among those that have one; false: there is none.
func (b *Book) Best() (a address.NodeAddress, score PeerScore, ok bool) {
	a, ok = b.take(func(c *core, now stamp) *entry {
		e := c.bestDue(now)
		if e != nil {
			score = e.peer.score.score(now, c.o.ScoreHalfLife)
		}
		return e
	})
	return a, score, ok
}

// Dialable returns the best address of one peer that may be dialled now. That
// the peer is held does not count here: who holds it asks.
func (b *Book) Dialable(id identity.NodeID) (a address.NodeAddress, ok bool) {
	b.do(func(c *core, now stamp) {
		if r := c.peers[id]; r != nil {
			a, ok = c.peerDue(r, now)
		}
	})
	return a, ok
}

// Next returns when the next address that waits may be dialled; the zero time
// when none waits. It can lie in the past: then Pick again.
func (b *Book) Next() (t time.Time) {
	b.do(func(c *core, _ stamp) { t = c.next().time() })
	return t
}

// NextOf returns when the first address of a peer may be dialled, held or not,
// perhaps in the past; the zero time when time alone will not do it.
func (b *Book) NextOf(id identity.NodeID) (t time.Time) {
	b.do(func(c *core, now stamp) {
		if r := c.peers[id]; r != nil {
			t = c.nextOf(r, now).time()
		}
	})
	return t
}

// Hold takes a peer out of the picks, until Release: it is being dialled, or
// connected. It also keeps its addresses from being displaced. It is not saved.
func (b *Book) Hold(id identity.NodeID) { b.do(func(c *core, now stamp) { c.hold(id, now) }) }

// Release puts a peer back into the picks, not before notBefore (the zero
// time: at once).
func (b *Book) Release(id identity.NodeID, notBefore time.Time) {
	b.do(func(c *core, now stamp) { c.release(id, stampOf(notBefore), now) })
}

// ResetRetries makes everything due that waits for a retry: the network
// changed. It takes time in proportion to the book.
func (b *Book) ResetRetries() { b.do(func(c *core, now stamp) { c.resetRetries(now) }) }

// Attempt notes that an address is dialled now.
func (b *Book) Attempt(a address.NodeAddress) bool {
	return b.entry(a, func(c *core, e *entry, now stamp) { c.attempt(e, now) })
}

// Failed notes that a dial failed. The address is not picked before retry; the
// zero time: not before it is taught or added anew, ResetRetries, or a restart.
func (b *Book) Failed(a address.NodeAddress, retry time.Time) bool {
	return b.entry(a, func(c *core, e *entry, now stamp) { c.failed(e, stampOf(retry), now) })
}

// Refused notes that the connection which Good told of ended at once, so that the
// dial counts as failed after all: for the failures-th time in a row. retry is as
// for Failed. The address stays verified.
func (b *Book) Refused(a address.NodeAddress, failures int, retry time.Time) bool {
	return b.entry(a, func(c *core, e *entry, now stamp) { c.refused(e, failures, stampOf(retry), now) })
}

// Good notes that a handshake proved the peer to be at an address. It is
// verified from now on, and moves to the tried addresses; when its slot there
// is taken by another that worked, Feeler decides.
func (b *Book) Good(a address.NodeAddress) bool {
	return b.entry(a, func(c *core, e *entry, now stamp) { c.good(e, now) })
}

// Connected notes when we were last connected to a peer, and ends its shun.
func (b *Book) Connected(id identity.NodeID) { b.do(func(c *core, now stamp) { c.connected(id, now) }) }

// Disconnected notes when we were last connected to a peer.
func (b *Book) Disconnected(id identity.NodeID) {
	b.do(func(c *core, now stamp) { c.disconnected(id, now) })
}

// SetPeerID remembers the libp2p ID of a peer, which is its key: from then on
// libp2p addresses of it are complete without one. Errors are of package
// identity.
func (b *Book) SetPeerID(id peer.ID) error {
	node, err := identity.NodeIDFromPeerID(id)
	if err != nil {
		return fmt.Errorf("addrbook: %w", err)
	}
	b.do(func(c *core, now stamp) {
		r := c.record(node)
		c.setPeerID(r, id, now)
		c.settle(r, now)
	})
	return nil
}

// Adjust moves the score of a peer by delta and returns it. It stays within
// MinScore and MaxScore and halves with every Options.ScoreHalfLife.
func (b *Book) Adjust(id identity.NodeID, delta int) (score PeerScore) {
	b.do(func(c *core, now stamp) { score = c.adjust(id, delta, now) })
	return score
}

// SetBan bans a peer for d (d <= 0: until ClearBan): at once in memory, saved
// behind. It is for a caller that holds a lock and calls Flush after it.
func (b *Book) SetBan(id identity.NodeID, d time.Duration, reason string) {
	b.do(func(c *core, now stamp) { c.setBan(c.record(id), sanctionFor(d, reason, now), now) })
}

// ClearBan lifts a ban and reports whether there was one.
func (b *Book) ClearBan(id identity.NodeID) (was bool) {
	b.do(func(c *core, now stamp) {
		if r := c.peers[id]; r != nil && r.ban.since != 0 {
			was = r.ban.active(now)
			c.setBan(r, sanction{}, now)
		}
	})
	return was
}

// Ban is SetBan and returns when it is saved. On an error it holds all the
// same, until the process ends or a later save succeeds.
func (b *Book) Ban(id identity.NodeID, d time.Duration, reason string) error {
	b.SetBan(id, d, reason)
	return b.settled("the ban holds, but is not saved")
}

// Unban is ClearBan and returns when it is saved.
func (b *Book) Unban(id identity.NodeID) error {
	b.ClearBan(id)
	return b.settled("the ban is lifted, but that is not saved")
}

// BanPrefix bans all IPs of a prefix and returns when that is saved.
func (b *Book) BanPrefix(p netip.Prefix, d time.Duration, reason string) error {
	p, err := normalPrefix(p)
	b.do(func(c *core, now stamp) {
		if err == nil {
			err = c.banPrefix(p, sanctionFor(d, reason, now), now)
		}
	})
	if err != nil {
		return err
	}
	return b.settled("the ban holds, but is not saved")
}

// UnbanPrefix lifts the ban of exactly that prefix and returns when that is
// saved.
func (b *Book) UnbanPrefix(p netip.Prefix) error {
	p, err := normalPrefix(p)
	if err != nil {
		return err
	}
	b.do(func(c *core, now stamp) { err = c.banPrefix(p, sanction{}, now) })
	if err != nil {
		return err
	}
	return b.settled("the ban is lifted, but that is not saved")
}

func (b *Book) settled(otherwise string) error {
	if err := b.Flush(context.Background()); err != nil {
		return fmt.Errorf("addrbook: %s: %w", otherwise, err)
	}
	return nil
}

// Shun says that a peer is of no use to us: it is not dialled, not told to
// others and not learnt of again, but it may come in. It ends after d (d <= 0:
// never), with Connected, and when a person adds an address of the peer. For a
// peer of another network, Forget it as well.
func (b *Book) Shun(id identity.NodeID, d time.Duration, reason string) {
	b.do(func(c *core, now stamp) { c.setShun(c.record(id), sanctionFor(d, reason, now), now) })
}

// SetAnchors remembers the addresses to dial first after a restart; of more
// than 2, the first 2.
func (b *Book) SetAnchors(as []address.NodeAddress) {
	b.do(func(c *core, _ stamp) { c.setAnchors(as) })
}
