package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/addrbook"
)

// ErrClosed is returned by calls on a PeerManager, Router or Channel that was
// closed.
var ErrClosed = errors.New("p2p: closed")

// Store keeps what a PeerManager remembers. See addrbook.NewMemoryStore and
// addrbook.OpenStore.
type Store = addrbook.Store

// Source says who taught an address.
type Source = addrbook.Source

// Behaviour is a report on a peer: PeerStatusGood or PeerStatusBad, what it
// did, and how much that weighs (0 counts as 1). It moves the peer's score by
// the weight; the score decays towards 0 and lasts over restarts.
type Behaviour struct {
	Status PeerStatus
	Kind   string
	Weight uint16
}

// PeerManager owns the life cycle of peers: whom to dial and when, who may
// stay, who has to go, and what is remembered of them. It does no networking:
// a Router asks it and reports to it. The exported methods are that interface
// for one connection a peer at a time; they act on the current one, and mean
// what they mean in Tendermint v0.35, but for what their comments say.
//
// A PeerManager is a lock around a pure state machine (managerCore) and the
// address book. All methods are safe for concurrent use. None blocks but
// DialNext and EvictNext, which wait for their context, and Ban, Unban and
// Close, which wait for the disk.
//
// After Close, what would begin something or has to be saved returns ErrClosed:
// Add, Dialed, Accepted, Inactivate, Ban, Unban, DialNext, EvictNext and their
// variants (TryDialNext, which returns no error: no address). Reports of what
// ended, such as Disconnected, and readers go on working.
type PeerManager struct {
	book *addrbook.Book

	mu            sync.Mutex // guards the fields below; never held over the disk or a send
	core          *managerCore
	subscriptions []*PeerUpdates // replaced, not changed
	outbox        []delivery     // updates on their way, in order
	self          selfAddress
	closed        bool

	deliver sync.Mutex // held while updates are sent, so that they go out in order; taken before mu
	close   sync.Once

	dialWake  chan struct{} // one token: a dial may have become possible
	evictWake chan struct{} // one token: an eviction may have become possible
	done      chan struct{}

	// routerWake is what the Router wants called beside dialWake; nil without
	// one. Not under mu, since wakeDial may run under it.
	routerWake atomic.Pointer[func()]
}

// delivery is an update and who had subscribed when it happened.
type delivery struct {
	update PeerUpdate
	to     []*PeerUpdates
}

// NewPeerManager makes the PeerManager of the node self, with what the store
// remembers of earlier runs. Rows about self, as left by a node whose key
// changed, are dropped. It blocks while the store is read. The store stays the
// caller's to close, after Close.
func NewPeerManager(self NodeID, store Store, options PeerManagerOptions) (*PeerManager, error) {
	if self == "" {
		return nil, errors.New("p2p: NewPeerManager needs the node's own ID")
	}
	if err := self.Validate(); err != nil {
		return nil, fmt.Errorf("p2p: own ID: %w", err)
	}
	if store == nil {
		return nil, errors.New("p2p: NewPeerManager needs a store, such as addrbook.NewMemoryStore()")
	}
	if err := options.Validate(); err != nil {
		return nil, err
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Rand == nil {
		options.Rand = rand.Float64
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	m := &PeerManager{dialWake: make(chan struct{}, 1), evictWake: make(chan struct{}, 1), done: make(chan struct{})}
	book, err := addrbook.Open(store, addrbook.Options{
		Self: self, Protocols: options.Protocols, MaxPeers: int(options.MaxPeers), PrivatePeers: options.PrivatePeers,
		MaxRetry: max(options.MaxRetryTime, options.MaxRetryTimePersistent), Wake: m.wakeDial, Now: options.Now, Rand: options.Rand, Logger: options.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("p2p: %w", err)
	}
	m.book, m.core = book, newManagerCore(self, options, book)
	for _, n := range book.Notices() {
		options.Logger.Warn("address book: " + n)
	}
	return m, nil
}

// do runs one event on the core, then wakes who may want to know and sends the
// updates it caused: in order, before it returns, without the lock.
func (m *PeerManager) do(event func(c *managerCore, now time.Time)) {
	m.mu.Lock()
	event(m.core, m.core.o.Now())
	dial, evict, sends := m.core.wakeAll, m.core.evictOK, len(m.core.updates) > 0
	for _, up := range m.core.updates {
		m.outbox = append(m.outbox, delivery{up, m.subscriptions})
	}
	m.core.wakeAll, m.core.evictOK, m.core.updates = false, false, nil
	m.mu.Unlock()
	if dial {
		m.wakeDial()
	}
	if evict {
		signal(m.evictWake)
	}
	if sends {
		m.sendUpdates()
	}
}

// sendUpdates empties the outbox. Another call may have taken what is ours: then
// it holds deliver until that is sent.
func (m *PeerManager) sendUpdates() {
	m.deliver.Lock()
	defer m.deliver.Unlock()
	m.mu.Lock()
	out := m.outbox
	m.outbox = nil
	m.mu.Unlock()
	for _, d := range out {
		for _, sub := range d.to {
			sub.send(d.update)
		}
	}
}

// wakeDial is also the address book's Wake, which may run under mu.
func (m *PeerManager) wakeDial() {
	signal(m.dialWake)
	if wake := m.routerWake.Load(); wake != nil {
		(*wake)()
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Add remembers an address on the user's word: it may be a name, one that is
// already known is due at once, and a peer that was inactive is active again. It
// says whether the address is new; false without an error also when there is no
// place for it, or when it is our own.
func (m *PeerManager) Add(a NodeAddress) (bool, error) {
	return m.AddFrom(a, Source{Kind: addrbook.Manual})
}

// AddFrom is Add for an address that somebody else taught us: it must have an
// IP, or none at all where its protocol has none. Why an address is not taken
// says an *addrbook.RefusedError.
func (m *PeerManager) AddFrom(a NodeAddress, from Source) (bool, error) {
	if err := a.Validate(); err != nil {
		return false, fmt.Errorf("p2p: %w", err)
	}
	if m.isClosed() {
		return false, ErrClosed
	}
	if a.NodeID == m.core.self {
		return false, nil
	}
	added, err := m.book.Add(a, from)
	if errors.Is(err, addrbook.ErrFull) && from.Kind == addrbook.Manual && m.makeRoom(a.NodeID) {
		added, err = m.book.Add(a, from)
	}
	switch {
	case errors.Is(err, addrbook.ErrFull):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("p2p: %w", err)
	}
	return added, nil
}

func (m *PeerManager) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

// makeRoom forgets the worst peer with which nothing is going on, if MaxPeers is
// what keeps id out and that peer is worse. It looks at all: it is for what a
// person adds, and only when the book found nobody to displace.
func (m *PeerManager) makeRoom(id NodeID) (made bool) {
	m.do(func(c *managerCore, _ time.Time) {
		if c.o.MaxPeers == 0 || c.book.Len() < int(c.o.MaxPeers) || len(c.book.Addresses(id)) > 0 {
			return
		}
		worst, low := NodeID(""), c.score(id)
		for _, p := range c.book.Peers() {
			if c.free(p) && c.score(p) < low {
				worst, low = p, c.score(p)
			}
		}
		made = worst != "" && c.book.Forget(worst)
	})
	return made
}

// DialNext waits until there is a peer to dial and reserves it; DialFailed or
// Dialed must follow. It returns the context's error, or ErrClosed.
func (m *PeerManager) DialNext(ctx context.Context) (NodeAddress, error) {
	for {
		d, wake, ok, err := m.dialNext(false)
		if err != nil {
			return NodeAddress{}, err
		}
		if ok {
			signal(m.dialWake) // the token may have stood for two: let another caller look
			return d.address, nil
		}
		if err := m.wait(ctx, m.dialWake, wake); err != nil {
			return NodeAddress{}, err
		}
	}
}

// wait returns nil after a signal or at the time, the zero time being never.
func (m *PeerManager) wait(ctx context.Context, wake <-chan struct{}, at time.Time) error {
	var alarm <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(at.Sub(m.core.o.Now()))
		defer t.Stop()
		alarm = t.C
	}
	select {
	case <-wake:
	case <-alarm:
	case <-ctx.Done():
		return ctx.Err()
	case <-m.done:
		return ErrClosed
	}
	return nil
}

// ask is do for what a closed PeerManager refuses.
func (m *PeerManager) ask(event func(c *managerCore, now time.Time) error) (err error) {
	m.do(func(c *managerCore, now time.Time) {
		if err = ErrClosed; !m.closed {
			err = event(c, now)
		}
	})
	return err
}

func (m *PeerManager) dialNext(feelers bool) (d reservation, wake time.Time, ok bool, err error) {
	err = m.ask(func(c *managerCore, now time.Time) error {
		if d, ok = c.next(now, feelers); !ok {
			wake = c.wake(now)
		}
		return nil
	})
	return d, wake, ok, err
}

// TryDialNext is DialNext without waiting: the zero NodeAddress when there is
// nobody to dial now.
func (m *PeerManager) TryDialNext() NodeAddress {
	d, _, _, _ := m.dialNext(false)
	return d.address
}

// DialFailed says that an address could not be reached. It is tried again
// after a pause that doubles with each failure (MinRetryTime). An address or a
// peer that is gone meanwhile is no error.
func (m *PeerManager) DialFailed(a NodeAddress) error {
	if err := a.Validate(); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	m.do(func(c *managerCore, now time.Time) { c.dialFailed(a, now) })
	return nil
}

// Dialed says that a peer was reached at an address and proved who it is. An
// error says why it may not stay (ErrSelf, ErrAlreadyConnected,
// ErrTooManyPeers, ErrBanned, ErrPeerUnknown): close the connection then.
func (m *PeerManager) Dialed(a NodeAddress) error {
	if err := a.Validate(); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	return m.ask(func(c *managerCore, now time.Time) error {
		_, err := c.dialled(a, session{}, now)
		return err
	})
}

// Accepted says that a peer connected to us and proved who it is. An error
// says why it may not stay.
func (m *PeerManager) Accepted(id NodeID) error { return m.AcceptedFrom(id, Endpoint{}) }

// AcceptedFrom is Accepted with the endpoint that the peer came from, which
// decides what addresses it is told.
func (m *PeerManager) AcceptedFrom(id NodeID, from Endpoint) error {
	if err := id.Validate(); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	return m.ask(func(c *managerCore, now time.Time) error {
		_, err := c.accepted(id, session{remote: from}, now)
		return err
	})
}

// Ready says that a connected peer may be talked to, on the channels given, and
// tells the subscribers, once for each connection. With a peer that is not
// connected, nothing happens.
func (m *PeerManager) Ready(id NodeID, channels ...ChannelIDSet) error {
	if err := id.Validate(); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	var set ChannelIDSet
	if len(channels) > 0 {
		set = channels[0]
	}
	m.do(func(c *managerCore, _ time.Time) {
		if s := c.connected[id]; s != nil {
			c.ready(id, s, set)
		}
	})
	return nil
}

// Disconnected says that the connection to a peer is gone. With a peer that is
// not connected, nothing happens; a dial on its way goes on.
func (m *PeerManager) Disconnected(id NodeID) error {
	if err := id.Validate(); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	m.do(func(c *managerCore, now time.Time) {
		if s := c.connected[id]; s != nil {
			c.disconnected(id, s, now)
		}
	})
	return nil
}

// Errored says that a peer did something that its connection must not survive:
// EvictNext will name it. A peer that is not connected is left alone.
func (m *PeerManager) Errored(id NodeID, err error) {
	if err == nil {
		err = errors.New("p2p: an error was reported without saying which")
	}
	m.do(func(c *managerCore, _ time.Time) { c.markEvict(id, err) })
}

// Inactivate stops dialling and advertising a peer until the next connection to
// it, or until it is added again. A peer that nobody knows is left alone.
func (m *PeerManager) Inactivate(id NodeID) error {
	if err := id.Validate(); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	return m.ask(func(c *managerCore, _ time.Time) error {
		if _, known := c.book.Peer(id); known && id != c.self {
			c.book.Shun(id, 0, "inactive")
		}
		return nil
	})
}

// EvictNext waits until a connection has to be closed, and names its peer;
// Disconnected must follow. It returns the context's error, or ErrClosed.
func (m *PeerManager) EvictNext(ctx context.Context) (NodeID, error) {
	id, _, _, err := m.nextEviction(ctx)
	return id, err
}

// TryEvictNext is EvictNext without waiting: "" when nobody has to go.
func (m *PeerManager) TryEvictNext() (NodeID, error) {
	id, _, _, err := m.evictNext()
	return id, err
}

// nextEviction is EvictNext with the session and the cause.
func (m *PeerManager) nextEviction(ctx context.Context) (id NodeID, number uint64, cause, err error) {
	for {
		id, number, cause, err = m.evictNext()
		if err != nil {
			return "", 0, nil, err
		}
		if id != "" {
			signal(m.evictWake) // as in DialNext
			return id, number, cause, nil
		}
		if err := m.wait(ctx, m.evictWake, time.Time{}); err != nil {
			return "", 0, nil, err
		}
	}
}

func (m *PeerManager) evictNext() (id NodeID, number uint64, cause, err error) {
	err = m.ask(func(c *managerCore, _ time.Time) error {
		if who, s, ok := c.evictNext(); ok {
			id, number, cause = who, s.number, s.evict
		}
		return nil
	})
	return id, number, cause, err
}

// Report moves the score of a peer that has no fixed one.
func (m *PeerManager) Report(id NodeID, b Behaviour) {
	weight := max(int(b.Weight), 1)
	if b.Status == PeerStatusBad {
		weight = -weight
	} else if b.Status != PeerStatusGood {
		return
	}
	if id.Validate() != nil || id == m.core.self {
		return
	}
	m.do(func(c *managerCore, _ time.Time) {
		c.book.Adjust(id, weight)
		if c.full() && !c.crowded() { // an upgrade may have become possible
			c.wakeAll = true
		}
	})
}

// Ban closes the connection to a peer, and neither dials nor accepts it for d;
// d <= 0 is until Unban. It blocks until the ban is on disk. When that fails
// the ban holds all the same, until the process ends, and the error says so.
func (m *PeerManager) Ban(id NodeID, d time.Duration, reason string) error {
	if err := id.Validate(); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	err := m.ask(func(c *managerCore, _ time.Time) error {
		if id == c.self {
			return fmt.Errorf("%w: %v", ErrSelf, id)
		}
		c.book.SetBan(id, d, reason)
		c.markEvict(id, c.banned(id))
		return nil
	})
	if err != nil {
		return err
	}
	if err := m.book.Flush(context.Background()); err != nil {
		return fmt.Errorf("p2p: the ban of %v holds, but is not saved: %w", id, err)
	}
	return nil
}

// Unban ends a ban. It blocks until that is on disk. A peer that is not banned
// is no error.
func (m *PeerManager) Unban(id NodeID) error {
	if err := id.Validate(); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	if m.isClosed() {
		return ErrClosed
	}
	if err := m.book.Unban(id); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	return nil
}

// Subscribe returns the coming and going of peers from now on. Close it.
func (m *PeerManager) Subscribe() *PeerUpdates {
	u := newPeerUpdates(m.unsubscribe)
	m.mu.Lock()
	closed := m.closed
	if !closed {
		m.subscriptions = append(slices.Clip(m.subscriptions), u)
	}
	m.mu.Unlock()
	if closed {
		u.Close()
	}
	return u
}

func (m *PeerManager) unsubscribe(u *PeerUpdates) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subscriptions = slices.DeleteFunc(slices.Clone(m.subscriptions), func(o *PeerUpdates) bool { return o == u })
}

// Close saves what is to be remembered, closes every subscription and makes
// waiting calls return ErrClosed. It blocks for the disk. A second call waits
// for the first.
func (m *PeerManager) Close() {
	m.close.Do(func() {
		m.mu.Lock()
		m.closed = true
		subs := m.subscriptions
		anchors := m.core.steady(m.core.o.Now())
		m.mu.Unlock()
		close(m.done)
		for _, u := range subs {
			u.Close()
		}
		if len(anchors) > 0 {
			m.book.SetAnchors(anchors)
		}
		if err := m.book.Close(); err != nil {
			m.core.o.Logger.Error("the address book could not be saved", "err", err)
		}
	})
}
