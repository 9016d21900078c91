package p2p

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/connmgr"
)

// routerCounters are counted by the Router's goroutines.
type routerCounters struct{ unknownChannel, evicted atomic.Uint64 }

// ChannelStats are the counts of one channel since it was opened.
type ChannelStats struct {
	ID   ChannelID
	Name string
	// Send sums all sessions there are and were, so it balances over resets:
	// Accepted = Written + Queued + what was dropped after it was accepted. When
	// the channel closes, what was queued counts as dropped, although of each
	// peer a message that was begun is still finished.
	Send     SendStats
	Received ReceiveStats
	// These messages came into no queue: NoPeer ones were for peers that are not
	// up, Unencodable ones of a wrong type, above RecvMessageCapacity or refused by
	// Marshal or Wrap, and Late ones (and peer errors) came after Close.
	NoPeer, Unencodable, Late uint64
	// Undecodable messages and Malformed request frames were held against the
	// peers that sent them.
	Undecodable, Malformed uint64
	// Unexpected replies had no request, or came too late. Overload requests were
	// one too many, or on a channel that has no requests any more.
	Unexpected, Overload uint64
	// Waiting requests are ours without a reply yet, Open ones the peers'.
	Waiting, Open int
}

// stats are the counts now.
func (c *channelCore) stats() ChannelStats {
	c.r.mu.Lock()
	send := c.former
	if (*c.r.channels.Load())[c.id] == c {
		for p := range c.r.sessions {
			st, _ := p.queue.statsOf(c.id)
			send.add(withoutGone(st))
		}
	}
	c.r.mu.Unlock()
	for reason, n := range map[DropReason]uint64{DropGone: c.gone.Load(), DropUnsupported: c.unsupported.Load()} {
		send.Offered += n
		send.Dropped[reason] += n
	}
	s := ChannelStats{
		ID: c.id, Name: c.d.Name, Send: send, Received: c.in.stats(),
		NoPeer: c.noPeer.Load(), Unencodable: c.unencodable.Load(), Late: c.late.Load(),
		Undecodable: c.undecodable.Load(), Malformed: c.malformed.Load(),
	}
	t := c.calls
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Unexpected, s.Overload, s.Waiting, s.Open = t.unexpected, t.overload, len(t.outgoing), len(t.incoming)
	return s
}

// fold adds the counts of a session that ends, or on which the channel does. The
// Router's lock is held.
func (c *channelCore) fold(p *remote) {
	st, ok := p.queue.statsOf(c.id)
	if !ok {
		return
	}
	st.Dropped[DropClosed] += uint64(st.Queued)
	st.Queued, st.QueuedBytes = 0, 0
	c.former.add(withoutGone(st))
}

// withoutGone are the counts of a queue without those of messages that came after
// its end: the channel counts them itself, since they may come after fold.
func withoutGone(st SendStats) SendStats {
	st.Offered -= st.Dropped[DropGone]
	st.Dropped[DropGone] = 0
	return st
}

// PeerStats are the counts of one session of a peer that is up.
type PeerStats struct {
	ID                      NodeID
	Endpoint                Endpoint
	Direction               connmgr.Direction
	Kind                    connmgr.Kind
	Since                   time.Time
	Info                    NodeInfo
	Score                   PeerScore
	Send                    SendStats
	Received, ReceivedBytes uint64
	Channels                map[ChannelID]SendStats
}

// RouterStats is the state of a Router at one moment.
type RouterStats struct {
	Peers    []PeerStats    // by ID
	Channels []ChannelStats // by ID
	Engine   connmgr.Snapshot
	// UnknownChannel messages came on channels that are not open here.
	UnknownChannel, Evicted uint64
}

// Stats is what a Router does and did. It is meant for people and metrics, not
// for every message.
func (r *Router) Stats() RouterStats {
	s := RouterStats{Engine: r.engine.Inspect(), UnknownChannel: r.counters.unknownChannel.Load(), Evicted: r.counters.evicted.Load()}
	for _, p := range *r.peers.Load() {
		ps := PeerStats{
			ID: p.id, Endpoint: p.conn.Raw().conn.RemoteEndpoint(), Direction: p.conn.Direction(), Kind: p.conn.Kind(),
			Since: p.conn.Since(), Info: p.info, Score: r.pm.scoreOf(p.id), Send: p.queue.stats(),
			Received: p.received.Load(), ReceivedBytes: p.receivedBytes.Load(), Channels: make(map[ChannelID]SendStats),
		}
		for id := range p.channels {
			if st, ok := p.queue.statsOf(id); ok {
				ps.Channels[id] = st
			}
		}
		s.Peers = append(s.Peers, ps)
	}
	slices.SortFunc(s.Peers, func(a, b PeerStats) int { return cmp.Compare(a.ID, b.ID) })
	for _, c := range *r.channels.Load() {
		s.Channels = append(s.Channels, c.stats())
	}
	slices.SortFunc(s.Channels, func(a, b ChannelStats) int { return int(a.ID) - int(b.ID) })
	return s
}

// scoreOf is what one peer is worth.
func (m *PeerManager) scoreOf(id NodeID) PeerScore {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.core.score(id)
}

// Explain says in words why the engine refused a connection.
func (r *Router) Explain(refusal *connmgr.Refusal) string { return r.engine.Explain(refusal) }
