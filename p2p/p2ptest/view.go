package p2ptest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kith-p2p/kith/connmgr"
	"github.com/kith-p2p/kith/p2p"
)

// view is one node at one moment, as the invariants look at it.
type view struct {
	node       int
	self       p2p.NodeID
	options    p2p.PeerManagerOptions
	persistent p2p.NodeID
	stats      p2p.RouterStats
	banned     []p2p.NodeID // of those that are connected or dialled

	told []p2p.NodeID // peers that are up by the updates, sorted

	// Of a settled view: nothing was under way when it was taken, but time.
	settled bool
	held    []p2p.NodeID // peers that the address book keeps out of its picks
}

// view looks at a node. Only in a settled moment is everything seen at one time.
func (l *life) view(settled bool) view {
	v := view{node: l.node.index, self: l.node.id, persistent: l.node.persistent, options: l.node.net.o.Peers, stats: l.router.Stats(), told: l.peers(), settled: settled}
	if !settled {
		return v
	}
	for _, c := range v.stats.Engine.Connections {
		if _, banned := l.pm.Book().Banned(p2p.NodeID(c.Identity)); banned {
			v.banned = append(v.banned, p2p.NodeID(c.Identity))
		}
	}
	v.held = l.held()
	return v
}

// held are the peers that the address book keeps out of its picks.
func (l *life) held() (ids []p2p.NodeID) {
	book := l.pm.Book()
	for _, id := range book.Peers() {
		if p, ok := book.Peer(id); ok && p.Held {
			ids = append(ids, id)
		}
	}
	return ids
}

// check says which invariants do not hold.
func (v view) check() error {
	var faults []error
	bad := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("node %d: "+format, append([]any{v.node}, args...)...))
	}
	v.checkPeers(bad)
	v.checkCaps(bad)
	for _, c := range v.stats.Channels {
		if err := checkBalance(c); err != nil {
			bad("%w", err)
		}
	}
	if v.settled {
		v.checkSettled(bad)
	}
	return errors.Join(faults...)
}

// checkPeers is about who is a peer, and how many are.
func (v view) checkPeers(bad func(string, ...any)) {
	outgoing := 0
	seen := make(map[p2p.NodeID]bool)
	for _, p := range v.stats.Peers {
		switch {
		case p.ID == v.self:
			bad("is connected to itself")
		case seen[p.ID]:
			bad("has two sessions with %v", p.ID)
		}
		seen[p.ID] = true
		if p.Direction == connmgr.Outbound && p.ID != v.persistent && !slices.Contains(v.options.PersistentPeers, p.ID) {
			outgoing++
		}
	}
	// By the updates, since a Router takes a session off its list when its
	// connection has ended, a moment after the PeerManager gave its place away.
	if most := int(v.options.MaxConnected) + int(v.options.MaxConnectedUpgrade); v.options.MaxConnected > 0 && len(v.told) > most {
		bad("has %d peers, at most %d may be", len(v.told), most)
	}
	if most := int(v.options.MaxOutgoingConnections); most > 0 && outgoing > most {
		bad("has dialled %d of its peers, at most %d may be", outgoing, most)
	}
}

// checkCaps is about what waits.
func (v view) checkCaps(bad func(string, ...any)) {
	for _, p := range v.stats.Peers {
		if p.Send.QueuedBytes > sendQueueBytes {
			bad("%d bytes wait for %v, at most %d may", p.Send.QueuedBytes, p.ID, sendQueueBytes)
		}
		for id, s := range p.Channels {
			d, ok := trafficChannels[id]
			if ok && (s.QueuedBytes > d.SendQueueBytes || s.Queued > d.SendQueueCapacity) {
				bad("%d messages of %d bytes wait for %v on channel %s, at most %d of %d may", s.Queued, s.QueuedBytes, p.ID, d.Name, d.SendQueueCapacity, d.SendQueueBytes)
			}
		}
	}
	for _, c := range v.stats.Channels {
		if d, ok := trafficChannels[c.ID]; ok && c.Received.QueuedBytes > d.RecvTotalBytes {
			bad("%d bytes of channel %s wait for the receiver, at most %d may", c.Received.QueuedBytes, d.Name, d.RecvTotalBytes)
		}
	}
}

// checkSettled is about what has to agree when nothing is under way.
func (v view) checkSettled(bad func(string, ...any)) {
	var up, connected []p2p.NodeID
	outbound := make(map[p2p.NodeID]bool)
	for _, p := range v.stats.Peers {
		up = append(up, p.ID)
	}
	for _, c := range v.stats.Engine.Connections {
		connected = append(connected, p2p.NodeID(c.Identity))
		outbound[p2p.NodeID(c.Identity)] = c.Direction == connmgr.Outbound
	}
	slices.Sort(connected)
	if !slices.Equal(up, connected) {
		bad("has sessions with %.8v and connections with %.8v", up, connected)
	}
	if !slices.Equal(up, v.told) {
		bad("has sessions with %.8v, and told of %.8v", up, v.told)
	}
	if v.options.MaxConnected > 0 && len(up) > int(v.options.MaxConnected) {
		bad("has %d peers and evicts none, at most %d may stay", len(up), v.options.MaxConnected)
	}
	for _, id := range v.banned {
		bad("is connected to %v, which it has banned", id)
	}
	for _, id := range v.held {
		dialled := slices.ContainsFunc(v.stats.Engine.Dials, func(p connmgr.PendingInfo) bool { return strings.Contains(p.Target, string(id)) })
		if !dialled && !slices.Contains(connected, id) {
			bad("keeps %v reserved, but neither dials it nor is connected to it", id)
		}
	}
	for _, d := range v.stats.Engine.Dials {
		if strings.Contains(d.Target, string(v.self)) {
			bad("dials itself at %s", d.Target)
		}
		for id, out := range outbound {
			if out && strings.Contains(d.Target, string(id)) {
				bad("dials %v at %s, which it has dialled already", id, d.Target)
			}
		}
	}
}

// checkBalance says how the counts of a channel fail to add up: what was offered
// was accepted or refused, what was accepted was written, waits or was dropped,
// and what was received was delivered, waits or was dropped.
func checkBalance(c p2p.ChannelStats) error {
	s, refused := c.Send, uint64(0)
	for r, n := range s.Dropped {
		if p2p.DropReason(r).Refused() {
			refused += n
		}
	}
	if s.Offered != s.Accepted+refused {
		return fmt.Errorf("channel %s: offered %d messages, accepted %d, dropped %s", c.Name, s.Offered, s.Accepted, s.Dropped)
	}
	if s.Accepted != s.Written+uint64(s.Queued)+s.Dropped.Total()-refused {
		return fmt.Errorf("channel %s: accepted %d messages, wrote %d, %d wait, dropped %s", c.Name, s.Accepted, s.Written, s.Queued, s.Dropped)
	}
	if r := c.Received; r.Received != r.Delivered+uint64(r.Queued)+uint64(r.Paused)+r.Dropped.Total() {
		return fmt.Errorf("channel %s: received %d messages, delivered %d, %d wait, %d held up, dropped %s", c.Name, r.Received, r.Delivered, r.Queued, r.Paused, r.Dropped)
	}
	return nil
}

// addChannelStats adds the counts of one life to those before.
func addChannelStats(sum *p2p.ChannelStats, c p2p.ChannelStats) {
	sum.ID, sum.Name = c.ID, c.Name
	s, r := &sum.Send, &sum.Received
	s.Offered += c.Send.Offered
	s.Accepted += c.Send.Accepted
	s.Written += c.Send.Written
	s.WrittenBytes += c.Send.WrittenBytes
	s.Queued += c.Send.Queued
	s.QueuedBytes += c.Send.QueuedBytes
	r.Received += c.Received.Received
	r.ReceivedBytes += c.Received.ReceivedBytes
	r.Delivered += c.Received.Delivered
	r.DeliveredBytes += c.Received.DeliveredBytes
	r.Queued += c.Received.Queued
	r.QueuedBytes += c.Received.QueuedBytes
	r.Paused += c.Received.Paused
	for i := range c.Send.Dropped {
		s.Dropped[i] += c.Send.Dropped[i]
		r.Dropped[i] += c.Received.Dropped[i]
	}
}
