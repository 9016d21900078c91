package address

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// MaxEndpoints is the most endpoints that Resolve returns: whoever runs a domain decides how many it names, and each is
// a dial. Kept are the first of the resolver's answer, which is in the order to try (RFC 6724).
const MaxEndpoints = 64

// Resolver is what Resolve asks of DNS; *net.Resolver is one.
type Resolver interface {
	// LookupIPAddr returns all IPs of host, those to try first in front, and honours ctx.
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
}

// Resolve is ResolveWith the system's resolver.
func (a NodeAddress) Resolve(ctx context.Context) ([]Endpoint, error) {
	return a.ResolveWith(ctx, net.DefaultResolver)
}

// ResolveWith returns one endpoint per distinct IP of the host, at most MaxEndpoints, with the default port filled in
// and the path carried over. It blocks on DNS for names, until ctx ends; an IP literal, a memory address and a libp2p
// peer without a place need no lookup and give one endpoint.
//
// Of a libp2p address with /dns4 or /dns6 only IPs of that family are kept; one with /dnsaddr is not looked up here
// but handed to libp2p whole, which knows those records; with TLS the hostname stays in the path as /sni. A missing
// peer ID is not an error here.
//
// Errors are *ParseError for an invalid address, ErrNoAddresses when nothing usable was found, ctx's error when it
// ended, or what the resolver returned (*net.DNSError).
func (a NodeAddress) ResolveWith(ctx context.Context, resolver Resolver) ([]Endpoint, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("address: resolve %s: %w", a, err)
	}
	var r route
	if a.Protocol == Libp2p {
		var err error
		if r, err = parseRoute(a.Path, a.Hostname != ""); err != nil {
			return nil, parseError(a.String(), err)
		}
	}
	e := Endpoint{Protocol: a.Protocol, Path: a.Path}
	switch {
	case a.Hostname == "":
		if e.Path == "" {
			e.Path = string(a.NodeID)
		}
		return []Endpoint{e}, nil
	case r.dns == "dnsaddr":
		path := "/dnsaddr/" + a.Hostname
		if r.network != "" {
			path = fmt.Sprintf("%s/%s/%d", path, r.network, a.port())
		}
		e.Path = path + r.tail()
		return []Endpoint{e}, nil
	}
	e.Port = a.port()
	if ip, err := netip.ParseAddr(a.Hostname); err == nil {
		e.IP = ip.AsSlice()
		return []Endpoint{e}, nil
	}
	if a.Protocol == Libp2p {
		dns := r.dns
		r.dns = ""
		r, err := r.withSNI(a.Hostname)
		if err != nil {
			return nil, parseError(a.String(), err)
		}
		e.Path = r.String()
		return lookup(ctx, resolver, a.Hostname, dns, e)
	}
	return lookup(ctx, resolver, a.Hostname, "", e)
}

// lookup returns e with each IP of host; family is "dns4" or "dns6" to keep one only.
func lookup(ctx context.Context, resolver Resolver, host, family string, e Endpoint) ([]Endpoint, error) {
	found, err := resolver.LookupIPAddr(ctx, host)
	if ctxErr := ctx.Err(); ctxErr != nil {
		err = ctxErr
	}
	if err != nil {
		return nil, fmt.Errorf("address: resolve %s: %w", host, err)
	}
	var out []Endpoint
	seen := make(map[netip.Addr]bool)
	for _, addr := range found {
		ip, ok := netip.AddrFromSlice(addr.IP)
		ip = ip.Unmap()
		if !ok || addr.Zone != "" || seen[ip] || family == "dns4" && !ip.Is4() || family == "dns6" && ip.Is4() {
			continue
		}
		seen[ip] = true
		e.IP = ip.AsSlice()
		if out = append(out, e); len(out) == MaxEndpoints {
			break
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoAddresses, host)
	}
	return out, nil
}
