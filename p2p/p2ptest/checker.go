package p2ptest

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// checker keeps what the nodes of a network have shown so far, and the first
// thing that should not have been. All methods are safe for concurrent use.
type checker struct {
	began time.Time

	answered, checks, delivered, accepted, refused, updates, dials atomic.Uint64

	mu      sync.Mutex // guards the rest
	first   error
	told    bool // first was reported
	counts  map[Fault]uint64
	log     [40]string // the latest events
	events  int
	quiet   bool // nothing new is to be sent
	lanes   map[lane]mark
	pending map[pendingKey]time.Time // dials and handshakes under way: when they were seen first
	wrote   map[p2p.ChannelID]uint64 // by hostile peers
	read    map[p2p.ChannelID]uint64
	enemies map[p2p.NodeID]bool // hostile peers
	steps   map[string]uint64   // what they did
}

// mark is the last message of a lane that was delivered.
type mark struct {
	life   uint32
	number uint64
}

type pendingKey struct {
	life *life
	id   uint64
}

func newChecker(began time.Time) *checker {
	return &checker{
		began: began, counts: make(map[Fault]uint64), lanes: make(map[lane]mark), pending: make(map[pendingKey]time.Time),
		wrote: make(map[p2p.ChannelID]uint64), read: make(map[p2p.ChannelID]uint64),
		enemies: make(map[p2p.NodeID]bool), steps: make(map[string]uint64),
	}
}

// event remembers what happened, for the one who reads about a failure.
func (c *checker) event(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write(format, args...)
}

func (c *checker) write(format string, args ...any) {
	c.log[c.events%len(c.log)] = fmt.Sprintf("%v ", time.Since(c.began)) + fmt.Sprintf(format, args...)
	c.events++
}

// fail notes a broken invariant; the first one counts.
func (c *checker) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first != nil {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nafter %v; the latest events were:", time.Since(c.began))
	for i := max(0, c.events-len(c.log)); i < c.events; i++ {
		fmt.Fprintf(&b, "\n  %s", c.log[i%len(c.log)])
	}
	c.first = fmt.Errorf("%w%s", err, b.String())
}

// note is fail, if there is an error, and counts a check.
func (c *checker) note(err error) {
	c.checks.Add(1)
	if err != nil {
		c.fail(err)
	}
}

func (c *checker) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first
}

// report says that the failure was reported.
func (c *checker) report() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = true
}

// unreported is the failure that nobody was told of.
func (c *checker) unreported() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.told {
		return nil
	}
	return c.first
}

// happened counts a fault that was brought about.
func (c *checker) happened(kind Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[kind]++
}

func (c *checker) faults() map[Fault]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts)
}

func (c *checker) setQuiet(quiet bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quiet = quiet
}

func (c *checker) isQuiet() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.quiet
}

// sent looks at a send that must not wait.
func (c *checker) sent(l *life, began time.Time, err error) {
	c.checks.Add(1)
	if took := time.Since(began); took > 0 {
		c.fail(fmt.Errorf("node %d: a send that must not wait took %v", l.node.index, took))
	}
	if err == nil {
		c.accepted.Add(1)
		return
	}
	c.refused.Add(1)
	for _, known := range []error{p2p.ErrPeerUnknown, p2p.ErrQueueFull, p2p.ErrQueueClosed, p2p.ErrClosed} {
		if errors.Is(err, known) {
			return
		}
	}
	c.fail(fmt.Errorf("node %d: a send failed: %w", l.node.index, err))
}

// received looks at a message: whose number comes after that of the last one, and
// whose channel's counts balance.
func (c *checker) received(l *life, ch *p2p.TypedChannel[*payload], in p2p.Incoming[*payload]) {
	c.checks.Add(1)
	if c.isEnemy(in.From) {
		return // whose messages have no numbers
	}
	c.delivered.Add(1)
	broadcast, life, number, ok := parse(in.Message.Value)
	if !ok {
		c.fail(fmt.Errorf("node %d: a message from %v on channel %#x that nobody sent so", l.node.index, in.From, ch.ID()))
		return
	}
	key := lane{in.From, l.node.id, ch.ID(), broadcast}
	c.mu.Lock()
	last := c.lanes[key]
	c.lanes[key] = mark{life, number}
	c.mu.Unlock()
	if life < last.life || life == last.life && number <= last.number {
		c.fail(fmt.Errorf("node %d: message %d.%d from %v on channel %#x came after %d.%d: twice, or out of order",
			l.node.index, life, number, in.From, ch.ID(), last.life, last.number))
	}
	if err := checkBalance(ch.Stats()); err != nil {
		c.fail(fmt.Errorf("node %d: %w", l.node.index, err))
	}
}

// tooLong says which dials and handshakes of a node have been under way for
// longer than they may be.
func (c *checker) tooLong(l *life, s p2p.RouterStats) error {
	const dial, handshake = (5 + 10 + 10) * time.Second, 10 * time.Second // the Router's defaults
	c.mu.Lock()
	defer c.mu.Unlock()
	now, open := time.Now(), make(map[pendingKey]bool)
	var err error
	look := func(id uint64, most time.Duration, what string) {
		key := pendingKey{l, id}
		open[key] = true
		since, seen := c.pending[key]
		if !seen {
			c.pending[key] = now
		} else if now.Sub(since) > most {
			err = fmt.Errorf("node %d: a %s has been under way for %v", l.node.index, what, now.Sub(since))
		}
	}
	for _, p := range s.Engine.Dials {
		look(p.ID, dial, "dial to "+p.Target)
	}
	for _, p := range s.Engine.Handshakes {
		look(p.ID, handshake, "handshake")
	}
	for key := range c.pending {
		if key.life == l && !open[key] {
			delete(c.pending, key)
		}
	}
	return err
}

// forget drops what is remembered of a life that is over.
func (c *checker) forget(l *life) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.pending {
		if key.life == l {
			delete(c.pending, key)
		}
	}
}

// enemy says that a peer is a hostile one.
func (c *checker) enemy(id p2p.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enemies[id] = true
}

func (c *checker) isEnemy(id p2p.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.enemies[id]
}

// stepped counts what a hostile peer did.
func (c *checker) stepped(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.steps[name]++
}

func (c *checker) hostileSteps() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.steps)
}

// hostileWrote counts a message that a hostile peer sent whole, hostileRead one it
// received.
func (c *checker) hostileWrote(id p2p.ChannelID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrote[id]++
}

func (c *checker) hostileRead(id p2p.ChannelID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read[id]++
}

func (c *checker) hostileSent(id p2p.ChannelID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wrote[id]
}

func (c *checker) hostileReceived(id p2p.ChannelID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read[id]
}
