package p2ptest

import (
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/connmgr"
	"github.com/kith-p2p/kith/p2p"
)

// A view that is right, and what each fault in it is called.
func TestViewCheck(t *testing.T) {
	a, b, self := p2p.NodeID(strings.Repeat("a", 40)), p2p.NodeID(strings.Repeat("b", 40)), p2p.NodeID(strings.Repeat("c", 40))
	right := func() view {
		return view{
			self: self, settled: true, options: p2p.PeerManagerOptions{MaxConnected: 2, MaxConnectedUpgrade: 1, MaxOutgoingConnections: 1},
			stats: p2p.RouterStats{
				Peers: []p2p.PeerStats{{ID: a, Direction: connmgr.Outbound}, {ID: b, Channels: map[p2p.ChannelID]p2p.SendStats{channelUrgent: {Offered: 2, Accepted: 2, Written: 1, Queued: 1}}}},
				Channels: []p2p.ChannelStats{{ID: channelBulk, Send: p2p.SendStats{Offered: 4, Accepted: 3, Written: 2, Queued: 1, Dropped: p2p.Drops{p2p.DropFull: 1}},
					Received: p2p.ReceiveStats{Received: 3, Delivered: 1, Queued: 1, Dropped: p2p.Drops{p2p.DropOldest: 1}}}},
				Engine: connmgr.Snapshot{Connections: []connmgr.ConnectionInfo{{Identity: string(b)}, {Identity: string(a), Direction: connmgr.Outbound}}},
			},
			told: []p2p.NodeID{a, b}, held: []p2p.NodeID{a, b},
		}
	}
	if err := right().check(); err != nil {
		t.Fatal(err)
	}
	for says, harm := range map[string]func(*view){
		"connected to itself":          func(v *view) { v.stats.Peers[0].ID = self },
		"two sessions":                 func(v *view) { v.stats.Peers[0].ID = b },
		"has dialled 2":                func(v *view) { v.stats.Peers[1].Direction = connmgr.Outbound },
		"has 4 peers, at most 3":       func(v *view) { v.told = append(v.told, self, self) },
		"evicts none, at most 1":       func(v *view) { v.options.MaxConnected, v.options.MaxConnectedUpgrade = 1, 5 },
		"bytes wait for " + string(a):  func(v *view) { v.stats.Peers[0].Send.QueuedBytes = 1 << 30 },
		"messages of 0 bytes wait":     func(v *view) { v.stats.Peers[1].Channels[channelUrgent] = p2p.SendStats{Queued: 1000} },
		"messages of 99999 bytes wait": func(v *view) { v.stats.Peers[1].Channels[channelUrgent] = p2p.SendStats{QueuedBytes: 99999} },
		"wait for the receiver":        func(v *view) { v.stats.Channels[0].Received.QueuedBytes = 1 << 30 },
		"offered 5":                    func(v *view) { v.stats.Channels[0].Send.Offered++ },
		"wrote 3":                      func(v *view) { v.stats.Channels[0].Send.Written++ },
		"delivered 2":                  func(v *view) { v.stats.Channels[0].Received.Delivered++ },
		"and connections with":         func(v *view) { v.stats.Engine.Connections = v.stats.Engine.Connections[1:] },
		"and told of":                  func(v *view) { v.told = v.told[1:] },
		"which it has banned":          func(v *view) { v.banned = []p2p.NodeID{a} },
		"reserved":                     func(v *view) { v.held = append(v.held, self) },
		"dials itself":                 func(v *view) { v.stats.Engine.Dials = []connmgr.PendingInfo{{Target: "memory:" + string(self)}} },
		"which it has dialled already": func(v *view) { v.stats.Engine.Dials = []connmgr.PendingInfo{{Target: "memory:" + string(a)}} },
	} {
		v := right()
		harm(&v)
		if err := v.check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v", says, err)
		}
	}
	v := right()
	v.settled, v.told, v.stats.Engine.Connections = false, nil, nil
	if err := v.check(); err != nil {
		t.Errorf("in a moment that is not settled: %v", err)
	}
	v = right()
	v.stats.Peers[1].Direction, v.persistent = connmgr.Outbound, b
	if err := v.check(); err != nil {
		t.Errorf("a persistent peer is dialled beyond the limit: %v", err)
	}
}

// Dials and handshakes that never end are seen, others are not.
func TestCheckerTooLong(t *testing.T) {
	c := newChecker(time.Now())
	l, other := &life{node: &Node{}}, &life{node: &Node{}}
	dials := p2p.RouterStats{Engine: connmgr.Snapshot{Dials: []connmgr.PendingInfo{{ID: 1}}, Handshakes: []connmgr.PendingInfo{{ID: 2}}}}
	if err := c.tooLong(l, dials); err != nil {
		t.Fatal(err)
	}
	for key, late := range map[uint64]time.Duration{1: 26 * time.Second, 2: 11 * time.Second} {
		at := pendingKey{l, key}
		was := c.pending[at]
		c.pending[at] = was.Add(-late)
		if c.tooLong(l, dials) == nil {
			t.Errorf("%d has been under way for %v, and nobody minds", key, late)
		}
		c.pending[at] = was.Add(-late + 5*time.Second)
		if err := c.tooLong(l, dials); err != nil {
			t.Error(err)
		}
		c.pending[at] = was
	}
	_ = c.tooLong(other, dials)
	_ = c.tooLong(l, p2p.RouterStats{})
	if len(c.pending) != 2 {
		t.Errorf("%d are remembered", len(c.pending))
	}
	c.forget(other)
	if len(c.pending) != 0 {
		t.Errorf("%d are remembered of lives that are over", len(c.pending))
	}
}
