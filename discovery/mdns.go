package discovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// ServiceName is what kith nodes announce, so that they do not meet every
// other libp2p program on the network.
const ServiceName = "_kith._udp"

const (
	// Anybody on the network can announce anything, so what is believed is
	// bounded: this many peers, this many addresses each.
	maxPeers = 256
	// forgetPeers is after how long a peer may be forgotten for another one.
	forgetPeers = 10 * time.Minute
	maxAddrs    = 8
)

// MDNS announces the host on the local network (RFC 6762) and calls found for
// each other node, and again when its addresses change. found runs on
// discovery's goroutine and must not block. Only addresses of private
// networks are passed on, at most 8 a peer and 256 peers in all; nothing about
// them is proven before a connection is. Close the result to stop; it returns
// when nothing runs any more. It fails where there is no interface that can
// multicast.
func MDNS(h host.Host, log *slog.Logger, found func(peer.AddrInfo)) (io.Closer, error) {
	n := &notifee{self: h.ID(), log: log, found: found, seen: map[peer.ID]time.Time{}}
	s := mdns.NewMdnsService(h, ServiceName, n)
	if err := s.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("discovery: mDNS: %w", err), s.Close())
	}
	return s, nil
}

// NewMDNS returns the source "mdns": MDNS for as long as it runs. Where there is
// no interface that can multicast its Run fails, and a Mix tries again later. A
// nil log logs nothing.
func NewMDNS(h host.Host, log *slog.Logger) Source { return &mdnsSource{h, logger(log)} }

type mdnsSource struct {
	host host.Host
	log  *slog.Logger
}

func (s *mdnsSource) Name() string { return "mdns" }

func (s *mdnsSource) Run(ctx context.Context, learn func([]Found)) error {
	running, err := MDNS(s.host, s.log, func(p peer.AddrInfo) { learn(heard(p)) })
	if err != nil {
		return err
	}
	<-ctx.Done()
	return running.Close()
}

// heard is an announcement as addresses. Those that have no form of ours are
// left out.
func heard(p peer.AddrInfo) []Found {
	var found []Found
	for _, m := range p.Addrs {
		if a, err := fromParts(p.ID, m); err == nil {
			found = append(found, Found{a, addrbook.Source{Kind: addrbook.MDNS, Protocol: address.Libp2p}})
		}
	}
	return found
}

type notifee struct {
	self  peer.ID
	log   *slog.Logger
	found func(peer.AddrInfo)

	mu   sync.Mutex            // guards seen
	seen map[peer.ID]time.Time // since when
}

// HandlePeerFound is called by the mDNS service for each answer.
func (n *notifee) HandlePeerFound(p peer.AddrInfo) {
	p.Addrs = lanAddrs(p.Addrs)
	if p.ID == n.self || p.ID.Validate() != nil || len(p.Addrs) == 0 {
		return
	}
	n.mu.Lock()
	_, known := n.seen[p.ID]
	now := time.Now()
	if !known && len(n.seen) >= maxPeers { // so that made-up ones do not deafen us for ever
		maps.DeleteFunc(n.seen, func(_ peer.ID, since time.Time) bool { return now.Sub(since) > forgetPeers })
	}
	full := len(n.seen) >= maxPeers
	if !known && !full {
		n.seen[p.ID] = now
	}
	n.mu.Unlock()
	if !known && full {
		n.log.Debug("mDNS: too many peers announced, ignoring more", "peer", p.ID)
		return
	}
	n.found(p)
}

// lanAddrs keeps what can be on this network.
func lanAddrs(in []ma.Multiaddr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range in {
		if len(out) == maxAddrs {
			break
		}
		if _, err := a.ValueForProtocol(ma.P_CIRCUIT); err == nil {
			continue
		}
		if !manet.IsIPLoopback(a) && (manet.IsPrivateAddr(a) || manet.IsIP6LinkLocal(a)) {
			out = append(out, a)
		}
	}
	return out
}
