package p2p

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
)

// Why a PeerManager refuses a connection. The errors it returns wrap one of
// these and name the peer.
var (
	// ErrSelf says that the peer is this node.
	ErrSelf = errors.New("p2p: the peer is this node itself")
	// ErrAlreadyConnected says that another connection to the peer stands.
	ErrAlreadyConnected = errors.New("p2p: the peer is already connected")
	// ErrTooManyPeers says that MaxConnected is reached and no worse peer can go.
	ErrTooManyPeers = errors.New("p2p: already connected to the maximum number of peers")
	// ErrPeerUnknown says that nothing is known of the peer, or that it is not
	// connected, where it has to be.
	ErrPeerUnknown = errors.New("p2p: unknown peer")
	// ErrBanned says that the peer is banned, and until when.
	ErrBanned = errors.New("p2p: the peer is banned")
	// ErrEvicted is why a connection ended that had to make room.
	ErrEvicted = errors.New("p2p: evicted for a better peer")
	// ErrSuperseded is why a connection ended whose peer came back on another.
	ErrSuperseded = errors.New("p2p: superseded by another connection to the same peer")

	errFeelerDone = errors.New("p2p: the peer answers; that is all a feeler asks")
)

const (
	anchorCount = 2
	// feelerEvery is how often an address that is not needed now is tried, so
	// that the book knows what is true (Bitcoin Core: two minutes).
	feelerEvery = 2 * time.Minute
	// shunNetwork is how long a peer of another network is left alone.
	shunNetwork = 24 * time.Hour
	// anchorAge is how long a connection must have stood to become an anchor.
	anchorAge = time.Minute
	// pickTries bounds how often the book is asked for a random pick at a time.
	pickTries = 8
	// A session of ours that ends sooner than MinRetryTime did not live: its dial
	// counts as failed. These bound that.
	leastLife, mostLife = time.Second, time.Minute
	// refusedPause is how long a peer rests that our own gate did not let us
	// dial: it did nothing wrong, but the same dial would be refused again.
	refusedPause = 15 * time.Second
)

// session is a connection that stands.
type session struct {
	number    uint64 // the Router's; 0 where the exported methods are used alone
	direction connmgr.Direction
	kind      connmgr.Kind
	address   NodeAddress // what was dialled; zero if inbound
	remote    Endpoint    // where it came from, or what was dialled
	kith      bool        // the other side is kith, too, and keeps the same of two connections
	replaces  uint64      // an inbound one: the session of the same peer that has fallen silent
	unproven  bool        // the peer is there, but it is not said that it is at address
	since     time.Time
	failures  int       // of what was dialled, in a row, before it arrived
	notBefore time.Time // of the next dial: the session did not live
	ready     bool
	evict     error // why it has to go; nil: it may stay
	evicting  bool  // its end is on the way
}

// reservation is a dial on its way.
type reservation struct {
	address   NodeAddress
	kind      connmgr.Kind
	number    uint64
	notBefore time.Time // of the next dial: the peer came and went meanwhile
}

// managerCore is the state machine of the PeerManager: events and the time go
// in, decisions come out. It starts no goroutine, does no I/O and takes no lock
// of its own; PeerManager.mu owns it. What lasts is in the book.
//
//	known -> dialing -> connected -> ready -> (evict -> evicting) -> known
//
// A peer may be dialled while an inbound connection of it stands: cross decides
// when the dial arrives. The book holds a peer exactly while it is dialled or
// connected, so that nothing of it is picked or displaced.
type managerCore struct {
	self NodeID
	o    PeerManagerOptions
	book *addrbook.Book

	persistent   []NodeID // in the order given
	isPersistent map[NodeID]bool
	scored       []NodeID // with a fixed score, the best first; without persistent ones

	dialing   map[NodeID]reservation
	feelers   int               // of dialing
	upgrading map[NodeID]NodeID // who goes when the dial succeeds -> who is dialled
	connected map[NodeID]*session
	outgoing  int // of connected, dialled by us

	anchors    []NodeAddress // of the last run, dialled once
	nextFeeler time.Time     // zero: no feelers
	dials      uint64        // numbers the reservations

	updates []PeerUpdate // to be sent by the shell, in order
	wakeAll bool         // a dial may have become possible
	evictOK bool         // an eviction may have become possible
}

func newManagerCore(self NodeID, o PeerManagerOptions, book *addrbook.Book) *managerCore {
	c := &managerCore{
		self: self, o: o, book: book, isPersistent: make(map[NodeID]bool),
		dialing: make(map[NodeID]reservation), upgrading: make(map[NodeID]NodeID), connected: make(map[NodeID]*session),
		anchors: book.Anchors(),
	}
	for _, id := range o.PersistentPeers {
		if !c.isPersistent[id] && id != self {
			c.isPersistent[id] = true
			c.persistent = append(c.persistent, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(o.PeerScores)) {
		if !c.isPersistent[id] && id != self && o.PeerScores[id] != 0 {
			c.scored = append(c.scored, id)
		}
	}
	slices.SortStableFunc(c.scored, func(a, b NodeID) int { return cmp.Compare(o.PeerScores[b], o.PeerScores[a]) })
	return c
}

// score is what a peer is worth: persistent, or fixed, or what it earned less
// the dials that failed. Those do not count against a peer that came to us: it
// is there, wherever it can be dialled.
func (c *managerCore) score(id NodeID) PeerScore {
	s := c.connected[id]
	return c.worth(id, s != nil && s.direction == connmgr.Inbound)
}

func (c *managerCore) worth(id NodeID, inbound bool) PeerScore {
	if c.isPersistent[id] {
		return PeerScorePersistent
	}
	if s := c.o.PeerScores[id]; s != 0 {
		return s
	}
	earned := c.book.Score(id)
	if inbound {
		return earned
	}
	return earned.Add(-c.book.Failures(id))
}

// full says that every place is taken, but for those of upgrades.
func (c *managerCore) full() bool {
	return c.o.MaxConnected > 0 && len(c.connected) >= int(c.o.MaxConnected)
}

// crowded says that the places of upgrades are taken, too.
func (c *managerCore) crowded() bool {
	return c.o.MaxConnected > 0 && len(c.connected) >= int(c.o.MaxConnected)+int(c.o.MaxConnectedUpgrade)
}

// ordinary is how many dials are on their way to a place: feelers want none.
func (c *managerCore) ordinary() int { return len(c.dialing) - c.feelers }

// free says that nothing is going on with a peer.
func (c *managerCore) free(id NodeID) bool {
	_, dialing := c.dialing[id]
	_, connected := c.connected[id]
	return !dialing && !connected && id != c.self
}

// worst is the connected peer with the lowest score below limit whose place is
// not yet promised to another; of equals, who came last.
func (c *managerCore) worst(limit PeerScore) (worst NodeID, ok bool) {
	low := limit
	for id, s := range c.connected {
		if s.evict != nil || c.upgrading[id] != "" {
			continue
		}
		score := c.score(id)
		if score < low || ok && score == low && c.younger(id, worst) {
			worst, low, ok = id, score, true
		}
	}
	return worst, ok
}

// younger orders connected peers by age, so that decisions do not depend on the
// order of a map.
func (c *managerCore) younger(a, b NodeID) bool {
	return cmp.Or(c.connected[b].since.Compare(c.connected[a].since), cmp.Compare(b, a)) < 0
}

func (c *managerCore) banned(id NodeID) error {
	b, ok := c.book.Banned(id)
	if !ok {
		return nil
	}
	if b.Until.IsZero() {
		return fmt.Errorf("%w: %v, for good: %s", ErrBanned, id, b.Reason)
	}
	return fmt.Errorf("%w: %v until %s: %s", ErrBanned, id, b.Until.UTC().Format(time.RFC3339), b.Reason)
}

// steady are the addresses worth dialling first after a restart: of the oldest
// outbound peers that are not persistent.
func (c *managerCore) steady(now time.Time) []NodeAddress {
	var ids []NodeID
	for id, s := range c.connected {
		if s.direction == connmgr.Outbound && s.ready && s.evict == nil && !c.isPersistent[id] && now.Sub(s.since) >= anchorAge {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b NodeID) int {
		return cmp.Or(c.connected[a].since.Compare(c.connected[b].since), cmp.Compare(a, b))
	})
	var as []NodeAddress
	for _, id := range ids[:min(anchorCount, len(ids))] {
		as = append(as, c.connected[id].address)
	}
	return as
}
