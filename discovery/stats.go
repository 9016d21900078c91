package discovery

import (
	"cmp"
	"maps"
	"sync"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
)

// Reasons of the Mix for not taking an address, beside those of the book.
const (
	// RefusedShare: the source has taught its share, and enough of it waits.
	RefusedShare addrbook.Reason = "share"
	// RefusedCrowd: the source has named too many peers at one place.
	RefusedCrowd addrbook.Reason = "crowded"
	// RefusedByBook: the book refused what an external source taught it.
	RefusedByBook addrbook.Reason = "book"
	// RefusedCut: it is above what is read of one answer.
	RefusedCut addrbook.Reason = "cut"
	// RefusedNobody: at the place that a DNS seed named nobody said who it is.
	RefusedNobody addrbook.Reason = "nobody"
)

// tally counts what a source does not pass on. The zero value and nil are
// empty; nil counts nothing. It is safe for concurrent use.
type tally struct {
	mu sync.Mutex // guards n
	n  map[addrbook.Reason]uint64
}

func (t *tally) add(why addrbook.Reason, n int) {
	if t == nil || n <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[addrbook.Reason]uint64{}
	}
	t.n[why] += uint64(n)
}

// Report implements Reporter.
func (t *tally) Report() (map[addrbook.Reason]uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.n), nil
}

// State says what a source does.
type State string

// The states.
const (
	StateOff     State = "off"
	StateRunning State = "running"
	StateFailed  State = "failed" // and is tried again later
	StateDone    State = "done"   // nothing more to find
	// StateExternal is that of what is only counted.
	StateExternal State = "external"
)

// Dials counts dials of addresses that a source taught.
type Dials struct{ OK, Failed uint64 }

// SourceStats says what one source did since the Mix was made.
type SourceStats struct {
	Name  string
	State State

	Offered uint64                     // addresses
	Added   uint64                     // of these, new to the book
	Known   uint64                     // known to it
	Refused map[addrbook.Reason]uint64 // of these, and what a Reporter did not offer
	Waiting int                        // for the next share
	Dials   Dials

	Runs      uint64 // how often it was run
	Panics    uint64
	Failures  int   // in a row
	LastError error // of a run that failed, or what a Reporter says; nil: none did
}

func (s *SourceStats) refuse(why addrbook.Reason, n int) {
	if s.Refused == nil {
		s.Refused = map[addrbook.Reason]uint64{}
	}
	s.Refused[why] += uint64(n)
}

// External is a source that teaches the book by itself, such as peer exchange
// (package p2p): Kind tells its addresses apart.
type External struct {
	Name string // "pex"
	Kind addrbook.Kind
	Book interface {
		Stats() addrbook.Stats
		Entry(address.NodeAddress) (addrbook.Entry, bool)
	}
}

// Stats returns the counts, sources first, in the order of the configuration. It
// asks sources that are Reporters, and the books of external sources.
func (m *Mix) Stats() []SourceStats {
	var all []SourceStats
	for _, s := range m.sources {
		m.mu.Lock()
		c := s.counts
		c.Refused, c.Waiting = maps.Clone(c.Refused), len(s.waiting.items)
		m.mu.Unlock()
		if r, ok := s.source.(Reporter); ok {
			refused, fault := r.Report()
			for why, n := range refused {
				c.refuse(why, int(n))
			}
			c.LastError = cmp.Or(c.LastError, fault)
		}
		all = append(all, c)
	}
	for _, e := range m.cfg.External {
		k := e.Book.Stats().Kinds[e.Kind]
		c := SourceStats{Name: e.Name, State: StateExternal, Offered: k.Added + k.Known + k.Refused, Added: k.Added, Known: k.Known}
		if k.Refused > 0 {
			c.refuse(RefusedByBook, int(k.Refused))
		}
		m.mu.Lock()
		c.Dials = *m.credits[e.Name]
		m.mu.Unlock()
		all = append(all, c)
	}
	return all
}

// Dialled is told the outcome of each dial of a peer, with the address as the
// book has it; nil: the peer was there. It counts for every source that taught
// the address, as far back as the last 1024 that each taught; if none did, for
// the external source that the book names. It reports whether it counted.
func (m *Mix) Dialled(a address.NodeAddress, err error) bool {
	count := func(d *Dials) {
		if err == nil {
			d.OK++
		} else {
			d.Failed++
		}
	}
	any := false
	m.mu.Lock()
	for _, s := range m.sources {
		if s.taught.has(a) {
			count(&s.counts.Dials)
			any = true
		}
	}
	m.mu.Unlock()
	for _, e := range m.cfg.External {
		if any {
			break
		}
		if entry, ok := e.Book.Entry(a); ok && entry.Source.Kind == e.Kind {
			m.mu.Lock()
			count(m.credits[e.Name])
			m.mu.Unlock()
			any = true
		}
	}
	return any
}
