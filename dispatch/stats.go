package dispatch

import (
	"cmp"
	"slices"
)

// MaxTypes is how many message types have counts of their own. Those of others
// are summed up, so that no peer and no program makes more labels than that.
const MaxTypes = 256

// TypeStats counts the messages of one type.
type TypeStats struct {
	Type string // "" in sums
	// Received were handed out, of so many Bytes.
	Received, Bytes uint64
	// Duplicates had content that came before; those who want none did not get
	// them.
	Duplicates uint64
	// Dropped were lost by subscribers, once for each of them; Refused did not
	// come into the inbox, or not out of it before Stop.
	Dropped, Refused uint64
	// Undecodable ones were held against their senders.
	Undecodable uint64
	// Waiting is how many are in the inbox, Queued how many in the subscribers'
	// queues.
	Waiting, Queued int
	Subscribers     int
}

func (s *TypeStats) add(o TypeStats) {
	s.Received += o.Received
	s.Bytes += o.Bytes
	s.Duplicates += o.Duplicates
	s.Dropped += o.Dropped
	s.Refused += o.Refused
	s.Undecodable += o.Undecodable
	s.Waiting += o.Waiting
	s.Queued += o.Queued
	s.Subscribers += o.Subscribers
}

// stats are a type's counts now.
func (t *msgType) stats() TypeStats {
	s := TypeStats{
		Type: t.name, Received: t.received.Load(), Bytes: t.bytes.Load(), Duplicates: t.duplicates.Load(),
		Dropped: t.dropped.Load(), Refused: t.refused.Load(), Undecodable: t.undecodable.Load(), Waiting: t.waiting(),
	}
	for _, sub := range *t.subs.Load() {
		st := sub.Stats()
		s.Dropped += st.Dropped()
		s.Queued += st.Queued
		s.Subscribers++
	}
	return s
}

// DispatcherStats is the state of a Dispatcher at one moment.
type DispatcherStats struct {
	Types       []TypeStats       // by name, at most MaxTypes
	Others      TypeStats         // the sum of all other types
	Subscribers []SubscriberStats // by type, then by ID
	// Unwanted messages had no subscriber, TooLarge ones were above MaxMessage.
	Unwanted, TooLarge uint64
	// Waiting is how many are in the inbox.
	Waiting int
}

// Stats is what a Dispatcher does and did. It is meant for people and metrics,
// not for every message.
func (d *Dispatcher) Stats() DispatcherStats {
	d.mu.Lock()
	known := make([]*msgType, 0, len(d.known))
	for _, t := range d.known {
		known = append(known, t)
	}
	s := DispatcherStats{Others: d.former, Unwanted: d.unwanted.Load(), TooLarge: d.tooLarge.Load()}
	d.mu.Unlock()
	slices.SortFunc(known, func(a, b *msgType) int { return cmp.Compare(a.name, b.name) })
	for _, t := range known {
		ts := t.stats()
		s.Waiting += ts.Waiting
		if len(s.Types) < MaxTypes {
			s.Types = append(s.Types, ts)
		} else {
			s.Others.add(ts)
		}
		for _, sub := range *t.subs.Load() {
			s.Subscribers = append(s.Subscribers, sub.Stats())
		}
	}
	slices.SortStableFunc(s.Subscribers, func(a, b SubscriberStats) int {
		return cmp.Or(cmp.Compare(a.MessageType, b.MessageType), cmp.Compare(a.ID, b.ID))
	})
	return s
}

// Type is the counts of one type, zero without any.
func (s DispatcherStats) Type(name string) TypeStats {
	for _, t := range s.Types {
		if t.Type == name {
			return t
		}
	}
	return TypeStats{}
}

// ServiceStats is the state of a Service at one moment.
type ServiceStats struct {
	Dispatcher DispatcherStats
	Peers      int // direct ones that speak dispatch
	// Sent were queued for a peer, NotSent were not: its queue was full, or it had
	// just gone. HeldBack were not sent because the peer had asked for that.
	Sent, NotSent, HeldBack uint64
	// Relayed were passed on, of topics over direct channels: once for each peer.
	// NotRelayed were above Options.RelayRate.
	Relayed, NotRelayed uint64
	// Copies were published messages that had come before; Stale ones were too old,
	// or of a clock that is wrong; Own ones were ours from before a restart.
	Copies, Stale, Own uint64
	// These were refused and held against the peers that sent them: Malformed
	// envelopes, BadType names, TooLarge data (ours too), BadSignature and
	// Undecodable messages.
	Malformed, BadType, TooLarge, BadSignature, Undecodable uint64
	// Disconnected is how often a peer was disconnected for a hundred of those.
	Disconnected uint64
	// NotAllowed were direct messages of a topic on which the peer may not publish.
	NotAllowed uint64
	// OtherBackend were of topics over direct channels, where ours are elsewhere.
	OtherBackend uint64
	// Unencodable were messages of ours that cannot be encoded.
	Unencodable uint64
	// HoldsAsked is how often we asked a peer to hold messages back, HoldsHeard how
	// often one asked us, HoldsRefused how often it asked for too much. ReleasesIgnored is
	// how often one ended a hold that there was not, or no longer.
	HoldsAsked, HoldsHeard, HoldsRefused, ReleasesIgnored uint64
}

// Stats is what a Service does and did. It is meant for people and metrics, not
// for every message.
func (s *Service) Stats() ServiceStats {
	c := &s.counters
	return ServiceStats{
		Dispatcher: s.d.Stats(), Peers: len(s.Peers()),
		Sent: c.sent.Load(), NotSent: c.notSent.Load(), HeldBack: c.heldBack.Load(), Relayed: c.relayed.Load(), NotRelayed: c.notRelayed.Load(),
		Copies: c.copies.Load(), Stale: c.stale.Load(), Own: c.ours.Load(),
		Malformed: c.malformed.Load(), BadType: c.badType.Load(), TooLarge: c.tooLarge.Load(), BadSignature: c.badSignature.Load(),
		Undecodable: c.undecodable.Load(), Disconnected: c.disconnected.Load(), NotAllowed: c.notAllowed.Load(), OtherBackend: c.otherBackend.Load(),
		Unencodable: c.unencodable.Load(), HoldsAsked: c.holds.Load(), HoldsHeard: c.held.Load(), HoldsRefused: c.badHolds.Load(),
		ReleasesIgnored: c.badReleases.Load(),
	}
}
