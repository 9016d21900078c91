package peers

import (
	"net"
	"net/netip"
	"path"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// place is what of a multiaddr says where it leads, in one spelling.
type place struct {
	id      peer.ID    // of the last /p2p, "" without one at the end
	circuit bool       // a relay's address: host and port are the relay's
	ip      netip.Addr // unmapped; invalid if the host is a name
	name    string     // lowercase, without a trailing dot
	port    string     // "tcp/9000"; "" without one, and for port 0, which names none
	unix    string     // cleaned path
}

func placeOf(m ma.Multiaddr) place {
	var p place
	zone := ""
	for i := range m {
		c := &m[i]
		switch c.Code() {
		case ma.P_IP6ZONE:
			zone = c.Value()
		case ma.P_IP4, ma.P_IP6:
			if ip, ok := netip.AddrFromSlice(c.RawValue()); ok {
				p.ip = ip.Unmap()
				if p.ip.Is6() {
					p.ip = p.ip.WithZone(zone)
				}
			}
		case ma.P_DNS, ma.P_DNS4, ma.P_DNS6:
			p.name = strings.ToLower(strings.TrimSuffix(c.Value(), "."))
		case ma.P_TCP, ma.P_UDP:
			if c.Value() != "0" {
				p.port = c.Protocol().Name + "/" + c.Value()
			}
		case ma.P_UNIX:
			p.unix = path.Clean(c.Value())
		case ma.P_CIRCUIT:
			p.circuit = true
		}
	}
	p.id = peerOf(m)
	return p
}

// peerOf returns the peer that m ends in, "" if it names none.
func peerOf(m ma.Multiaddr) peer.ID {
	if len(m) == 0 || m[len(m)-1].Code() != ma.P_P2P {
		return ""
	}
	return peer.ID(m[len(m)-1].RawValue())
}

// isLocalhost: the one name whose addresses are known without asking.
func (p place) isLocalhost() bool { return p.name == "localhost" }

// self is the node's own address. interfaces lists the machine's addresses; it
// is asked only when the own address is "any" and the port is ours.
type self struct {
	place
	interfaces func() ([]net.Addr, error)
}

func newSelf(own ma.Multiaddr) self { return self{placeOf(own), net.InterfaceAddrs} }

// is says whether m leads to the node itself, in any spelling that can be told
// without a name server: peer IDs decide if both are known, else host and port.
func (s self) is(m ma.Multiaddr) bool {
	t := placeOf(m)
	switch {
	case s.id != "" && t.id != "":
		return s.id == t.id
	case s.circuit || t.circuit:
		return false
	case s.unix != "":
		return s.unix == t.unix
	}
	return s.port != "" && s.port == t.port && s.sameHost(t)
}

func (s self) sameHost(t place) bool {
	switch {
	case s.name != "" || t.name != "":
		if s.name == t.name {
			return true
		}
		ip := s.ip
		if s.isLocalhost() {
			ip = t.ip
		} else if !t.isLocalhost() {
			return false
		}
		return ip.IsValid() && (ip.IsUnspecified() || ip == localhost4 || ip == netip.IPv6Loopback())
	case !s.ip.IsValid() || !t.ip.IsValid():
		return false
	case s.ip == t.ip:
		return true
	case t.ip.IsUnspecified(): // systems connect it to loopback
		return s.ip.IsUnspecified() || s.ip == localhost4 || s.ip == netip.IPv6Loopback()
	case s.ip.IsUnspecified() && (s.ip.Is6() || t.ip.Is4()): // "any" of IPv6 takes IPv4 too
		return t.ip.IsLoopback() || s.ours(t.ip)
	}
	return false
}

var localhost4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// ours says whether ip belongs to an interface of this machine.
func (s self) ours(ip netip.Addr) bool {
	addrs, err := s.interfaces()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if got, ok := netip.AddrFromSlice(n.IP); ok && got.Unmap() == ip.WithZone("") {
				return true
			}
		}
	}
	return false
}
