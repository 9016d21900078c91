package p2ptest

import (
	"slices"

	"github.com/kith-p2p/kith/p2p/memory"
)

// effect is a fault that goes on and has not shown an effect yet. A fault that was
// ordered tests nothing where nobody meets it, so it is counted, once, when what
// it is measured by has grown.
type effect struct {
	kind   Fault
	count  func() uint64
	before uint64
}

// lasting brings a fault about and ends it when its time is over. It is counted if
// count grows until then.
func (n *Network) lasting(s Step, count func() uint64, begin func() (end func())) {
	e := &effect{s.Fault, count, count()}
	n.effects = append(n.effects, e)
	end := begin()
	n.after(s.Lasts, func() {
		n.weigh()
		n.effects = slices.DeleteFunc(n.effects, func(o *effect) bool { return o == e })
		end()
	})
}

// weigh counts the faults that have shown an effect.
func (n *Network) weigh() {
	n.effects = slices.DeleteFunc(n.effects, func(e *effect) bool {
		if e.count() == e.before {
			return false
		}
		n.checker.happened(e.kind)
		return true
	})
}

// harm sums what the faults of some links have done.
func (n *Network) harm(ways []way, of func(memory.Harm) uint64) func() uint64 {
	return func() (sum uint64) {
		for _, w := range ways {
			sum += of(n.mem.Harm(w.from, w.to))
		}
		return sum
	}
}
