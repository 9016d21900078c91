package dispatch

import (
	"math"
	"sync"

	"github.com/kith-p2p/kith/p2p"
)

// ledger is what peers earned and spoilt since the last settling. All methods are
// safe for concurrent use.
//
// Of each type, the peers that sent its messages share its weight, each by how
// many of them it sent. So a settling gives all peers together no more than
// the weights of the types that came, however many messages there were, and a
// peer that floods earns what it takes from the others who sent the same type.
type ledger struct {
	mu   sync.Mutex // guards the fields below
	good map[string]*earnings
	bad  map[p2p.NodeID]int
}

type earnings struct {
	weight, total int
	by            map[p2p.NodeID]int
}

// maxLedger bounds the peers of one type, and those with faults.
const maxLedger = 4096

func newLedger() *ledger {
	return &ledger{good: make(map[string]*earnings), bad: make(map[p2p.NodeID]int)}
}

// credit notes a message that was wanted.
func (l *ledger) credit(from p2p.NodeID, messageType string, weight int) {
	if from == "" || weight == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.good[messageType]
	if e == nil {
		if len(l.good) >= MaxTypes {
			return
		}
		e = &earnings{by: make(map[p2p.NodeID]int)}
		l.good[messageType] = e
	}
	if _, again := e.by[from]; !again && len(e.by) >= maxLedger {
		return
	}
	e.by[from]++
	e.total++
	e.weight = max(e.weight, weight)
}

// blame notes a fault, and says how many that makes since the last settling.
func (l *ledger) blame(from p2p.NodeID) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, again := l.bad[from]; from == "" || !again && len(l.bad) >= maxLedger {
		return 0
	}
	l.bad[from] = min(l.bad[from]+1, MaxWeight)
	return l.bad[from]
}

// settle empties the ledger into reports, good ones and bad ones.
func (l *ledger) settle(report func(p2p.NodeID, p2p.Behaviour)) {
	l.mu.Lock()
	good, bad := l.good, l.bad
	l.good, l.bad = make(map[string]*earnings), make(map[p2p.NodeID]int)
	l.mu.Unlock()
	worth := make(map[p2p.NodeID]float64)
	for _, e := range good {
		for id, n := range e.by {
			worth[id] += float64(e.weight) * float64(n) / float64(e.total)
		}
	}
	for id, w := range worth {
		report(id, p2p.Behaviour{Status: p2p.PeerStatusGood, Kind: "wanted messages", Weight: uint16(min(math.Ceil(w), math.MaxUint16))})
	}
	for id, n := range bad {
		report(id, p2p.Behaviour{Status: p2p.PeerStatusBad, Kind: "bad messages", Weight: uint16(n)})
	}
}
