package p2p

import (
	"net/netip"
	"slices"

	"github.com/kith-p2p/kith/addrbook"
)

const (
	selfVotesNeeded = 3  // groups of addresses that must agree
	selfVotesKept   = 64 // the latest reporters count
)

// selfAddress finds out where others see this node: the IP that peers in three
// different groups report. One network cannot make us advertise a victim.
// PeerManager.mu owns it.
type selfAddress struct {
	listen NodeAddress // where we listen, as far as the transports know
	votes  []selfVote  // one per group, the latest last
}

type selfVote struct {
	group string
	ip    netip.Addr
}

// vote notes that a peer at from sees us at ip. It can only know where we are in
// a network in which it is itself.
func (s *selfAddress) vote(from, ip netip.Addr) {
	from, ip = from.Unmap().WithZone(""), ip.Unmap().WithZone("")
	scope := addrbook.ScopeOf(ip)
	if scope == addrbook.ScopeNone || scope != addrbook.ScopeOf(from) {
		return
	}
	group := voteGroup(from)
	s.votes = slices.DeleteFunc(s.votes, func(v selfVote) bool { return v.group == group })
	s.votes = append(s.votes, selfVote{group, ip})
	s.votes = s.votes[max(0, len(s.votes)-selfVotesKept):]
}

// voteGroup is the network that has one vote: the group of a global address (v4
// /16, v6 /32), and as much of any other, which is a group of its own in the
// address book.
func voteGroup(ip netip.Addr) string {
	if addrbook.ScopeOf(ip) == addrbook.ScopeGlobal {
		return addrbook.Group(ip)
	}
	bits := 32
	if ip.Is4() {
		bits = 16
	}
	return netip.PrefixFrom(ip, bits).Masked().String()
}

// observed is the IP that enough groups agree on, the one of most votes.
func (s *selfAddress) observed() (best netip.Addr, ok bool) {
	count := make(map[netip.Addr]int)
	most := selfVotesNeeded - 1
	for _, v := range s.votes {
		if count[v.ip]++; count[v.ip] > most {
			best, most, ok = v.ip, count[v.ip], true
		}
	}
	return best, ok
}

// addresses are ours to advertise: the configured one and, beside it, the
// observed IP with the port on which we listen.
func (s *selfAddress) addresses(configured NodeAddress) []NodeAddress {
	var as []NodeAddress
	at := s.listen
	if !configured.IsZero() {
		as, at = append(as, configured), configured
	}
	ip, ok := s.observed()
	if !ok || at.IsZero() || at.Port == 0 {
		return as
	}
	at.Hostname = ip.String()
	if at.Validate() == nil && !slices.Contains(as, at) {
		as = append(as, at)
	}
	return as
}

// ipOf is the endpoint's IP, the zero Addr without one.
func ipOf(e Endpoint) netip.Addr {
	ip, _ := netip.AddrFromSlice(e.IP)
	return ip.Unmap()
}
