package address

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Protocol names the transport that an address is for, as the scheme of a URL does. Others than ours are allowed, for
// transports made elsewhere; "tcp" is not, since in an address that word means MConn (CometBFT writes it so).
type Protocol string

// The protocols of kith's own transports.
const (
	MConn  Protocol = "mconn"  // the Tendermint and CometBFT wire over TCP
	Libp2p Protocol = "libp2p" // any libp2p transport
	Memory Protocol = "memory" // within one process, for tests
)

// DefaultPort is the port of an address that has none: mconn 26656, libp2p 4001, 0 for others.
func (p Protocol) DefaultPort() uint16 {
	switch p {
	case MConn:
		return 26656
	case Libp2p:
		return 4001
	}
	return 0
}

// Validate wants what RFC 3986 calls a scheme, in lowercase and of at most 32 characters.
func (p Protocol) Validate() error {
	switch {
	case p == "":
		return errors.New("protocol is empty")
	case p == "tcp":
		return errors.New(`protocol "tcp" is written "mconn"`)
	case len(p) > 32:
		return fmt.Errorf("protocol has %d characters, at most 32 are allowed", len(p))
	}
	for i := range len(p) {
		c := p[i]
		if !(c >= 'a' && c <= 'z' || i > 0 && (c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.')) {
			return fmt.Errorf("protocol %q has %q at position %d", string(p), c, i+1)
		}
	}
	return nil
}

// NodeAddress says which node is where. The fields are in canonical form (see the package comment); Parse makes them
// so and Validate checks it. It is a value, comparable with ==.
type NodeAddress struct {
	NodeID   identity.NodeID // who; never empty
	Protocol Protocol
	Hostname string // IP literal without brackets, or name; "" for memory and for a libp2p peer without a place
	Port     uint16 // 0 is the protocol's default
	Path     string // "" or begins with "/"; libp2p: transport, relay and peer ID
}

// String prints the address as a URL that Parse reads back.
func (a NodeAddress) String() string {
	if a.Hostname == "" {
		return string(a.Protocol) + ":" + string(a.NodeID) + a.Path
	}
	return string(a.Protocol) + "://" + string(a.NodeID) + "@" + joinHostPort(a.Hostname, a.Port) + a.Path
}

// IsZero reports whether a is the zero value, which some functions return to mean none.
func (a NodeAddress) IsZero() bool { return a == NodeAddress{} }

// Validate returns nil for an address in canonical form; otherwise a *ParseError that names the fault, or the form that
// was expected.
func (a NodeAddress) Validate() error {
	want, err := a.canonical()
	if err != nil {
		return parseError(a.String(), err)
	}
	if want != a {
		return parseError(a.String(), fmt.Errorf("not in canonical form, want %q", clip(want.String())))
	}
	return nil
}

// canonical checks all fields and returns them in canonical form.
func (a NodeAddress) canonical() (NodeAddress, error) {
	if err := a.Protocol.Validate(); err != nil {
		return a, err
	}
	if err := a.NodeID.Validate(); err != nil {
		return a, err
	}
	isIP := false
	if a.Hostname != "" {
		var err error
		if a.Hostname, isIP, err = parseHost(a.Hostname); err != nil {
			return a, err
		}
	} else if a.Port != 0 {
		return a, errors.New("port without a host")
	}
	path, err := canonicalPath(a.Protocol, a.Path)
	if err != nil {
		return a, err
	}
	a.Path = path
	switch a.Protocol {
	case MConn:
		if a.Hostname == "" {
			return a, errors.New("host is missing; write mconn://NODEID@host:port")
		}
	case Memory:
		if a.Hostname != "" || a.Path != "" {
			return a, errors.New("a memory address is only memory:NODEID")
		}
	case Libp2p:
		r, err := parseRoute(a.Path, a.Hostname != "")
		if err != nil {
			return a, err
		}
		if r.dns != "" && isIP {
			return a, fmt.Errorf("/%s is for names, the host is the IP address %s", r.dns, a.Hostname)
		}
		if a.Hostname != "" && r.network == "" && a.Port != 0 {
			return a, errors.New("a port without a transport: write /dnsaddr/tcp or /dnsaddr/udp/quic-v1")
		}
		if a.Hostname == "" && r.id == "" {
			return a, fmt.Errorf("neither host nor peer ID: %w", ErrPeerIDRequired)
		}
		if err := r.checkNode(a.NodeID); err != nil {
			return a, err
		}
		a.Path = r.String()
	}
	if len(a.Path) > maxPath {
		return a, fmt.Errorf("path has %d bytes, at most %d are allowed", len(a.Path), maxPath)
	}
	return a, nil
}

// canonicalPath checks what holds for the paths of all protocols.
func canonicalPath(p Protocol, path string) (string, error) {
	if len(path) > maxPath {
		return "", fmt.Errorf("path has %d bytes, at most %d are allowed", len(path), maxPath)
	}
	if path != "" && path[0] != '/' {
		return "", fmt.Errorf("path %q does not begin with /", clip(path))
	}
	if err := checkPrintable(path); err != nil {
		return "", fmt.Errorf("path: %w", err)
	}
	if path == "/" && (p == MConn || p == Memory || p == Libp2p) {
		return "", nil
	}
	return path, nil
}

// PeerID returns the peer ID that the path of a libp2p address ends in; false if it has none or is of another protocol.
func (a NodeAddress) PeerID() (peer.ID, bool) {
	if a.Protocol != Libp2p {
		return "", false
	}
	r, err := parseRoute(a.Path, a.Hostname != "")
	return r.id, err == nil && r.id != ""
}

// WithPeerID returns a valid libp2p address with id at the end of its path, so that it can be dialled. It returns an
// error that matches ErrIDMismatch when id is another node, and one of package identity when its node cannot be told.
func (a NodeAddress) WithPeerID(id peer.ID) (NodeAddress, error) {
	if a.Protocol != Libp2p {
		return NodeAddress{}, parseError(a.String(), fmt.Errorf("only libp2p addresses hold a peer ID, this is %s", a.Protocol))
	}
	r, err := parseRoute(a.Path, a.Hostname != "")
	if err == nil {
		r.id = id
		err = r.checkNode(a.NodeID)
	}
	if err != nil {
		return NodeAddress{}, parseError(a.String(), err)
	}
	a.Path = r.String()
	if a, err = a.canonical(); err != nil {
		return NodeAddress{}, parseError(a.String(), err)
	}
	return a, nil
}

// CometBFT prints an mconn address as CometBFT wants it: id@host:port. Other protocols and paths are an error.
func (a NodeAddress) CometBFT() (string, error) {
	if err := a.Validate(); err != nil {
		return "", err
	}
	if a.Protocol != MConn || a.Path != "" {
		return "", parseError(a.String(), errors.New("CometBFT's id@host:port is for mconn addresses without a path"))
	}
	return string(a.NodeID) + "@" + joinHostPort(a.Hostname, a.port()), nil
}

func (a NodeAddress) port() uint16 {
	if a.Port == 0 {
		return a.Protocol.DefaultPort()
	}
	return a.Port
}

// Multiaddr returns the address as a multiaddr, with the default port filled in. For libp2p it ends in /p2p/ID, and
// without a peer ID the error matches ErrPeerIDRequired. For mconn it is /ip4/.../tcp/PORT (or /dns/...), which cannot
// say who the node is. Others have none: ErrNoMultiaddr.
func (a NodeAddress) Multiaddr() (ma.Multiaddr, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	return multiaddr(a.Protocol, a.Hostname, a.port(), a.Path)
}

// multiaddr builds one from the canonical parts of an address or endpoint.
func multiaddr(p Protocol, host string, port uint16, path string) (ma.Multiaddr, error) {
	var r route
	switch {
	case p == MConn && path == "" && host != "":
		r.network = "tcp"
	case p == Libp2p:
		var err error
		if r, err = parseRoute(path, host != ""); err != nil {
			return nil, err
		}
		if r.id == "" {
			return nil, ErrPeerIDRequired
		}
	default:
		return nil, ErrNoMultiaddr
	}
	var b strings.Builder
	if host != "" {
		kind := r.dns
		if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
			kind = "ip4"
		} else if err == nil {
			kind = "ip6"
		} else if kind == "" {
			kind = "dns"
		}
		b.WriteString("/" + kind + "/" + host)
		if r.network != "" {
			b.WriteString("/" + r.network + "/" + strconv.Itoa(int(port)))
		}
	}
	b.WriteString(r.tail())
	return parseMultiaddr(b.String())
}
