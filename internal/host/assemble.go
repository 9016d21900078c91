package host

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"net"
	"reflect"
	"slices"
	"sync"

	coreconnmgr "github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	logging "github.com/libp2p/go-libp2p/gologshim"
	"github.com/libp2p/go-libp2p/p2p/host/autonat"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/observedaddrs"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	libyamux "github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	relayclient "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/quic-go/quic-go"
)

// The host is put together from libp2p's parts by hand, in the order in which
// libp2p.New would. That constructor links every transport that libp2p has,
// WebRTC and WebTransport with it, and a dependency-injection container that
// finds out by reflection what is written down here: 5 MB of program in
// every node. TestLikeLibp2p holds the two against each other.
//
//	event bus, peerstore, QUIC sockets
//	  swarm            dials, listens, holds connections
//	    observed       which addresses others see us at
//	    basic host     identify, ping, addresses, protocol switch
//	      transports   TCP and WebSocket by the upgrader, QUIC, relays (client)
//	    AutoNAT        asks others whether we can be reached (client)

var log = logging.Logger("host")

// node is the host, and what is not the basic host's to close.
type node struct {
	*basichost.BasicHost
	observed *observedaddrs.Manager
	swarm    *swarm.Swarm
	quic     *quicreuse.ConnManager
	once     sync.Once
	err      error // of Close
}

// Close stops the host and everything it was given. It waits for what it
// stopped; a second call waits for the first and returns the same error.
func (n *node) Close() error {
	n.once.Do(func() {
		// The swarm needs the sockets to say goodbye, the basic host waits for
		// handlers that end with the swarm.
		n.err = errors.Join(n.observed.Close(), n.swarm.Close(), n.quic.Close(), n.BasicHost.Close())
	})
	return n.err
}

// assemble builds a host that listens nowhere yet. It takes over the managers,
// and closes them if it fails.
func assemble(cfg Config, cm coreconnmgr.ConnManager, rm network.ResourceManager) (_ *node, err error) {
	undo := []func() error{rm.Close, cm.Close} // run from the end
	defer func() {
		if err != nil {
			for _, close := range slices.Backward(undo) {
				err = errors.Join(err, close())
			}
		}
	}()
	if l, ok := rm.(coreconnmgr.GetConnLimiter); ok {
		if err := cm.CheckLimit(l); err != nil {
			log.Warn("the resource limits allow fewer connections than the connection manager keeps", "error", err)
		}
	}
	if pnet.ForcePrivateNetwork { // an environment variable of libp2p's
		return nil, pnet.ErrNotInPrivateNetwork
	}
	id, err := peer.IDFromPrivateKey(cfg.Key)
	if err != nil {
		return nil, err
	}
	ps, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	undo = append(undo, ps.Close)
	if err := errors.Join(ps.AddPrivKey(id, cfg.Key), ps.AddPubKey(id, cfg.Key.GetPublic())); err != nil {
		return nil, err
	}
	sockets, err := newQUICSockets(cfg, rm)
	if err != nil {
		return nil, err
	}
	undo = append(undo, sockets.Close)
	bus := eventbus.NewBus()
	sw, err := newSwarm(cfg, id, ps, bus, rm)
	if err != nil {
		return nil, err
	}
	undo = append(undo, sw.Close)
	observed, err := observedaddrs.NewManager(bus, sw)
	if err != nil {
		return nil, err
	}
	undo = append(undo, observed.Close)
	h, err := basichost.NewHost(sw, &basichost.HostOpts{
		EventBus: bus, ConnManager: cm, UserAgent: cfg.UserAgent, EnablePing: true, ObservedAddrsManager: observed,
	})
	if err != nil {
		return nil, err
	}
	n := &node{BasicHost: h, observed: observed, swarm: sw, quic: sockets}
	undo = []func() error{n.Close} // which closes all of the above
	if err := n.addTransports(cfg, rm); err != nil {
		return nil, err
	}
	observed.Start(sw)
	h.Start()
	nat, err := autonat.New(h, autonat.UsingAddresses(func() []ma.Multiaddr {
		return slices.DeleteFunc(h.AllAddrs(), func(a ma.Multiaddr) bool { return !manet.IsPublicAddr(a) })
	}))
	if err != nil {
		return nil, err
	}
	h.SetAutoNat(nat)
	return n, nil
}

func newSwarm(cfg Config, id peer.ID, ps peerstore.Peerstore, bus event.Bus, rm network.ResourceManager) (*swarm.Swarm, error) {
	opts := []swarm.Option{swarm.WithDialRanker(rankDials), swarm.WithResourceManager(rm)}
	if cfg.Gater != nil {
		opts = append(opts, swarm.WithConnectionGater(cfg.Gater))
	}
	if cfg.Resolver != nil {
		opts = append(opts, swarm.WithMultiaddrResolver(cfg.Resolver))
	}
	return swarm.NewSwarm(id, ps, bus, opts...)
}

// addTransports teaches the swarm to dial and listen.
func (n *node) addTransports(cfg Config, rm network.ResourceManager) error {
	muxers := []upgrader.StreamMuxer{{ID: libyamux.ID, Muxer: newMuxer()}}
	var security []sec.SecureTransport
	for _, s := range cfg.Security {
		t, err := newSecurity(s, cfg.Key, muxers)
		if err != nil {
			return err
		}
		security = append(security, t)
	}
	up, err := upgrader.New(security, muxers, nil, rm, cfg.Gater)
	if err != nil {
		return err
	}
	for _, build := range []func() (transport.Transport, error){
		func() (transport.Transport, error) {
			return tcp.NewTCPTransport(up, rm, nil, tcp.DisableReuseport())
		},
		func() (transport.Transport, error) {
			return libp2pquic.NewTransport(cfg.Key, n.quic, nil, cfg.Gater, rm)
		},
		func() (transport.Transport, error) { return websocket.New(up, rm, nil) },
	} {
		t, err := build()
		if err != nil {
			return err
		}
		if err := n.swarm.AddTransport(t); err != nil {
			return err
		}
	}
	return relayclient.AddTransport(n.BasicHost, up)
}

// newQUICSockets makes what shares UDP sockets between listening and dialling.
// An inbound connection is counted before anything is done for it.
func newQUICSockets(cfg Config, rm network.ResourceManager) (*quicreuse.ConnManager, error) {
	reset, err := derive(cfg.Key, "libp2p quic stateless reset key", len(quic.StatelessResetKey{}))
	if err != nil {
		return nil, err
	}
	token, err := derive(cfg.Key, "libp2p quic token generator key", len(quic.TokenGeneratorKey{}))
	if err != nil {
		return nil, err
	}
	sockets, err := quicreuse.NewConnManager(quic.StatelessResetKey(reset), quic.TokenGeneratorKey(token), append([]quicreuse.Option{
		quicreuse.ConnContext(func(ctx context.Context, client *quic.ClientInfo) (context.Context, error) {
			at, err := quicreuse.ToQuicMultiaddr(client.RemoteAddr, quic.Version1)
			if err != nil {
				at = nil // the limits have a say about that too
			}
			scope, err := rm.OpenConnection(network.DirInbound, false, at)
			if err != nil {
				return ctx, err
			}
			ctx = network.WithConnManagementScope(ctx, scope)
			context.AfterFunc(ctx, scope.Done)
			return ctx, nil
		}),
		quicreuse.VerifySourceAddress(func(a net.Addr) bool { return rm.VerifySourceAddress(a) }),
	}, cfg.QUIC...)...)
	if err == nil {
		allowStreams(sockets)
	}
	return sockets, err
}

// allowStreams lets a peer open as many streams over QUIC as over TCP. go-libp2p
// sets 256 and has no option for it; the settings of connections that we dial are
// at hand, those of connections that come to us behind a field of its own. If a
// later version has no such field, those keep the 256 (and TestStreamLimits
// fails).
func allowStreams(sockets *quicreuse.ConnManager) {
	sockets.ClientConfig().MaxIncomingStreams = streamsPerPeer
	inbound := reflect.ValueOf(sockets).Elem().FieldByName("serverConfig")
	if inbound.IsValid() && inbound.Type() == reflect.TypeFor[*quic.Config]() && !inbound.IsNil() {
		(*quic.Config)(inbound.UnsafePointer()).MaxIncomingStreams = streamsPerPeer
	}
}

// derive makes a key for one purpose out of the node's (HKDF, RFC 5869), so
// that a node that starts again can still reset connections of before.
func derive(key crypto.PrivKey, purpose string, size int) ([]byte, error) {
	raw, err := key.Raw()
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, raw, nil, purpose, size)
}
