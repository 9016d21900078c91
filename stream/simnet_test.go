package stream

import (
	"testing"
	"time"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	ma "github.com/multiformats/go-multiaddr"
)

// simulated returns two hosts on a network in memory: QUIC over links of
// 1 Gbit/s, 200 µs apart, in real time.
func simulated(tb testing.TB) (a, b corehost.Host) {
	nw := &simnet.Simnet{LatencyFunc: simnet.StaticLatency(200 * time.Microsecond)}
	link := simnet.NodeBiDiLinkSettings{
		Downlink: simnet.LinkSettings{BitsPerSecond: 1000 * simlibp2p.OneMbps},
		Uplink:   simnet.LinkSettings{BitsPerSecond: 1000 * simlibp2p.OneMbps},
	}
	const at = "/ip4/2.0.0.1/udp/8000/quic-v1"
	// The endpoints must exist before the network starts, and it must stop
	// after them.
	tb.Cleanup(func() { nw.Close() })
	a = newHost(tb, "/ip4/2.0.0.2/udp/8000/quic-v1", with(simlibp2p.QUICSimnet(nw, link)))
	b = newHost(tb, at, with(simlibp2p.QUICSimnet(nw, link)))
	nw.Start()
	a.Peerstore().AddAddrs(b.ID(), []ma.Multiaddr{ma.StringCast(at)}, peerstore.PermanentAddrTTL)
	connect(tb, a, peer.AddrInfo{ID: b.ID()})
	return a, b
}
