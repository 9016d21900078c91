package kith

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/kith-p2p/kith/addrbook"
	khost "github.com/kith-p2p/kith/internal/host"
	"github.com/kith-p2p/kith/internal/state"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// A port is picked below the range that systems use for outgoing connections,
// so that none of those has it when the node starts again.
const (
	firstPort = 20000
	lastPort  = 32767
	portTries = 64
)

// listen builds the host on the addresses that the configuration, or the first
// start, chose.
func (n *Node) listen() (host.Host, error) {
	cfg := khost.Config{Key: n.key.Libp2p(), Resolver: n.names, UserAgent: "kith/" + n.cfg.Version,
		LowWater: int(n.cfg.MaxPeers) + tunnelReserve*3/4, HighWater: int(n.cfg.MaxPeers) + tunnelReserve,
		Gater: &gater{n.Book(), n.turnedAway}}
	if len(n.cfg.Listen) > 0 {
		for _, s := range n.cfg.Listen {
			a, err := ma.NewMultiaddr(s)
			if err != nil {
				return nil, usage("listen address %q: %v; write it like /ip4/0.0.0.0/tcp/4001 or /ip4/0.0.0.0/udp/4001/quic-v1", s, err)
			}
			cfg.Listen = append(cfg.Listen, a)
		}
		return listenErr(khost.New(cfg))
	}
	node := n.state.Bucket("node")
	key := "port"
	if n.cfg.LocalOnly {
		key = "local port"
	}
	saved, err := node.Get(key)
	if err != nil {
		return nil, err
	}
	if port, err := strconv.Atoi(string(saved)); err == nil && port > 0 && port < 1<<16 {
		cfg.Listen = n.everywhere(port)
		h, err := listenErr(khost.New(cfg))
		if err != nil {
			err = fmt.Errorf("%w; this node has listened on port %d since its first start: stop the other program, or give another address with --listen", err, port)
		}
		return h, err
	}
	return n.pickPort(cfg, node, key)
}

// turnedAway counts a connection that a ban refused, and logs one a second.
func (n *Node) turnedAway(id peer.ID, at ma.Multiaddr, ban addrbook.Ban) {
	n.bannedConns.Add(1)
	n.sometimes.Do(func() { n.log.Info("refused a connection", "peer", id, "address", at, "ban", ban) })
}

// pickPort listens on a free port and saves it.
func (n *Node) pickPort(cfg khost.Config, node *state.Bucket, key string) (host.Host, error) {
	var last error
	for range portTries {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		cfg.Listen = n.everywhere(port)
		h, err := listenErr(khost.New(cfg))
		if err != nil {
			if last = err; errors.Is(err, syscall.EADDRINUSE) {
				continue
			}
			return nil, err
		}
		if err := node.Put(key, []byte(strconv.Itoa(port))); err != nil {
			return nil, errors.Join(err, h.Close())
		}
		return h, nil
	}
	return nil, last
}

// everywhere is TCP and QUIC on one port, of all interfaces or the loopback
// one.
func (n *Node) everywhere(port int) []ma.Multiaddr {
	hosts := []string{"/ip4/127.0.0.1"}
	if !n.cfg.LocalOnly {
		hosts = []string{"/ip4/0.0.0.0"}
		if hasIPv6() {
			hosts = append(hosts, "/ip6/::")
		}
	}
	var out []ma.Multiaddr
	for _, h := range hosts {
		out = append(out, ma.StringCast(fmt.Sprintf("%s/tcp/%d", h, port)), ma.StringCast(fmt.Sprintf("%s/udp/%d/quic-v1", h, port)))
	}
	return out
}

func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}

func listenErr(h host.Host, err error) (host.Host, error) {
	if err == nil {
		return h, nil
	}
	le, ok := errors.AsType[*khost.ListenError](err)
	if !ok {
		return nil, err
	}
	// libp2p keeps the texts of its causes only.
	caused := func(by error) bool { return errors.Is(le.Err, by) || strings.Contains(le.Err.Error(), by.Error()) }
	switch {
	case caused(syscall.EADDRINUSE):
		return nil, fmt.Errorf("cannot listen on %s: another program uses this port (%w); choose another port, or 0 for any that is free", le.Addr, syscall.EADDRINUSE)
	case caused(syscall.EACCES):
		return nil, fmt.Errorf("cannot listen on %s: %w; ports below 1024 need privileges: choose a higher one", le.Addr, syscall.EACCES)
	case caused(syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("cannot listen on %s: this machine has no such address (%w); give one it has, or 0.0.0.0 for all", le.Addr, syscall.EADDRNOTAVAIL)
	case caused(swarm.ErrNoTransport):
		return nil, usage("cannot listen on %s: a node listens on /ip4/IP/tcp/PORT, /ip4/IP/udp/PORT/quic-v1, /ip4/IP/tcp/PORT/ws, and on /ip6/... likewise", le.Addr)
	}
	return nil, le
}

// loopbackOnly reports whether nobody else can reach the node's listeners.
func (n *Node) loopbackOnly() bool {
	for _, a := range n.sockets() {
		if !manet.IsIPLoopback(a) {
			return false
		}
	}
	return true
}

// sockets are the addresses listened on. The relay transport lists itself as
// one that is no socket of this machine.
func (n *Node) sockets() []ma.Multiaddr {
	return slices.DeleteFunc(slices.Clone(n.host.Network().ListenAddresses()), khost.IsRelay)
}

// Addrs lists full addresses that other nodes can dial, each ending in
// /p2p/<peer ID>: public ones first, then the local network's, then this
// machine's; TCP before QUIC.
func (n *Node) Addrs() []string {
	addrs := slices.Clone(n.host.Addrs())
	rank := func(a ma.Multiaddr) int {
		r := 0
		switch {
		case manet.IsIPLoopback(a):
			r = 20
		case manet.IsPrivateAddr(a):
			r = 10
		}
		if _, err := a.ValueForProtocol(ma.P_IP6); err == nil {
			r += 4
		}
		if _, err := a.ValueForProtocol(ma.P_TCP); err != nil {
			r += 2
		}
		return r
	}
	slices.SortStableFunc(addrs, func(a, b ma.Multiaddr) int { return cmp.Compare(rank(a), rank(b)) })
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String() + "/p2p/" + n.host.ID().String()
	}
	return out
}
