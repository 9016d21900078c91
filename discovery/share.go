package discovery

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
)

// share is what a source may still teach in this interval.
type share struct {
	left   int
	hosts  map[netip.Addr]int // global ones
	groups map[string]int
}

func (s *share) refill(cfg MixConfig) {
	s.left = cfg.Share
	s.hosts, s.groups = map[netip.Addr]int{}, map[string]int{}
}

// take spends one, or says why not.
func (s *share) take(a address.NodeAddress, cfg MixConfig) addrbook.Reason {
	if s.left <= 0 {
		return RefusedShare
	}
	if ip, group := crowd(a); group != "" {
		if s.hosts[ip] >= cfg.HostShare || s.groups[group] >= cfg.GroupShare {
			return RefusedCrowd
		}
		s.hosts[ip]++
		s.groups[group]++
	}
	s.left--
	return ""
}

// charge is take for what is taught already.
func (s *share) charge(a address.NodeAddress) {
	if ip, group := crowd(a); group != "" {
		s.hosts[ip]++
		s.groups[group]++
	}
	s.left--
}

// giveBack undoes take for an address that took no room in the book. There may
// have been a refill in between.
func (s *share) giveBack(a address.NodeAddress, cfg MixConfig) {
	s.left = min(s.left+1, cfg.Share)
	if ip, group := crowd(a); s.hosts[ip] > 0 && s.groups[group] > 0 {
		s.hosts[ip]--
		s.groups[group]--
		if s.hosts[ip] == 0 {
			delete(s.hosts, ip)
		}
		if s.groups[group] == 0 {
			delete(s.groups, group)
		}
	}
}

// crowd says where an address is, if it is on the internet: on a local network
// many are at one place.
func crowd(a address.NodeAddress) (netip.Addr, string) {
	ip := hostIP(a)
	if addrbook.ScopeOf(ip) != addrbook.ScopeGlobal {
		return netip.Addr{}, ""
	}
	return ip, addrbook.Group(ip)
}

// queue is what waits for the next share of a source, maxWaiting at most. When
// there is no room, one of the places where most of it is gives way, chosen at
// random: so that no crowd keeps others out, neither by its number nor by being
// there first. The zero value is empty.
type queue struct {
	items  []queued
	places map[string]int // of items
}

type queued struct {
	Found
	place string
}

// add reports whether one had to give way, the new one perhaps.
func (q *queue) add(f Found) (gaveWay bool) {
	if q.places == nil {
		q.places = map[string]int{}
	}
	place := placeOf(f.Address)
	q.items = append(q.items, queued{f, place})
	q.places[place]++
	if len(q.items) <= maxWaiting {
		return false
	}
	most, crowd, victim := 0, 0, 0 // crowd: how many are at the places with the most
	for i, f := range q.items {
		n := q.places[f.place]
		if n > most {
			most, crowd = n, 0
		}
		if n < most {
			continue
		}
		if crowd++; rand.IntN(crowd) == 0 {
			victim = i
		}
	}
	place = q.items[victim].place
	if q.places[place]--; q.places[place] == 0 {
		delete(q.places, place)
	}
	q.items = slices.Delete(q.items, victim, victim+1)
	return true
}

// placeOf is where an address is as far as it matters who else is there: its
// network on the internet (addrbook.Group), its IP elsewhere, or what it has
// instead.
func placeOf(a address.NodeAddress) string {
	return cmp.Or(addrbook.Group(hostIP(a)), a.Hostname, string(a.NodeID))
}

// memory is the last addresses that a source taught: the zero value is empty.
type memory struct {
	known map[address.NodeAddress]struct{}
	ring  []address.NodeAddress // in the order of coming, from next on
	next  int
}

func (m *memory) add(a address.NodeAddress) {
	if _, ok := m.known[a]; ok {
		return
	}
	if m.known == nil {
		m.known = map[address.NodeAddress]struct{}{}
	}
	m.known[a] = struct{}{}
	if len(m.ring) < maxTaught {
		m.ring = append(m.ring, a)
		return
	}
	delete(m.known, m.ring[m.next])
	m.ring[m.next] = a
	m.next = (m.next + 1) % maxTaught
}

func (m *memory) has(a address.NodeAddress) bool {
	_, ok := m.known[a]
	return ok
}
