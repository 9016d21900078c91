package p2p

import (
	"slices"
	"sync"
)

// PeerStatus is what a PeerUpdate or a Behaviour says about a peer.
type PeerStatus string

// The statuses. Up and down come out of Subscribe; good and bad go into Report.
const (
	PeerStatusUp   PeerStatus = "up"
	PeerStatusDown PeerStatus = "down"
	PeerStatusGood PeerStatus = "good"
	PeerStatusBad  PeerStatus = "bad"
)

// PeerUpdate says that a peer came up, with the channels it has, or went down.
type PeerUpdate struct {
	NodeID   NodeID
	Status   PeerStatus
	Channels ChannelIDSet // of an up; not to be changed
}

// updatesRoom is how many updates a subscription holds before it starts to
// merge: a burst of peers that come up together fits.
const updatesRoom = 64

// PeerUpdates is a subscription to the coming and going of peers.
//
// An update is in the channel before the call that caused it returns, as long
// as the subscriber has room (64 updates). A subscriber that falls further
// behind costs nobody anything: of each peer at most two updates wait, in
// order, a down and the up after it. A peer that came up and went down again
// before the subscriber could hear of it is not mentioned. So the updates of a
// peer alternate, the first is an up unless the peer was up at Subscribe, and
// between two ups there is always a down.
type PeerUpdates struct {
	ch     chan PeerUpdate
	done   chan struct{}
	remove func(*PeerUpdates)

	mu      sync.Mutex              // guards the fields below; sends under it never block
	waiting map[NodeID][]PeerUpdate // what the subscriber did not hear: an up, a down, or a down and an up
	order   []NodeID                // peers with waiting updates, the longest waiting first
	busy    bool                    // a goroutine is sending what waits
	closed  bool
	drained sync.WaitGroup
}

func newPeerUpdates(remove func(*PeerUpdates)) *PeerUpdates {
	return &PeerUpdates{
		ch: make(chan PeerUpdate, updatesRoom), done: make(chan struct{}),
		remove: remove, waiting: make(map[NodeID][]PeerUpdate),
	}
}

// Updates is the channel of updates. It is closed by Close and when the
// PeerManager closes.
func (u *PeerUpdates) Updates() <-chan PeerUpdate { return u.ch }

// Close ends the subscription and closes the channel. It may be called more
// than once and by any goroutine, the reader's too.
func (u *PeerUpdates) Close() {
	u.mu.Lock()
	first := !u.closed
	u.closed = true
	if first {
		close(u.done)
	}
	u.mu.Unlock()
	u.drained.Wait()
	if first {
		u.remove(u)
		close(u.ch)
	}
}

// send hands over an update, or keeps it until there is room. It does not block.
// The updates of one peer come in turn: up, down, up.
func (u *PeerUpdates) send(up PeerUpdate) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return
	}
	if !u.busy {
		select {
		case u.ch <- up:
			return
		default:
		}
	}
	id, waiting := up.NodeID, u.waiting[up.NodeID]
	switch last := len(waiting) - 1; {
	case last < 0:
		u.waiting[id], u.order = []PeerUpdate{up}, append(u.order, id)
	case waiting[last].Status == PeerStatusUp: // and now down: the subscriber needs neither
		u.keep(id, waiting[:last])
	default:
		u.waiting[id] = append(waiting, up)
	}
	if !u.busy {
		u.busy = true
		u.drained.Go(u.drain)
	}
}

// keep replaces what waits of a peer by less.
func (u *PeerUpdates) keep(id NodeID, waiting []PeerUpdate) {
	if u.waiting[id] = waiting; len(waiting) == 0 {
		delete(u.waiting, id)
		u.order = slices.DeleteFunc(u.order, func(o NodeID) bool { return o == id })
	}
}

// drain sends what waits, a peer at a time, until nothing does.
func (u *PeerUpdates) drain() {
	for {
		u.mu.Lock()
		if len(u.order) == 0 || u.closed {
			u.busy = false
			u.mu.Unlock()
			return
		}
		id := u.order[0]
		up := u.waiting[id][0]
		u.keep(id, u.waiting[id][1:])
		if len(u.order) > 0 && u.order[0] == id { // its up comes after the others'
			u.order = append(u.order[1:], id)
		}
		u.mu.Unlock()
		select {
		case u.ch <- up:
		case <-u.done:
		}
	}
}
