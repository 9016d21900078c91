package stream

import (
	"context"
	"net"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// PeerNetwork dials and listens by peer on one protocol of one host. It has
// the methods that package transport wants for its /p2p addresses, without
// either package importing the other. Safe for concurrent use.
type PeerNetwork struct {
	h   host.Host
	tag protocol.ID
}

// NewPeerNetwork returns the PeerNetwork of a host for a protocol. It holds
// nothing that must be closed.
func NewPeerNetwork(h host.Host, tag protocol.ID) *PeerNetwork {
	return &PeerNetwork{h: h, tag: tag}
}

// DialPeer is Dial to info.ID. The addresses, if any, are remembered by the
// host for two minutes as places where the peer may be; a connection that
// already stands is used wherever it leads.
func (n *PeerNetwork) DialPeer(ctx context.Context, info peer.AddrInfo) (net.Conn, error) {
	if len(info.Addrs) > 0 && info.ID != n.h.ID() {
		n.h.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
	}
	return Dial(ctx, n.h, info.ID, n.tag)
}

// ListenPeer is Listen on the protocol: ErrAddrInUse while a listener stands.
func (n *PeerNetwork) ListenPeer() (net.Listener, error) {
	return Listen(n.h, n.tag)
}
