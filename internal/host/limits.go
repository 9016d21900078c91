package host

import (
	"math"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"
	"github.com/pbnjay/memory"
)

// Limits on streams. libp2p's own defaults allow 64 + 4/GiB inbound streams per
// protocol and peer, which a tunnel with a busy web page behind it exceeds.
// Ours allow one tunnel to hold thousands of connections, for any protocol
// name (a service may be called anything), and are bounded by memory below.
const (
	streamsPerPeerAndProtocol = 8 << 10
	streamsPerPeer            = 10 << 10
	streamsPerProtocol        = 32 << 10
	streamsInAll              = 64 << 10
	// A stream is "transient" until its protocol is known, so a burst of new
	// connections passes through this scope.
	streamsTransient = 8 << 10

	// streamWindow is what go-yamux reserves for each stream when it opens
	// (its initial receive window).
	streamWindow = 256 << 10

	connsInAll        = 2 << 10
	connsTransient    = 512
	connsPerIP        = 64 // an office behind one NAT, not one laptop
	newConnsPerSecond = 4
	newConnsBurst     = 128
)

// newResourceManager returns kith's limits. Memory: a quarter of the machine
// for one peer and half for all, and at least what the stream limit of one
// peer reserves, so that the stream count is what bites. A reservation is a
// promise, not an allocation; growing a stream's window beyond the first
// 256 KiB stops at half of each limit.
func newResourceManager() (network.ResourceManager, error) {
	scaling := rcmgr.DefaultLimits
	addServiceLimits(&scaling)

	total := int64(min(memory.TotalMemory(), math.MaxInt64/2))
	perPeer := max(total/4, streamsPerPeer*streamWindow)
	inAll := max(total/2, perPeer)

	streams := func(n int) rcmgr.ResourceLimits {
		return rcmgr.ResourceLimits{
			Streams:         rcmgr.LimitVal(2 * n),
			StreamsInbound:  rcmgr.LimitVal(n),
			StreamsOutbound: rcmgr.LimitVal(n),
			Memory:          rcmgr.LimitVal64(inAll),
		}
	}
	system := streams(streamsInAll)
	system.Conns, system.ConnsInbound, system.ConnsOutbound = 2*connsInAll, connsInAll, connsInAll
	transient := streams(streamsTransient)
	transient.Conns, transient.ConnsInbound, transient.ConnsOutbound = 2*connsTransient, connsTransient, connsTransient
	peer := streams(streamsPerPeer)
	peer.Memory = rcmgr.LimitVal64(perPeer)
	protoPeer := streams(streamsPerPeerAndProtocol)
	protoPeer.Memory = rcmgr.LimitVal64(perPeer)

	limits := rcmgr.PartialLimitConfig{
		System:              system,
		Transient:           transient,
		ProtocolDefault:     streams(streamsPerProtocol),
		ProtocolPeerDefault: protoPeer,
		PeerDefault:         peer,
		Conn:                rcmgr.ResourceLimits{Memory: rcmgr.LimitVal64(perPeer)},
		Stream:              rcmgr.ResourceLimits{Memory: 64 << 20},
	}.Build(scaling.AutoScale())

	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: connsPerIP}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: connsPerIP}, {PrefixLength: 48, ConnCount: 8 * connsPerIP}},
		),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: []rate.PrefixLimit{
				{Prefix: netip.MustParsePrefix("127.0.0.0/8")},
				{Prefix: netip.MustParsePrefix("::1/128")},
			},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: rate.Limit{RPS: newConnsPerSecond, Burst: newConnsBurst}}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: rate.Limit{RPS: newConnsPerSecond, Burst: newConnsBurst}}},
			},
		}),
	)
}
