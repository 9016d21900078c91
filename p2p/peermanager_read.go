package p2p

import (
	"net/netip"
	"slices"

	"github.com/kith-p2p/kith/addrbook"
)

// Advertise returns at most limit addresses for a peer that asks: ours first,
// then those of persistent and explicitly scored peers, the best first, then
// others at random. It leaves out private, banned and inactive peers, the
// asker's own addresses and, with ScopeAddresses, what the asker could not use.
func (m *PeerManager) Advertise(to NodeID, limit uint16) []NodeAddress {
	m.mu.Lock()
	c := m.core
	audience := addrbook.Audience{Peer: to, AnyScope: !c.o.ScopeAddresses}
	if s := c.connected[to]; s != nil {
		audience.IP, audience.Protocol = ipOf(s.remote), s.remote.Protocol
	}
	ours := m.self.addresses(c.o.SelfAddress)
	m.mu.Unlock()

	as := make([]NodeAddress, 0, limit)
	seen := make(map[NodeAddress]bool, limit)
	add := func(a NodeAddress) {
		if len(as) < int(limit) && !seen[a] && addrbook.MayTell(a, audience) {
			as, seen[a] = append(as, a), true
		}
	}
	for _, a := range ours {
		add(a)
	}
	for _, id := range slices.Concat(c.persistent, c.scored) { // neither changes
		if _, private := c.o.PrivatePeers[id]; private || id == to || len(as) == int(limit) {
			continue
		}
		p, ok := m.book.Peer(id)
		if !ok || p.Ban != nil || p.Shun != nil {
			continue
		}
		for _, e := range p.Addresses {
			if _, banned := m.book.BannedIP(hostIP(e.Address)); !banned {
				add(e.Address)
			}
		}
	}
	if missing := int(limit) - len(as); missing > 0 {
		for _, a := range m.book.Sample(missing+len(as), audience) {
			add(a)
		}
	}
	return as
}

// Addresses returns what is known of where a peer is, the best first.
func (m *PeerManager) Addresses(id NodeID) []NodeAddress { return m.book.Addresses(id) }

// hostIP is the IP literal of an address, the zero Addr without one.
func hostIP(a NodeAddress) netip.Addr {
	ip, _ := netip.ParseAddr(a.Hostname)
	return ip
}

// Peers returns every peer that has an address or is connected, in no particular
// order.
func (m *PeerManager) Peers() []NodeID {
	peers := m.book.Peers()
	known := make(map[NodeID]bool, len(peers))
	for _, id := range peers {
		known[id] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.core.connected {
		if !known[id] {
			peers = append(peers, id)
		}
	}
	return peers
}

// Scores returns the scores of Peers: PeerScorePersistent for persistent ones,
// or the fixed score, or what the peer earned less the failed dials to it.
func (m *PeerManager) Scores() map[NodeID]PeerScore {
	peers := m.Peers()
	m.mu.Lock()
	defer m.mu.Unlock()
	scores := make(map[NodeID]PeerScore, len(peers))
	for _, id := range peers {
		scores[id] = m.core.score(id)
	}
	return scores
}

// Status says whether a peer is up: connected and ready.
func (m *PeerManager) Status(id NodeID) PeerStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.core.connected[id]; s != nil && s.ready {
		return PeerStatusUp
	}
	return PeerStatusDown
}

// PeerRatio is how full the memory for peers is: 0 to 1, of MaxPeers; 0
// without a limit.
func (m *PeerManager) PeerRatio() float64 {
	if m.core.o.MaxPeers == 0 {
		return 0
	}
	return float64(m.book.Len()) / float64(m.core.o.MaxPeers)
}

// Book is the address book, for those who teach and inspect it.
func (m *PeerManager) Book() *addrbook.Book { return m.book }
