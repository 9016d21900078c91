package discovery

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	ma "github.com/multiformats/go-multiaddr"
)

const maxSearches = 16 // that run at once

// Where says who told a Place.
type Where string

// The answers, in the order of their worth.
const (
	AtConnection Where = "connection" // a connection of ours found the peer there
	InBook       Where = "book"
	InDHT        Where = "dht"
)

// Place is an address of a peer, and where it came from.
type Place struct {
	Addr ma.Multiaddr // without /p2p/ID at the end
	From Where
	// Source is who taught the book; zero otherwise.
	Source addrbook.Source
	// Verified says that the peer was met there: now, or when the book last
	// heard of it. Otherwise the place is hearsay.
	Verified bool
}

// Book is what a Finder needs of an address book; *addrbook.Book is one.
type Book interface {
	Peer(identity.NodeID) (addrbook.Peer, bool)
}

// FinderConfig says where a Finder looks.
type FinderConfig struct {
	// Host is asked for connections and for what its peerstore knows already.
	// Required.
	Host host.Host
	// Book is looked into first. nil: there is none.
	Book Book
	// DHT is asked when the book does not help. nil: nobody is.
	DHT routing.PeerRouting
}

// Finder says where a peer is: the book first, then the DHT. It is the
// routing.PeerRouting of a libp2p host: hand it to routedhost.Wrap, or build
// both in libp2p.Routing. Nothing it says enters the book; what is met does
// (see DHT). Searches of the DHT for the same peer are one, and at most 16 run
// at once. It is safe for concurrent use, and starts nothing that lasts longer
// than the calls.
type Finder struct {
	cfg   FinderConfig
	slots chan struct{}

	mu       sync.Mutex // guards searches, and the waiters in each
	searches map[peer.ID]*search
}

// search is one question to the DHT. places and err are written before done is
// closed.
type search struct {
	cancel  context.CancelFunc
	done    chan struct{}
	waiters int
	places  []Place
	err     error
}

// NewFinder returns a Finder. It panics without a host.
func NewFinder(cfg FinderConfig) *Finder {
	if cfg.Host == nil {
		panic("discovery: a Finder needs a host")
	}
	return &Finder{cfg: cfg, slots: make(chan struct{}, maxSearches), searches: map[peer.ID]*search{}}
}

// Find returns where a peer is: our connections to it, then what the book
// knows, best first; if that is nothing, what the DHT finds. It blocks on
// the DHT only, until ctx ends. Errors match routing.ErrNotFound when nobody
// knows, or are ctx's.
func (f *Finder) Find(ctx context.Context, id peer.ID) ([]Place, error) {
	if known := f.known(id); len(known) > 0 {
		return known, nil
	}
	return f.ask(ctx, id)
}

// Search is Find that asks the DHT whatever the book says, and returns both. When
// the DHT finds nothing, that is an error only if the book has nothing either.
func (f *Finder) Search(ctx context.Context, id peer.ID) ([]Place, error) {
	known := f.known(id)
	found, err := f.ask(ctx, id)
	for _, p := range found {
		i := slices.IndexFunc(known, func(k Place) bool { return k.Addr.Equal(p.Addr) })
		switch {
		case i < 0:
			known = append(known, p)
		case p.Verified:
			known[i].Verified = true
		}
	}
	if len(known) > 0 {
		return known, nil
	}
	return nil, err
}

// FindPeer implements routing.PeerRouting. It is Find as long as that says
// something that the host's peerstore does not know; then it is Search: a host
// asks again when what it was told did not answer. Where a peer came to us from is
// said too, last, and the DHT is not asked then: nobody listens there, but a host
// that hears something new connects once more, and so finds that it is connected.
func (f *Finder) FindPeer(ctx context.Context, id peer.ID) (peer.AddrInfo, error) {
	var came []ma.Multiaddr
	for _, c := range f.cfg.Host.Network().ConnsToPeer(id) {
		if c.Stat().Direction == network.DirInbound && !relayed(c.RemoteMultiaddr()) {
			came = append(came, c.RemoteMultiaddr())
		}
	}
	places := f.known(id)
	tried := f.cfg.Host.Peerstore().Addrs(id)
	if len(came) == 0 && !slices.ContainsFunc(places, func(p Place) bool { return !slices.ContainsFunc(tried, p.Addr.Equal) }) {
		var err error
		if places, err = f.Search(ctx, id); err != nil {
			return peer.AddrInfo{}, err
		}
	}
	info := peer.AddrInfo{ID: id}
	for _, p := range places {
		info.Addrs = append(info.Addrs, p.Addr)
	}
	info.Addrs = append(info.Addrs, came...)
	return info, nil
}

// known is what can be said without asking anybody.
func (f *Finder) known(id peer.ID) (places []Place) {
	add := func(p Place) {
		if !slices.ContainsFunc(places, func(k Place) bool { return k.Addr.Equal(p.Addr) }) {
			places = append(places, p)
		}
	}
	for _, c := range f.cfg.Host.Network().ConnsToPeer(id) {
		if c.Stat().Direction == network.DirOutbound {
			add(Place{Addr: c.RemoteMultiaddr(), From: AtConnection, Verified: true})
		}
	}
	node, err := identity.NodeIDFromPeerID(id)
	if err != nil || f.cfg.Book == nil {
		return places
	}
	p, _ := f.cfg.Book.Peer(node)
	for _, e := range p.Addresses {
		a := e.Address
		if _, ok := a.PeerID(); a.Protocol == address.Libp2p && !ok {
			if a, err = a.WithPeerID(id); err != nil {
				continue
			}
		}
		m, err := a.Multiaddr()
		if err != nil || a.Protocol != address.Libp2p {
			continue
		}
		if at, _ := peer.SplitAddr(m); len(at) > 0 {
			add(Place{Addr: at, From: InBook, Source: e.Source, Verified: e.Verified})
		}
	}
	return places
}

// ask waits for the DHT, with whoever else asks the same.
func (f *Finder) ask(ctx context.Context, id peer.ID) ([]Place, error) {
	if f.cfg.DHT == nil {
		return nil, fmt.Errorf("discovery: the book does not know %s, and there is no DHT to ask: %w", id, routing.ErrNotFound)
	}
	f.mu.Lock()
	s := f.searches[id]
	if s == nil {
		searching, cancel := context.WithCancel(context.WithoutCancel(ctx))
		s = &search{cancel: cancel, done: make(chan struct{})}
		f.searches[id] = s
		go f.run(searching, s, id)
	}
	s.waiters++
	f.mu.Unlock()
	select {
	case <-s.done:
	case <-ctx.Done():
	}
	f.mu.Lock()
	s.waiters--
	last := s.waiters == 0
	if last && f.searches[id] == s {
		delete(f.searches, id) // nobody joins one that is given up
	}
	f.mu.Unlock()
	if last {
		s.cancel()
		<-s.done
	}
	select {
	case <-s.done:
		if s.err == nil || ctx.Err() == nil {
			return slices.Clone(s.places), s.err
		}
	default:
	}
	return nil, ctx.Err()
}

// run is a goroutine that the last of those who ask waits for.
func (f *Finder) run(ctx context.Context, s *search, id peer.ID) {
	defer close(s.done)
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.searches[id] == s {
			delete(f.searches, id)
		}
	}()
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-ctx.Done():
		s.err = ctx.Err()
		return
	}
	info, err := f.cfg.DHT.FindPeer(ctx, id)
	if err == nil && info.ID != id {
		err = fmt.Errorf("discovery: asked for %s, told of %s: %w", id, info.ID, routing.ErrNotFound)
	}
	if err == nil && len(info.Addrs) == 0 {
		err = fmt.Errorf("discovery: the DHT knows no address of %s: %w", id, routing.ErrNotFound)
	}
	if err != nil {
		s.err = err
		return
	}
	met := f.cfg.Host.Network().ConnsToPeer(id)
	for _, a := range info.Addrs {
		s.places = append(s.places, Place{Addr: a, From: InDHT, Verified: slices.ContainsFunc(met, func(c network.Conn) bool {
			return c.Stat().Direction == network.DirOutbound && c.RemoteMultiaddr().Equal(a)
		})})
	}
}

var _ routing.PeerRouting = (*Finder)(nil)
var _ routing.PeerRouting = (*DHT)(nil)
