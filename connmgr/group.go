package connmgr

import "net/netip"

// AddressGroup is the default of EngineConfig.Group: the part of the internet
// an address belongs to, as a measure of who could own many of them. IPv4 /16,
// IPv6 /32; an IPv6 address that embeds an IPv4 one (mapped, NAT64 RFC 6052,
// 6to4 RFC 3056) is that IPv4 address. Loopback, private (RFC 1918, RFC 4193)
// and link-local addresses are a group each: "loopback", "private",
// "link-local". An address that is not valid has the group "".
func AddressGroup(ip netip.Addr) string {
	ip = canonical(ip)
	switch {
	case !ip.IsValid():
		return ""
	case ip.IsLoopback():
		return "loopback"
	case ip.IsPrivate():
		return "private"
	case ip.IsLinkLocalUnicast():
		return "link-local"
	}
	return within(ip, 16, 32).String()
}

var (
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	sixToFo = netip.MustParsePrefix("2002::/16")
)

// canonical is the address as it is counted: without zone, and the embedded
// IPv4 address where an IPv6 one only wraps it, so that nobody has two.
func canonical(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
	if !ip.Is6() {
		return ip
	}
	b := ip.As16()
	switch {
	case nat64.Contains(ip):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixToFo.Contains(ip):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return ip
}

// within is the prefix of ip with that many bits, by family.
func within(ip netip.Addr, v4, v6 int) netip.Prefix {
	bits := v6
	if ip.Is4() {
		bits = v4
	}
	p, _ := ip.Prefix(bits) // an error only if ip is not valid: the zero Prefix
	return p
}

// An origin is what the gate knows of an address. The zero origin: unknown.
type origin struct {
	ip     netip.Addr   // canonical
	prefix netip.Prefix // v4 /24, v6 /56
	group  string
}

// originOf runs outside every lock: group may be the caller's.
func originOf(ip netip.Addr, group func(netip.Addr) string) origin {
	ip = canonical(ip)
	if !ip.IsValid() {
		return origin{}
	}
	return origin{ip: ip, prefix: within(ip, 24, 56), group: group(ip)}
}

func (o origin) known() bool { return o.ip.IsValid() }
