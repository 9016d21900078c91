package stream

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-p2p/kith/internal/host"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/marcopolo/simnet"
	ma "github.com/multiformats/go-multiaddr"
)

// simulated returns two hosts on a network in memory: QUIC over links of
// 1 Gbit/s, 200 µs apart, in real time.
func simulated(tb testing.TB) (a, b corehost.Host) {
	nw := &simnet.Simnet{LatencyFunc: simnet.StaticLatency(200 * time.Microsecond)}
	gigabit := simnet.LinkSettings{BitsPerSecond: 1_000_000_000}
	link := simnet.NodeBiDiLinkSettings{Downlink: gigabit, Uplink: gigabit}
	const at = "/ip4/2.0.0.1/udp/8000/quic-v1"
	// The endpoints must exist before the network starts, and it must stop
	// after them.
	tb.Cleanup(func() { nw.Close() })
	a = newHost(tb, "/ip4/2.0.0.2/udp/8000/quic-v1", onSimnet(nw, link))
	b = newHost(tb, at, onSimnet(nw, link))
	nw.Start()
	a.Peerstore().AddAddrs(b.ID(), []ma.Multiaddr{ma.StringCast(at)}, peerstore.PermanentAddrTTL)
	connect(tb, a, peer.AddrInfo{ID: b.ID()})
	return a, b
}

// onSimnet opens a host's QUIC sockets on a simulated network.
func onSimnet(nw *simnet.Simnet, link simnet.NodeBiDiLinkSettings) func(*host.Config) {
	var source oneAddress
	return func(c *host.Config) {
		c.QUIC = []quicreuse.Option{
			quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return &source, nil }),
			quicreuse.OverrideListenUDP(func(_ string, at *net.UDPAddr) (net.PacketConn, error) {
				source.ip.Store(&at.IP)
				return nw.NewEndpoint(at, link), nil
			}),
		}
	}
}

// oneAddress is the source of all packets: the host's only one.
type oneAddress struct{ ip atomic.Pointer[net.IP] }

func (o *oneAddress) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) {
	return *o.ip.Load(), nil
}
