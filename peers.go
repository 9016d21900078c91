package kith

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/stream"
	"github.com/kith-p2p/kith/tunnel"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	connectTimeout = 30 * time.Second
	pingTimeout    = 10 * time.Second
)

// Peer is a snapshot of what is known of another node.
type Peer struct {
	ID        peer.ID
	NodeID    identity.NodeID // empty when the peer's key is not Ed25519
	Connected bool
	Direction string // "inbound" or "outbound"
	Address   string // of the connection in use
	Relayed   bool
	Since     time.Time
	Streams   int
	Agent     string
	RTT       time.Duration // smoothed; 0 when it was not measured
	Source    string        // how it was first found: "manual", "mdns", "pex", ...; "inbound" if by its own word alone
	Known     []string      // addresses
}

// Stream is a snapshot of one live connection through the node.
type Stream struct {
	ID                           uint64
	Kind                         Kind
	Name                         string
	LocalPeer, RemotePeer        string
	OriginAddress, TargetAddress string
	Path                         string // the multiaddr the peer is reached by
	Relayed                      bool
	Since                        time.Time
	BytesIn, BytesOut            uint64
	Waiting                      bool // for the peer, which is being redialled
	LastError                    string
}

// Pong is one round trip.
type Pong struct {
	Seq     int
	RTT     time.Duration
	Address string
	Relayed bool
}

// Status is a snapshot of the node.
type Status struct {
	Home, Version     string
	Started           time.Time
	Addresses, Listen []string
	MDNS              bool // looks for peers on the local network
	Peers             int  // connected
	Mounts, Streams   int
	Opened, Served    uint64 // connections since the start
	BytesIn, BytesOut uint64
	Refused           map[string]uint64 // by reason
	Notices           []string          // what was repaired at the start
}

// Peers lists connected peers and those whose addresses are known.
func (n *Node) Peers() []Peer {
	ids := map[peer.ID]bool{}
	for _, p := range slices.Concat(n.host.Network().Peers(), n.host.Peerstore().PeersWithAddrs()) {
		ids[p] = true
	}
	for _, node := range n.Book().Peers() {
		if p, ok := n.libp2pID(node); ok {
			ids[p] = true
		}
	}
	delete(ids, n.host.ID())
	var out []Peer
	for _, p := range slices.Sorted(maps.Keys(ids)) {
		out = append(out, n.describe(p))
	}
	return out
}

func (n *Node) describe(p peer.ID) Peer {
	d := Peer{ID: p, RTT: n.host.Peerstore().LatencyEWMA(p)}
	d.NodeID, _ = identity.NodeIDFromPeerID(p)
	if v, err := n.host.Peerstore().Get(p, "AgentVersion"); err == nil {
		if s, ok := v.(string); ok {
			d.Agent = strings.Map(func(r rune) rune {
				if r < ' ' || r >= 0x7f && r < 0xa0 {
					return -1
				}
				return r
			}, s[:min(len(s), 128)])
		}
	}
	if c, ok := n.conn(p); ok {
		d.Connected, d.Address, d.Relayed = true, text(c.RemoteMultiaddr()), stream.Relayed(c)
		d.Since, d.Streams = c.Stat().Opened, len(c.GetStreams())
		d.Direction = strings.ToLower(c.Stat().Direction.String())
	}
	for _, a := range n.host.Peerstore().Addrs(p) {
		d.Known = append(d.Known, text(a))
	}
	if known, ok := n.Book().Peer(d.NodeID); ok && len(known.Addresses) > 0 {
		d.Source = string(foundBy(known.Addresses))
		for _, e := range known.Addresses {
			if a, err := e.Address.Multiaddr(); err == nil {
				a, _ = peer.SplitAddr(a)
				d.Known = append(d.Known, text(a))
			}
		}
	}
	slices.Sort(d.Known)
	d.Known = slices.Compact(d.Known)
	return d
}

// foundBy is how a peer was first found; its own word counts only if there is no
// other.
func foundBy(known []addrbook.Entry) addrbook.Kind {
	own := func(e addrbook.Entry) int {
		if e.Source.Kind == addrbook.Inbound {
			return 1
		}
		return 0
	}
	return slices.MinFunc(known, func(a, b addrbook.Entry) int {
		return cmp.Or(own(a)-own(b), a.Added.Compare(b.Added))
	}).Source.Kind
}

// conn is the connection that new streams to p would use: a direct one before
// a relayed one.
func (n *Node) conn(p peer.ID) (network.Conn, bool) {
	cs := n.host.Network().ConnsToPeer(p)
	for _, c := range cs {
		if !stream.Relayed(c) {
			return c, true
		}
	}
	if len(cs) > 0 {
		return cs[0], true
	}
	return nil, false
}

// Connect makes sure that there is a connection to a peer, in any spelling, and
// puts into the address book the address that was given or, of those that the DNS
// gives for a name, the one at which the peer was reached. When the spelling has
// addresses and the peer is connected at others, one of those given must answer,
// too. It blocks for at most 30 s. Errors: ErrUsage, ErrUnknownPeer,
// *tunnel.Error.
func (n *Node) Connect(ctx context.Context, p string) (Peer, error) {
	id, addrs, err := n.parsePeer(ctx, p)
	if err != nil {
		return Peer{}, err
	}
	if id == n.host.ID() {
		return Peer{}, usage("%s is this node", id)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	at, err := n.tryOut(ctx, id, addrs)
	if err != nil {
		return Peer{}, err
	}
	n.remember(id, addrs)
	if err := n.reach(ctx, id); err != nil {
		return Peer{}, err
	}
	if err := n.accepted(ctx, id); err != nil {
		return Peer{}, err
	}
	if isName(p) {
		n.keepReached(ctx, id, p, addrs, at)
	} else {
		n.keep(id, addrs)
	}
	return n.describe(id), nil
}

// accepted waits until the peer has told who it is, which it does first of all:
// one that has banned this node closes the connection instead.
func (n *Node) accepted(ctx context.Context, id peer.ID) error {
	for _, c := range n.host.Network().ConnsToPeer(id) {
		select {
		case <-n.ids.IdentifyWait(c):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if n.host.Network().Connectedness(id) == network.NotConnected {
		return fmt.Errorf("%s closed the connection as soon as it stood: it may have banned this node, or have all the connections that it wants; ask its owner", id)
	}
	return nil
}

// tryOut looks whether a peer that is connected answers at one of other
// addresses, and says at which; none, if it is not connected or none was given.
func (n *Node) tryOut(ctx context.Context, id peer.ID, addrs []ma.Multiaddr) (ma.Multiaddr, error) {
	conns := n.host.Network().ConnsToPeer(id)
	if len(conns) == 0 {
		return nil, nil
	}
	for _, a := range addrs {
		if slices.ContainsFunc(conns, func(c network.Conn) bool { return reachedAt(c, a) }) {
			return a, nil
		}
	}
	var errs []error
	for _, a := range addrs {
		at, err := n.resolve(ctx, id, a)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot look up %s: %w", a, err))
			continue
		}
		for _, a := range at {
			if err = n.tunnels.Answers(ctx, id, a); err == nil {
				return a, nil
			}
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return nil, nil
	}
	return nil, fmt.Errorf("%w; the connection at %s stays", errs[0], conns[0].RemoteMultiaddr())
}

// reachedAt says that we made a connection, and made it to an address. Where a peer
// came to us from nobody need listen.
func reachedAt(c network.Conn, a ma.Multiaddr) bool {
	return c.Stat().Direction == network.DirOutbound && c.RemoteMultiaddr().Equal(a)
}

func (n *Node) reach(ctx context.Context, id peer.ID) error {
	if err := n.banned(id); err != nil {
		return err
	}
	known := n.known(id)
	if !known && n.dht == nil {
		return fmt.Errorf("%w: no address of %s is known; give a full address that ends in /p2p/%s", ErrUnknownPeer, id, id)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	err := n.tunnels.Connect(ctx, id)
	if !known && errors.Is(err, routing.ErrNotFound) {
		return n.nowhere(id, err)
	}
	return ownBan(id, classify(err))
}

// Ping measures round trips to a peer, one each interval (default 1 s), until
// ctx ends or the loop is left. A lost round trip is an error in the sequence,
// which goes on; a peer that cannot be connected to ends it.
func (n *Node) Ping(ctx context.Context, p string, interval time.Duration) iter.Seq2[Pong, error] {
	if interval <= 0 {
		interval = time.Second
	}
	return func(yield func(Pong, error) bool) {
		info, err := n.Connect(ctx, p)
		if err != nil {
			yield(Pong{}, err)
			return
		}
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for seq := 1; ; seq++ {
			pong, err := n.pingOnce(ctx, info.ID, seq)
			if ctx.Err() != nil || !yield(pong, err) {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// pingOnce is one round trip of libp2p's ping protocol: 32 bytes that come
// back as they were.
func (n *Node) pingOnce(ctx context.Context, id peer.ID, seq int) (Pong, error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	pong := Pong{Seq: seq}
	if err := n.reach(ctx, id); err != nil {
		return pong, err
	}
	c, err := stream.Dial(ctx, n.host, id, ping.ID, stream.WithAllowLimited(), stream.WithConfirm())
	if err != nil {
		return pong, plain(err)
	}
	defer c.Close()
	if nc, ok := n.conn(id); ok {
		pong.Address, pong.Relayed = nc.RemoteMultiaddr().String(), stream.Relayed(nc)
	}
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	sent, got := make([]byte, ping.PingSize), make([]byte, ping.PingSize)
	rand.Read(sent)
	start := time.Now()
	if _, err = c.Write(sent); err == nil {
		_, err = io.ReadFull(c, got)
	}
	pong.RTT = time.Since(start)
	switch {
	case err != nil && ctx.Err() != nil:
		return pong, fmt.Errorf("no answer within %v", pingTimeout)
	case err != nil:
		return pong, fmt.Errorf("the connection was lost: %w", err)
	case !bytes.Equal(sent, got):
		return pong, errors.New("the peer answered with other bytes than it was sent")
	}
	n.host.Peerstore().RecordLatency(id, pong.RTT)
	return pong, nil
}

// Streams lists the live connections, oldest first.
func (n *Node) Streams() []Stream {
	var out []Stream
	for _, i := range n.tunnels.Streams.List() {
		s := Stream{
			ID: i.ID, Kind: Kind(i.Kind), Name: i.Protocol,
			LocalPeer: i.LocalPeer.String(), RemotePeer: i.RemotePeer.String(),
			OriginAddress: text(i.Local), TargetAddress: text(i.Remote), Path: text(i.Path), Relayed: i.Relayed,
			Since: i.Since, BytesIn: i.BytesIn, BytesOut: i.BytesOut, Waiting: i.Waiting,
		}
		if i.LastError != nil {
			s.LastError = i.LastError.Error()
		}
		out = append(out, s)
	}
	return out
}

// text is an address for people and programs; a name in it, which the peer chose,
// may be any bytes.
func text(a ma.Multiaddr) string {
	if len(a) == 0 {
		return ""
	}
	return strings.ToValidUTF8(a.String(), "?")
}

// CloseStream cuts one connection. Errors: ErrNoSuchStream.
func (n *Node) CloseStream(id uint64) error {
	if !n.tunnels.Streams.Reset(id) {
		return fmt.Errorf("%w: %d; `kith streams` lists them", ErrNoSuchStream, id)
	}
	return nil
}

// CloseStreams cuts every connection and returns how many there were.
func (n *Node) CloseStreams() int {
	closed := 0
	for _, s := range n.tunnels.Streams.List() {
		if n.tunnels.Streams.Reset(s.ID) {
			closed++
		}
	}
	return closed
}

// Status returns a snapshot of the node.
func (n *Node) Status() Status {
	st := n.tunnels.Stats()
	s := Status{
		Home: n.cfg.Home, Version: n.cfg.Version, Started: n.started,
		Addresses: n.Addrs(), Notices: n.notices, MDNS: n.wantsMDNS(),
		Peers: len(n.host.Network().Peers()), Mounts: len(n.tunnels.Listeners.List()), Streams: n.tunnels.Streams.Len(),
		Opened: st.Opened, Served: st.Served, BytesIn: st.BytesIn, BytesOut: st.BytesOut,
		Refused: map[string]uint64{},
	}
	for _, a := range n.sockets() {
		s.Listen = append(s.Listen, a.String())
	}
	slices.Sort(s.Listen)
	for _, i := range n.tunnels.Streams.List() {
		s.BytesIn += i.BytesIn
		s.BytesOut += i.BytesOut
	}
	for r, count := range st.Refused {
		s.Refused[tunnel.Reason(r).String()] = count
	}
	if banned := n.bannedConns.Load(); banned > 0 {
		s.Refused["banned"] = banned
	}
	return s
}
