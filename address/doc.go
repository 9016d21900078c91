// Package address says where a node is: it parses, prints and resolves addresses. It is pure but for Resolve.
//
// One address has three spellings, and Parse takes all of them:
//
//	mconn://NODEID@host:26656                          a URL; also libp2p://..., memory:NODEID
//	/ip4/1.2.3.4/udp/4001/quic-v1/p2p/12D3KooW...      a libp2p multiaddr
//	NODEID@host:26656                                  CometBFT's, which is mconn (tcp:// before it is allowed)
//
// In a URL the node may be named by its NodeID (40 hex characters) or its peer ID (12D3KooW...). All parse to one
// NodeAddress, in one canonical form: Parse(a.String()) == a for every valid a, and NodeAddress is comparable.
//
// # Canonical form
//
// Schemes, hostnames and hex IDs are lowercase; peer IDs are base58, which is case-sensitive and never touched. IPv4
// in IPv6 is written as IPv4, IPv6 as RFC 5952 says, in brackets. One trailing dot of a hostname is dropped. Zones
// (fe80::1%eth0) are refused: they mean something on one machine only, and addresses are passed on. Names are ASCII
// (xn--... for others). No port is the protocol's default (mconn 26656, libp2p 4001), port 0 written out is refused.
// The path is taken as it stands, without percent decoding.
//
// # libp2p
//
// A NodeID is a hash and cannot be dialled, so the path of a libp2p address holds transport and peer ID:
//
//	libp2p://NODEID@1.2.3.4:4001/p2p/ID                         TCP
//	libp2p://NODEID@1.2.3.4:4001/udp/quic-v1/p2p/ID             QUIC
//	libp2p://NODEID@relay:4001/p2p/RELAY/p2p-circuit/p2p/ID     through a relay
//	libp2p:NODEID/p2p/ID                                        the peer alone: where it is, others know
//	libp2p://NODEID@host:4001/dns4/p2p/ID                       /dns4 (or /dns6, /dnsaddr), not /dns, of the multiaddr
//
// Transports are tcp, tcp/ws, tcp/wss, tcp/tls/ws, tcp/tls/sni/NAME/ws, udp/quic-v1 and
// udp/quic-v1/webtransport/certhash/...; "tcp" or "udp" itself may be left out when writing. Whatever else stands in a
// multiaddr is an *UnsupportedError that names it: nothing is silently dropped. Unix sockets are for local targets
// (TargetMultiaddr) and /memory numbers belong to libp2p's tests; neither names a peer.
//
// An address without a peer ID is valid, since the peer ID may be known elsewhere (WithPeerID adds it); asking it for a
// multiaddr gives ErrPeerIDRequired.
//
// Input is at most MaxLength bytes. Errors about input are *ParseError, match ErrInvalid, and name the fault.
package address
