package kith

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
)

// NodeIDOf is the NodeID of a peer given in any spelling. Errors: ErrUsage,
// ErrUnknownPeer.
func (n *Node) NodeIDOf(ctx context.Context, p string) (identity.NodeID, error) {
	if id, err := identity.ParseNodeID(p); err == nil {
		return id, nil
	}
	id, _, err := n.parsePeer(ctx, p)
	if err != nil {
		return "", err
	}
	node, err := identity.NodeIDFromPeerID(id)
	if err != nil {
		return "", &usageError{fmt.Errorf("%s has no node ID: %s", id, plainText(err.Error()))}
	}
	return node, nil
}

// BookID is the ID under which the address book holds a peer given in any
// spelling: its NodeID. A peer whose key is not Ed25519 (Qm...) has none; its ban
// is held under a hash of its peer ID in the same form. Errors: ErrUsage,
// ErrUnknownPeer.
func (n *Node) BookID(ctx context.Context, p string) (identity.NodeID, error) {
	if id, err := identity.ParseNodeID(p); err == nil {
		return id, nil
	}
	id, _, err := n.parsePeer(ctx, p)
	if err != nil {
		return "", err
	}
	return banKey(id), nil
}

// ForeignPeer is the peer ID of a ban that the address book holds under a hash,
// since the peer's key is not Ed25519 and it has no NodeID.
func (n *Node) ForeignPeer(id identity.NodeID) (peer.ID, bool) { return n.foreign.peerID(id) }

// Remember puts an address of a peer into the address book on a person's word,
// from where it is dialled at once. It returns when that is saved, and reports
// whether the address is new. Errors: ErrUsage, ctx's, the disk's.
func (n *Node) Remember(ctx context.Context, addr string) (bool, error) {
	a, err := n.ParseAddress(addr)
	if err != nil {
		return false, err
	}
	if a.NodeID == n.NodeID() {
		return false, usage("%s is this node", addr)
	}
	added, err := n.manager.Add(a)
	if err != nil {
		return false, plain(err)
	}
	return added, plain(n.Book().Flush(ctx))
}

// Forget forgets all addresses of a peer given in any spelling: those of the
// address book, and those that tunnels and calls go by, so that it cannot be
// connected to by its ID until somebody tells an address of it. A connection that
// it has stays open; its ban and score stay. It reports whether there was any
// address, and returns when that is saved. Errors: ErrUsage, ErrUnknownPeer, the
// disk's.
func (n *Node) Forget(ctx context.Context, p string) (bool, error) {
	id, err := n.BookID(ctx, p)
	if err != nil {
		return false, err
	}
	known := n.Book().Forget(id)
	addrs := n.host.Peerstore()
	for _, other := range addrs.PeersWithAddrs() {
		if other != n.host.ID() && banKey(other) == id {
			addrs.ClearAddrs(other)
			known = true
		}
	}
	return known, plain(n.Book().Flush(ctx))
}

// maxBanReason is how many bytes of a reason the address book keeps.
const maxBanReason = 256

// Ban closes the connections to a peer, or to all of a network such as
// 192.0.2.0/24, and refuses new ones for d; d <= 0 is until Unban. The peer's key
// need not be Ed25519. A reason has at most 256 bytes of UTF-8. It returns when that
// is saved. Errors: ErrUsage, ErrUnknownPeer, the disk's.
func (n *Node) Ban(ctx context.Context, who string, d time.Duration, reason string) error {
	switch {
	case len(reason) > maxBanReason:
		return usage("the reason has %d bytes, and at most %d are kept: give a shorter one", len(reason), maxBanReason)
	case !utf8.ValidString(reason):
		return usage("the reason is not UTF-8 text: write it anew")
	}
	if prefix, ok := parsePrefix(who); ok {
		if err := n.Book().BanPrefix(prefix, d, reason); err != nil {
			return plain(err)
		}
		n.cut(func(ip netip.Addr) bool { return prefix.Contains(ip) })
		return nil
	}
	id, err := n.bannable(ctx, who)
	if err != nil {
		return err
	}
	if id == n.NodeID() {
		return usage("%s is this node", who)
	}
	p, _, unknown := n.parsePeer(ctx, who)
	if unknown == nil {
		_ = n.Book().SetPeerID(p) // so that it is listed under the name that it was banned by
		if err := n.foreign.add(p); err != nil {
			return plain(err)
		}
	}
	if err := n.manager.Ban(id, d, reason); err != nil {
		return plain(err)
	}
	if _, kept := n.foreign.peerID(id); unknown == nil && !kept { // enforceBans may have looked in between
		if err := n.foreign.add(p); err != nil {
			return plain(err)
		}
	}
	for _, p := range n.host.Network().Peers() {
		if banKey(p) == id {
			return plain(n.host.Network().ClosePeer(p))
		}
	}
	return nil
}

// bannable is BookID for whom a person wants to ban, who may have meant a network.
func (n *Node) bannable(ctx context.Context, who string) (identity.NodeID, error) {
	if ip, _, found := strings.Cut(who, "/"); found {
		if _, err := netip.ParseAddr(ip); err == nil {
			return "", usage("%q is not a network; write it like 192.0.2.0/24 or 2001:db8::/32", who)
		}
	}
	return n.BookID(ctx, who)
}

// banLook is how often enforceBans looks by itself.
const banLook = 2 * time.Second

// isBanned says that the book holds a ban of a peer that has not ended.
func (n *Node) isBanned(id identity.NodeID) bool {
	_, banned := n.Book().Banned(id)
	return banned
}

// sweepForeignBans forgets whose bans have ended by themselves.
func (n *Node) sweepForeignBans() {
	if err := n.foreign.forget(func(id identity.NodeID) bool { return !n.isBanned(id) }); err != nil {
		n.log.Error("cannot forget whose bans have ended", "error", err)
	}
}

// enforceBans closes what peers have open whom a program banned through the
// PeerManager or the Book, which know of messages only: at once when a session of
// the Router ended by it, within banLook otherwise. Ban does it itself. It also
// forgets the names of peers whose bans have ended.
func (n *Node) enforceBans(ctx context.Context) {
	updates := n.manager.Subscribe()
	defer updates.Close()
	tick := time.NewTicker(banLook)
	defer tick.Stop()
	for {
		select {
		case u, ok := <-updates.Updates():
			if !ok {
				return
			}
			if u.Status != p2p.PeerStatusDown {
				continue
			}
			if !n.isBanned(u.NodeID) {
				continue
			}
		case <-tick.C:
			n.sweepForeignBans()
		case <-ctx.Done():
			return
		}
		for _, c := range n.host.Network().Conns() {
			_, banned := n.Book().Banned(banKey(c.RemotePeer()))
			if ip, ok := ipOf(c.RemoteMultiaddr()); ok && !banned {
				_, banned = n.Book().BannedIP(ip)
			}
			if banned {
				c.Close()
			}
		}
	}
}

// Unban lifts a ban and reports whether there was one. It returns when that is
// saved. Errors as Ban's.
func (n *Node) Unban(ctx context.Context, who string) (bool, error) {
	if prefix, ok := parsePrefix(who); ok {
		was := false
		for _, b := range n.Book().Bans() {
			was = was || b.Prefix == prefix
		}
		return was, plain(n.Book().UnbanPrefix(prefix))
	}
	id, err := n.bannable(ctx, who)
	if err != nil {
		return false, err
	}
	_, was := n.Book().Banned(id)
	return was, plain(errors.Join(n.manager.Unban(id), n.foreign.remove(id)))
}

// banned says that we banned a peer, where an error of the dial would not.
func (n *Node) banned(id peer.ID) error {
	node := banKey(id)
	ban, is := n.Book().Banned(node)
	if !is {
		return nil
	}
	text := strings.Replace(ban.String(), string(node), id.String(), 1)
	return fmt.Errorf("%w: %s; lift the ban with `kith book unban %s`", ErrBanned, text, id)
}

// ownBan says that it was our own ban of a network that kept us from a peer.
func ownBan(id peer.ID, err error) error {
	if !errors.Is(err, swarm.ErrGaterDisallowedConnection) {
		return err
	}
	return fmt.Errorf("%w: %s is in a network that this node has banned; `kith book` lists the bans", ErrBanned, id)
}

// cut closes the libp2p connections to IPs, and the sessions of the Router.
func (n *Node) cut(banned func(netip.Addr) bool) {
	for _, c := range n.host.Network().Conns() {
		if ip, ok := ipOf(c.RemoteMultiaddr()); ok && banned(ip) {
			c.Close()
		}
	}
	for _, p := range n.router.Stats().Peers {
		if ip, ok := netip.AddrFromSlice(p.Endpoint.IP); ok && banned(ip.Unmap()) {
			n.manager.Errored(p.ID, errors.New("its network was banned"))
		}
	}
}

func parsePrefix(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return p.Masked(), true
	}
	if ip, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()), true
	}
	return netip.Prefix{}, false
}

// keep puts the addresses that a person gave a peer with into the address book,
// now that it is connected and identified, on the person's word: where else it was
// reached, they are hearsay until the Router has reached them.
func (n *Node) keep(id peer.ID, addrs []ma.Multiaddr) {
	for _, a := range addrs {
		n.enter(id, a, addrbook.Source{Kind: addrbook.Manual})
	}
}

// keepReached puts into the address book at which of the addresses that the DNS
// gave for a name the peer was reached: at, or where else we made a connection. Of
// the others nobody says more than that a record names them.
func (n *Node) keepReached(ctx context.Context, id peer.ID, name string, addrs []ma.Multiaddr, at ma.Multiaddr) {
	reached := []ma.Multiaddr{at}
	if at == nil {
		reached = nil
		for _, c := range n.host.Network().ConnsToPeer(id) {
			given := func(a ma.Multiaddr) bool {
				places, err := n.resolve(ctx, id, a)
				return err == nil && slices.ContainsFunc(places, func(a ma.Multiaddr) bool { return reachedAt(c, a) })
			}
			if slices.ContainsFunc(addrs, given) {
				reached = append(reached, c.RemoteMultiaddr())
			}
		}
	}
	for _, a := range reached {
		from := addrbook.Source{Kind: addrbook.DNS, Name: strings.TrimPrefix(name, "/dnsaddr/")}
		if ip, ok := ipOf(a); ok && addrbook.ScopeOf(ip) != addrbook.ScopeGlobal {
			from.IP = ip // it speaks for itself, as those of the bootstrap list do
		}
		full, ok := n.enter(id, a, from)
		if _, direct := a.ValueForProtocol(ma.P_CIRCUIT); ok && direct != nil {
			n.Book().Good(full)
		}
	}
}

// enter puts an address of a peer into the address book, if the peer speaks our
// messages, since what the book knows is dialled for them.
func (n *Node) enter(id peer.ID, a ma.Multiaddr, from addrbook.Source) (address.NodeAddress, bool) {
	if known, err := n.host.Peerstore().SupportsProtocols(id, libp2p.ControlProtocol); err != nil || len(known) == 0 {
		return address.NodeAddress{}, false
	}
	full, err := address.FromMultiaddr(a.Encapsulate(ma.StringCast("/p2p/" + id.String())))
	if err == nil {
		_, err = n.manager.AddFrom(full, from)
	}
	if err != nil {
		n.log.Debug("an address is not kept", "peer", id, "address", a, "error", err)
	}
	return full, err == nil
}
