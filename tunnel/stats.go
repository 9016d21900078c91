package tunnel

import "sync/atomic"

// Stats counts since the P2P was made.
type Stats struct {
	// Opened and Served are connections to services of other peers, and of
	// other peers to ours.
	Opened, Served uint64
	// BytesIn and BytesOut are of connections that have ended; what is under
	// way is in StreamInfo.
	BytesIn, BytesOut uint64
	// Refused counts connections that were refused or cut, by reason.
	Refused map[Reason]uint64
	// Buffers is how many bytes of copy buffers are lent out now, above the
	// floor of 4 KiB for each busy direction.
	Buffers int64
}

type counters struct {
	opened, served, in, out atomic.Uint64
	refused                 [reasons]atomic.Uint64
}

func (c *counters) refuse(r Reason) {
	if r < reasons {
		c.refused[r].Add(1)
	}
}

// Stats returns the counters. It never blocks.
func (p *P2P) Stats() Stats {
	s := Stats{
		Opened: p.stats.opened.Load(), Served: p.stats.served.Load(),
		BytesIn: p.stats.in.Load(), BytesOut: p.stats.out.Load(),
		Refused: map[Reason]uint64{},
		Buffers: p.bufs.used.Load(),
	}
	for r := range p.stats.refused {
		if n := p.stats.refused[r].Load(); n > 0 {
			s.Refused[Reason(r)] = n
		}
	}
	return s
}
