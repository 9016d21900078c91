package kith

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/discovery"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/routing"
	routedhost "github.com/libp2p/go-libp2p/p2p/host/routed"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
)

// DHT says in which distributed hash tables a node takes part.
type DHT string

// The tables. A node takes part in none unless it is told to.
const (
	DHTOff DHT = ""     // none
	DHTLAN DHT = "lan"  // of private networks
	DHTWAN DHT = "wan"  // of the internet
	DHTAll DHT = "both" // of both
)

// routed is a host that asks the Finder about peers whose addresses it does not
// know.
type routed struct {
	*routedhost.RoutedHost
	ids identify.IDService
}

// IDService tells when a connection has been identified.
func (r *routed) IDService() identify.IDService { return r.ids }

// newFinder puts the book, and the DHT if there is one, behind a host.
func (n *Node) newFinder() error {
	h := n.host
	var dht routing.PeerRouting
	switch n.cfg.DHT {
	case DHTOff:
	case DHTLAN, DHTWAN, DHTAll:
		var err error
		n.dht, err = discovery.NewDHT(discovery.DHTConfig{
			Host: h,
			WAN:  n.cfg.DHT != DHTLAN, LAN: n.cfg.DHT != DHTWAN, Loopback: n.cfg.LocalOnly,
			Prefix:    dhtPrefix(n.cfg.Network),
			Bootstrap: n.boot.addrInfos,
		})
		if err != nil {
			return err
		}
		dht = n.dht
	default:
		return usage("dht %q: give lan, wan or both, or leave it out for none", n.cfg.DHT)
	}
	n.finder = discovery.NewFinder(discovery.FinderConfig{Host: h, Book: n.Book(), DHT: dht})
	ids, ok := h.(interface{ IDService() identify.IDService })
	if !ok {
		return errors.New("kith: the host does not identify peers")
	}
	n.ids = ids.IDService()
	n.host = &routed{RoutedHost: routedhost.Wrap(h, n.finder), ids: n.ids}
	return nil
}

// dhtPrefix keeps networks apart: each has a DHT of its own.
func dhtPrefix(network string) protocol.ID {
	if network == DefaultNetwork {
		return discovery.DHTPrefix
	}
	return discovery.DHTPrefix + protocol.ID("/"+network)
}

// newMix makes the sources of addresses that the configuration asks for.
func (n *Node) newMix() (err error) {
	sources := []discovery.Source{n.boot}
	if n.wantsMDNS() {
		sources = append(sources, discovery.NewMDNS(n.host, n.log))
	}
	for _, seed := range n.cfg.DNSSeeds {
		s, err := n.seed(seed)
		if err != nil {
			return err
		}
		sources = append(sources, s)
	}
	if n.dht != nil {
		sources = append(sources, n.dht)
	}
	var external []discovery.External
	if n.pex != nil {
		external = append(external, discovery.External{Name: "pex", Kind: addrbook.PEX, Book: n.Book()})
	}
	n.mix, err = discovery.NewMix(discovery.MixConfig{Learner: n.Book(), Sources: sources, External: external, Logger: n.log})
	return err
}

// seed is the source of one DNS seed, HOST:PORT.
func (n *Node) seed(s string) (discovery.Source, error) {
	host, text, err := net.SplitHostPort(s)
	port, perr := strconv.ParseUint(text, 10, 16)
	if err != nil || perr != nil || host == "" || port == 0 {
		return nil, usage("DNS seed %q: write it like seed.example.org:4001, with the port of the nodes that it names", s)
	}
	source, err := discovery.NewDNSSeed(host, discovery.SeedOptions{
		DNSOptions: discovery.DNSOptions{Resolver: n.dns, Logger: n.log}, Port: uint16(port),
		Allow: func(ip netip.Addr) bool { _, banned := n.Book().BannedIP(ip); return !banned },
	})
	if err != nil {
		return nil, &usageError{err}
	}
	return source, nil
}

// Discovery says what each source of addresses did since the start.
func (n *Node) Discovery() []discovery.SourceStats { return n.mix.Stats() }

// Find says where a peer is, given by its ID in either spelling: our connections
// to it, the address book, and then, if the node takes part in one, the DHT,
// which may take until ctx ends. Errors: ErrUsage, ErrUnknownPeer when nobody
// knows, ctx's.
func (n *Node) Find(ctx context.Context, p string) (peer.ID, []discovery.Place, error) {
	id, _, err := n.parsePeer(ctx, p)
	if err != nil {
		return "", nil, err
	}
	if id == n.host.ID() {
		return "", nil, usage("%s is this node", id)
	}
	places, err := n.finder.Find(ctx, id)
	switch {
	case errors.Is(err, routing.ErrNotFound):
		return id, nil, n.nowhere(id, err)
	case err != nil:
		return id, nil, plain(err)
	}
	return id, places, nil
}

// nowhere says that a peer was looked for in vain, and what to do next.
func (n *Node) nowhere(id peer.ID, err error) error {
	text := fmt.Sprintf("neither the address book nor the DHT knows %s: it may be offline, or of another network; give a full address of it if you have one", id)
	if n.dht == nil {
		text = fmt.Sprintf("the address book does not know %s, and this node takes part in no DHT (dht in the configuration): give a full address that ends in /p2p/ID", id)
	} else if wan, lan := n.dht.Nodes(); wan+lan == 0 {
		text = fmt.Sprintf("the address book does not know %s, and this node has met nobody of the DHT yet: name one with `kith bootstrap add`", id)
	}
	return &plainError{ErrUnknownPeer.Error() + ": " + text, errors.Join(ErrUnknownPeer, err)}
}
