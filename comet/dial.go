package comet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/pb/cometv1"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	blocksyncChannel p2p.ChannelID = 0x40
	mempoolChannel   p2p.ChannelID = 0x30

	maxBlock = 100<<20 + 5 // CometBFT's largest blocksync message

	// blockProtocol is the version of blocks that every CometBFT node speaks, and
	// compares; p2pProtocol it does not compare.
	blockProtocol, p2pProtocol = 11, 9

	// probeNetwork is what Probe says its network is: a node that is of another
	// one answers all the same, and then does not take the probe for a peer.
	probeNetwork = "kith-probe"
)

// Errors of Dial and Probe that a caller can decide on.
var (
	// ErrAddress is wrapped by what is wrong with the spelling of an address.
	ErrAddress = errors.New("comet: not the address of a CometBFT node")
	// ErrNotNode says that nobody answers at an address, or somebody who does not
	// speak as a CometBFT node does. The errors under it say how far it came; a
	// *mconn.HandshakeError is among them when somebody answered.
	ErrNotNode = errors.New("comet: no CometBFT node")
	// ErrWrongPeer says that another node answered than the address names. It is
	// package p2p's.
	ErrWrongPeer = p2p.ErrWrongPeer
	// ErrNetwork says that the node is of another network than Options.Network. A
	// *p2p.IncompatibleError is under it, as it is under the errors for nodes with
	// other blocks, or without the channels.
	ErrNetwork = errors.New("comet: the node is of another network")
	// ErrRefused says that the node closed the connection after the handshake.
	// CometBFT gives no reason: its log has it.
	ErrRefused = errors.New("comet: the node closed the connection after the handshake; it may be full, or have a peer at this address already: its log says why")
)

// Options of Dial. The zero value is useful.
type Options struct {
	Key     p2p.PrivKey   // who we are; zero: a key of this connection only
	Network string        // what the node's network has to be; "": whatever it says
	Moniker string        // our name in the node's list of peers, printable ASCII; "": kith
	Logger  *slog.Logger  // nil: discard
	Poll    time.Duration // how often Blocks asks for the height at the end of the chain; 0: 1 s
	Wait    time.Duration // how long Blocks waits for each answer; 0: 30 s
}

func (o Options) withDefaults() (Options, error) {
	if o.Key.IsZero() {
		key, err := identity.Generate()
		if err != nil {
			return o, fmt.Errorf("comet: %w", err)
		}
		o.Key = key
	}
	if o.Moniker == "" {
		o.Moniker = "kith"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Poll <= 0 {
		o.Poll = time.Second
	}
	if o.Wait <= 0 {
		o.Wait = 30 * time.Second
	}
	return o, nil
}

// Dial connects to the node at an address: ID@host:port, an mconn:// URL, or
// host:port, where whoever answers is believed to be the node. It asks the
// node who it is first (Probe), on a connection of its own. It blocks until the
// node is ready or the context ends, whose error is then wrapped. Other errors
// are listed with ErrAddress.
func Dial(ctx context.Context, at string, o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	target, err := parse(at)
	if err != nil {
		return nil, err
	}
	info, err := Probe(ctx, at, o)
	if err != nil {
		return nil, err
	}
	if o.Network == "" {
		o.Network = info.Network
	}
	ours := nodeInfo(o, o.Key, o.Network)
	if err := ours.Validate(); err != nil {
		return nil, fmt.Errorf("comet: what we say of ourselves: %w", err)
	}
	if err := ours.CompatibleWith(info); err != nil {
		if e, ok := errors.AsType[*p2p.IncompatibleError](err); ok && e.Mismatch == p2p.MismatchNetwork {
			return nil, fmt.Errorf("%w: %v (%q): %w", ErrNetwork, info.NodeID, info.Moniker, err)
		}
		return nil, fmt.Errorf("comet: no peer of ours: %v (%q): %w", info.NodeID, info.Moniker, err)
	}
	target.NodeID = info.NodeID
	c := newClient(o, info)
	if err := c.start(ctx, target); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// parse takes the spellings of Dial. Without an ID the NodeID is empty.
func parse(at string) (p2p.NodeAddress, error) {
	if len(at) > address.MaxLength {
		return p2p.NodeAddress{}, fmt.Errorf("%w: it is %d bytes long, at most %d are allowed", ErrAddress, len(at), address.MaxLength)
	}
	if !strings.Contains(at, "@") && !strings.Contains(at, "/") {
		host, text, err := net.SplitHostPort(at)
		if err != nil {
			return p2p.NodeAddress{}, fmt.Errorf("%w: %q; write ID@host:port, or host:port to believe whoever answers", ErrAddress, at)
		}
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 || host == "" {
			return p2p.NodeAddress{}, fmt.Errorf("%w: %q; the port is 1 to 65535, after a host", ErrAddress, at)
		}
		return p2p.NodeAddress{Protocol: mconn.Protocol, Hostname: host, Port: uint16(port)}, nil
	}
	a, err := address.Parse(at)
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrAddress, err)
	}
	if a.Protocol != mconn.Protocol {
		return a, fmt.Errorf("%w: %q is one of %s; a CometBFT node has ID@host:port", ErrAddress, at, a.Protocol)
	}
	return a, nil
}

// nodeInfo is what we say of ourselves.
func nodeInfo(o Options, key p2p.PrivKey, network string) p2p.NodeInfo {
	return p2p.NodeInfo{
		ProtocolVersion: p2p.ProtocolVersion{P2P: p2pProtocol, Block: blockProtocol}, NodeID: key.Public().NodeID(),
		ListenAddr: "tcp://127.0.0.1:0", Network: network, Version: "kith", Moniker: o.Moniker,
		Channels: []p2p.ChannelID{mempoolChannel, blocksyncChannel},
	}
}

// Probe asks a node who it is, with a handshake that goes no further: it works
// whatever the node's network is, with a key and a network name that are made
// for it, so that no trace of it is in the way of a connection that follows. Of
// the options only Moniker counts. It blocks until the node answers or the
// context ends, and for 20 s at most with each of the addresses that a name has.
func Probe(ctx context.Context, at string, o Options) (p2p.NodeInfo, error) {
	target, err := parse(at)
	if err != nil {
		return p2p.NodeInfo{}, err
	}
	o.Key = p2p.PrivKey{}
	if o, err = o.withDefaults(); err != nil {
		return p2p.NodeInfo{}, err
	}
	expected := target.NodeID
	if expected == "" { // any well-formed one, to resolve the name
		target.NodeID = o.Key.Public().NodeID()
	}
	endpoints, err := target.Resolve(ctx)
	if err != nil {
		return p2p.NodeInfo{}, fmt.Errorf("comet: %w", err)
	}
	transport, err := mconn.New(mconn.Options{CometOnly: true})
	if err != nil {
		return p2p.NodeInfo{}, fmt.Errorf("comet: %w", err)
	}
	defer transport.Close()
	var faults []error
	for _, e := range endpoints {
		info, err := probe(ctx, transport, e, o, expected)
		if err == nil {
			return info, nil
		}
		faults = append(faults, err)
	}
	return p2p.NodeInfo{}, errors.Join(faults...)
}

// probe is Probe of one endpoint.
func probe(ctx context.Context, t *mconn.Transport, e p2p.Endpoint, o Options, expected p2p.NodeID) (p2p.NodeInfo, error) {
	conn, err := t.Dial(ctx, e)
	if err != nil {
		return p2p.NodeInfo{}, fmt.Errorf("%w at %v: %w", ErrNotNode, e, err)
	}
	defer conn.Close()
	info, key, err := conn.Handshake(ctx, nodeInfo(o, o.Key, probeNetwork), o.Key)
	switch {
	case err != nil:
		return info, fmt.Errorf("%w at %v: %w", ErrNotNode, e, err)
	case expected != "" && key.NodeID() != expected:
		return info, fmt.Errorf("comet: %w: %v is %v, not %v", p2p.ErrWrongPeer, e, key.NodeID(), expected)
	}
	if err := info.Validate(); err != nil {
		return info, fmt.Errorf("%w at %v, it says of itself what none does: %w", ErrNotNode, e, err)
	}
	return info, nil
}

// start runs a Router whose only peer is the node, until the node answered.
func (c *Client) start(ctx context.Context, target p2p.NodeAddress) (err error) {
	c.pm, err = p2p.NewPeerManager(c.o.Key.Public().NodeID(), addrbook.NewMemoryStore(), p2p.PeerManagerOptions{
		PersistentPeers: []p2p.NodeID{target.NodeID}, MinRetryTime: 100 * time.Millisecond, MaxRetryTime: time.Second,
		DisconnectCooldownPeriod: 24 * time.Hour, // one connection is all that a Client has
		Logger:                   c.o.Logger,
	})
	if err != nil {
		return fmt.Errorf("comet: %w", err)
	}
	transport, err := mconn.New(mconn.Options{})
	if err != nil {
		return fmt.Errorf("comet: %w", err)
	}
	if c.router, err = p2p.NewRouter(p2p.RouterOptions{
		NodeInfo: nodeInfo(c.o, c.o.Key, c.o.Network), PrivKey: c.o.Key, PeerManager: c.pm, Transports: []p2p.Transport{transport}, Logger: c.o.Logger,
	}); err != nil {
		return fmt.Errorf("comet: %w", err)
	}
	if c.blocks, err = p2p.OpenTyped[*emptypb.Empty](c.router, blocksyncChannel, p2p.WithDescriptor(p2p.ChannelDescriptor{
		Name: "blocksync", RecvMessageCapacity: maxBlock,
	})); err != nil {
		return fmt.Errorf("comet: %w", err)
	}
	if c.txs, err = p2p.OpenTyped[*cometv1.MempoolMessage](c.router, mempoolChannel, p2p.WithDescriptor(p2p.ChannelDescriptor{
		Name: "mempool", RecvMessageCapacity: 2 * MaxTx,
	})); err != nil {
		return fmt.Errorf("comet: %w", err)
	}
	updates := c.pm.Subscribe()
	if err := c.router.Start(); err != nil {
		updates.Close()
		return fmt.Errorf("comet: %w", err)
	}
	if _, err := c.pm.Add(target); err != nil {
		updates.Close()
		return fmt.Errorf("comet: %w", err)
	}
	up := make(chan struct{})
	c.work.Go(func() { c.watch(updates, up) })
	c.work.Go(c.receive)
	c.work.Go(c.discard)
	select {
	case <-up:
	case <-ctx.Done():
		return fmt.Errorf("comet: %v told us who it is, but does not take a connection: it may be full, or have a peer at this address already: %w", target, ctx.Err())
	}
	// There is no word of welcome: the first answer or the end tells. CometBFT
	// sends a status unasked, and answers in order: when the question for a block
	// is answered, so were those before.
	if _, err := c.Status(ctx); err != nil {
		return err
	}
	return c.settled(ctx)
}
