package kith

import (
	"net/netip"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// gater asks the book's bans about every libp2p connection, before anything is
// sent or read: whoever is banned as a peer of the Router is banned from
// tunnels, calls and topics as well.
type gater struct {
	book    *addrbook.Book
	refused func(peer.ID, ma.Multiaddr, addrbook.Ban)
}

func (g *gater) allowsPeer(id peer.ID, at ma.Multiaddr) bool {
	node, err := identity.NodeIDFromPeerID(id)
	if err != nil {
		return true // not an Ed25519 key: the book knows none of these
	}
	ban, banned := g.book.Banned(node)
	if banned {
		g.refused(id, at, ban)
	}
	return !banned
}

func (g *gater) allowsAddr(id peer.ID, at ma.Multiaddr) bool {
	ip, ok := ipOf(at)
	if !ok {
		return true // a name: asked again when it is an IP
	}
	ban, banned := g.book.BannedIP(ip)
	if banned {
		g.refused(id, at, ban)
	}
	return !banned
}

// ipOf is the IP that an address begins with, if it does: a relay's for a relayed
// connection.
func ipOf(a ma.Multiaddr) (netip.Addr, bool) {
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok
}

// InterceptPeerDial implements connmgr.ConnectionGater.
func (g *gater) InterceptPeerDial(id peer.ID) bool { return g.allowsPeer(id, nil) }

// InterceptAddrDial implements connmgr.ConnectionGater.
func (g *gater) InterceptAddrDial(id peer.ID, at ma.Multiaddr) bool { return g.allowsAddr(id, at) }

// InterceptAccept implements connmgr.ConnectionGater.
func (g *gater) InterceptAccept(c network.ConnMultiaddrs) bool {
	return g.allowsAddr("", c.RemoteMultiaddr())
}

// InterceptSecured implements connmgr.ConnectionGater.
func (g *gater) InterceptSecured(_ network.Direction, id peer.ID, c network.ConnMultiaddrs) bool {
	return g.allowsPeer(id, c.RemoteMultiaddr())
}

// InterceptUpgraded implements connmgr.ConnectionGater. The peer may have been
// banned while it took its time over the handshake.
func (g *gater) InterceptUpgraded(c network.Conn) (bool, control.DisconnectReason) {
	at := c.RemoteMultiaddr()
	return g.allowsPeer(c.RemotePeer(), at) && g.allowsAddr(c.RemotePeer(), at), 0
}
