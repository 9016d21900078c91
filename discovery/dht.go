package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/backoff"
	kad "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/routing"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	ma "github.com/multiformats/go-multiaddr"
)

// DHTPrefix is the default of DHTConfig.Prefix: the protocols are
// /kith/kad/1.0.0 and, on local networks, /kith/lan/kad/1.0.0.
const DHTPrefix protocol.ID = "/kith"

const (
	lanExtension protocol.ID = "/lan"
	kadProtocol  protocol.ID = "/kad/1.0.0"

	// kadTag is what kad-dht protects connections with; at its end it forgets to
	// let go of them.
	kadTag = "kbucket"

	maxSought = 256 // peers that were looked for, and are learnt when they are met
	maxMet    = 256 // met peers that wait to be taught

	findTimeout          = time.Minute
	joinFirst, joinLimit = 2 * time.Second, 2 * time.Minute
)

// DHTMode says whether a node answers the questions of others.
type DHTMode string

// The modes. A server must be reachable from where the others are.
const (
	DHTAuto   DHTMode = ""       // WAN: server once libp2p finds the node reachable; LAN: server
	DHTClient DHTMode = "client" // only asks
	DHTServer DHTMode = "server"
)

// DHTConfig says what kind of DHT NewDHT makes.
type DHTConfig struct {
	// Host is used and not closed. Not one that asks this DHT, see Finder.
	Host host.Host
	// WAN takes part in the DHT of the internet, where only addresses of the
	// internet are believed; LAN in that of the local network, where only those
	// of private networks are. One at least.
	WAN, LAN bool
	// Loopback believes addresses of this machine on the LAN, for networks that
	// are within one.
	Loopback bool
	// Mode: see DHTMode.
	Mode DHTMode
	// Prefix names the network: nodes with another do not meet. Default
	// DHTPrefix. Not that of a public network.
	Prefix protocol.ID
	// Bootstrap returns the nodes to connect to while the DHT knows nobody.
	// nil, or none: it waits for connections that others make. List.AddrInfos
	// is one.
	Bootstrap func() []peer.AddrInfo
	// Hide says of whom this node tells nobody where it is, such as the private
	// peers of the address book. It must return at once. nil: of nobody.
	Hide func(peer.ID) bool
}

// Errors of DHT.FindPeer. All match routing.ErrNotFound.
var (
	// ErrDHTOff says that the DHT is not running.
	ErrDHTOff = fmt.Errorf("discovery: the DHT is off: %w", routing.ErrNotFound)
	// ErrDHTAlone says that the DHT has not met any of its nodes yet: give it a
	// bootstrap node, or wait.
	ErrDHTAlone = fmt.Errorf("discovery: the DHT knows no node of its network yet: %w", routing.ErrNotFound)
)

// DHT is a Kademlia DHT (Maymounkov and Mazières, 2002; libp2p's kad-dht
// specification) that finds peers by their ID. It keeps no records: a request
// to store or provide something is refused. It is a Source, and works while it
// runs; a routing.PeerRouting; and safe for concurrent use. What a node of it
// says is an address to try. Those in answers that are not of the network asked
// (private ones on the WAN, all others on the LAN), names, addresses over
// relays, and more than a few of one IP are dropped, and not told to others
// either. A peer enters the address book with the address at which a connection
// of ours found it, after identify.
type DHT struct {
	cfg DHTConfig
	tally

	mu      sync.Mutex // guards the fields below
	running bool
	live    *joined // nil: no lookups now
	sought  map[peer.ID]struct{}
	order   []peer.ID // of sought, the oldest first
}

// joined is a DHT that runs.
type joined struct {
	ctx  context.Context
	nets []*kadNet
	met  chan network.Conn // has room for maxMet
	use  sync.WaitGroup    // of FindPeer
}

// kadNet is one of the two.
type kadNet struct {
	proto protocol.ID
	node  *kad.IpfsDHT
	guard *guard
	rules *netRules
}

// NewDHT checks the configuration; nothing is started before Run. Errors match
// ErrOptions.
func NewDHT(cfg DHTConfig) (*DHT, error) {
	switch {
	case cfg.Host == nil:
		return nil, fmt.Errorf("%w: a DHT needs a host", ErrOptions)
	case !cfg.WAN && !cfg.LAN:
		return nil, fmt.Errorf("%w: a DHT is of the WAN, of the LAN, or both", ErrOptions)
	case !slices.Contains([]DHTMode{DHTAuto, DHTClient, DHTServer}, cfg.Mode):
		return nil, fmt.Errorf("%w: DHT mode %q: there are auto (empty), client and server", ErrOptions, cfg.Mode)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = DHTPrefix
	}
	if cfg.Prefix[0] != '/' || cfg.Prefix == kad.DefaultPrefix {
		return nil, fmt.Errorf("%w: DHT prefix %q: it begins with / and is not that of a public network", ErrOptions, cfg.Prefix)
	}
	return &DHT{cfg: cfg, sought: map[peer.ID]struct{}{}}, nil
}

// Name is "dht".
func (d *DHT) Name() string { return "dht" }

// Run joins the network and teaches the peers that are met, until ctx ends.
// learn may be nil. It returns when nothing of the DHT is left on the host:
// handlers, streams, lookups, and the protection of connections. These stay, for
// their other users.
// Errors: ErrRunning, or what the host refused.
func (d *DHT) Run(ctx context.Context, learn func([]Found)) (err error) {
	d.mu.Lock()
	busy := d.running
	d.running = true
	d.mu.Unlock()
	if busy {
		return ErrRunning
	}
	ctx, cancel := context.WithCancel(ctx)
	j := &joined{ctx: ctx, met: make(chan network.Conn, maxMet)}
	defer func() {
		cancel()
		err = errors.Join(err, d.leave(j))
	}()
	if err := d.join(j); err != nil {
		return err
	}
	sub, err := d.cfg.Host.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted), eventbus.BufSize(256))
	if err != nil {
		return fmt.Errorf("discovery: DHT: %w", err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer sub.Close()
	defer cancel()
	all.Go(func() { d.watch(j, sub) })
	all.Go(func() { d.teach(j, learn) })
	for _, c := range d.cfg.Host.Network().Conns() {
		if d.wanted(j, c.RemotePeer(), nil) {
			j.meet(c)
		}
	}
	j.bootstrap()
	return nil
}

// join starts the nodes; none on an error.
func (d *DHT) join(j *joined) error {
	var nets []*kadNet
	for _, wan := range []bool{true, false} {
		if wan && !d.cfg.WAN || !wan && !d.cfg.LAN {
			continue
		}
		n, err := d.newNet(wan)
		if err != nil {
			return errors.Join(fmt.Errorf("discovery: DHT: %w", err), closeNets(nets))
		}
		nets = append(nets, n)
	}
	j.nets = nets
	d.mu.Lock()
	d.live = j
	d.mu.Unlock()
	return nil
}

func (d *DHT) newNet(wan bool) (*kadNet, error) {
	rules := &netRules{wan: wan, loopback: d.cfg.Loopback, refused: &d.tally}
	n := &kadNet{proto: d.cfg.Prefix + lanExtension, guard: newGuard(d.cfg.Host, rules, d.cfg.Hide), rules: rules}
	mode := kad.ModeServer
	if wan {
		n.proto, mode = d.cfg.Prefix, kad.ModeAuto
	}
	switch d.cfg.Mode {
	case DHTClient:
		mode = kad.ModeClient
	case DHTServer:
		mode = kad.ModeServer
	}
	opts := []kad.Option{
		kad.ProtocolPrefix(n.proto), kad.Mode(mode), kad.DisableValues(), kad.DisableProviders(),
		kad.AddressFilter(n.rules.addresses), kad.QueryFilter(n.rules.mayQuery), kad.RoutingTableFilter(n.rules.mayRoute),
	}
	if wan {
		opts = append(opts, kad.RoutingTablePeerDiversityFilter(kad.NewRTPeerDiversityFilter(n.guard, wanPerBucket, wanPerTable)))
	}
	if d.cfg.Bootstrap != nil {
		opts = append(opts, kad.BootstrapPeersFunc(d.cfg.Bootstrap))
	}
	n.proto += kadProtocol
	var err error
	if n.node, err = kad.New(n.guard, opts...); err != nil {
		n.guard.close(nil)
		return nil, err
	}
	return n, nil
}

// leave lets no more lookups in, waits for those there are, and ends the nodes.
func (d *DHT) leave(j *joined) error {
	d.mu.Lock()
	d.live = nil
	d.mu.Unlock()
	j.use.Wait()
	err := closeNets(j.nets)
	d.mu.Lock()
	d.running = false
	d.mu.Unlock()
	return err
}

func closeNets(nets []*kadNet) error {
	var errs []error
	for _, n := range nets {
		errs = append(errs, n.guard.close(n.node.Close))
		for _, p := range n.node.RoutingTable().ListPeers() {
			n.guard.ConnManager().Unprotect(p, kadTag)
			n.guard.ConnManager().UntagPeer(p, kadTag)
		}
	}
	return errors.Join(errs...)
}

// bootstrap asks for nodes while there are none, more and more rarely, until the
// DHT ends.
func (j *joined) bootstrap() {
	for failures := 1; ; failures++ {
		for _, n := range j.nets {
			if n.node.RoutingTable().Size() == 0 {
				_ = n.node.Bootstrap(j.ctx) // only leaves a message
			} else {
				failures = 1
			}
		}
		t := time.NewTimer(backoff.Jittered(failures, joinFirst, joinLimit))
		select {
		case <-t.C:
		case <-j.ctx.Done():
			t.Stop()
			return
		}
	}
}

// watch notes the peers that were identified. It never waits, since the whole
// host would wait with it.
func (d *DHT) watch(j *joined, sub event.Subscription) {
	for {
		select {
		case e, ok := <-sub.Out():
			if !ok {
				return
			}
			if e, is := e.(event.EvtPeerIdentificationCompleted); is && d.wanted(j, e.Peer, e.Protocols) {
				j.meet(e.Conn)
			}
		case <-j.ctx.Done():
			return
		}
	}
}

// meet keeps a connection for teach, if there is room.
func (j *joined) meet(c network.Conn) {
	select {
	case j.met <- c:
	default:
	}
}

// wanted says whether a peer is of the DHT, or was looked for.
func (d *DHT) wanted(j *joined, id peer.ID, speaks []protocol.ID) bool {
	d.mu.Lock()
	_, ok := d.sought[id]
	d.mu.Unlock()
	for _, n := range j.nets {
		if speaks == nil {
			got, err := d.cfg.Host.Peerstore().SupportsProtocols(id, n.proto)
			ok = ok || err == nil && len(got) > 0
		}
		ok = ok || slices.Contains(speaks, n.proto)
	}
	return ok
}

func (d *DHT) teach(j *joined, learn func([]Found)) {
	for {
		select {
		case c := <-j.met:
			if f, ok := proven(c); ok && learn != nil {
				learn([]Found{f})
			}
		case <-j.ctx.Done():
			return
		}
	}
}

// proven is the address at which we found who is at the other end of a
// connection. One that the peer made proves no address, and one over a relay
// only the relay's.
func proven(c network.Conn) (Found, bool) {
	if c.Stat().Direction != network.DirOutbound || relayed(c.RemoteMultiaddr()) {
		return Found{}, false
	}
	id, err := identity.NodeIDFromPeerID(c.RemotePeer())
	if err != nil {
		return Found{}, false
	}
	a, err := fromParts(c.RemotePeer(), c.RemoteMultiaddr())
	if err != nil {
		return Found{}, false
	}
	// It speaks for itself, from where it is.
	return Found{a, addrbook.Source{Kind: addrbook.DHT, Peer: id, IP: ipOf(c.RemoteMultiaddr()), Protocol: address.Libp2p}}, true
}

// Nodes returns how many nodes the DHT knows on the WAN and on the LAN.
func (d *DHT) Nodes() (wan, lan int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live == nil {
		return 0, 0
	}
	for _, n := range d.live.nets {
		if n.rules.wan {
			wan = n.node.RoutingTable().Size()
		} else {
			lan = n.node.RoutingTable().Size()
		}
	}
	return wan, lan
}

// seek notes that a peer is looked for. It returns nil when the DHT does not
// run, and otherwise what is to be released.
func (d *DHT) seek(id peer.ID) *joined {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live == nil {
		return nil
	}
	d.live.use.Add(1)
	if _, known := d.sought[id]; !known {
		if len(d.order) == maxSought {
			delete(d.sought, d.order[0])
			d.order = d.order[1:]
		}
		d.sought[id] = struct{}{}
		d.order = append(d.order, id)
	}
	return d.live
}

// FindPeer implements routing.PeerRouting: it returns addresses of a peer. The
// search connects to nodes of the DHT, and to the peer: one that nobody can
// reach is not found. The address at which it was found comes first; the others,
// and all of them when it came to us or was found over a relay, are what it and
// others say. What is not believed of answers is counted, see Report. It blocks
// for as long as the network takes, until ctx ends, a minute at most. Errors match
// routing.ErrNotFound, or are ctx's.
func (d *DHT) FindPeer(ctx context.Context, id peer.ID) (peer.AddrInfo, error) {
	if err := id.Validate(); err != nil {
		return peer.AddrInfo{}, fmt.Errorf("discovery: %w: %v", routing.ErrNotFound, err)
	}
	j := d.seek(id)
	if j == nil {
		return peer.AddrInfo{}, ErrDHTOff
	}
	defer j.use.Done()
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	defer context.AfterFunc(j.ctx, cancel)()

	said := make(chan []ma.Multiaddr, len(j.nets))
	asked := 0
	for _, n := range j.nets {
		if n.node.RoutingTable().Size() == 0 && d.cfg.Host.Network().Connectedness(id) == network.NotConnected {
			continue
		}
		asked++
		j.use.Go(func() { said <- n.find(ctx, id) })
	}
	info := peer.AddrInfo{ID: id}
	for range asked {
		info.Addrs = append(info.Addrs, <-said...)
		if d.reached(j, &info) {
			break // no need for what the other net thinks
		}
	}
	switch {
	case len(info.Addrs) > 0:
		return info, nil
	case j.ctx.Err() != nil:
		return peer.AddrInfo{}, ErrDHTOff
	case ctx.Err() != nil:
		return peer.AddrInfo{}, ctx.Err()
	case asked == 0:
		return peer.AddrInfo{}, ErrDHTAlone
	}
	return peer.AddrInfo{}, fmt.Errorf("discovery: no node of the DHT knows %s: %w", id, routing.ErrNotFound)
}

// find asks one net. What comes back has passed its rules.
func (n *kadNet) find(ctx context.Context, id peer.ID) []ma.Multiaddr {
	ctx, cancel := context.WithCancel(ctx)
	asking, events := routing.RegisterForQueryEvents(ctx)
	var noted sync.WaitGroup
	noted.Go(func() {
		for e := range events { // until cancel
			if e.Type == routing.PeerResponse {
				n.rules.note(e.Responses)
			}
		}
	})
	info, err := n.node.FindPeer(asking, id)
	cancel()
	noted.Wait()
	if err != nil {
		return nil
	}
	return n.rules.addresses(info.Addrs)
}

// reached puts the addresses at which we found the peer in front and teaches
// them. It reports whether there are any.
func (d *DHT) reached(j *joined, info *peer.AddrInfo) bool {
	var at []ma.Multiaddr
	for _, c := range d.cfg.Host.Network().ConnsToPeer(info.ID) {
		if _, ok := proven(c); ok && !slices.ContainsFunc(at, c.RemoteMultiaddr().Equal) {
			at = append(at, c.RemoteMultiaddr())
			j.meet(c)
		}
	}
	found := len(at) > 0
	for _, a := range info.Addrs {
		if !slices.ContainsFunc(at, a.Equal) {
			at = append(at, a)
		}
	}
	info.Addrs = at
	return found
}
