package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/kith-p2p/kith/address"
)

// maxIPs is how many IPs of a name are tried. Whoever runs a domain decides how many it names, and each is a packet to
// somebody; who did not answer on 16 would hardly on a 17th.
const maxIPs = 16

// resolve returns the IPs of a name, in the order to try: that of the resolver (RFC 6724), but with the families
// taking turns (RFC 8305 section 4).
func (t *Multiaddr) resolve(ctx context.Context, to target) ([]netip.Addr, error) {
	found, err := t.opts.Resolver.LookupIPAddr(ctx, to.name)
	if err != nil {
		if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
			return nil, fmt.Errorf("%w: %w", address.ErrNoAddresses, err)
		}
		return nil, err
	}
	var families [2][]netip.Addr // that of the first IP in front
	seen := make(map[netip.Addr]bool)
	first4 := false
	for _, a := range found {
		ip, ok := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		if !ok || a.Zone != "" || seen[ip] || to.family == "dns4" && !ip.Is4() || to.family == "dns6" && ip.Is4() {
			continue
		}
		if len(seen) == 0 {
			first4 = ip.Is4()
		}
		seen[ip] = true
		i := 0
		if ip.Is4() != first4 {
			i = 1
		}
		families[i] = append(families[i], ip)
	}
	var ips []netip.Addr
	for len(families[0])+len(families[1]) > 0 && len(ips) < maxIPs {
		if len(families[0]) > 0 {
			ips = append(ips, families[0][0])
			families[0] = families[0][1:]
		}
		families[0], families[1] = families[1], families[0]
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("%w: %s (/%s)", address.ErrNoAddresses, to.name, to.family)
	}
	return ips, nil
}
