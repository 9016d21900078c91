package kith

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/libp2p"
)

// DefaultNetwork is the network of a node that was given none.
const DefaultNetwork = "kith"

// What a node does about its peers, unless its Config says otherwise. A failed
// dial is repeated after a second, then two, up to ten minutes; persistent
// peers are tried every minute at least.
const (
	defaultMaxPeers    = 64
	defaultMaxOutgoing = 8
	upgradePeers       = 4
	retryFirst         = time.Second
	retryLimit         = 10 * time.Minute
	retryPersistent    = time.Minute
	retryJitter        = 5 * time.Second
	cooldown           = 5 * time.Second
	tunnelReserve      = 192 // connections beside those of the Router: tunnels, calls, the DHT
)

// Book is the address book: every lasting fact about peers.
func (n *Node) Book() *addrbook.Book { return n.manager.Book() }

// PeerManager decides whom the Router connects to. To ban somebody use Node.Ban,
// which closes what else the peer has open here before it returns; after a Ban of
// the PeerManager's the running node does that some seconds later.
func (n *Node) PeerManager() *p2p.PeerManager { return n.manager }

// Router carries messages between the peers of the node's network. Open
// channels between New and Run: Run starts it, and peers learn of channels when
// they connect. Close stops it.
func (n *Node) Router() *p2p.Router { return n.router }

// WaitPeer waits until the Router has a session with a peer, given by its ID in
// either spelling or an address: from then on messages can be sent to it. It
// makes no connection by itself; Connect, Remember and the sources of addresses
// do. Errors: ErrUsage, ctx's, ErrClosed.
func (n *Node) WaitPeer(ctx context.Context, p string) error {
	id, err := n.NodeIDOf(ctx, p)
	if err != nil {
		return err
	}
	updates := n.manager.Subscribe()
	defer updates.Close()
	for n.manager.Status(id) != p2p.PeerStatusUp {
		select {
		case _, ok := <-updates.Updates():
			if !ok {
				return ErrClosed
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// newPeers opens the address book and makes the PeerManager.
func (n *Node) newPeers() (err error) {
	persistent := make([]p2p.NodeID, 0, len(n.cfg.PersistentPeers))
	var addrs []address.NodeAddress
	for _, s := range n.cfg.PersistentPeers {
		a, err := address.Parse(s)
		if err != nil {
			return usage("persistent peer: %w", badAddress(strings.TrimSpace(s), err))
		}
		persistent, addrs = append(persistent, a.NodeID), append(addrs, a)
	}
	n.manager, err = p2p.NewPeerManager(n.NodeID(), addrbook.NewStateStore(n.state.Bucket("addrbook")), p2p.PeerManagerOptions{
		PersistentPeers:          persistent,
		MaxConnected:             n.cfg.MaxPeers,
		MaxConnectedUpgrade:      upgradePeers,
		MaxOutgoingConnections:   n.cfg.MaxOutgoing,
		MinRetryTime:             retryFirst,
		MaxRetryTime:             retryLimit,
		MaxRetryTimePersistent:   retryPersistent,
		RetryTimeJitter:          retryJitter,
		DisconnectCooldownPeriod: cooldown,
		Protocols:                n.protocols(),
		ScopeAddresses:           true,
		Logger:                   n.log,
	})
	if err != nil {
		return err
	}
	n.notices = append(n.notices, n.Book().Notices()...)
	if n.foreign, err = newForeignBans(n.state.Bucket("foreign bans")); err != nil {
		return err
	}
	n.sweepForeignBans()
	for _, a := range addrs {
		if _, err := n.manager.Add(a); err != nil {
			return fmt.Errorf("persistent peer %s: %w", a, err)
		}
	}
	return nil
}

func (n *Node) protocols() []p2p.Protocol {
	ps := []p2p.Protocol{libp2p.Protocol}
	for _, t := range n.cfg.Transports {
		ps = append(ps, t.Protocols()...)
	}
	return ps
}

// newRouter makes the Router over the host, and over the transports of the
// configuration.
func (n *Node) newRouter() error {
	over, err := libp2p.New(n.host, libp2p.Options{Logger: n.log})
	if err != nil {
		return err
	}
	n.router, err = p2p.NewRouter(p2p.RouterOptions{
		NodeInfo:    p2p.NodeInfo{Network: n.cfg.Network, Moniker: n.cfg.Moniker, Version: "kith/" + n.cfg.Version, ListenAddr: "0.0.0.0:0"},
		PrivKey:     n.key,
		PeerManager: n.manager,
		Transports:  append([]p2p.Transport{over}, n.cfg.Transports...),
		Dialled:     n.dialled,
		NoReferrals: n.cfg.NoPEX,
		FilterPeerByIP: func(_ context.Context, ip net.IP, _ uint16) error {
			if a, ok := netip.AddrFromSlice(ip); ok {
				if ban, is := n.Book().BannedIP(a.Unmap()); is {
					return fmt.Errorf("%w: %s", ErrBanned, ban)
				}
			}
			return nil
		},
		Logger: n.log,
	})
	if err != nil {
		return err
	}
	if !n.cfg.NoPEX {
		n.pex, err = p2p.NewPEX(n.router, p2p.PEXOptions{})
	}
	return err
}

// dialled counts a dial for the source that taught the address. What a person
// wrote down is worth a line in the log when it does not answer; the pauses
// between the tries grow.
func (n *Node) dialled(a p2p.NodeAddress, err error) {
	n.mix.Dialled(a, err)
	if err == nil {
		return
	}
	e, _ := n.Book().Entry(a) // gone, if the peer is of another network
	if e.Source.Kind == addrbook.Manual || e.Source.Kind == addrbook.Bootstrap || errors.Is(err, p2p.ErrIncompatible) {
		n.log.Info("cannot reach a node of the bootstrap list or the address book", "address", a, "error", err)
	}
}

// moniker is a name for people that says no more than the ID does.
func moniker(id p2p.NodeID) string { return "kith-" + strings.ToLower(string(id[:8])) }
