package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// confirmTimeout bounds the wait for the peer's answer if the context does not:
// go-libp2p's own limit for a negotiation.
const confirmTimeout = 10 * time.Second

// Dial opens a connection to the service tag of the peer pid. A live connection
// of the host to the peer is used, or else one is made, to the addresses that
// the host's peerstore or routing has. The result is a *Conn.
//
// Dial blocks until the stream is open and the hello is sent, so that the peer
// accepts it without waiting for data; it does not wait for the peer's consent
// (see WithConfirm). It returns when ctx ends; ctx has no say after that.
// Without a deadline in ctx libp2p's apply: 60 s to connect, 15 s for a stream.
//
// Dialling oneself connects to the Listener of this package on the same host,
// in process.
//
// Errors are *net.OpError: ErrLimitedConn, ErrNoSuchService (WithConfirm, or
// dialling oneself), context.DeadlineExceeded and context.Canceled,
// network.ErrResourceLimitExceeded, or what the host said of the peer.
func Dial(ctx context.Context, h host.Host, pid peer.ID, tag protocol.ID, opts ...DialOption) (net.Conn, error) {
	var cfg dialConfig
	for _, o := range opts {
		o.applyDial(&cfg)
	}
	local, remote := Addr{h.ID(), cfg.hostPort}, Addr{pid, cfg.hostPort}
	c, err := dial(ctx, h, tag, local, remote, cfg)
	if err != nil {
		if _, ok := errors.AsType[*contextError](err); !ok && ctx.Err() != nil {
			err = &contextError{err, ctx.Err()}
		}
		return nil, &net.OpError{Op: "dial", Net: Network, Source: local, Addr: remote, Err: err}
	}
	return c, nil
}

func dial(ctx context.Context, h host.Host, tag protocol.ID, local, remote Addr, cfg dialConfig) (*Conn, error) {
	if tag == "" {
		return nil, errors.New("stream: no protocol ID given")
	}
	if err := remote.id.Validate(); err != nil {
		return nil, fmt.Errorf("stream: no peer ID given: %w", err)
	}
	if ctx.Err() != nil {
		return nil, errors.New("stream: not dialled")
	}
	if remote.id == local.id {
		return dialSelf(h, tag, local, remote)
	}
	if cfg.limited {
		ctx = network.WithAllowLimitedConn(ctx, Network)
	}
	s, err := openStream(ctx, h, remote.id, cfg.limited)
	if err != nil {
		return nil, err
	}
	if err := s.SetProtocol(tag); err != nil {
		_ = s.ResetWithError(network.StreamResourceLimitExceeded)
		return nil, fmt.Errorf("stream: our own limit for %q and this peer is reached; close connections or raise it: %w", tag, err)
	}
	c := New(s)
	c.local, c.remote, c.id = local, remote, tag
	c.hello = greeting(tag)
	c.answer, c.got = c.hello, make([]byte, 0, len(c.hello))
	c.state.Store(0)
	if cfg.lazy && !cfg.confirm {
		return c, nil
	}
	if err := c.greet(ctx, cfg.confirm); err != nil {
		_ = c.ResetWithCode(network.StreamProtocolNegotiationFailed)
		return nil, err
	}
	return c, nil
}

// openStream opens a bare stream to the peer, connecting first if need be.
func openStream(ctx context.Context, h host.Host, pid peer.ID, limited bool) (network.Stream, error) {
	// A connection can die between the look and the use of it: look again once.
	for attempt := 0; ; attempt++ {
		how := h.Network().Connectedness(pid)
		if how != network.Connected && how != network.Limited {
			if err := h.Connect(ctx, peer.AddrInfo{ID: pid}); err != nil {
				return nil, fmt.Errorf("stream: cannot reach peer %s: %w", pid, err)
			}
			how = h.Network().Connectedness(pid)
		}
		if how == network.Limited && !limited {
			// libp2p would now wait for a direct connection until ctx ends.
			return nil, errLimited(pid)
		}
		s, err := h.Network().NewStream(network.WithNoDial(ctx, Network), pid)
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, network.ErrLimitedConn),
			!limited && h.Network().Connectedness(pid) == network.Limited:
			return nil, errLimited(pid)
		case errors.Is(err, network.ErrNoConn) && attempt == 0:
			continue
		}
		return nil, fmt.Errorf("stream: cannot open a stream to peer %s: %w", pid, err)
	}
}

func errLimited(pid peer.ID) error {
	return fmt.Errorf("%w: peer %s; allow it with WithAllowLimited, use a relay without limits, or connect directly (%w)",
		ErrLimitedConn, pid, network.ErrLimitedConn)
}

// greet sends the hello, and with confirm also waits for the answer. It returns
// early when ctx ends; the connection is then of no more use.
func (c *Conn) greet(ctx context.Context, confirm bool) error {
	if _, ok := ctx.Deadline(); !ok && confirm {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, confirmTimeout)
		defer cancel()
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Reset() })
	c.wmu.Lock()
	err := c.sendHello()
	c.wmu.Unlock()
	if err == nil && confirm {
		c.rmu.Lock()
		err = c.readAnswer()
		c.rmu.Unlock()
	}
	if !stop() {
		return &contextError{fmt.Errorf("stream: peer %s has not agreed to %q in time", c.remotePeer, c.id), ctx.Err()}
	}
	if err != nil {
		return c.reason("dial", err)
	}
	return nil
}
