package connmgr

import (
	"cmp"
	binheap "container/heap"
)

// queue is a heap of the entries that wait for their turn: by due time, then
// by kind (rank), then by age. The entry due first is at the front.
type queue []*entry

// rank orders kinds that are due together: what a restart needs first, what a
// person waits for, what must stay up, then the rest.
var rank = [...]int{KindAnchor: 0, KindManual: 1, KindPermanent: 2, KindAutomatic: 3, KindFeeler: 4, KindInbound: 5}

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	a, b := q[i], q[j]
	return cmp.Or(a.due.Compare(b.due), cmp.Compare(rank[a.kind], rank[b.kind]), cmp.Compare(a.id, b.id)) < 0
}

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

// Push is container/heap's; use add.
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.at = len(*q)
	*q = append(*q, e)
}

// Pop is container/heap's; use remove.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.at = -1
	return e
}

func (q *queue) add(e *entry) { binheap.Push(q, e) }

// remove takes e out, wherever it is; an entry that does not wait is left.
func (q *queue) remove(e *entry) {
	if e.at >= 0 {
		binheap.Remove(q, e.at)
	}
}

// reorder restores the order after entries in it changed.
func (q *queue) reorder() { binheap.Init(q) }
