package libp2p

import "sync/atomic"

// Stats are the counts of a Transport since it was made.
type Stats struct {
	Sessions int    // connections that are open, those before their handshake included
	Dialled  uint64 // sessions that we opened
	Accepted uint64 // sessions that peers opened
	Refused  uint64 // sessions of peers that were turned away before Accept
	Strays   uint64 // channel streams without a session, or without a header
	Faults   uint64 // connections that ended for what the peer did wrong
}

type counters struct{ dialled, accepted, refused, strays, faults atomic.Uint64 }

// Stats returns the counts as they are now.
func (t *Transport) Stats() Stats {
	s := Stats{
		Dialled: t.counts.dialled.Load(), Accepted: t.counts.accepted.Load(), Refused: t.counts.refused.Load(),
		Strays: t.counts.strays.Load(), Faults: t.counts.faults.Load(),
	}
	t.mu.Lock()
	for _, n := range t.perPeer {
		s.Sessions += n
	}
	t.mu.Unlock()
	return s
}
