package host

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// lanDelay is the head start of plain TCP on a private network.
const lanDelay = 50 * time.Millisecond

// rankDials is libp2p's ranking but for private and loopback addresses: there
// plain TCP goes first. Over a short clean path TCP carries about twice what
// QUIC does on the same processor, and go-libp2p caps a QUIC connection at 256
// inbound streams, which a tunnel reaches. On the open internet QUIC stays
// first: it is what hole punching and lossy paths want.
func rankDials(addrs []ma.Multiaddr) []network.AddrDelay {
	ranked := swarm.DefaultDialRanker(addrs)
	lanTCP := false
	for _, a := range ranked {
		lanTCP = lanTCP || isLAN(a.Addr) && isPlainTCP(a.Addr)
	}
	if !lanTCP {
		return ranked
	}
	for i, a := range ranked {
		switch {
		case !isLAN(a.Addr):
		case isPlainTCP(a.Addr):
			ranked[i].Delay = 0
		default:
			ranked[i].Delay += lanDelay
		}
	}
	return ranked
}

func isLAN(a ma.Multiaddr) bool {
	if _, err := a.ValueForProtocol(ma.P_CIRCUIT); err == nil {
		return false
	}
	return manet.IsPrivateAddr(a) || manet.IsIPLoopback(a)
}

func isPlainTCP(a ma.Multiaddr) bool {
	tcp, plain := false, true
	ma.ForEach(a, func(c ma.Component) bool {
		switch c.Protocol().Code {
		case ma.P_TCP:
			tcp = true
		case ma.P_IP4, ma.P_IP6, ma.P_IP6ZONE, ma.P_DNS, ma.P_DNS4, ma.P_DNS6, ma.P_P2P:
		default:
			plain = false
		}
		return true
	})
	return tcp && plain
}
