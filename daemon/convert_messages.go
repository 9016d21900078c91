package daemon

import (
	"strings"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/discovery"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/kith-p2p/kith/p2p"
	"github.com/libp2p/go-libp2p/core/peer"
)

// nodeIDOf is the other spelling of a peer ID; "" if it has none.
func nodeIDOf(id peer.ID) string {
	node, err := identity.NodeIDFromPeerID(id)
	if err != nil {
		return ""
	}
	return string(node)
}

func routerPeerOf(p p2p.PeerStats) *controlv1.RouterPeer {
	return &controlv1.RouterPeer{
		NodeId: string(p.ID), Moniker: p.Info.Moniker, Endpoint: p.Endpoint.String(), Direction: p.Direction.String(), Kind: p.Kind.String(),
		Since: timeOf(p.Since), Score: int32(p.Score), Sent: p.Send.Written, SentBytes: p.Send.WrittenBytes,
		Received: p.Received, ReceivedBytes: p.ReceivedBytes,
		Queued: int64(p.Send.Queued), QueuedBytes: int64(p.Send.QueuedBytes), Dropped: dropsOf(p.Send.Dropped),
	}
}

func channelOf(c p2p.ChannelStats) *controlv1.Channel {
	return &controlv1.Channel{
		Id: uint32(c.ID), Name: c.Name, Accepted: c.Send.Accepted, Written: c.Send.Written, Received: c.Received.Received,
		Queued: int64(c.Send.Queued), Unread: int64(c.Received.Queued),
		Dropped: dropsOf(c.Send.Dropped), DroppedReceived: dropsOf(c.Received.Dropped),
	}
}

func dropsOf(d p2p.Drops) map[string]uint64 {
	m := map[string]uint64{}
	for reason, n := range d {
		if n > 0 {
			m[p2p.DropReason(reason).String()] = n
		}
	}
	return m
}

func sourceOf(s discovery.SourceStats) *controlv1.AddressSource {
	res := &controlv1.AddressSource{
		Name: s.Name, State: string(s.State), Offered: s.Offered, Added: s.Added, Known: s.Known,
		Refused: map[string]uint64{}, Dials: s.Dials.OK, FailedDials: s.Dials.Failed,
	}
	for reason, n := range s.Refused {
		res.Refused[string(reason)] = n
	}
	if s.LastError != nil {
		res.LastError = s.LastError.Error()
	}
	return res
}

func bookPeerOf(n *kith.Node, p addrbook.Peer) *controlv1.BookPeer {
	res := &controlv1.BookPeer{
		NodeId: string(p.ID), Connected: n.PeerManager().Status(p.ID) == p2p.PeerStatusUp, Score: int32(p.Score),
		LastConnected: timeOf(p.LastConnected),
	}
	if p.PeerID != "" {
		res.PeerId = p.PeerID.String()
	}
	if id, foreign := n.ForeignPeer(p.ID); foreign {
		res.PeerId, res.NodeId = id.String(), "" // the book's is a hash that nobody knows
	}
	if p.Ban != nil {
		res.Ban = banOf(*p.Ban)
	}
	if p.Shun != nil {
		res.Shun = banOf(*p.Shun)
	}
	for _, e := range p.Addresses {
		if id, ok := e.Address.PeerID(); ok && res.PeerId == "" {
			res.PeerId = id.String()
		}
		text := e.Address.String()
		if a, err := e.Address.Multiaddr(); err == nil && e.Address.Protocol == address.Libp2p { // the other spelling says the ID twice
			a, _ = peer.SplitAddr(a)
			text = a.String()
		}
		res.Addresses = append(res.Addresses, &controlv1.BookAddress{
			Address: text, Source: e.Source.String(), Tried: e.Table == addrbook.Tried, Verified: e.Verified,
			Failures: int32(e.Failures), LastAttempt: timeOf(e.LastAttempt), LastSuccess: timeOf(e.LastSuccess), Retry: timeOf(e.Retry),
		})
	}
	return res
}

func banOf(b addrbook.Ban) *controlv1.Ban {
	// A reason that was cut may end in half a letter.
	res := &controlv1.Ban{Since: timeOf(b.Since), Until: timeOf(b.Until), Reason: strings.ToValidUTF8(b.Reason, "?")}
	if b.Peer == "" && b.Prefix.IsValid() {
		res.Network = b.Prefix.String()
	}
	return res
}
