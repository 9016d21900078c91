package transport

import (
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/kith-p2p/kith/address"
	ma "github.com/multiformats/go-multiaddr"
)

// Panel holds the breakers, one per address. It costs no goroutine, and its size is bounded by Options.Breakers: when it
// is full, the breaker that was looked up longest ago makes room.
//
// Closed breakers go first, since they have nothing to remember but a failure or two. Open and half-open ones go only
// when they fill more than three quarters of the panel, so that closed ones still live long enough to open. A
// breaker that is evicted is forgotten: its address may be dialled again at once. To have one forgotten early, somebody
// must therefore make breakers open at three quarters of the panel's size, each at the price of Threshold failed dials.
//
// Safe for concurrent use; nothing blocks on it.
type Panel struct {
	opts     Options       // with the defaults filled in
	patience time.Duration // how long a trial may be pending
	subs     subscribers

	// mu guards what follows, and the links of the breakers. It is held for look-ups only; Breaker.mu may be taken
	// under it, not the other way round.
	mu           sync.Mutex
	breakers     map[string]*Breaker
	closed, open list // open holds half-open ones too
	evicted      uint64
	evictedOpen  uint64
}

// PanelStats are counts of a Panel.
type PanelStats struct {
	Breakers    int    // held
	Open        int    // of these, open or half-open
	Evicted     uint64 // forgotten to make room, ever
	EvictedOpen uint64 // of these, open or half-open
	Subscribers int
	Dropped     uint64 // events that a subscriber was too slow for, ever
}

func newPanel(opts Options) *Panel {
	patience := 2 * opts.Timeout
	if patience < opts.Timeout { // overflow
		patience = opts.Timeout
	}
	return &Panel{opts: opts, patience: patience, breakers: make(map[string]*Breaker)}
}

// textKey begins the key of what is no multiaddr. No multiaddr begins with it: 0 is no protocol.
const textKey = 0

// parsed returns the multiaddr that addr is or spells, or nil.
func parsed(addr fmt.Stringer) (m ma.Multiaddr, text string) {
	if addr == nil {
		return nil, ""
	}
	text = addr.String()
	if strings.HasPrefix(text, "/") && len(text) <= address.MaxLength {
		if m, err := ma.NewMultiaddr(text); err == nil {
			return m, ""
		}
	}
	return nil, text
}

// Lookup returns the breaker of addr, and makes it if there is none. A multiaddr, or anything whose text is one, is
// known by its bytes, so two spellings of one multiaddr have one breaker; anything else by its text.
func (p *Panel) Lookup(addr fmt.Stringer) *Breaker {
	m, ok := addr.(ma.Multiaddr)
	if !ok {
		var text string
		if m, text = parsed(addr); m == nil {
			return p.lookup(append([]byte{textKey}, text...))
		}
	}
	return p.lookup(m.Bytes())
}

func (p *Panel) lookup(key []byte) *Breaker {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.breakers[string(key)]; b != nil {
		b.where.remove(b)
		b.where.push(b)
		return b
	}
	b := &Breaker{panel: p, key: string(key)}
	p.breakers[b.key] = b
	b.where = &p.closed
	p.closed.push(b)
	if len(p.breakers) > p.opts.Breakers {
		p.evict()
	}
	return b
}

// evict forgets one breaker.
func (p *Panel) evict() {
	from := &p.closed
	if p.open.n > p.opts.Breakers*3/4 {
		from = &p.open
		p.evictedOpen++
	}
	b := from.back
	from.remove(b)
	b.where = nil
	delete(p.breakers, b.key)
	p.evicted++
}

// refile puts a breaker into the list of its state.
func (p *Panel) refile(b *Breaker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.where == nil {
		return
	}
	b.mu.Lock()
	closed := b.state == Closed
	b.mu.Unlock()
	b.where.remove(b)
	if b.where = &p.open; closed {
		b.where = &p.closed
	}
	b.where.push(b)
}

// All returns the breakers that the panel holds now, by name, in no order. Others may be added and evicted meanwhile;
// no lock is held while the loop runs.
func (p *Panel) All() iter.Seq2[string, *Breaker] {
	return func(yield func(string, *Breaker) bool) {
		p.mu.Lock()
		all := make([]*Breaker, 0, len(p.breakers))
		for _, b := range p.breakers {
			all = append(all, b)
		}
		p.mu.Unlock()
		for _, b := range all {
			if !yield(b.Name(), b) {
				return
			}
		}
	}
}

// Subscribe returns a channel of the events from now on. It holds 256; whoever reads too slowly misses further ones,
// which PanelStats.Dropped counts, and never holds up a dial. Unsubscribe ends it; until then it is kept.
func (p *Panel) Subscribe() <-chan Event { return p.subs.add() }

// Unsubscribe ends a subscription and closes its channel, from which waiting events can still be read. A channel that
// is not, or no longer, subscribed is left alone.
func (p *Panel) Unsubscribe(events <-chan Event) { p.subs.remove(events) }

// Stats returns the counts.
func (p *Panel) Stats() PanelStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return PanelStats{
		Breakers: len(p.breakers), Open: p.open.n,
		Evicted: p.evicted, EvictedOpen: p.evictedOpen,
		Subscribers: p.subs.count(), Dropped: p.subs.dropped.Load(),
	}
}

// list is a doubly linked list of breakers, the last used in front. Panel.mu guards it.
type list struct {
	front, back *Breaker
	n           int
}

func (l *list) push(b *Breaker) {
	b.prev, b.next = nil, l.front
	if l.front != nil {
		l.front.prev = b
	} else {
		l.back = b
	}
	l.front = b
	l.n++
}

func (l *list) remove(b *Breaker) {
	if b.prev != nil {
		b.prev.next = b.next
	} else {
		l.front = b.next
	}
	if b.next != nil {
		b.next.prev = b.prev
	} else {
		l.back = b.prev
	}
	b.prev, b.next = nil, nil
	l.n--
}
