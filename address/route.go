package address

import (
	"errors"
	"fmt"
	"strings"

	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// route is the path of a libp2p address, taken apart:
//
//	[/dns4|/dns6|/dnsaddr] [/tcp|/udp] [transport...] [/p2p/RELAY/p2p-circuit] [/p2p/ID]
//
// It is what a multiaddr says besides host and port. "/tcp" alone is left out when printed, except after /dnsaddr,
// where no transport at all is meaningful and usual.
type route struct {
	dns       string       // "dns4", "dns6", "dnsaddr", or "" for an IP or /dns
	network   string       // "tcp", "udp", or "" without a host and for a bare /dnsaddr
	transport ma.Multiaddr // what follows the port: /quic-v1, /tls/ws, ...
	relay     peer.ID      // "" when direct
	id        peer.ID      // "" when not known
}

// parseRoute reads a path. hasHost tells whether a host stands before it: without one it can only name peers.
func parseRoute(path string, hasHost bool) (route, error) {
	var r route
	rest := path
	take := func(names ...string) string {
		for _, name := range names {
			if after, ok := strings.CutPrefix(rest, "/"+name); ok && (after == "" || after[0] == '/') {
				rest = after
				return name
			}
		}
		return ""
	}
	if hasHost {
		take("dns")
		r.dns = take("dns4", "dns6", "dnsaddr")
		r.network = take("tcp", "udp")
		if r.network != "" && startsWithDigit(rest) {
			return r, fmt.Errorf("path %q has a port after /%s; the port stands after the host", clip(path), r.network)
		}
	}
	var parts ma.Multiaddr
	if strings.Trim(rest, "/") != "" {
		var err error
		if parts, err = parseMultiaddr(rest); err != nil {
			return r, fmt.Errorf("path: %w", err)
		}
	}
	if hasHost && r.network == "" && (r.dns != "dnsaddr" || len(parts) > 0 && parts[0].Code() != ma.P_P2P) {
		r.network = "tcp"
		if len(parts) > 0 && parts[0].Code() == ma.P_QUIC_V1 {
			r.network = "udp"
		}
	}
	n, err := transportLength(r.network, parts)
	if err != nil {
		return r, err
	}
	if n > 0 {
		if r.transport, err = canonicalSNI(parts[:n]); err != nil {
			return r, err
		}
	}
	return r, r.parsePeers(parts[n:])
}

func startsWithDigit(path string) bool {
	return len(path) > 1 && path[0] == '/' && path[1] >= '0' && path[1] <= '9'
}

// transportLength returns how many components at the front of parts are the transport over network.
func transportLength(network string, parts ma.Multiaddr) (int, error) {
	code := func(i int) int {
		if i >= len(parts) {
			return -1
		}
		return parts[i].Code()
	}
	switch first := code(0); {
	case network == "udp" && first == ma.P_QUIC_V1:
		if code(1) != ma.P_WEBTRANSPORT {
			return 1, nil
		}
		n := 2
		for code(n) == ma.P_CERTHASH {
			n++
		}
		if n == 2 {
			return 0, &UnsupportedError{Component: "webtransport", Reason: "it can be dialled only with the /certhash/... of its certificate after it"}
		}
		return n, nil
	case network == "udp" && first == ma.P_QUIC:
		return 0, &UnsupportedError{Component: "quic", Reason: "the draft version is gone; write quic-v1"}
	case network == "udp" && (first == -1 || first == ma.P_P2P):
		return 0, &UnsupportedError{Component: "udp", Reason: "alone it is no transport; write /udp/PORT/quic-v1"}
	case network == "tcp" && (first == ma.P_WS || first == ma.P_WSS):
		return 1, nil
	case network == "tcp" && first == ma.P_TLS:
		n := 1
		if code(n) == ma.P_SNI {
			n++
		}
		if code(n) != ma.P_WS {
			return 0, &UnsupportedError{Component: "tls", Reason: "it is supported only as /tls/ws or /tls/sni/NAME/ws; plain TCP negotiates its security itself"}
		}
		return n + 1, nil
	}
	return 0, nil
}

// canonicalSNI checks and lowercases the name in a /tls/sni/NAME/ws.
func canonicalSNI(transport ma.Multiaddr) (ma.Multiaddr, error) {
	name, err := transport.ValueForProtocol(ma.P_SNI)
	if err != nil {
		return transport, nil
	}
	host, isIP, err := parseHost(name)
	if err != nil {
		return nil, fmt.Errorf("/sni: %w", err)
	}
	if isIP {
		return nil, &UnsupportedError{Component: "sni", Reason: "it takes a hostname, not an IP address"}
	}
	return parseMultiaddr("/tls/sni/" + host + "/ws")
}

// parsePeers reads what follows the transport: [/p2p/RELAY/p2p-circuit] [/p2p/ID] and the end.
func (r *route) parsePeers(parts ma.Multiaddr) error {
	for i := range parts {
		switch c := &parts[i]; {
		case c.Code() == ma.P_P2P && r.id == "":
			id := peer.ID(c.RawValue())
			if err := checkPeerID(id); err != nil {
				return err
			}
			r.id = id
		case c.Code() == ma.P_P2P:
			return &UnsupportedError{Component: "p2p", Reason: "two peer IDs follow each other without /p2p-circuit between them"}
		case c.Code() == ma.P_CIRCUIT && r.relay != "":
			return &UnsupportedError{Component: "p2p-circuit", Reason: "a relay behind a relay cannot be dialled"}
		case c.Code() == ma.P_CIRCUIT && r.id == "":
			return &UnsupportedError{Component: "p2p-circuit", Reason: "the relay's peer ID is missing: /p2p/RELAY/p2p-circuit"}
		case c.Code() == ma.P_CIRCUIT:
			r.relay, r.id = r.id, ""
		default:
			return &UnsupportedError{Component: c.Protocol().Name, Reason: "not known in this place"}
		}
	}
	if r.relay != "" && r.relay == r.id {
		return &UnsupportedError{Component: "p2p-circuit", Reason: "relay and peer are the same"}
	}
	return nil
}

// checkPeerID refuses an ID whose inline key is none: base58 has no checksum, so a damaged ID may still decode.
func checkPeerID(id peer.ID) error {
	key, err := id.ExtractPublicKey()
	if errors.Is(err, peer.ErrNoPublicKey) {
		return nil // a hash: nothing to check
	}
	if err != nil {
		return fmt.Errorf("peer ID %s is damaged: %w", clip(id.String()), err)
	}
	if !id.MatchesPublicKey(key) {
		return fmt.Errorf("peer ID %s is damaged: not the usual spelling of its key", clip(id.String()))
	}
	return nil
}

// String prints the canonical path.
func (r route) String() string {
	var b strings.Builder
	if r.dns != "" {
		b.WriteString("/" + r.dns)
	}
	if r.network == "udp" || r.network == "tcp" && (len(r.transport) > 0 || r.dns == "dnsaddr") {
		b.WriteString("/" + r.network)
	}
	b.WriteString(r.tail())
	return b.String()
}

// tail prints what follows the port in a multiaddr.
func (r route) tail() string {
	var b strings.Builder
	if len(r.transport) > 0 {
		b.WriteString(r.transport.String())
	}
	if r.relay != "" {
		b.WriteString("/p2p/" + r.relay.String() + "/p2p-circuit")
	}
	if r.id != "" {
		b.WriteString("/p2p/" + r.id.String())
	}
	return b.String()
}

// secure reports whether the transport checks a TLS name, so that the hostname must not be lost when resolving.
func (r route) secure() bool {
	return len(r.transport) > 0 && (r.transport[0].Code() == ma.P_WSS || r.transport[0].Code() == ma.P_TLS)
}

// withSNI keeps the hostname for TLS when the address is reduced to an IP, as libp2p's own resolver does.
func (r route) withSNI(host string) (route, error) {
	if _, err := r.transport.ValueForProtocol(ma.P_SNI); err == nil || !r.secure() {
		return r, nil
	}
	var err error
	r.transport, err = parseMultiaddr("/tls/sni/" + host + "/ws")
	return r, err
}

// checkNode compares the peer ID, if any, with the node it must be.
func (r route) checkNode(id identity.NodeID) error {
	if r.id == "" {
		return nil
	}
	got, err := identity.NodeIDFromPeerID(r.id)
	if err != nil {
		return err
	}
	if got != id {
		return fmt.Errorf("%w: /p2p/%s is node %s, not %s", ErrIDMismatch, r.id, got, id)
	}
	return nil
}

// parseMultiaddr is ma.NewMultiaddr with bounded parts, and without the whole input in its error, which ours names
// already.
func parseMultiaddr(s string) (ma.Multiaddr, error) {
	if n := strings.Count(s, "/"); n > maxParts {
		return nil, fmt.Errorf("multiaddr: it has %d parts, at most %d are allowed", n, maxParts)
	}
	for part := range strings.SplitSeq(s, "/") {
		if len(part) > maxPart {
			return nil, fmt.Errorf("multiaddr: part %q has %d characters, at most %d are allowed", clip(part), len(part), maxPart)
		}
	}
	m, err := ma.NewMultiaddr(s)
	if err != nil {
		text := strings.TrimPrefix(err.Error(), fmt.Sprintf("failed to parse multiaddr %q: ", strings.TrimRight(s, "/")))
		return nil, fmt.Errorf("multiaddr: %s", clip(text))
	}
	return m, nil
}
