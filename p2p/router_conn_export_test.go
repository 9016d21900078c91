package p2p

import "github.com/kith-p2p/kith/address"

// SetResolverForTest makes a Router that is not started look up names there.
func SetResolverForTest(r *Router, resolver address.Resolver) { r.resolver = resolver }
