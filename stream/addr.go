package stream

import (
	"net"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Network is what Addr.Network returns.
const Network = "kith"

// Addr is one end of a connection: a peer, not a place.
type Addr struct {
	id       peer.ID
	hostPort bool
}

// Network returns the constant Network, "kith".
func (a Addr) Network() string { return Network }

// String returns the peer ID in its usual spelling, or "<peer ID>:0" if the
// connection or listener was made with WithHostPortAddr.
func (a Addr) String() string {
	if a.hostPort {
		return a.id.String() + ":0"
	}
	return a.id.String()
}

// PeerID returns the peer that the address names.
func (a Addr) PeerID() peer.ID { return a.id }

// PeerOf says who is at the other end of conn, as proven by the handshake of
// the connection under it. It looks through LimitedConn, tls.Conn and anything
// else that has a NetConn method. It returns false if conn is not one of ours
// underneath. A nil conn is not.
func PeerOf(conn net.Conn) (peer.ID, bool) {
	for conn != nil {
		switch c := conn.(type) {
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		case interface{ RemotePeer() peer.ID }:
			id := c.RemotePeer()
			return id, id != ""
		default:
			return "", false
		}
	}
	return "", false
}

// Relayed reports whether a libp2p connection goes over a relay, whatever the
// relay's limits.
func Relayed(c network.Conn) bool {
	if c.Stat().Limited {
		return true
	}
	_, err := c.RemoteMultiaddr().ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}
