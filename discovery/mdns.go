package discovery

import (
	"cmp"
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
// discovery's goroutines, several at once, and must not block. Only addresses of
// private networks are passed on, at most 8 a peer. 256 peers are remembered;
// those on top are not passed on, but for those at a place where nobody else is or
// fewer are than elsewhere, for whom another is forgotten: made-up peers keep none
// out but at the places that they name themselves. Nothing about peers is proven
// before a connection is. Close the result to stop; it returns when nothing runs
// any more. It fails where there is no interface that can multicast.
func MDNS(h host.Host, log *slog.Logger, found func(peer.AddrInfo)) (io.Closer, error) {
	return announce(h, newNotifee(h.ID(), logger(log), nil, found))
}

func announce(h host.Host, n *notifee) (io.Closer, error) {
	s := mdns.NewMdnsService(h, ServiceName, n)
	if err := s.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("discovery: mDNS: %w", err), s.Close())
	}
	return s, nil
}

// NewMDNS returns the source "mdns": MDNS for as long as it runs. Where there is
// no interface that can multicast its Run fails, and a Mix tries again later. A
// nil log logs nothing.
func NewMDNS(h host.Host, log *slog.Logger) Source { return &mdnsSource{host: h, log: logger(log)} }

type mdnsSource struct {
	host host.Host
	log  *slog.Logger
	tally
}

func (s *mdnsSource) Name() string { return "mdns" }

func (s *mdnsSource) Run(ctx context.Context, learn func([]Found)) error {
	running, err := announce(s.host, newNotifee(s.host.ID(), s.log, &s.tally, func(p peer.AddrInfo) { learn(heard(p)) }))
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

// notifee is told of announcements.
type notifee struct {
	self    peer.ID
	log     *slog.Logger
	refused *tally
	found   func(peer.AddrInfo)

	mu   sync.Mutex // guards seen
	seen map[peer.ID]sighting
}

// sighting is a peer that was announced.
type sighting struct {
	since time.Time
	place string // of the first of its addresses
}

func newNotifee(self peer.ID, log *slog.Logger, refused *tally, found func(peer.AddrInfo)) *notifee {
	return &notifee{self: self, log: log, refused: refused, found: found, seen: map[peer.ID]sighting{}}
}

// HandlePeerFound is called by the mDNS service for each answer.
func (n *notifee) HandlePeerFound(p peer.AddrInfo) {
	said := len(p.Addrs)
	p.Addrs = lanAddrs(p.Addrs)
	if p.ID == n.self || p.ID.Validate() != nil {
		return
	}
	n.refused.add(addrbook.RefusedScope, said-len(p.Addrs))
	if len(p.Addrs) == 0 {
		return
	}
	n.mu.Lock()
	ok := n.remember(p.ID, ipOf(p.Addrs[0]).String(), time.Now())
	n.mu.Unlock()
	if !ok {
		n.refused.add(RefusedCrowd, len(p.Addrs))
		n.log.Debug("mDNS: too many peers announced, ignoring more", "peer", p.ID)
		return
	}
	n.found(p)
}

// remember reports whether a peer is remembered, or can be now. The caller holds
// mu.
func (n *notifee) remember(id peer.ID, place string, now time.Time) bool {
	if _, known := n.seen[id]; known {
		return true
	}
	if len(n.seen) >= maxPeers {
		maps.DeleteFunc(n.seen, func(_ peer.ID, s sighting) bool { return now.Sub(s.since) > forgetPeers })
	}
	if len(n.seen) >= maxPeers && !n.makeRoom(place) {
		return false
	}
	n.seen[id] = sighting{now, place}
	return true
}

// makeRoom forgets the oldest of the place where most were announced. It reports
// whether it did: not for one of the crowd, nor to have two places change roles
// with each newcomer.
func (n *notifee) makeRoom(place string) bool {
	at := map[string]int{}
	for _, s := range n.seen {
		at[s.place]++
	}
	var out peer.ID
	for id, s := range n.seen {
		old := n.seen[out]
		if c := cmp.Compare(at[s.place], at[old.place]); c > 0 || c == 0 && s.since.Before(old.since) {
			out = id
		}
	}
	if own := at[place]; own > 0 && own+1 >= at[n.seen[out].place] {
		return false
	}
	delete(n.seen, out)
	return true
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
