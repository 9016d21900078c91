package transport

import (
	"net"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// peerConn is a connection of the PeerNetwork. Its multiaddrs name peers, not places: where a peer was reached is the
// network's business, and may change under the connection.
type peerConn struct {
	plainConn
	local, remote peer.ID // "" if not known
}

// peerHalfConn is a peerConn whose directions can be closed one by one.
type peerHalfConn struct {
	peerConn
	half halfCloser
}

type halfCloser interface {
	CloseRead() error
	CloseWrite() error
}

// newPeerConn makes a Connection of a connection between two peers.
func newPeerConn(c net.Conn, local, remote peer.ID) Connection {
	if half, ok := c.(halfCloser); ok {
		h := &peerHalfConn{half: half}
		h.Conn, h.local, h.remote = c, local, remote
		return h
	}
	p := &peerConn{local: local, remote: remote}
	p.Conn = c
	return p
}

// RemotePeer returns who is at the other end, as the PeerNetwork has proven; "" if it does not say.
func (c *peerConn) RemotePeer() peer.ID { return c.remote }

// LocalPeer returns who we are to the other end; "" if the PeerNetwork does not say.
func (c *peerConn) LocalPeer() peer.ID { return c.local }

func (c *peerConn) LocalMultiaddr() ma.Multiaddr  { return peerMultiaddr(c.local) }
func (c *peerConn) RemoteMultiaddr() ma.Multiaddr { return peerMultiaddr(c.remote) }

func (c *peerHalfConn) CloseRead() error  { return c.half.CloseRead() }
func (c *peerHalfConn) CloseWrite() error { return c.half.CloseWrite() }

// peerMultiaddr returns /p2p/ID, or nil.
func peerMultiaddr(id peer.ID) ma.Multiaddr {
	if id == "" {
		return nil
	}
	c, err := ma.NewComponent("p2p", id.String())
	if err != nil {
		return nil
	}
	return c.Multiaddr()
}

// remotePeer returns who a connection of the PeerNetwork says is at its other end, "" if it does not say.
func remotePeer(c net.Conn) peer.ID {
	if p, ok := c.(interface{ RemotePeer() peer.ID }); ok {
		return p.RemotePeer()
	}
	return ""
}

// localPeer returns who a connection of the PeerNetwork says is at this end, "" if it does not say.
func localPeer(c net.Conn) peer.ID {
	if p, ok := c.(interface{ LocalPeer() peer.ID }); ok {
		return p.LocalPeer()
	}
	return ""
}
