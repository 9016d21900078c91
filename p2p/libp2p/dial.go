package libp2p

import (
	"context"
	"fmt"
	"net"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"

	"github.com/kith-p2p/kith/p2p"
)

// Dial opens a session with the peer at an endpoint, before the handshake. There is
// one libp2p connection a peer: if it is there, the session begins on it, and
// RemoteEndpoint tells where it leads, which may be another place. Otherwise
// libp2p dials the endpoint beside what else it knows of the peer, and dials to one
// peer at the same time become one. A direct endpoint is never answered with a
// relayed connection. The dial was ordered, so libp2p's own backoff for the peer
// is cleared first.
//
// It blocks until ctx ends. Errors are ErrPeerIDRequired, ErrSelf, ErrIdentity,
// ErrBusy, net.ErrClosed, ctx's, or what libp2p says, such as swarm's
// ErrGaterDisallowedConnection.
func (t *Transport) Dial(ctx context.Context, e p2p.Endpoint) (p2p.Connection, error) {
	select {
	case <-t.closed:
		return nil, fmt.Errorf("libp2p: dial %s: %w", e, net.ErrClosed)
	default:
	}
	to, err := t.target(e)
	if err != nil {
		return nil, err
	}
	for attempt := 0; ; attempt++ {
		c, err := t.dial(ctx, to)
		if err == nil {
			t.counts.dialled.Add(1)
			return c, nil
		}
		if cause := ctx.Err(); cause != nil {
			return nil, fmt.Errorf("libp2p: dial %s: %w", e, cause)
		}
		// A libp2p connection may end between the look and the use: look again once.
		if _, gone := err.(*goneError); gone && attempt == 0 {
			continue
		}
		return nil, fmt.Errorf("libp2p: dial %s: %w", e, err)
	}
}

// goneError says that a libp2p connection was of no use any more.
type goneError struct{ error }

func (e *goneError) Unwrap() error { return e.error }

func (t *Transport) dial(ctx context.Context, to target) (*Connection, error) {
	conn, err := t.reach(ctx, to)
	if err != nil {
		return nil, err
	}
	s, err := conn.NewStream(network.WithAllowLimitedConn(ctx, protectTag))
	if err != nil {
		return nil, &goneError{err}
	}
	if err := s.SetProtocol(ControlProtocol); err != nil {
		_ = s.ResetWithError(network.StreamResourceLimitExceeded)
		return nil, fmt.Errorf("our own limit for %s and this peer is reached: %w", ControlProtocol, err)
	}
	c, err := t.newConnection(conn, s, true)
	if err != nil {
		_ = s.ResetWithError(network.StreamNoError)
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.end(ctx.Err(), nil) })
	_, err = s.Write(controlGreeting)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.Close()
		return nil, &goneError{err}
	}
	return c, nil
}

// reach returns a libp2p connection to a peer, the one there is or a new one.
func (t *Transport) reach(ctx context.Context, to target) (network.Conn, error) {
	if s, ok := t.h.Network().(interface{ Backoff() *swarm.DialBackoff }); ok {
		s.Backoff().Clear(to.id)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(to.at) == 0 {
		if len(t.h.Network().ConnsToPeer(to.id)) == 0 && len(t.h.Peerstore().Addrs(to.id)) == 0 {
			// A host with routing looks for it.
			if err := t.h.Connect(ctx, peer.AddrInfo{ID: to.id}); err != nil {
				return nil, err
			}
		}
		return t.h.Network().DialPeer(ctx, to.id)
	}
	t.h.Peerstore().AddAddr(to.id, to.at, peerstore.TempAddrTTL)
	if !isRelayed(to.at) {
		ctx = network.WithForceDirectDial(ctx, protectTag)
	}
	return t.h.Network().DialPeer(ctx, to.id)
}
