package connmgr

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"
)

// A Snapshot is the state of an Engine at one moment.
type Snapshot struct {
	// State is "new", "running", "stopping" or "ended".
	State string
	// Connections are established, oldest first.
	Connections []ConnectionInfo
	// Dials are outbound ones in progress, handshakes included; Handshakes are
	// inbound ones that are not established yet. Oldest first.
	Dials      []PendingInfo
	Handshakes []PendingInfo
	// Hung counts dials that are over, cancelled or out of time, but whose Dial
	// has not returned.
	Hung int
	// Inbound and Outbound count the places taken (Limits.Inbound.Total,
	// Limits.Outbound.Total), Pending the inbound handshakes (Limits.Pending).
	Inbound, Outbound, Pending int
	// Refused counts refusals by rule since the engine was made; rules that
	// never refused are missing.
	Refused  map[Rule]uint64
	Counters Counters
	Flood    FloodInfo
	// Waiting names, once the engine is stopping, what Run waits for.
	Waiting []string

	// InboundActive is Inbound under the name of btcd's face, InboundRejected
	// how many inbound connections were refused since the engine was made.
	InboundActive   int
	InboundRejected uint64
	// Requests are a ConnManager's, oldest first; nil for other engines.
	Requests []RequestInfo
}

// ConnectionInfo describes one established connection.
type ConnectionInfo struct {
	ID         uint64
	Direction  Direction
	Kind       Kind
	Tag        uint64 // the policy's, for outbound ones
	Target     string // outbound: the target, as fmt.Sprint prints it
	IP         netip.Addr
	Group      string
	Identity   string
	Since      time.Time
	RTT        time.Duration
	LastUseful time.Time
	Useful     uint64
	Protected  bool
}

// PendingInfo describes a dial or a handshake in progress.
type PendingInfo struct {
	ID     uint64
	Kind   Kind
	Tag    uint64
	Target string // as in ConnectionInfo
	IP     netip.Addr
}

// Counters count since the engine was made.
type Counters struct {
	Dialled          uint64 // dials started
	DialsFailed      uint64 // outbound ones that were refused or never came up
	Late             uint64 // dials that succeeded too late and were closed
	Accepted         uint64 // inbound ones that came, refused ones included
	AcceptErrors     uint64 // failed calls of Accept
	HandshakesFailed uint64 // inbound ones that were let in and never came up
	Established      uint64 // both directions
	Closed           uint64 // of those
	Evicted          uint64 // of those
}

// FloodInfo is the state of flood mode.
type FloodInfo struct {
	Active   bool
	Since    time.Time // of the present flood, or of the calm after the last; zero: never one
	Attempts int       // within the last minute
	Chance   float64   // with which a newcomer is dropped
}

var phaseNames = [...]string{phaseNew: "new", phaseRunning: "running", phaseStopping: "stopping", phaseEnded: "ended"}

// Inspect returns what there is. It never blocks; it sorts and copies, so it is
// for people and metrics, not for every packet. In any phase.
func (e *Engine[A, C]) Inspect() Snapshot {
	now := e.cfg.Now()
	var s Snapshot
	var up, pending []*Conn[A, C]
	e.mu.Lock()
	g := e.gate
	flooded := g.flood.active
	g.flood.update(now)
	e.tellFlood(flooded, now)
	s.State = phaseNames[e.phase]
	s.Inbound, s.Outbound, s.Pending = g.direction[Inbound], g.direction[Outbound], g.pending
	s.Counters = e.count
	s.Hung = e.hung
	s.InboundActive, s.InboundRejected = s.Inbound, g.rejected[Inbound]
	s.Refused = make(map[Rule]uint64)
	for r, n := range g.refused {
		if n > 0 {
			s.Refused[Rule(r)] = n
		}
	}
	s.Flood = FloodInfo{Active: g.flood.active, Since: g.flood.since, Attempts: g.flood.meter.sum, Chance: g.flood.chance()}
	stopping := e.phase == phaseStopping
	for _, c := range e.conns {
		up = append(up, c)
	}
	for _, c := range e.pending {
		pending = append(pending, c)
		i := PendingInfo{ID: c.id, Kind: c.dial.Kind, Tag: c.dial.Tag, IP: c.permit.origin.ip}
		if c.permit.direction == Outbound {
			s.Dials = append(s.Dials, i)
		} else {
			s.Handshakes = append(s.Handshakes, i)
		}
	}
	e.mu.Unlock()

	// The rest outside the lock: printing a target is the caller's code.
	targets := make(map[uint64]string)
	for _, c := range pending {
		targets[c.id] = c.target()
	}
	for i := range s.Dials {
		s.Dials[i].Target = targets[s.Dials[i].ID]
	}
	for _, c := range up {
		k := c.candidate()
		s.Connections = append(s.Connections, ConnectionInfo{
			ID: k.ID, Direction: c.permit.direction, Kind: c.dial.Kind, Tag: c.dial.Tag, Target: c.target(), IP: k.IP,
			Group: k.Group, Identity: k.Identity, Since: k.Since, RTT: k.RTT, LastUseful: k.LastUseful, Useful: k.Useful, Protected: k.Protected,
		})
	}
	slices.SortFunc(s.Connections, func(a, b ConnectionInfo) int { return cmp.Compare(a.ID, b.ID) })
	for _, p := range [][]PendingInfo{s.Dials, s.Handshakes} {
		slices.SortFunc(p, func(a, b PendingInfo) int { return cmp.Compare(a.ID, b.ID) })
	}
	if stopping {
		s.Waiting = e.waiting()
	}
	return s
}

func (c *Conn[A, C]) target() string {
	if c.permit.direction == Inbound {
		return ""
	}
	return fmt.Sprint(c.dial.Target)
}

var _ io.Closer = (*Conn[int, io.Closer])(nil)
