package discovery

import (
	"net/netip"
	"slices"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	maxKadAddrs  = 16 // of one peer in one answer
	maxKadPerIP  = 4  // of these, of one IP: a peer has one for each transport
	wanPerBucket = 2  // nodes of one network in a bucket of the WAN's routing table
	wanPerTable  = 3  // and in the whole table, and in one answer (kad-dht's figures)
)

// netRules say what is believed on one of the two nets.
type netRules struct {
	wan, loopback bool
	refused       *tally // of answers
}

// belongs says whether an address can be of a node of this net.
func (r *netRules) belongs(m ma.Multiaddr) bool {
	switch scopeOf(m) {
	case addrbook.ScopeGlobal:
		return r.wan
	case addrbook.ScopePrivate, addrbook.ScopeLink:
		return !r.wan
	case addrbook.ScopeLoopback:
		return !r.wan && r.loopback
	}
	return false
}

// addresses are those that are believed, of one peer.
func (r *netRules) addresses(in []ma.Multiaddr) []ma.Multiaddr {
	var out []ma.Multiaddr
	perIP := map[netip.Addr]int{}
	for _, a := range in {
		if len(out) == maxKadAddrs {
			break
		}
		if ip := ipOf(a); r.belongs(a) && perIP[ip] < maxKadPerIP {
			perIP[ip]++
			out = append(out, a)
		}
	}
	return out
}

// note counts what of an answer is not believed: what is not of this net, and what
// is too much of one IP or, of all peers in it, of one network.
func (r *netRules) note(answer []*peer.AddrInfo) {
	at := map[string]map[peer.ID]bool{} // who is in which network
	for _, p := range answer {
		for _, a := range p.Addrs {
			g := addrbook.Group(ipOf(a))
			if at[g] == nil {
				at[g] = map[peer.ID]bool{}
			}
			at[g][p.ID] = true
		}
	}
	for _, p := range answer {
		belong, believed := 0, r.addresses(p.Addrs)
		for _, a := range p.Addrs {
			if r.belongs(a) {
				belong++
			}
		}
		if r.wan && slices.ContainsFunc(believed, func(a ma.Multiaddr) bool { return len(at[addrbook.Group(ipOf(a))]) > wanPerTable }) {
			believed = nil // kad-dht drops who is of a crowd
		}
		r.refused.add(addrbook.RefusedScope, len(p.Addrs)-belong)
		r.refused.add(RefusedCrowd, belong-len(believed))
	}
}

// mayQuery says whether a peer of an answer may be asked: only one that has an
// address here.
func (r *netRules) mayQuery(_ any, p peer.AddrInfo) bool { return len(r.addresses(p.Addrs)) > 0 }

// mayRoute says whether a peer may enter the routing table: one with a
// connection that shows it to be of this net.
func (r *netRules) mayRoute(dht any, p peer.ID) bool {
	for _, c := range dht.(interface{ Host() host.Host }).Host().Network().ConnsToPeer(p) {
		if r.belongs(c.RemoteMultiaddr()) {
			return true
		}
	}
	return false
}

// netPeers is the host's peerstore as one of the nets may see it. kad-dht answers
// everybody who asks with all that it holds on a peer, node of the DHT or not:
// here, it does not know what is not of this net.
type netPeers struct {
	peerstore.Peerstore
	rules *netRules
	hide  func(peer.ID) bool
}

// Addrs implements peerstore.AddrBook.
func (p *netPeers) Addrs(id peer.ID) []ma.Multiaddr {
	if p.hide != nil && p.hide(id) {
		return nil
	}
	return p.rules.addresses(p.Peerstore.Addrs(id))
}

// PeerInfo implements peerstore.Peerstore.
func (p *netPeers) PeerInfo(id peer.ID) peer.AddrInfo {
	return peer.AddrInfo{ID: id, Addrs: p.Addrs(id)}
}
