package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/kith-p2p/kith/internal/unixsock"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Listen binds addr. TCP port 0 is any free port; the listener's Multiaddr has the one that it got. A name is resolved
// first, for at most Options.Timeout, and the first of its IPs that can be bound is; that apart it does not block. A
// unix socket must not exist yet and can be opened by its user only. For /p2p/ID, which must be the ID of the
// PeerNetwork if that tells it, connections come over whatever the network listens on: an address before /p2p is not
// bound, and the listener's Multiaddr is /p2p/ID alone.
//
// What Accept returns is a Connection. Closing the listener releases Accept and leaves accepted connections alone.
//
// Errors: *AddressError for an address that it does not take; otherwise what happened, with the address before it:
// *net.OpError from the system, an error that is address.ErrNoAddresses, what the PeerNetwork returned.
func (t *Multiaddr) Listen(addr ma.Multiaddr) (manet.Listener, error) {
	to, err := t.target(addr)
	if err != nil {
		return nil, err
	}
	l, err := t.listen(to)
	if err != nil {
		return nil, fmt.Errorf("transport: listen on %s: %w", clip(addr.String()), err)
	}
	own := to.peer.ID
	if own == "" {
		return &listener{Listener: l, at: multiaddrOf(l.Addr())}, nil
	}
	if a, ok := l.Addr().(interface{ PeerID() peer.ID }); ok && a.PeerID() != own {
		_ = l.Close()
		return nil, addressError(addr, unsupported(&addr[len(addr)-1], "this node is "+a.PeerID().String()))
	}
	return &listener{Listener: l, at: peerMultiaddr(own), own: own}, nil
}

func (t *Multiaddr) listen(to target) (net.Listener, error) {
	switch {
	case to.peer.ID != "":
		return t.opts.Peers.ListenPeer()
	case to.path != "":
		return unixsock.Listen(systemPath(to.path))
	case to.ip.IsValid():
		return listenTCP(to.ip, to.port)
	}
	ctx, cancel := context.WithTimeout(context.Background(), t.opts.Timeout)
	defer cancel()
	ips, err := t.resolve(ctx, to)
	if err != nil {
		return nil, err
	}
	var errs allFailed
	for _, ip := range ips {
		l, err := listenTCP(ip, to.port)
		if err == nil {
			return l, nil
		}
		errs = append(errs, err)
	}
	return nil, errs
}

func listenTCP(ip netip.Addr, port uint16) (net.Listener, error) {
	return net.Listen(networkOf(ip), net.JoinHostPort(ip.String(), strconv.Itoa(int(port))))
}

// listener makes Connections of what it accepts.
type listener struct {
	net.Listener
	at  ma.Multiaddr
	own peer.ID // whom it listens as, "" if connections come to a place
}

var _ manet.Listener = (*listener)(nil)

// Accept waits for the next connection. It is a Connection.
func (l *listener) Accept() (manet.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if l.own != "" {
		return newPeerConn(c, l.own, remotePeer(c)), nil
	}
	return newConn(c), nil
}

// Multiaddr returns what is listened on.
func (l *listener) Multiaddr() ma.Multiaddr { return l.at }
