// Package kith is a peer-to-peer node for Go programs: you address a peer by
// who it is, and kith finds it, keeps the connection up and carries your
// traffic to it.
//
//	n, err := kith.New(kith.Config{Home: "/var/lib/my-app/kith"})
//	go n.Run(ctx)
//	ln, err := n.Listen("greeter", friendID)               // on one node
//	conn, err := n.Dial(ctx, friendID, "greeter")          // on the other
//
// A node is one key, kept in its home directory; its peer ID is derived from
// the key. Services are closed to everybody but the peers they name. A service
// offered by Listen and one exposed by `kith expose` are the same thing, and
// so are connections made by Dial and through `kith connect`.
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
// The caller runs Run once, or lives without discovery, and calls Close.
package kith

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/kith-p2p/kith/discovery"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/backoff"
	"github.com/kith-p2p/kith/internal/state"
	"github.com/kith-p2p/kith/tunnel"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
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
	// ErrNoSuchMount and ErrNoSuchStream: nothing has that number or name.
	ErrNoSuchMount  = errors.New("kith: no such mount")
	ErrNoSuchStream = errors.New("kith: no such stream")
	// ErrClosed: the node was closed.
	ErrClosed = errors.New("kith: node closed")
)

const (
	// mdnsRetry paces attempts to start mDNS where there is no network yet.
	mdnsFirst, mdnsLimit = 5 * time.Second, time.Minute
	// foundTTL is how long an address from mDNS is believed; it is announced
	// again well before.
	foundTTL = time.Hour
)

// Node is one peer. All methods are safe for concurrent use.
type Node struct {
	cfg     Config
	key     identity.PrivKey
	state   *state.State
	host    host.Host
	tunnels *tunnel.P2P
	log     *slog.Logger
	started time.Time
	notices []string
	names   network.MultiaddrDNSResolver

	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc
	once   sync.Once
	closed chan struct{} // closed when Close is done
	err    error         // of Close; written before closed is closed

	chores sync.WaitGroup // see chore

	mu      sync.Mutex         // guards the fields below
	closing bool               // Close has begun: no further chores
	source  map[peer.ID]string // where a peer was learnt from
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
	if cfg.Version == "" {
		cfg.Version = "dev"
	}
	n := &Node{cfg: cfg, log: cfg.Logger, started: time.Now(), closed: make(chan struct{}), source: map[peer.ID]string{}}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(plain(err), n.Close())
		}
	}()
	if n.names, err = resolver(cfg.DNSServer); err != nil {
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
	if n.host, err = n.listen(); err != nil {
		return nil, err
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
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w; a home is a directory: choose another with --home", plain(err))
	case errors.Is(err, identity.ErrKeyNotRegular):
		return fmt.Errorf("%w; move it elsewhere and put the node's key file back in its place, or start without one to get a new identity", plain(err))
	}
	return err
}

// Run looks for peers and keeps house until ctx ends or Close is called, then
// closes the node and returns nil. Live connections are reset with a reason.
// Call it once.
func (n *Node) Run(ctx context.Context) error {
	if n.wantsMDNS() {
		n.chore(n.runMDNS)
	}
	n.chore(n.runBackups)
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
// Run too. Calling it again waits for the first call and returns the same error.
func (n *Node) Close() error {
	n.once.Do(func() {
		defer close(n.closed)
		n.mu.Lock()
		n.closing = true
		n.mu.Unlock()
		n.cancel()
		n.chores.Wait()
		var errs []error
		if n.tunnels != nil {
			errs = append(errs, n.tunnels.Close())
		}
		if n.host != nil {
			errs = append(errs, n.host.Close())
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

// runMDNS keeps mDNS going, starting it as soon as there is a network.
func (n *Node) runMDNS(ctx context.Context) {
	var running io.Closer
	for failures := 0; ; {
		var err error
		if running, err = discovery.MDNS(n.host, n.log, n.found); err == nil {
			break
		}
		failures++
		if failures == 1 {
			n.log.Warn("cannot look for peers on the local network yet; trying again", "error", err)
		}
		select {
		case <-time.After(backoff.Jittered(failures, mdnsFirst, mdnsLimit)):
		case <-ctx.Done():
			return
		}
	}
	<-ctx.Done()
	running.Close()
}

// found takes a peer that mDNS heard of.
func (n *Node) found(p peer.AddrInfo) {
	n.host.Peerstore().AddAddrs(p.ID, p.Addrs, foundTTL)
	n.mu.Lock()
	_, known := n.source[p.ID]
	n.source[p.ID] = "mdns"
	n.mu.Unlock()
	if !known {
		n.log.Info("found a peer on the local network", "peer", p.ID, "addresses", p.Addrs)
	}
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
	return p == n.host.ID() || n.host.Network().Connectedness(p) == network.Connected || len(n.host.Peerstore().Addrs(p)) > 0
}
