package connmgr

import (
	"math"
	"net/netip"
	"time"
)

// A gate counts connections against Limits. It is a pure state machine: the
// clock and the random numbers come in as arguments, decisions go out, nothing
// blocks. Not safe for concurrent use: the engine calls it under its mutex.
//
// Every connection holds one permit from arrival, or from the start of its
// dial, to its end:
//
//	arrive ---> pending ---> established ---> release
//	dial   ----------------> established ---> release
//
// An inbound permit counts as pending until establish. It takes its place in
// Inbound.Total and Total at once, or, when evicting is possible, in
// establish: so a place is held from the first moment where nobody can make
// room for it, and nobody has to go for a handshake that fails.
type gate struct {
	limits  Limits
	buckets *buckets // nil: no rate
	flood   flood

	total     int    // places taken
	direction [2]int // by direction
	pending   int
	handshake map[netip.Addr]int // pending by host
	crowd     map[string]int     // pending by group
	hosts     [2]map[netip.Addr]int
	prefixes  [2]map[netip.Prefix]int
	groups    [2]map[string]int
	ids       map[string]int // established, by identity

	refused  [endOfRules]uint64
	rejected [2]uint64 // by direction
}

func newGate(l Limits) *gate {
	if l.FloodMax == 0 {
		l.FloodMax = 4 * min(l.FloodRate, math.MaxInt/4)
	}
	if l.Burst == 0 {
		l.Burst = 1
	}
	if l.Sources == 0 {
		l.Sources = defaultSources
	}
	g := &gate{
		limits:    l,
		flood:     flood{start: l.FloodRate, full: l.FloodMax},
		handshake: make(map[netip.Addr]int),
		crowd:     make(map[string]int),
		ids:       make(map[string]int),
	}
	for d := range g.hosts {
		g.hosts[d] = make(map[netip.Addr]int)
		g.prefixes[d] = make(map[netip.Prefix]int)
		g.groups[d] = make(map[string]int)
	}
	if l.Rate > 0 {
		g.buckets = newBuckets(l.Rate, l.Burst, l.Sources)
	}
	return g
}

// A permit is what one connection holds of the gate. Whoever makes one sets
// direction and origin; the rest belongs to the gate. One that was refused
// holds nothing, and releasing it does nothing.
type permit struct {
	direction Direction
	origin    origin
	counted   bool // by host, prefix and group
	placed    bool // in total and direction
	pending   bool
	identity  string // held in ids
}

func (g *gate) share(d Direction) Share {
	if d == Outbound {
		return g.limits.Outbound
	}
	return g.limits.Inbound
}

// exempt reports whether limits by address do not apply.
func (g *gate) exempt(o origin) bool {
	return !o.known() || g.limits.ExemptLoopback && o.ip.IsLoopback()
}

// arrive admits an inbound connection to its handshake, by address. p is new,
// but for its direction and origin; roll is a random number in [0,1).
func (g *gate) arrive(p *permit, now time.Time, roll float64) *Refusal {
	o := p.origin
	free := g.exempt(o)
	g.flood.update(now)
	if !free && g.buckets != nil {
		source := within(o.ip, 32, 64)
		if g.flood.active {
			source = within(o.ip, 24, 56)
		}
		if ok, left, wait := g.buckets.take(source, now); !ok {
			return g.refuse(p, &Refusal{Rule: RuleRate, Key: spell(source), Limit: g.limits.Burst, Count: int(left), RetryAfter: wait})
		}
	}
	if over(g.limits.Pending, g.pending) {
		return g.refuse(p, &Refusal{Rule: RulePending, Limit: g.limits.Pending, Count: g.pending, RetryAfter: time.Second})
	}
	if n := g.handshake[o.ip]; !free && over(g.limits.PendingPerHost, n) {
		return g.refuse(p, &Refusal{Rule: RulePendingHost, Key: o.ip.String(), Limit: g.limits.PendingPerHost, Count: n, RetryAfter: time.Second})
	}
	if n := g.crowd[o.group]; !free && g.limits.Pending > 0 && n >= g.limits.Pending-g.pending {
		return g.refuse(p, &Refusal{Rule: RulePendingGroup, Key: o.group, Limit: g.limits.Pending, Count: n, RetryAfter: time.Second})
	}
	if r := g.byAddress(p); r != nil {
		return g.refuse(p, r)
	}
	if !g.limits.Evict {
		if r := g.full(p); r != nil {
			return g.refuse(p, r)
		}
	}
	if !free && g.flood.attempt(now, roll) {
		return g.refuse(p, &Refusal{Rule: RuleFlood, Limit: g.limits.FloodRate, Count: g.flood.meter.sum, RetryAfter: floodRetry})
	}
	g.count(p)
	p.pending = true
	g.pending++
	if o.known() {
		g.handshake[o.ip]++
		g.crowd[o.group]++
	}
	if !g.limits.Evict {
		g.place(p)
	}
	return nil
}

// dial admits an outbound connection before its dial, by the target's address
// (the zero origin if that is not known yet). p is new, as for arrive.
func (g *gate) dial(p *permit) *Refusal {
	if r := g.byAddress(p); r != nil {
		return g.refuse(p, r)
	}
	if r := g.full(p); r != nil {
		return g.refuse(p, r)
	}
	g.count(p)
	g.place(p)
	return nil
}

// roomToDial reports whether another dial would find a place, whatever its
// address.
func (g *gate) roomToDial() bool {
	return !over(g.limits.Outbound.Total, g.direction[Outbound]) && !over(g.limits.Total, g.total)
}

// move counts a dialled connection under the address it turned out to have.
func (g *gate) move(p *permit, to origin) *Refusal {
	if p.origin.ip == to.ip || !to.known() {
		return nil
	}
	g.uncount(p)
	p.origin = to
	if r := g.byAddress(p); r != nil {
		return g.refuse(p, r)
	}
	g.count(p)
	return nil
}

// establish admits a connection whose handshake is over, by identity. When it
// is refused, p stays as it was. A refusal because all is full is not counted
// (turnAway does that): room may be made, and another try succeed.
func (g *gate) establish(p *permit, identity string) *Refusal {
	if identity != "" && g.limits.RefuseDuplicates && g.ids[identity] > 0 {
		return g.refuse(p, &Refusal{Rule: RuleDuplicate, Key: identity, Limit: 1, Count: g.ids[identity]})
	}
	if !p.placed {
		if r := g.full(p); r != nil {
			return r.about(p)
		}
		g.place(p)
	}
	g.settle(p)
	if identity != "" {
		p.identity = identity
		g.ids[identity]++
	}
	return nil
}

// release gives back whatever p holds. A second call finds nothing.
func (g *gate) release(p *permit) {
	g.settle(p)
	g.uncount(p)
	if p.placed {
		p.placed = false
		g.total--
		g.direction[p.direction]--
	}
	less(g.ids, p.identity)
	p.identity = ""
}

// settle ends p's time as a pending one.
func (g *gate) settle(p *permit) {
	if !p.pending {
		return
	}
	p.pending = false
	g.pending--
	if p.origin.known() {
		less(g.handshake, p.origin.ip)
		less(g.crowd, p.origin.group)
	}
}

// byAddress is the refusal by host, prefix or group, if there is one.
func (g *gate) byAddress(p *permit) *Refusal {
	o, d, s := p.origin, p.direction, g.share(p.direction)
	if g.exempt(o) {
		return nil
	}
	if n := g.hosts[d][o.ip]; over(s.PerHost, n) {
		return &Refusal{Rule: RuleHost, Key: o.ip.String(), Limit: s.PerHost, Count: n}
	}
	if n := g.prefixes[d][o.prefix]; over(s.PerPrefix, n) {
		return &Refusal{Rule: RulePrefix, Key: o.prefix.String(), Limit: s.PerPrefix, Count: n}
	}
	if n := g.groups[d][o.group]; over(s.PerGroup, n) {
		return &Refusal{Rule: RuleGroup, Key: o.group, Limit: s.PerGroup, Count: n}
	}
	return nil
}

// full is the refusal when no place is left, if none is.
func (g *gate) full(p *permit) *Refusal {
	if s := g.share(p.direction); over(s.Total, g.direction[p.direction]) {
		return &Refusal{Rule: RuleDirection, Limit: s.Total, Count: g.direction[p.direction]}
	}
	if over(g.limits.Total, g.total) {
		return &Refusal{Rule: RuleTotal, Limit: g.limits.Total, Count: g.total}
	}
	return nil
}

// refuse completes a refusal and counts it.
func (g *gate) refuse(p *permit, r *Refusal) *Refusal {
	g.turnAway(r.about(p))
	return r
}

func (g *gate) turnAway(r *Refusal) {
	g.refused[r.Rule]++
	g.rejected[r.Direction]++
}

func (r *Refusal) about(p *permit) *Refusal {
	r.Direction, r.IP = p.direction, p.origin.ip
	return r
}

func (g *gate) place(p *permit) {
	p.placed = true
	g.total++
	g.direction[p.direction]++
}

func (g *gate) count(p *permit) {
	if !p.origin.known() {
		return
	}
	p.counted = true
	g.hosts[p.direction][p.origin.ip]++
	g.prefixes[p.direction][p.origin.prefix]++
	g.groups[p.direction][p.origin.group]++
}

func (g *gate) uncount(p *permit) {
	if !p.counted {
		return
	}
	p.counted = false
	less(g.hosts[p.direction], p.origin.ip)
	less(g.prefixes[p.direction], p.origin.prefix)
	less(g.groups[p.direction], p.origin.group)
}

// less counts one down and forgets what nobody holds.
func less[K comparable](m map[K]int, k K) {
	if n := m[k]; n > 1 {
		m[k] = n - 1
	} else {
		delete(m, k)
	}
}

// spell prints a prefix, or the address if it is one.
func spell(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
