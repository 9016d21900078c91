package address

import (
	"errors"
	"fmt"
	"strings"

	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// ParsePeer reads what a person gives to name a libp2p peer: a peer ID alone (12D3KooW..., Qm..., or as a CID), a
// multiaddr that ends in /p2p/ID, or a libp2p address URL with a peer ID. It returns the ID and where the peer is said
// to be, without the ID (nil when nothing says), as libp2p's peerstore wants it.
//
// Errors are *ParseError: ErrPeerIDRequired when only a NodeID is known, *UnsupportedError for what cannot be dialled.
func ParsePeer(s string) (peer.ID, []ma.Multiaddr, error) {
	s = strings.TrimSpace(s)
	id, addrs, err := parsePeer(s)
	if err != nil {
		return "", nil, parseError(s, err)
	}
	return id, addrs, nil
}

func parsePeer(s string) (peer.ID, []ma.Multiaddr, error) {
	switch lower := strings.ToLower(s); {
	case s == "":
		return "", nil, errors.New("it is empty; give a peer ID (`kith id` prints it there), or an address that ends in /p2p/ and the peer ID")
	case strings.Contains(s, ","):
		return "", nil, errors.New("one peer at a time: give each its own argument or flag")
	case strings.HasPrefix(lower, "http://"), strings.HasPrefix(lower, "https://"):
		return "", nil, errors.New("a web address names no peer; give a peer ID, or an address that ends in /p2p/ and the peer ID")
	}
	if err := checkText(s); err != nil {
		return "", nil, err
	}
	if strings.HasPrefix(s, "/") {
		m, err := parseMultiaddr(s)
		if err != nil {
			return "", nil, err
		}
		return splitPeer(m)
	}
	if strings.ContainsAny(s, ":@") {
		a, err := parseURL(s)
		if err == nil {
			a, err = a.canonical()
		}
		if err != nil {
			return "", nil, err
		}
		if a.Protocol != Libp2p {
			return "", nil, fmt.Errorf("this is an address for %s; a libp2p peer is wanted: %w", a.Protocol, ErrPeerIDRequired)
		}
		m, err := multiaddr(a.Protocol, a.Hostname, a.port(), a.Path)
		if err != nil {
			return "", nil, err
		}
		return cutPeer(m)
	}
	if _, err := identity.ParseNodeID(s); err == nil {
		return "", nil, fmt.Errorf("this is a node ID, a hash that cannot be dialled: %w", ErrPeerIDRequired)
	}
	id, err := decodePeerID(s)
	if err != nil {
		return "", nil, fmt.Errorf("%w; a peer is named by its peer ID, or an address that ends in /p2p/ and the peer ID (12D3KooW...)", err)
	}
	return id, nil, nil
}

// splitPeer checks that m can be dialled and takes the peer ID off its end.
func splitPeer(m ma.Multiaddr) (peer.ID, []ma.Multiaddr, error) {
	host, port, path, err := splitMultiaddr(m)
	if err != nil {
		return "", nil, err
	}
	if m, err = multiaddr(Libp2p, host, port, path); err != nil { // canonical, or without an ID
		return "", nil, err
	}
	return cutPeer(m)
}

// cutPeer takes the peer ID off the end of a canonical address.
func cutPeer(m ma.Multiaddr) (peer.ID, []ma.Multiaddr, error) {
	where, id := peer.SplitAddr(m)
	if len(where) == 0 {
		return id, nil, nil
	}
	return id, []ma.Multiaddr{where}, nil
}
