package libp2p

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
)

// Protocol is the protocol of libp2p addresses.
const Protocol p2p.Protocol = address.Libp2p

// endpointOf is a libp2p address of a peer, without its ID, as an endpoint. One
// that package address has no words for, such as webrtc, is only the peer.
func endpointOf(at ma.Multiaddr, id peer.ID) p2p.Endpoint {
	alone := p2p.Endpoint{Protocol: Protocol, Path: "/p2p/" + id.String()}
	if len(at) == 0 {
		return alone
	}
	whole := at.Encapsulate(ma.StringCast(alone.Path))
	a, err := address.FromMultiaddr(whole)
	if err != nil {
		return alone
	}
	ip, err := netip.ParseAddr(a.Hostname)
	if err != nil {
		return p2p.Endpoint{Protocol: Protocol, Path: whole.String()}
	}
	e := p2p.Endpoint{Protocol: Protocol, IP: ip.AsSlice(), Port: a.Port, Path: a.Path}
	if e.Port == 0 {
		e.Port = Protocol.DefaultPort()
	}
	return e
}

// behind is an inbound relayed address as an endpoint. The IP in it is the
// relay's, so it is not given as the peer's.
func behind(at ma.Multiaddr, id peer.ID) p2p.Endpoint {
	e := endpointOf(at, id)
	if len(e.IP) == 0 {
		return e
	}
	m, err := e.Multiaddr()
	if err != nil {
		return endpointOf(nil, id)
	}
	return p2p.Endpoint{Protocol: Protocol, Path: m.String()}
}

// isRelayed says whether an address leads over a relay.
func isRelayed(at ma.Multiaddr) bool {
	for _, c := range at {
		if c.Code() == ma.P_CIRCUIT {
			return true
		}
	}
	return false
}

// target is whom and where to dial.
type target struct {
	id peer.ID
	at ma.Multiaddr // without the ID; empty: where libp2p knows the peer
}

// target takes an endpoint apart, or says why it cannot be dialled.
func (t *Transport) target(e p2p.Endpoint) (target, error) {
	if e.Protocol != Protocol {
		return target{}, fmt.Errorf("libp2p: cannot dial %s: its protocol is %q", e, e.Protocol)
	}
	m, err := e.Multiaddr()
	if errors.Is(err, address.ErrPeerIDRequired) && t.o.Lookup != nil {
		if id, ok := t.o.Lookup(e); ok {
			m, err = withPeerID(e, id)
		}
	}
	if err != nil {
		return target{}, fmt.Errorf("libp2p: cannot dial %s: %w", e, err)
	}
	at, id := peer.SplitAddr(m)
	if id == t.h.ID() {
		return target{}, fmt.Errorf("%w: %s", ErrSelf, e)
	}
	if _, err := identity.NodeIDFromPeerID(id); err != nil {
		return target{}, fmt.Errorf("libp2p: cannot dial %s: %w: %w", e, ErrIdentity, err)
	}
	return target{id, at}, nil
}

// withPeerID is an endpoint, whose path lacks the peer ID, as a multiaddr with it.
func withPeerID(e p2p.Endpoint, id peer.ID) (ma.Multiaddr, error) {
	node, err := identity.NodeIDFromPeerID(id)
	if err != nil {
		return nil, err
	}
	a, err := e.NodeAddress(node).WithPeerID(id)
	if err != nil {
		return nil, err
	}
	return a.Multiaddr()
}
