package kith

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"sync"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/state"
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

// banKey is under which the book holds the ban of a peer: its NodeID. A peer whose
// key is not Ed25519 has none and never speaks our messages, but may use tunnels,
// calls and topics: its ban is held under a hash of its peer ID in the same form.
func banKey(id peer.ID) identity.NodeID {
	if node, err := identity.NodeIDFromPeerID(id); err == nil {
		return node
	}
	sum := sha256.Sum256([]byte("kith: the ban of a peer ID\x00" + string(id)))
	return identity.NodeID(hex.EncodeToString(sum[:identity.NodeIDLength/2]))
}

// foreignBans says of which peers whose keys are not Ed25519 bans are in the book,
// which knows their hashes only. It forgets none that is still banned.
type foreignBans struct {
	rows *state.Bucket // NodeID of banKey: peer ID

	mu sync.Mutex // guards id; never held over rows
	id map[identity.NodeID]peer.ID
}

func newForeignBans(rows *state.Bucket) (*foreignBans, error) {
	f := &foreignBans{rows: rows, id: map[identity.NodeID]peer.ID{}}
	_, err := rows.Each(func(key, value []byte) {
		if p, err := peer.IDFromBytes(value); err == nil && string(banKey(p)) == string(key) {
			f.id[identity.NodeID(key)] = p
		}
	})
	return f, err
}

// add remembers a peer that is to be banned, or is, if the book could not tell who
// it is. It returns when that is saved.
func (f *foreignBans) add(p peer.ID) error {
	key := banKey(p)
	if _, err := identity.NodeIDFromPeerID(p); err == nil {
		return nil
	}
	f.mu.Lock()
	f.id[key] = p // before the row is there: see forget
	f.mu.Unlock()
	return f.rows.Put(string(key), []byte(p))
}

// forget forgets peers that are no longer banned. One that is banned anew
// meanwhile keeps its row.
func (f *foreignBans) forget(ended func(identity.NodeID) bool) error {
	var gone, back []state.Row
	f.mu.Lock()
	for key := range f.id {
		if ended(key) {
			delete(f.id, key)
			gone = append(gone, state.Row{Key: string(key)})
		}
	}
	f.mu.Unlock()
	if len(gone) == 0 {
		return nil
	}
	err := f.rows.Save(gone)
	f.mu.Lock()
	for _, r := range gone {
		if p, again := f.id[identity.NodeID(r.Key)]; again {
			back = append(back, state.Row{Key: r.Key, Value: []byte(p)})
		}
	}
	f.mu.Unlock()
	if len(back) > 0 {
		err = errors.Join(err, f.rows.Save(back))
	}
	return err
}

// remove forgets a peer that is no longer banned.
func (f *foreignBans) remove(key identity.NodeID) error {
	return f.forget(func(k identity.NodeID) bool { return k == key })
}

func (f *foreignBans) peerID(key identity.NodeID) (peer.ID, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.id[key]
	return p, ok
}

func (g *gater) allowsPeer(id peer.ID, at ma.Multiaddr) bool {
	ban, banned := g.book.Banned(banKey(id))
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
