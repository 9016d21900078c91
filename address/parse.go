package address

import (
	"errors"
	"fmt"
	"strings"

	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Parse reads an address in any spelling (see the package comment), white space around it apart. A multiaddr must end
// in the /p2p/ID of an Ed25519 key, from which the NodeID follows. Errors are *ParseError.
func Parse(s string) (NodeAddress, error) {
	s = strings.TrimSpace(s)
	if !strings.HasPrefix(s, "/") {
		return ParseNodeAddress(s)
	}
	if err := checkText(s); err != nil {
		return NodeAddress{}, parseError(s, err)
	}
	m, err := parseMultiaddr(s)
	if err != nil {
		return NodeAddress{}, parseError(s, err)
	}
	a, err := fromMultiaddr(m)
	if err != nil {
		return NodeAddress{}, parseError(s, err)
	}
	return a, nil
}

// ParseNodeAddress reads a URL, or CometBFT's id@host:port, which is mconn. It normalises and validates; what was
// written in another form than the canonical is accepted. Errors are *ParseError.
func ParseNodeAddress(url string) (NodeAddress, error) {
	a, err := parseURL(url)
	if err == nil {
		a, err = a.canonical()
	}
	if err != nil {
		return NodeAddress{}, parseError(url, err)
	}
	return a, nil
}

func parseURL(url string) (a NodeAddress, err error) {
	if err := checkText(url); err != nil {
		return a, err
	}
	if url[0] == '/' {
		return a, errors.New("this is a multiaddr or a path; an address URL is written like mconn://NODEID@host:port")
	}
	scheme, rest, found := strings.Cut(url, ":")
	if !found || strings.ContainsAny(scheme, "@/") {
		scheme, rest = string(MConn), "//"+url // CometBFT's spelling
	} else if !strings.HasPrefix(rest, "//") && !strings.Contains(rest, "@") && startsWithPort(rest) {
		return a, fmt.Errorf("the node ID is missing; write NODEID@%s", clip(url))
	}
	a.Protocol = Protocol(strings.ToLower(scheme))
	if a.Protocol == "tcp" {
		a.Protocol = MConn
	}
	if err := a.Protocol.Validate(); err != nil {
		return a, err
	}
	authority, hasAuthority := strings.CutPrefix(rest, "//")
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority, a.Path = authority[:i], authority[i:]
	}
	name := authority
	if !hasAuthority && strings.Contains(name, "@") {
		return a, fmt.Errorf("// is missing after %q", scheme+":")
	}
	if hasAuthority {
		at := strings.LastIndexByte(authority, '@')
		if at < 0 {
			return a, fmt.Errorf("the node ID is missing; write %s://NODEID@host", a.Protocol)
		}
		name = authority[:at]
		host, port, hasPort, err := splitHostPort(authority[at+1:])
		if err != nil {
			return a, err
		}
		if host == "" {
			return a, errors.New("host is empty")
		}
		a.Hostname = host
		if hasPort {
			if a.Port, err = parsePort(port); err != nil {
				return a, err
			}
			if a.Port == 0 {
				return a, errors.New("port 0 cannot be dialled; leave it out for the default port")
			}
		}
	}
	id, err := a.setNode(name)
	if err != nil {
		return a, err
	}
	if id == "" || a.Protocol != Libp2p {
		return a, nil
	}
	// The peer ID belongs into the path.
	path, err := canonicalPath(Libp2p, a.Path)
	if err != nil {
		return a, err
	}
	r, err := parseRoute(path, hasAuthority)
	if err != nil {
		return a, err
	}
	if r.id != "" && r.id != id {
		return a, fmt.Errorf("%w: %s before the host and %s in the path", ErrIDMismatch, id, r.id)
	}
	r.id = id
	a.Path = r.String()
	return a, nil
}

// startsWithPort tells "localhost:26656" from "memory:NODEID".
func startsWithPort(s string) bool {
	port, _, _ := strings.Cut(s, "/")
	return len(port) <= 5 && isNumber(port)
}

// setNode sets the NodeID from either name of a node and returns the peer ID if that was the one.
func (a *NodeAddress) setNode(name string) (peer.ID, error) {
	if len(name) <= identity.NodeIDLength && !strings.HasPrefix(name, "12D3KooW") {
		var err error
		a.NodeID, err = identity.ParseNodeID(name)
		return "", err
	}
	id, err := decodePeerID(name)
	if err != nil {
		return "", fmt.Errorf("%q is neither a node ID (%d hex characters) nor a peer ID: %w", clip(name), identity.NodeIDLength, err)
	}
	a.NodeID, err = identity.NodeIDFromPeerID(id)
	return id, err
}

// decodePeerID reads base58 (12D3KooW..., Qm...) and CIDv1 spellings.
func decodePeerID(s string) (peer.ID, error) {
	if strings.Contains(s, "/") {
		return "", errors.New("a slash is no part of a peer ID")
	}
	if len(s) > maxPart {
		return "", fmt.Errorf("%d characters are too many for a peer ID", len(s))
	}
	c, err := ma.NewComponent("p2p", s) // checks the multihash, which peer.Decode does not
	if err != nil {
		return "", fmt.Errorf("not a peer ID: %s", clip(err.Error()))
	}
	id := peer.ID(c.RawValue())
	return id, checkPeerID(id)
}

// FromMultiaddr makes a libp2p address of a multiaddr that ends in the /p2p/ID of an Ed25519 key. Errors are
// *ParseError: ErrPeerIDRequired without an ID at the end, identity.ErrNoPublicKey when it is only a hash (Qm...), and
// *UnsupportedError for what cannot be dialled.
func FromMultiaddr(m ma.Multiaddr) (NodeAddress, error) {
	if len(m) > maxParts {
		return NodeAddress{}, parseError("/"+m[0].Protocol().Name, fmt.Errorf("multiaddr: it has %d components, at most %d are allowed", len(m), maxParts))
	}
	for i := range m {
		if n := len(m[i].RawValue()); n > maxPart { // before printing it, which takes quadratic time for a peer ID
			return NodeAddress{}, parseError("/"+m[i].Protocol().Name, fmt.Errorf("its value has %d bytes, at most %d are allowed", n, maxPart))
		}
	}
	text := m.String()
	if err := checkText(text); err != nil {
		return NodeAddress{}, parseError(text, err)
	}
	a, err := fromMultiaddr(m)
	if err != nil {
		return NodeAddress{}, parseError(text, err)
	}
	return a, nil
}

func fromMultiaddr(m ma.Multiaddr) (a NodeAddress, err error) {
	a.Protocol = Libp2p
	if a.Hostname, a.Port, a.Path, err = splitMultiaddr(m); err != nil {
		return a, err
	}
	r, err := parseRoute(a.Path, a.Hostname != "")
	if err != nil {
		return a, err
	}
	if r.id == "" {
		return a, ErrPeerIDRequired
	}
	if a.NodeID, err = identity.NodeIDFromPeerID(r.id); err != nil {
		return a, err
	}
	return a.canonical()
}

// splitMultiaddr takes host and port out of m, whose text has been checked; the path is what remains.
func splitMultiaddr(m ma.Multiaddr) (host string, port uint16, path string, err error) {
	head := m[0]
	switch head.Code() {
	case ma.P_IP4, ma.P_IP6, ma.P_DNS:
	case ma.P_DNS4, ma.P_DNS6, ma.P_DNSADDR:
		path = "/" + head.Protocol().Name
	case ma.P_P2P:
		return "", 0, m.String(), nil
	case ma.P_CIRCUIT:
		return "", 0, "", &UnsupportedError{Component: "p2p-circuit", Reason: "the relay's peer ID is missing: /p2p/RELAY/p2p-circuit"}
	case ma.P_UNIX:
		return "", 0, "", &UnsupportedError{Component: "unix", Reason: "unix sockets are local targets, peers are reached over a network"}
	case ma.P_MEMORY:
		return "", 0, "", &UnsupportedError{Component: "memory", Reason: "write memory:NODEID for a node in this process"}
	case ma.P_IP6ZONE:
		return "", 0, "", &UnsupportedError{Component: "ip6zone", Reason: "a zone means something on one machine only"}
	default:
		return "", 0, "", &UnsupportedError{Component: head.Protocol().Name, Reason: "an address begins with ip4, ip6, dns, dns4, dns6, dnsaddr or p2p"}
	}
	host, isIP, err := parseHost(head.Value())
	if err != nil {
		return "", 0, "", err
	}
	if isIP && head.Code() != ma.P_IP4 && head.Code() != ma.P_IP6 {
		return "", 0, "", fmt.Errorf("/%s is for names, %s is an IP address", head.Protocol().Name, host)
	}
	rest := m[1:]
	switch {
	case len(rest) > 0 && (rest[0].Code() == ma.P_TCP || rest[0].Code() == ma.P_UDP):
		if port, err = parsePort(rest[0].Value()); err != nil {
			return "", 0, "", err
		}
		if port == 0 {
			return "", 0, "", errors.New("port 0 cannot be dialled")
		}
		path += "/" + rest[0].Protocol().Name
		rest = rest[1:]
	case head.Code() == ma.P_DNSADDR && (len(rest) == 0 || rest[0].Code() == ma.P_P2P):
	case len(rest) == 0 || rest[0].Code() == ma.P_P2P:
		return "", 0, "", fmt.Errorf("/%s/%s lacks a transport: /tcp/PORT or /udp/PORT/quic-v1", head.Protocol().Name, clip(head.Value()))
	default:
		return "", 0, "", &UnsupportedError{Component: rest[0].Protocol().Name, Reason: "after the host comes /tcp/PORT or /udp/PORT/quic-v1"}
	}
	if len(rest) > 0 {
		path += rest.String()
	}
	return host, port, path, nil
}
