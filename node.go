// Package kith is a peer-to-peer node for Go programs: you address a peer by
// who it is, and kith finds it, keeps the connection up and carries your
// traffic to it.
//
//	n, err := kith.New(kith.Config{Home: "/var/lib/my-app/kith"})
//	go n.Run(ctx)
//	ln, err := n.Listen("greeter", friendID)               // on one node
//	conn, err := n.Dial(ctx, friendID, "greeter")          // on the other
//
// The same node exchanges messages: typed channels on its Router (p2p.OpenTyped,
// between New and Run), requests and replies with Server and Client (package
// rpc), topics with Topics (package dispatch). It finds peers by multicast DNS,
// what others tell, and, where it is asked to, lists, DNS and a DHT (package
// discovery); what it learns is in its address Book.
//
// A node is one key, kept in its home directory; its peer ID is derived from
// the key. Services are closed to everybody but the peers they name. A service
// offered by Listen and one exposed by `kith expose` are the same thing, and
// so are connections made by Dial and through `kith connect`. Methods of Server
// serve whom Allow names. Channels and topics are for all nodes of its Network.
//
// The layers below can be used alone: stream (net.Conn by peer ID), tunnel
// (ports over streams), access (who may use what), address and identity; and,
// without a libp2p host, connmgr (who is dialled and let in), transport (bytes
// by multiaddr), peers (one shared connection for each address, gRPC too), p2p
// (typed messages between peers) and addrbook (what is known of them).
//
// Guarantees: every connection is encrypted and the peer's ID proven before a
// byte of it is believed; half-closes and resets travel as they would over
// TCP; every refusal has a reason. Limits: internal/host's on connections and
// streams, tunnel.Limits on each service.
//
// The caller runs Run once, or lives without discovery, messages and topics, and
// calls Close.
package kith

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kith-p2p/kith/access"
	"github.com/kith-p2p/kith/discovery"
	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/dispatch/gossip"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/state"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/rpc"
	"github.com/kith-p2p/kith/tunnel"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	ma "github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
	"golang.org/x/time/rate"
)

// Config says what kind of node New makes. Only Home is required.
type Config struct {
	// Home is the directory that holds the node's key, its state and its
	// control socket. It is made, private to the user, when it does not exist.
	// One node at a time can use it.
	Home string
	// Listen lists multiaddrs to listen on, such as
	// /ip4/0.0.0.0/udp/4001/quic-v1. Every one must bind. Empty: TCP and QUIC
	// on all interfaces, on a port that the first start picks and saves.
	Listen []string
	// LocalOnly makes an empty Listen mean 127.0.0.1 only, and keeps mDNS off.
	LocalOnly bool
	// NoMDNS keeps the node from announcing itself and looking for others on
	// the local network.
	NoMDNS bool
	// DNSServer is the host:port of the server that resolves names in
	// addresses. Empty: the system's resolver.
	DNSServer string
	// Network names the nodes that keep connections to each other and exchange
	// messages: others are refused. Default DefaultNetwork.
	Network string
	// Moniker is the node's name for people, shown to peers: at most 64 printable
	// ASCII characters. Default: the beginning of its NodeID.
	Moniker string
	// MaxPeers is how many peers the Router keeps connections to, both directions
	// together, and MaxOutgoing how many of them it dials. Defaults 64, and 8 or
	// half of MaxPeers if that is fewer. As many as MaxPeers leave no place for peers
	// that connect to us.
	MaxPeers, MaxOutgoing uint16
	// PersistentPeers are full addresses of peers that are kept connected.
	PersistentPeers []string
	// Bootstrap lists nodes to begin with: addresses in any spelling, and
	// /dnsaddr/NAME. There is no list of ours: without one, mDNS or somebody
	// who connects to us, the node knows nobody.
	Bootstrap []string
	// DNSSeeds are HOST:PORT, where HOST has the IP addresses of nodes that
	// listen on PORT.
	DNSSeeds []string
	// DHT says in which distributed hash tables the node takes part. Default:
	// none. The nodes of Bootstrap are where it begins.
	DHT DHT
	// NoPEX keeps the node from exchanging addresses with its peers.
	NoPEX bool
	// Topics says for what kind of network publishing is set up: gossip.Open,
	// Permissioned or Small. Default: Open, and Small with LocalOnly.
	Topics gossip.Preset
	// TopicPeers, with gossip.Permissioned, are the peers that take part, by ID in
	// either spelling.
	TopicPeers []string
	// Transports carry the Router's messages beside libp2p, such as p2p/mconn's.
	// The node closes them.
	Transports []p2p.Transport
	// Wait is how long a forwarded connection waits while its peer is being
	// redialled, unless Forward says otherwise. Default 10 s.
	Wait time.Duration
	// Logger receives what happens. nil: nothing is logged.
	Logger *slog.Logger
	// Version is reported to other peers and in Status. Default "dev".
	Version string
}

// Errors that callers decide on.
var (
	// ErrUsage: what the caller asked for cannot be meant: a malformed
	// address, a bad name, options that exclude each other.
	ErrUsage = errors.New("kith: wrong usage")
	// ErrHomeInUse: another node runs with this home.
	ErrHomeInUse = state.ErrLocked
	// ErrUnknownPeer: no address of the peer is known.
	ErrUnknownPeer = errors.New("kith: unknown peer")
	// ErrBanned: this node has banned the peer.
	ErrBanned = errors.New("kith: banned")
	// ErrNoSuchMount and ErrNoSuchStream: nothing has that number or name.
	ErrNoSuchMount  = errors.New("kith: no such mount")
	ErrNoSuchStream = errors.New("kith: no such stream")
	// ErrClosed: the node was closed.
	ErrClosed = errors.New("kith: node closed")
)

// Node is one peer. All methods are safe for concurrent use.
type Node struct {
	cfg     Config
	key     identity.PrivKey
	state   *state.State
	host    host.Host
	ids     identify.IDService // of the host
	tunnels *tunnel.P2P
	manager *p2p.PeerManager
	router  *p2p.Router
	pex     *p2p.PEX // nil: off
	finder  *discovery.Finder
	dht     *discovery.DHT // nil: off
	boot    *bootstrap
	mix     *discovery.Mix
	gossip  *gossip.Backend
	topics  *dispatch.Service
	server  *rpc.Server
	client  *rpc.Client
	methods access.Control // of server
	foreign *foreignBans

	running     atomic.Bool   // Run was called
	bannedConns atomic.Uint64 // that the gater refused
	sometimes   rate.Sometimes
	log         *slog.Logger
	started     time.Time
	notices     []string
	names       network.MultiaddrDNSResolver
	dns         madns.BasicResolver

	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc
	once   sync.Once
	closed chan struct{} // closed when Close is done
	err    error         // of Close; written before closed is closed

	chores sync.WaitGroup // see chore

	mu      sync.Mutex // guards closing
	closing bool       // Close has begun: no further chores
}

// New opens the home, makes or reads the key, and binds the listeners. Nothing
// is sent before Run. Errors: ErrHomeInUse, ErrUsage, identity.ErrKey* for a
// key file that cannot be used, syscall.EADDRINUSE for a port that is taken.
func New(cfg Config) (_ *Node, err error) {
	if cfg.Home == "" {
		return nil, usage("no home directory given")
	}
	if cfg.Wait < 0 {
		return nil, usage("a wait of %v: give a duration of zero or more", cfg.Wait)
	}
	if cfg.MaxOutgoing > cmp.Or(cfg.MaxPeers, defaultMaxPeers) {
		return nil, usage("%d outgoing connections (max_outgoing) of %d in all (max_peers): give as many or fewer", cfg.MaxOutgoing, cmp.Or(cfg.MaxPeers, defaultMaxPeers))
	}
	cfg.Version = cmp.Or(cfg.Version, "dev")
	cfg.Network = cmp.Or(cfg.Network, DefaultNetwork)
	cfg.MaxPeers = cmp.Or(cfg.MaxPeers, defaultMaxPeers)
	cfg.MaxOutgoing = cmp.Or(cfg.MaxOutgoing, min(max(1, cfg.MaxPeers/2), defaultMaxOutgoing))
	n := &Node{cfg: cfg, log: cfg.Logger, started: time.Now(), closed: make(chan struct{}), sometimes: rate.Sometimes{Interval: time.Second}}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(plain(err), n.Close())
		}
	}()
	if n.names, n.dns, err = resolver(cfg.DNSServer); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Home, 0o700); err != nil {
		return nil, homeError(cfg.Home, fmt.Errorf("cannot make the home directory: %w", err))
	}
	if n.state, err = state.Open(cfg.Home); err != nil {
		return nil, homeError(cfg.Home, err)
	}
	n.notices = n.state.Report()
	if n.key, _, err = identity.LoadOrCreate(filepath.Join(cfg.Home, "key")); err != nil {
		return nil, homeError(cfg.Home, err)
	}
	n.cfg.Moniker = cmp.Or(cfg.Moniker, moniker(n.NodeID()))
	if err := n.newPeers(); err != nil {
		return nil, err
	}
	if n.boot, err = newBootstrap(cfg.Bootstrap, n.state.Bucket("bootstrap"), n.dns, n.log); err != nil {
		return nil, err
	}
	if n.host, err = n.listen(); err != nil {
		return nil, err
	}
	for _, build := range []func() error{n.newFinder, n.newRouter, n.newTopics, n.newServices, n.newMix} {
		if err := build(); err != nil {
			return nil, err
		}
	}
	n.tunnels = tunnel.NewP2P(n.host.ID(), n.host, n.host.Peerstore(), tunnel.WithLogger(n.log))
	for _, notice := range n.notices {
		n.log.Warn(notice)
	}
	return n, nil
}

// homeError adds what to do to an error of a home, where it is not said yet.
func homeError(home string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; the home %s, or something in it, is not this user's: start the node as its owner, or choose another home with --home", plain(err), home)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; choose another home with --home", plain(err))
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w; a home is a directory: choose another with --home", plain(err))
	case errors.Is(err, identity.ErrKeyNotRegular):
		return fmt.Errorf("%w; move it elsewhere and put the node's key file back in its place, or start without one to get a new identity", plain(err))
	}
	return err
}

// Run looks for peers, exchanges messages with them and keeps house until ctx ends or Close is called, then
// closes the node and returns nil. Live connections are reset with a reason.
// Call it once: a second call returns an error.
func (n *Node) Run(ctx context.Context) error {
	if n.running.Swap(true) {
		return errors.New("the node was run before; make a new one")
	}
	if err := n.topics.Start(); err != nil {
		if n.ctx.Err() != nil {
			return n.Close() // it was closed before it ran
		}
		return errors.Join(plain(err), n.Close())
	}
	if n.pex != nil {
		n.chore(func(ctx context.Context) { _ = n.pex.Run(ctx) })
	}
	n.chore(func(ctx context.Context) { _ = n.mix.Run(ctx) })
	n.chore(n.runBackups)
	n.chore(n.enforceBans)
	select {
	case <-ctx.Done():
	case <-n.ctx.Done():
	}
	return n.Close()
}

// chore runs something beside the node until the node is closed, which ends the
// context and waits. After that it does nothing.
func (n *Node) chore(do func(context.Context)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closing {
		n.chores.Go(func() { do(n.ctx) })
	}
}

// Close ends everything and returns when the last goroutine has ended, those of
// Run too; within two seconds, or so. Handlers of Server that ignore that their
// context has ended are left behind: rpc.ErrHandlersRunning. Calling it again
// waits for the first call and returns the same error.
func (n *Node) Close() error {
	n.once.Do(func() {
		defer close(n.closed)
		n.mu.Lock()
		n.closing = true
		n.mu.Unlock()
		n.cancel()
		n.chores.Wait()
		var errs []error
		if n.server != nil {
			errs = append(errs, n.stopServer())
		}
		if n.client != nil {
			errs = append(errs, n.client.Close())
		}
		if n.host != nil { // a peer that takes nothing in must not hold up the goodbyes to the others
			defer time.AfterFunc(goodbyeTime, func() {
				for _, c := range n.host.Network().Conns() {
					go c.Close()
				}
			}).Stop()
		}
		if n.topics != nil {
			errs = append(errs, n.topics.Stop())
		}
		if n.router != nil {
			errs = append(errs, n.router.Stop())
		} else {
			for _, t := range n.cfg.Transports {
				errs = append(errs, t.Close())
			}
		}
		if n.gossip != nil {
			errs = append(errs, n.gossip.Close())
		}
		if n.tunnels != nil {
			errs = append(errs, n.tunnels.Close())
		}
		if n.host != nil {
			errs = append(errs, n.host.Close())
		}
		if n.manager != nil {
			n.manager.Close()
		}
		if n.state != nil {
			errs = append(errs, n.state.Close())
		}
		n.err = errors.Join(errs...)
	})
	<-n.closed
	return n.err
}

// ID is the node's peer ID, which other nodes address it by.
func (n *Node) ID() peer.ID { return n.host.ID() }

// NodeID is the Tendermint spelling of the same identity.
func (n *Node) NodeID() identity.NodeID { return n.key.Public().NodeID() }

// wantsMDNS says whether the node looks for peers on the local network: not
// when nobody there could reach it.
func (n *Node) wantsMDNS() bool {
	return !n.cfg.NoMDNS && !n.cfg.LocalOnly && !n.loopbackOnly()
}

// runBackups copies the state file once a day.
func (n *Node) runBackups(ctx context.Context) {
	for {
		select {
		case <-time.After(24 * time.Hour):
			if err := n.state.Backup(); err != nil {
				n.log.Error("cannot copy the state file", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// remember keeps a peer's addresses for as long as the node runs.
func (n *Node) remember(p peer.ID, addrs []ma.Multiaddr) {
	n.tunnels.Remember(p, addrs...)
}

// known reports whether any address of p is known, or it is connected.
func (n *Node) known(p peer.ID) bool {
	if id, err := identity.NodeIDFromPeerID(p); err == nil && len(n.Book().Addresses(id)) > 0 {
		return true
	}
	return p == n.host.ID() || n.host.Network().Connectedness(p) == network.Connected || len(n.host.Peerstore().Addrs(p)) > 0
}
