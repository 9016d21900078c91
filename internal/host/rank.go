package host

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// headStart is that of plain TCP over everything else, and of IPv6 over IPv4 on the
// internet (Happy Eyeballs, RFC 8305).
const headStart = 250 * time.Millisecond

// rankDials is libp2p's ranking, but that plain TCP goes before QUIC wherever
// both are offered. QUIC stays for peers that only UDP reaches, which includes
// hole punching. Why TCP, for a node that carries other programs' connections:
//
//   - One stream cannot stall the others. A QUIC connection has one receive
//     window for all streams (15 MiB in go-libp2p): two services whose readers
//     are stuck fill it, and no stream to that peer moves. yamux has windows of
//     streams only.
//   - go-libp2p caps a QUIC connection at 256 inbound streams; a busy tunnel to a
//     peer of another make has more (ours allow more, see allowStreams).
//   - TCP carries about twice as much on the same processor.
func rankDials(addrs []ma.Multiaddr) []network.AddrDelay {
	ranked := swarm.DefaultDialRanker(addrs)
	var lanTCP, tcp, tcp6 bool
	for _, a := range ranked {
		switch {
		case IsRelay(a.Addr) || !isPlainTCP(a.Addr):
		case isLAN(a.Addr):
			lanTCP = true
		default:
			tcp = true
			tcp6 = tcp6 || isIP6(a.Addr)
		}
	}
	for i, a := range ranked {
		d := &ranked[i].Delay
		switch lan := isLAN(a.Addr); {
		case IsRelay(a.Addr):
		case isPlainTCP(a.Addr):
			if *d = 0; !lan && tcp6 && !isIP6(a.Addr) {
				*d = headStart
			}
		case lan && lanTCP, !lan && tcp:
			*d += headStart
		}
	}
	return ranked
}

// IsRelay says whether an address leads over a relay.
func IsRelay(a ma.Multiaddr) bool {
	_, err := a.ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

func isLAN(a ma.Multiaddr) bool { return manet.IsPrivateAddr(a) || manet.IsIPLoopback(a) }

func isIP6(a ma.Multiaddr) bool {
	_, err := a.ValueForProtocol(ma.P_IP6)
	return err == nil
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
