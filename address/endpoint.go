package address

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/kith-p2p/kith/identity"
	ma "github.com/multiformats/go-multiaddr"
)

// Endpoint is one place that a transport can dial or listens on: an IP and port, or a path, or both. It does not say
// who is there, except where the path of a libp2p endpoint does.
type Endpoint struct {
	Protocol Protocol
	IP       net.IP // 4 or 16 bytes; nil when the path says it all
	Port     uint16 // 0 only when listening (any port), or without an IP
	// Path is, with an IP, the path of the NodeAddress. Without one it is whatever the transport dials: for memory the
	// NodeID, for libp2p a whole multiaddr such as /p2p/ID or /dnsaddr/HOST/p2p/ID.
	Path string
}

// String prints the endpoint like an address without a node: mconn://1.2.3.4:26656, memory:NODEID, libp2p:/p2p/ID.
// Equal endpoints print alike, so it serves as a map key.
func (e Endpoint) String() string {
	if ip, ok := e.ip(); ok {
		return string(e.Protocol) + "://" + joinHostPort(ip.String(), e.Port) + e.Path
	}
	return string(e.Protocol) + ":" + e.Path
}

func (e Endpoint) ip() (netip.Addr, bool) {
	ip, ok := netip.AddrFromSlice(e.IP)
	return ip.Unmap(), ok
}

// Validate wants a protocol, an IP of 4 or 16 bytes or a path, and for libp2p a path that can be dialled (though it
// may lack the peer ID). Errors are *ParseError.
func (e Endpoint) Validate() error {
	if err := e.validate(); err != nil {
		return parseError(e.String(), err)
	}
	return nil
}

func (e Endpoint) validate() error {
	if err := e.Protocol.Validate(); err != nil {
		return err
	}
	_, hasIP := e.ip()
	switch {
	case len(e.IP) > 0 && !hasIP:
		return fmt.Errorf("IP has %d bytes, want 4 or 16", len(e.IP))
	case !hasIP && e.Path == "":
		return errors.New("neither IP nor path")
	case !hasIP && e.Port != 0:
		return errors.New("port without an IP")
	}
	if hasIP || e.Protocol == Libp2p {
		if _, err := canonicalPath(e.Protocol, e.Path); err != nil {
			return err
		}
	} else if len(e.Path) > maxPath {
		return fmt.Errorf("path has %d bytes, at most %d are allowed", len(e.Path), maxPath)
	} else if err := checkPrintable(e.Path); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	if e.Protocol != Libp2p {
		return nil
	}
	if !hasIP {
		m, err := parseMultiaddr(e.Path)
		if err != nil {
			return err
		}
		host, _, path, err := splitMultiaddr(m)
		if err == nil {
			_, err = parseRoute(path, host != "")
		}
		return err
	}
	r, err := parseRoute(e.Path, true)
	if err == nil && r.dns != "" {
		err = fmt.Errorf("/%s is for names", r.dns)
	}
	return err
}

// NodeAddress says that the node id is at e. It does not validate: e may be of any transport.
func (e Endpoint) NodeAddress(id identity.NodeID) NodeAddress {
	a := NodeAddress{NodeID: id, Protocol: e.Protocol, Path: e.Path}
	if ip, ok := e.ip(); ok {
		a.Hostname, a.Port = ip.String(), e.Port
		return a
	}
	if e.Path == string(id) {
		a.Path = ""
	}
	if e.Protocol == Libp2p && !strings.HasPrefix(e.Path, "/p2p/") && checkText(e.Path) == nil {
		if m, err := parseMultiaddr(e.Path); err == nil {
			if host, port, path, err := splitMultiaddr(m); err == nil {
				a.Hostname, a.Port, a.Path = host, port, path
			}
		}
	}
	return a
}

// Multiaddr returns the endpoint as a multiaddr, by the rules of NodeAddress.Multiaddr; port 0 stays 0.
func (e Endpoint) Multiaddr() (ma.Multiaddr, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	if ip, ok := e.ip(); ok {
		return multiaddr(e.Protocol, ip.String(), e.Port, e.Path)
	}
	if e.Protocol != Libp2p {
		return nil, ErrNoMultiaddr
	}
	m, err := parseMultiaddr(e.Path)
	if err != nil {
		return nil, err
	}
	if _, last := ma.SplitLast(m); last.Code() != ma.P_P2P {
		return nil, ErrPeerIDRequired
	}
	return m, nil
}
