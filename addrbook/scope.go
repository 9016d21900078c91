package addrbook

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
)

// Scope says how far an IP address means the same place.
type Scope uint8

// The scopes. Append-only.
const (
	ScopeNone     Scope = iota // nowhere: unspecified, multicast, documentation, reserved
	ScopeLoopback              // this machine
	ScopeLink                  // one cable or radio network
	ScopePrivate               // one private network: RFC 1918, RFC 6598, RFC 4193
	ScopeGlobal                // the internet
)

// String returns the scope in one word.
func (s Scope) String() string {
	if names := [...]string{"none", "loopback", "link", "private", "global"}; int(s) < len(names) {
		return names[s]
	}
	return "scope " + strconv.Itoa(int(s))
}

// scopes is the special-purpose registries of IANA (RFC 6890 and its updates);
// what is not listed is global. network is how many bits two addresses share
// when they are on one network.
var scopes = []struct {
	prefix  netip.Prefix
	scope   Scope
	network int
}{
	{netip.MustParsePrefix("10.0.0.0/8"), ScopePrivate, 8},
	{netip.MustParsePrefix("172.16.0.0/12"), ScopePrivate, 12},
	{netip.MustParsePrefix("192.168.0.0/16"), ScopePrivate, 16},
	{netip.MustParsePrefix("100.64.0.0/10"), ScopePrivate, 10}, // carrier-grade NAT
	{netip.MustParsePrefix("127.0.0.0/8"), ScopeLoopback, 8},
	{netip.MustParsePrefix("169.254.0.0/16"), ScopeLink, 16},
	{netip.MustParsePrefix("0.0.0.0/8"), ScopeNone, 0},
	{netip.MustParsePrefix("192.0.0.0/24"), ScopeNone, 0},    // IETF protocols
	{netip.MustParsePrefix("192.0.2.0/24"), ScopeNone, 0},    // documentation
	{netip.MustParsePrefix("198.51.100.0/24"), ScopeNone, 0}, // documentation
	{netip.MustParsePrefix("203.0.113.0/24"), ScopeNone, 0},  // documentation
	{netip.MustParsePrefix("192.88.99.0/24"), ScopeNone, 0},  // 6to4 relays, given up
	{netip.MustParsePrefix("198.18.0.0/15"), ScopeNone, 0},   // benchmarks
	{netip.MustParsePrefix("224.0.0.0/4"), ScopeNone, 0},     // multicast
	{netip.MustParsePrefix("240.0.0.0/4"), ScopeNone, 0},     // reserved, broadcast
	{netip.MustParsePrefix("::1/128"), ScopeLoopback, 128},
	{netip.MustParsePrefix("fc00::/7"), ScopePrivate, 48},
	{netip.MustParsePrefix("64:ff9b:1::/48"), ScopePrivate, 48}, // local NAT64
	{netip.MustParsePrefix("fe80::/10"), ScopeLink, 64},
	{netip.MustParsePrefix("fec0::/10"), ScopeNone, 0},     // site-local, given up
	{netip.MustParsePrefix("ff00::/8"), ScopeNone, 0},      // multicast
	{netip.MustParsePrefix("100::/64"), ScopeNone, 0},      // discard
	{netip.MustParsePrefix("2001:db8::/32"), ScopeNone, 0}, // documentation
	{netip.MustParsePrefix("3fff::/20"), ScopeNone, 0},     // documentation
	{netip.MustParsePrefix("2001:2::/48"), ScopeNone, 0},   // benchmarks
	{netip.MustParsePrefix("2001:10::/28"), ScopeNone, 0},  // ORCHID
	{netip.MustParsePrefix("2001:20::/28"), ScopeNone, 0},  // ORCHIDv2
	{netip.MustParsePrefix("5f00::/16"), ScopeNone, 0},     // segment routing
}

var (
	sixToFour = netip.MustParsePrefix("2002::/16")
	teredo    = netip.MustParsePrefix("2001::/32")
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	globalV6  = netip.MustParsePrefix("2000::/3")
)

// embedded returns the IPv4 address that an IPv6 address stands for: mapped,
// 6to4 (RFC 3056), Teredo (RFC 4380, the client) or NAT64 (RFC 6052).
func embedded(ip netip.Addr) (netip.Addr, bool) {
	if !ip.Is6() {
		return ip, false
	}
	b := ip.As16()
	switch {
	case ip.Is4In6():
		return ip.Unmap(), true
	case sixToFour.Contains(ip):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case teredo.Contains(ip):
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	case nat64.Contains(ip):
		return netip.AddrFrom4([4]byte(b[12:])), true
	}
	return ip, false
}

// ScopeOf returns how far ip means the same place. An IPv4-mapped address is
// the IPv4 address; a tunnelled one (6to4, Teredo, NAT64) is global when the
// IPv4 address in it is, otherwise nowhere. A zone is ignored.
func ScopeOf(ip netip.Addr) Scope {
	s, _ := scopeOf(ip)
	return s
}

func scopeOf(ip netip.Addr) (Scope, int) {
	ip = ip.WithZone("")
	if !ip.IsValid() {
		return ScopeNone, 0
	}
	if v4, ok := embedded(ip); ok {
		s, bits := scopeOf(v4)
		if !ip.Is4In6() && s != ScopeGlobal {
			return ScopeNone, 0
		}
		return s, bits
	}
	for _, r := range scopes {
		if r.prefix.Contains(ip) {
			return r.scope, r.network
		}
	}
	if ip.Is6() && !globalV6.Contains(ip) {
		return ScopeNone, 0
	}
	return ScopeGlobal, 0
}

// sameNetwork reports whether two addresses of one limited scope are on one
// network.
func sameNetwork(a, b netip.Addr) bool {
	a, b = a.Unmap().WithZone(""), b.Unmap().WithZone("")
	s, bits := scopeOf(a)
	if t, _ := scopeOf(b); s != t || a.BitLen() != b.BitLen() {
		return false
	}
	return netip.PrefixFrom(a, bits).Masked().Contains(b)
}

// Group returns the network that an attacker would have to own to have many
// addresses like ip: IPv4 /16, IPv6 /32, by the IPv4 address inside for
// tunnels. Private and loopback addresses are groups of their own, since a
// network of friends would otherwise share one. It is empty for the zero Addr.
func Group(ip netip.Addr) string {
	ip = ip.WithZone("")
	if v4, ok := embedded(ip); ok {
		ip = v4
	}
	bits := 32
	switch {
	case !ip.IsValid():
		return ""
	case ScopeOf(ip) != ScopeGlobal && ScopeOf(ip) != ScopeNone:
		return ip.String()
	case ip.Is4():
		bits = 16
	}
	return netip.PrefixFrom(ip, bits).Masked().String()
}

// groupOf is the group of an address in the book.
func groupOf(a address.NodeAddress) string {
	ip := ipOf(a)
	switch {
	case ip.IsLoopback():
		return ip.String() + " " + strconv.Itoa(int(a.Port))
	case ip.IsValid():
		return Group(ip)
	case a.Hostname != "":
		return "name " + a.Hostname
	}
	return string(a.Protocol) + " " + string(a.NodeID)
}

// ipOf returns the IP literal of an address; the zero Addr if it has none.
func ipOf(a address.NodeAddress) netip.Addr {
	if a.Hostname == "" {
		return netip.Addr{}
	}
	if c := a.Hostname[len(a.Hostname)-1]; c > 'f' { // the last character of an IP is a digit or a to f
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(a.Hostname)
	if err != nil {
		return netip.Addr{}
	}
	return ip
}

// Audience is to whom addresses are told.
type Audience struct {
	Peer     identity.NodeID  // never told its own addresses; empty: nobody in particular
	IP       netip.Addr       // where it is; the zero Addr when it has no IP
	Protocol address.Protocol // how it is connected
	AnyScope bool             // tell everything, as Tendermint does
}

// MayTell reports whether a peer there can make use of an address, and may
// know it: global addresses go to everybody, private ones to peers on that
// network, loopback ones to peers on this machine (who also get the private
// ones), addresses without an IP to peers on the same protocol, names and
// addresses that are nowhere to nobody.
func MayTell(a address.NodeAddress, to Audience) bool {
	if to.AnyScope {
		return true
	}
	ip := ipOf(a)
	switch {
	case ip.IsValid():
	case a.Hostname != "":
		return false
	default:
		return a.Protocol == to.Protocol
	}
	switch ScopeOf(ip) {
	case ScopeGlobal:
		return true
	case ScopeLoopback:
		return to.IP.Unmap().IsLoopback()
	case ScopePrivate:
		return to.IP.Unmap().IsLoopback() || sameNetwork(ip, to.IP)
	case ScopeLink:
		return sameNetwork(ip, to.IP)
	}
	return false
}

// MayLearn reports whether an address may be learnt from a source: what the
// source, being where it is, could have been told by MayTell. A person's word
// (Manual, Bootstrap) is taken; mDNS, without an IP, speaks for the local
// network.
func MayLearn(a address.NodeAddress, from Source) bool {
	switch {
	case from.Kind.trusted():
		return true
	case from.Kind == MDNS && !from.IP.IsValid():
		s := ScopeOf(ipOf(a))
		return s == ScopePrivate || s == ScopeLink || s == ScopeGlobal
	}
	return MayTell(a, Audience{IP: from.IP, Protocol: from.Protocol})
}

// literal reports whether an address names no host: learnt names would let a
// stranger make us ask DNS servers of its choice.
func literal(a address.NodeAddress) bool {
	return (a.Hostname == "" || ipOf(a).IsValid()) && !strings.Contains(a.Path, "/dns")
}
