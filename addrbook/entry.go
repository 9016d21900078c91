package addrbook

import (
	"slices"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
)

// When an address is given up. The figures are Bitcoin Core's.
const (
	graceTime      = time.Minute         // after an attempt nothing is judged
	unprovenFails  = 3                   // failures of an address that never worked
	lapseFails     = 10                  // failures in a row ...
	lapseTime      = 7 * 24 * time.Hour  // ... over this time: no longer verified
	staleTime      = 30 * 24 * time.Hour // neither heard of nor reached for so long
	heardEvery     = 24 * time.Hour      // how often hearing of an address again is noted
	testWindow     = 40 * time.Minute    // how long a contested slot waits for its feeler
	freshTime      = 4 * time.Hour       // a tried address that worked so lately is not contested
	maxContests    = 10
	maxReferences  = 8
	sweepPerChange = 2
)

// entry is one address of one peer.
type entry struct {
	addr address.NodeAddress
	peer *record
	from *Source // shared by all entries of one source; counted in core.sources
	self bool    // the peer itself said so, too; from may be somebody else

	added, heard, attempt, success, failure stamp
	retry                                   stamp // not to be dialled before; never: not until taught anew
	failures                                uint16
	verified                                bool // it worked, and has not lapsed since
	tried                                   bool // refs is one slot of the tried table, not up to 8 of the new
	due                                     bool // its slots are set due
	unsaved                                 bool // in changed.entries
	refs                                    []slot

	dueAt  stamp // key of the heap of waiting entries
	heapAt int32
	allAt  int32
}

// Ranks of an address within its peer. A higher one may displace a lower.
const (
	rankTold     = iota // third parties say so
	rankSelf            // the peer itself said so
	rankVerified        // it worked
	rankManual          // a person said so
)

func rankOf(s Source, a address.NodeAddress) int {
	switch {
	case s.Kind == Manual:
		return rankManual
	case s.Peer == a.NodeID:
		return rankSelf
	}
	return rankTold
}

// names reports whether a source is to be named as the one that taught an
// address, instead of the one before it: a person is before everybody, a peer's
// own word behind everybody, or nobody could see how a peer was found that has
// spoken for itself since. Else the first stays.
func (s Source) names(before Source) bool {
	return s.Kind == Manual && before.Kind != Manual || before.Kind == Inbound && s.Kind != Inbound
}

func (e *entry) rank() int {
	r := rankOf(*e.from, e.addr)
	if e.self {
		r = max(r, rankSelf)
	}
	if e.verified {
		r = max(r, rankVerified)
	}
	return r
}

// hopeless reports whether anybody may have the place of an entry.
func (e *entry) hopeless(now stamp) bool {
	switch {
	case e.rank() >= rankVerified, e.peer.held, e.attempt > 0 && now-e.attempt < stamp(graceTime):
		return false
	case e.failures >= unprovenFails, e.peer.shun.active(now):
		return true
	}
	return now-e.lastSign() > stamp(staleTime)
}

// expired reports whether an entry is to be forgotten: it was tried in vain
// since it was last heard of, and that is long ago. Age alone is not enough,
// or a node that was off for a month would forget everybody.
func (e *entry) expired(now stamp) bool {
	return e.rank() < rankVerified && !e.peer.held && e.failures >= unprovenFails && now-e.lastSign() > stamp(staleTime)
}

func (e *entry) lastSign() stamp { return max(e.added, e.heard, e.success) }

// record is one peer.
type record struct {
	id            identity.NodeID
	peerID        peer.ID // its key, where known
	entries       []*entry
	score         earned
	ban, shun     sanction
	lastConnected stamp

	seen      stamp // when its peer ID was learnt or loaded: good for as long as a last connection
	held      bool  // the caller has it: dialling, connected
	notBefore stamp // not to be dialled before

	bestAt  int32 // in core.best
	looseAt int32 // in core.loose: records without addresses
}

// sanction is a ban or a shun.
type sanction struct {
	since, until stamp // until never: without end; since 0: none
	reason       string
}

func (s sanction) active(now stamp) bool { return s.since != 0 && s.until > now }

// end is the first moment at which the sanction does not hold.
func (s sanction) end() stamp {
	if s.since == 0 {
		return 0
	}
	return s.until
}

func (r *record) drop(e *entry) {
	r.entries = slices.DeleteFunc(r.entries, func(x *entry) bool { return x == e })
}
