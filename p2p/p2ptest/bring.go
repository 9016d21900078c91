package p2ptest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// do brings a fault about. What cannot be now, since nobody is there or connected,
// is tried again for two minutes. A fault is counted when it had an effect, which
// most show only later: see effect.
func (n *Network) do(s Step) { n.try(s, 24) }

func (n *Network) try(s Step, tries int) {
	if l := n.victim(s.Node); l != nil && n.bring(l, s) {
		n.checker.event("fault: %v", s)
		return
	}
	if tries > 1 {
		n.after(5*time.Second, func() { n.try(s, tries-1) })
	}
}

func (n *Network) bring(l *life, s Step) (did bool) {
	switch s.Fault {
	case FaultReset:
		return n.reset(l, s) // counted there
	case FaultSlowLink:
		return n.slowLink(l, s)
	case FaultOneWayPartition:
		return n.oneWay(l, s)
	case FaultPartition:
		return n.partition(l, s)
	case FaultCrash:
		did = n.crash(l, s)
	case FaultStopsReading:
		return n.stopReading(l, s)
	case FaultAcceptErrors:
		return n.failAccepts(l, s)
	case FaultAddressChange:
		did = n.move(l)
	case FaultStoreWriteError:
		return n.failStore(l, s) // counted by the store
	case FaultHostileStep:
		return n.beHostile(l, s) // counted there
	}
	if did {
		n.checker.happened(s.Fault)
	}
	return did
}

// victim is a node, or the next one that is not down; nil: all are.
func (n *Network) victim(i int) *life {
	for k := range n.nodes {
		if l := n.nodes[(i+k)%len(n.nodes)].alive(); l != nil {
			return l
		}
	}
	return nil
}

// neighbour is one of the peers of a node, or any other node when it has none.
func (n *Network) neighbour(l *life, choice uint64) (id p2p.NodeID, connected bool) {
	var of []p2p.NodeID
	for _, id := range l.peers() {
		if n.byID(id) != nil {
			of = append(of, id)
		}
	}
	if len(of) > 0 {
		return of[choice%uint64(len(of))], true
	}
	other := choice % uint64(len(n.nodes)-1)
	if int(other) >= l.node.index {
		other++
	}
	return n.nodes[other].id, false
}

func (n *Network) byID(id p2p.NodeID) *Node {
	for _, node := range n.nodes {
		if node.id == id {
			return node
		}
	}
	return nil
}

// reset resets a connection, at once or in the middle of a message to come.
func (n *Network) reset(l *life, s Step) bool {
	id, connected := n.neighbour(l, s.Choice/4)
	switch {
	case !connected:
		return false
	case s.Choice%4 == 0: // the network counts it when it comes
		n.mem.CutAfter(l.node.id, id, 1+int(s.Choice/64%8))
	case n.mem.Reset(l.node.id, id) == 0:
		return false
	default:
		n.checker.happened(FaultReset)
	}
	return true
}

// slowLink makes a link slow, so much that all that goes over it is late.
func (n *Network) slowLink(l *life, s Step) bool {
	id, _ := n.neighbour(l, s.Choice)
	slow := memory.Link{
		Latency: n.o.Link.Latency + n.o.Link.Jitter + 200*time.Millisecond + time.Duration(s.Choice%8)*100*time.Millisecond, Jitter: 100 * time.Millisecond,
		Bandwidth: 4 << 10 << (s.Choice / 8 % 4),
	}
	ways := []way{{l.node.id, id}, {id, l.node.id}}
	n.lasting(s, n.harm(ways, func(h memory.Harm) uint64 { return h.Slowed }), func() func() {
		return n.weather.each(ways, func(from, to p2p.NodeID) func() { return n.weather.slow(from, to, slow) })
	})
	return true
}

func (n *Network) oneWay(l *life, s Step) bool {
	id, _ := n.neighbour(l, s.Choice/2)
	from, to := l.node.id, id
	if s.Choice%2 == 0 {
		from, to = to, from
	}
	n.cut(s, []way{{from, to}})
	return true
}

// partition cuts some nodes off from all others.
func (n *Network) partition(l *life, s Step) bool {
	off := map[int]bool{l.node.index: true}
	for _, i := range s.Others {
		off[i] = true
	}
	var ways []way
	for i, a := range n.nodes {
		for j, b := range n.nodes {
			if off[i] && !off[j] {
				ways = append(ways, way{a.id, b.id}, way{b.id, a.id})
			}
		}
	}
	n.cut(s, ways)
	return len(ways) > 0
}

// cut partitions links.
func (n *Network) cut(s Step, ways []way) {
	n.lasting(s, n.harm(ways, func(h memory.Harm) uint64 { return h.Cut }), func() func() { return n.weather.each(ways, n.weather.cut) })
}

// crash kills a node and has it come back, at another address at times.
func (n *Network) crash(l *life, s Step) bool {
	node := l.node
	n.checker.dials.Add(l.router.Stats().Engine.Counters.Dialled)
	node.crash()
	n.checker.forget(l)
	n.after(s.Lasts, func() {
		if s.Choice%4 == 0 {
			node.mu.Lock()
			node.place = n.newPlace()
			node.mu.Unlock()
		}
		if err := node.start(); err != nil {
			n.checker.fail(fmt.Errorf("node %d does not come back: %w", node.index, err))
			return
		}
		n.checker.event("node %d is back", node.index)
		n.introduceAll()
		n.checker.note(node.checkBans())
	})
	return true
}

// stopReading makes a node stop reading: its reactors, or its connections.
func (n *Network) stopReading(l *life, s Step) bool {
	if s.Choice%2 == 0 {
		n.lasting(s, l.traffic.waited.Load, func() func() {
			l.traffic.hold()
			return l.traffic.release
		})
		return true
	}
	var ways []way
	for _, other := range n.nodes {
		if other != l.node {
			ways = append(ways, way{other.id, l.node.id})
		}
	}
	n.lasting(s, n.harm(ways, func(h memory.Harm) uint64 { return h.Stalled }), func() func() { return n.weather.each(ways, n.weather.stall) })
	return true
}

// move gives a node another address; its connections end, as when a lease does.
func (n *Network) move(l *life) bool {
	place := n.newPlace()
	if err := l.transport.Move(place); err != nil {
		n.checker.fail(fmt.Errorf("node %d cannot move: %w", l.node.index, err))
		return false
	}
	l.node.mu.Lock()
	l.node.place = place
	l.node.mu.Unlock()
	for _, other := range n.nodes {
		if other != l.node {
			n.mem.Reset(l.node.id, other.id)
		}
	}
	n.introduceAll()
	return true
}

// introduceAll is called when a node has moved or is back. Once anybody has moved
// it tells each node that knows no other's address any more of one, as its operator
// would: no dial of its own could find anybody.
func (n *Network) introduceAll() {
	if n.moves == len(n.nodes) {
		return
	}
	for _, node := range n.nodes {
		if l := node.alive(); l != nil {
			n.introduce(l)
		}
	}
}

func (n *Network) introduce(l *life) {
	node := l.node
	for _, other := range n.nodes {
		if other != node && slices.Contains(l.pm.Addresses(other.id), other.Address()) {
			return
		}
	}
	next := n.nodes[(node.index+1)%len(n.nodes)].Address()
	if _, err := l.pm.AddFrom(next, p2p.Source{Kind: addrbook.Bootstrap}); err != nil {
		n.checker.fail(fmt.Errorf("node %d cannot be told of %v: %w", node.index, next, err))
	}
}

// failAccepts makes a node's Accepts fail, the one that waits and those to come.
func (n *Network) failAccepts(l *life, s Step) bool {
	n.lasting(s, l.transport.failed.Load, func() func() {
		l.transport.failing.Store(true)
		n.mem.FailAccepts(l.node.id, errTooManyFiles)
		return func() { l.transport.failing.Store(false) }
	})
	return true
}

// failStore makes the store fail, which a ban has to say although it holds. The
// store counts the failures.
func (n *Network) failStore(l *life, s Step) bool {
	l.node.store.FailFor(s.Lasts)
	stranger := n.key(1<<33 + int(s.Choice)).Public().NodeID()
	if err := l.pm.Ban(stranger, time.Hour, "while the store fails"); !errors.Is(err, ErrStore) {
		n.checker.fail(fmt.Errorf("node %d: a ban that cannot be saved returned %w", l.node.index, err))
	}
	if _, banned := l.pm.Book().Banned(stranger); !banned {
		n.checker.fail(fmt.Errorf("node %d: a ban that cannot be saved does not hold", l.node.index))
	}
	return true
}

// heal ends every fault at once.
func (n *Network) heal() {
	for len(n.undo) > 0 {
		u := n.undo[0]
		n.undo = n.undo[1:]
		u.do()
	}
	n.peace()
	n.hostile.Wait()
	n.war, n.peace = context.WithCancel(context.Background())
	for _, node := range n.nodes {
		node.store.Heal()
	}
	n.mem.HealAll()
	n.checker.event("all faults are over")
}

// ban has a node ban a peer, and remembers that this was saved.
func (n *Node) ban(l *life, id p2p.NodeID, d time.Duration) {
	if err := l.pm.Ban(id, d, "hostile"); err != nil {
		return // the store fails, by order
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bans[id] = time.Now().Add(d)
}

// checkBans says which acknowledged bans a restart has lost.
func (n *Node) checkBans() error {
	pm := n.PeerManager()
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, until := range n.bans {
		if _, banned := pm.Book().Banned(id); !banned && time.Now().Before(until) {
			return fmt.Errorf("node %d: the ban of %v was saved, and is not there after a crash", n.index, id)
		}
	}
	return nil
}
