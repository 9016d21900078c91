package memory

import (
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// SetLink changes a link in one direction, for what is sent from now on.
func (n *Network) SetLink(from, to p2p.NodeID, is Link) {
	l := n.linkOf(from, to)
	l.mu.Lock()
	slower := is.Latency > l.is.Latency || is.Bandwidth > 0 && (l.is.Bandwidth == 0 || is.Bandwidth < l.is.Bandwidth)
	l.is = is
	if is.Bandwidth == 0 {
		l.free = time.Time{}
	}
	l.mu.Unlock()
	if slower {
		n.count(func(s *Stats) { s.Faults.SlowLinks++ })
	}
}

// Partition cuts two nodes off from each other; PartitionOneWay only what the
// first sends. Nothing arrives until Heal, dials hang.
func (n *Network) Partition(a, b p2p.NodeID) {
	n.PartitionOneWay(a, b)
	n.PartitionOneWay(b, a)
}

// PartitionOneWay is the half of Partition.
func (n *Network) PartitionOneWay(from, to p2p.NodeID) {
	if n.linkOf(from, to).change(func(l *link) { l.partitioned = true }) {
		n.count(func(s *Stats) { s.Faults.Partitions++ })
	}
}

// Stall stops what one node sends to another from arriving, until Heal; dials
// succeed. To its sender the other node looks as if it had stopped reading.
func (n *Network) Stall(from, to p2p.NodeID) {
	if n.linkOf(from, to).change(func(l *link) { l.stalled = true }) {
		n.count(func(s *Stats) { s.Faults.Stalls++ })
	}
}

// Heal ends partitions and stalls between two nodes, in both directions. What was
// held up arrives a latency later.
func (n *Network) Heal(a, b p2p.NodeID) {
	for _, l := range []*link{n.linkOf(a, b), n.linkOf(b, a)} {
		l.change(func(l *link) { l.partitioned, l.stalled = false, false })
	}
}

// HealAll ends all partitions and stalls.
func (n *Network) HealAll() {
	n.mu.Lock()
	links := make([]*link, 0, len(n.links))
	for _, l := range n.links {
		links = append(links, l)
	}
	n.mu.Unlock()
	for _, l := range links {
		l.change(func(l *link) { l.partitioned, l.stalled = false, false })
	}
}

// Reset resets all connections between two nodes and returns how many there were.
func (n *Network) Reset(a, b p2p.NodeID) int {
	return n.resetAll(n.between(a, b))
}

func (n *Network) resetAll(pairs []*pair) int {
	did := 0
	for _, p := range pairs {
		if p.reset() {
			did++
		}
	}
	n.count(func(s *Stats) { s.Faults.Resets += uint64(did) })
	return did
}

// CutAfter resets a connection from one node to another when so many more chunks
// (at least 1) have been sent over the link: that over which the last of them
// went. With more than one chunk to a message it ends in the middle of one.
func (n *Network) CutAfter(from, to p2p.NodeID, chunks int) {
	l := n.linkOf(from, to)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutIn = max(1, chunks)
}

// Crash ends a node as SIGKILL would: its transport is closed and its connections
// are reset. Listen brings it back. It reports whether the node was there.
func (n *Network) Crash(id p2p.NodeID) bool {
	n.mu.Lock()
	t := n.nodes[id]
	n.mu.Unlock()
	if t == nil {
		return false
	}
	_ = t.Close()
	for _, p := range n.between(id, "") {
		p.reset()
	}
	n.count(func(s *Stats) { s.Faults.Crashes++ })
	return true
}

// FailAccepts makes a node's next Accepts return these errors, whether or not a
// connection waits, as EMFILE does.
func (n *Network) FailAccepts(id p2p.NodeID, errs ...error) {
	n.mu.Lock()
	t := n.nodes[id]
	n.mu.Unlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fail = append(t.fail, errs...)
	t.more()
}

// RefuseDials makes a node refuse so many dials.
func (n *Network) RefuseDials(id p2p.NodeID, dials int) {
	n.mu.Lock()
	t := n.nodes[id]
	n.mu.Unlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refuse = dials
}
