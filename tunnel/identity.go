package tunnel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/kith-p2p/kith/stream"
)

// How a target learns who the caller is, before the caller's first byte:
//
//	report peer ID   "<peer ID>\n", as kubo's -r does
//	PROXY v1         "PROXY TCP4 <src> <dst> <sport> <dport>\r\n"
//	PROXY v2         binary; the peer ID is in a TLV of type 0xE0
//
// The PROXY protocol is the one of HAProxy's proxy-protocol.txt (version 1 in
// its section 2.1, version 2 in 2.2). The source is the address that the
// connection to the peer came from; over a relay it is unknown.
const (
	proxyTLVPeerID = 0xE0 // the first type that is free for applications

	proxyV2Proxy  = 0x21 // version 2, proxied
	proxyV2Unspec = 0x00
	proxyV2TCP4   = 0x11
	proxyV2TCP6   = 0x21
)

var proxyV2Signature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// preface is what the target reads before the caller's first byte.
func (c *ServiceConfig) preface(s *stream.Conn, target net.Conn) []byte {
	var b []byte
	switch c.ProxyProtocol {
	case 1:
		b = proxyV1(remoteAddrPort(s), localAddrPort(target))
	case 2:
		b = proxyV2(remoteAddrPort(s), localAddrPort(target), s.RemotePeer().String())
	}
	if c.ReportPeerID {
		b = append(b, s.RemotePeer().String()+"\n"...)
	}
	return b
}

func proxyV1(src, dst netip.AddrPort) []byte {
	switch {
	case !src.IsValid() || !dst.IsValid() || src.Addr().Is4() != dst.Addr().Is4():
		return []byte("PROXY UNKNOWN\r\n")
	case src.Addr().Is4():
		return fmt.Appendf(nil, "PROXY TCP4 %s %s %d %d\r\n", src.Addr(), dst.Addr(), src.Port(), dst.Port())
	}
	return fmt.Appendf(nil, "PROXY TCP6 %s %s %d %d\r\n", src.Addr().WithZone(""), dst.Addr().WithZone(""), src.Port(), dst.Port())
}

func proxyV2(src, dst netip.AddrPort, id string) []byte {
	family := byte(proxyV2Unspec)
	var addrs []byte
	if src.IsValid() && dst.IsValid() && src.Addr().Is4() == dst.Addr().Is4() {
		family = proxyV2TCP6
		if src.Addr().Is4() {
			family = proxyV2TCP4
		}
		addrs = append(addrs, src.Addr().AsSlice()...)
		addrs = append(addrs, dst.Addr().AsSlice()...)
		addrs = binary.BigEndian.AppendUint16(addrs, src.Port())
		addrs = binary.BigEndian.AppendUint16(addrs, dst.Port())
	}
	b := append([]byte(nil), proxyV2Signature...)
	b = append(b, proxyV2Proxy, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(addrs)+3+len(id)))
	b = append(b, addrs...)
	b = append(b, proxyTLVPeerID)
	b = binary.BigEndian.AppendUint16(b, uint16(len(id)))
	return append(b, id...)
}

// remoteAddrPort is where the connection to the peer comes from; the zero
// value when that is a relay or this node.
func remoteAddrPort(s *stream.Conn) netip.AddrPort {
	nc, ok := pathOf(s)
	if !ok || stream.Relayed(nc) {
		return netip.AddrPort{}
	}
	ap, _ := addrPort(nc.RemoteMultiaddr())
	return ap
}

func localAddrPort(c net.Conn) netip.AddrPort {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
