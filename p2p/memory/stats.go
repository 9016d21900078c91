package memory

import "github.com/kith-p2p/kith/p2p"

// Volume is an amount of traffic: whole messages, and bytes of data, those of
// messages that are not whole included.
type Volume struct{ Messages, Bytes uint64 }

func (v *Volume) add(s segment) {
	if s.eof {
		v.Messages++
	}
	v.Bytes += uint64(len(s.data))
}

func (v *Volume) sum(o Volume) {
	v.Messages += o.Messages
	v.Bytes += o.Bytes
}

// Count is what became of the messages of a channel, both directions and all
// connections together. Sent is the sum of the others. A message counts where its
// last chunk is.
type Count struct {
	Sent      Volume // taken by SendChunk
	Delivered Volume // returned by ReceiveMessage
	Destroyed Volume // by resets and crashes, and by either side's Close
	InFlight  Volume // buffered, on the way, or not read yet
}

// Faults counts what went wrong by order.
type Faults struct {
	Resets       uint64 // connections
	Cuts         uint64 // connections, by CutAfter
	Broken       uint64 // connections, across a partition that lasted
	Crashes      uint64 // nodes
	Partitions   uint64 // links, one for each direction
	Stalls       uint64 // links
	SlowLinks    uint64 // links made slower by SetLink
	AcceptErrors uint64 // returned by Accept
	RefusedDials uint64 // by RefuseDials
}

// Total is the sum of all.
func (f Faults) Total() uint64 {
	return f.Resets + f.Cuts + f.Broken + f.Crashes + f.Partitions + f.Stalls + f.SlowLinks + f.AcceptErrors + f.RefusedDials
}

// Harm is what the faults of a link, in one direction, have done so far: not how
// often they were ordered, but whom they befell. One that nothing went through
// has done none. What was on its way already when a link was shut is not counted.
type Harm struct {
	Cut     uint64 // chunks and dials that found the link partitioned, and connections that broke across it
	Stalled uint64 // chunks that found it stalled
	Slowed  uint64 // chunks and dials that took longer than Options.Link lets them, after a SetLink
}

// Harm returns what the faults of the link from one node to another have done.
func (n *Network) Harm(from, to p2p.NodeID) Harm {
	l := n.linkOf(from, to)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.harm
}

// Stats are a network's books.
type Stats struct {
	Channels    map[p2p.ChannelID]Count
	Connections uint64 // made so far
	Open        int    // connections of which an end is open
	Faults      Faults
}

// Total sums all channels.
func (s Stats) Total() Count {
	var all Count
	for _, c := range s.Channels {
		all.Sent.sum(c.Sent)
		all.Delivered.sum(c.Delivered)
		all.Destroyed.sum(c.Destroyed)
		all.InFlight.sum(c.InFlight)
	}
	return all
}

// Stats returns the books as they are now.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.stats
	s.Channels = make(map[p2p.ChannelID]Count, len(n.stats.Channels))
	for id, c := range n.stats.Channels {
		s.Channels[id] = c
	}
	for p := range n.pairs {
		p.ends[0].out.addTo(s.Channels)
		p.ends[1].out.addTo(s.Channels)
	}
	for id, c := range s.Channels {
		c.InFlight = Volume{
			c.Sent.Messages - c.Delivered.Messages - c.Destroyed.Messages,
			c.Sent.Bytes - c.Delivered.Bytes - c.Destroyed.Bytes,
		}
		s.Channels[id] = c
	}
	s.Open = len(n.pairs)
	return s
}

// count changes the books.
func (n *Network) count(change func(*Stats)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.stats)
}
