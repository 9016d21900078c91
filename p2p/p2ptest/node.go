package p2ptest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// Node is a node of a Network. It may die and come back: then it has another
// Router and another PeerManager, with what the store remembers.
type Node struct {
	net   *Network
	index int
	key   p2p.PrivKey
	id    p2p.NodeID
	store *FaultyStore
	first []p2p.NodeAddress // what it knows when it starts for the first time
	// persistent is its persistent peer; "": none.
	persistent p2p.NodeID

	mu    sync.Mutex // guards the rest
	place netip.AddrPort
	life  *life // nil: it is down
	lives uint32
	// former sums the channels of lives that are over.
	former map[p2p.ChannelID]p2p.ChannelStats
	// bans are those that were acknowledged, and until when they hold.
	bans map[p2p.NodeID]time.Time
}

// ID is the node's.
func (n *Node) ID() p2p.NodeID { return n.id }

// Index is its number, from 0.
func (n *Node) Index() int { return n.index }

// Address is where the node listens now.
func (n *Node) Address() p2p.NodeAddress {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.address()
}

func (n *Node) address() p2p.NodeAddress {
	return p2p.NodeAddress{NodeID: n.id, Protocol: memory.ProtocolIP, Hostname: n.place.Addr().String(), Port: n.place.Port()}
}

// Router is the node's, nil while it is down.
func (n *Node) Router() *p2p.Router {
	if l := n.alive(); l != nil {
		return l.router
	}
	return nil
}

// PeerManager is the node's, nil while it is down.
func (n *Node) PeerManager() *p2p.PeerManager {
	if l := n.alive(); l != nil {
		return l.pm
	}
	return nil
}

func (n *Node) alive() *life {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.life
}

// life is a node from its start to its end.
type life struct {
	node      *Node
	number    uint32
	pm        *p2p.PeerManager
	router    *p2p.Router
	pex       *p2p.PEX
	transport *placed
	traffic   *traffic
	cleanup   func() // the user's; nil: none

	cancel  context.CancelFunc
	running sync.WaitGroup
	updates *p2p.PeerUpdates
	dirty   atomic.Bool // a peer came or went since the last look

	mu sync.Mutex // guards the rest
	up map[p2p.NodeID]bool
}

// placed is a memory.Transport that is only where its addresses are: not at its
// name, which would follow it wherever it moves.
type placed struct {
	*memory.Transport
	failing atomic.Bool
	failed  atomic.Uint64
}

func (*placed) Protocols() []p2p.Protocol { return []p2p.Protocol{memory.ProtocolIP} }

func (t *placed) Endpoints() []p2p.Endpoint {
	return slices.DeleteFunc(t.Transport.Endpoints(), func(e p2p.Endpoint) bool { return e.Protocol != memory.ProtocolIP })
}

var errTooManyFiles = errors.New("p2ptest: too many open files, as ordered")

// Accept fails while it is told to; who connects meanwhile waits.
func (t *placed) Accept() (p2p.Connection, error) {
	if t.failing.Load() {
		t.failed.Add(1)
		return nil, errTooManyFiles
	}
	return t.Transport.Accept()
}

// start begins a life.
func (n *Node) start() error {
	n.mu.Lock()
	n.lives++
	l := &life{node: n, number: n.lives, up: make(map[p2p.NodeID]bool)}
	place, address := n.place, n.address()
	n.mu.Unlock()

	o := n.net.o.Peers
	o.SelfAddress = address
	if n.persistent != "" {
		o.PersistentPeers = append(slices.Clone(o.PersistentPeers), n.persistent)
	}
	rng := n.net.random(2, uint64(n.index)<<32|uint64(l.number))
	trafficSeed := rng.Uint64()
	var lock sync.Mutex
	o.Rand = func() float64 {
		lock.Lock()
		defer lock.Unlock()
		return rng.Float64()
	}
	var err error
	if l.pm, err = p2p.NewPeerManager(n.id, n.store.Open(), o); err != nil {
		return err
	}
	transport, err := n.net.mem.Listen(n.id, place)
	if err != nil {
		l.pm.Close()
		return err
	}
	l.transport = &placed{Transport: transport}
	if err = l.begin(trafficSeed); err != nil {
		if l.router != nil {
			_ = l.router.Stop()
		}
		_ = l.transport.Close()
		l.pm.Close()
		return err
	}
	for _, a := range n.first {
		if _, err := l.pm.AddFrom(a, p2p.Source{Kind: addrbook.Bootstrap}); err != nil {
			n.net.checker.fail(fmt.Errorf("node %d cannot be told of %v: %w", n.index, a, err))
		}
	}
	n.first = nil
	n.mu.Lock()
	defer n.mu.Unlock()
	n.life = l
	return nil
}

// begin makes the Router and starts all that runs.
func (l *life) begin(seed uint64) (err error) {
	n := l.node
	l.router, err = p2p.NewRouter(p2p.RouterOptions{
		NodeInfo: p2p.NodeInfo{Network: "simulation", Moniker: fmt.Sprintf("node %d", n.index), ListenAddr: "0.0.0.0:26656"},
		PrivKey:  n.key, PeerManager: l.pm, Transports: []p2p.Transport{l.transport}, SendQueueBytes: sendQueueBytes,
	})
	if err != nil {
		return err
	}
	if l.pex, err = p2p.NewPEX(l.router, p2p.PEXOptions{}); err != nil {
		return err
	}
	if l.traffic, err = newTraffic(l, n.net.random(3, seed)); err != nil {
		return err
	}
	if r := n.net.o.Reactor; r != nil {
		n.mu.Lock()
		n.life = l // so that Router and PeerManager are there for it
		n.mu.Unlock()
		l.cleanup = r(n)
	}
	l.updates = l.pm.Subscribe()
	if err := l.router.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.running.Go(l.watch)
	l.running.Go(func() { _ = l.pex.Run(ctx) })
	l.traffic.run(ctx, &l.running)
	if s := n.net.sabotage; s != nil {
		s(l)
	}
	return nil
}

// watch hears of the peers that come and go, and looks at the node each time.
func (l *life) watch() {
	c := l.node.net.checker
	for u := range l.updates.Updates() {
		up := u.Status == p2p.PeerStatusUp
		l.mu.Lock()
		was := l.up[u.NodeID]
		if up {
			l.up[u.NodeID] = true
		} else {
			delete(l.up, u.NodeID)
		}
		l.mu.Unlock()
		if was == up {
			c.fail(fmt.Errorf("node %d: peer %v is told to be %s, which it was", l.node.index, u.NodeID, u.Status))
		}
		c.event("node %d: peer %.8s %s", l.node.index, u.NodeID, u.Status)
		c.note(l.view(false).check())
		c.updates.Add(1)
		l.dirty.Store(true)
		l.node.net.stir()
	}
}

// peers are those that are up as far as the updates say, sorted.
func (l *life) peers() []p2p.NodeID {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make([]p2p.NodeID, 0, len(l.up))
	for id := range l.up {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// stop ends a life in order. It does nothing on a node that is down.
func (n *Node) stop() {
	n.mu.Lock()
	l := n.life
	n.life = nil
	n.mu.Unlock()
	if l == nil {
		return
	}
	l.cancel()
	_ = l.router.Stop()
	l.pm.Close() // ends the updates
	l.running.Wait()
	if l.cleanup != nil {
		l.cleanup()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.former == nil {
		n.former = make(map[p2p.ChannelID]p2p.ChannelStats)
	}
	for id, s := range l.traffic.stats() {
		n.net.checker.note(checkBalance(s))
		sum := n.former[id]
		addChannelStats(&sum, s)
		n.former[id] = sum
	}
}

// crash ends a life as SIGKILL would: connections are reset, and what was not
// saved is lost.
func (n *Node) crash() {
	n.store.Kill()
	n.net.mem.Crash(n.id)
	n.stop()
}
