package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

// hostConfig describes the plain libp2p hosts in the report.
const hostConfig = "two plain go-libp2p hosts in this process: TCP, TLS, yamux, no resource limits (so windows grow to yamux's 16 MiB, as they do under kith's limits)"

// newHost is a plain libp2p host: the best that kith could reach.
func newHost() (host.Host, error) {
	limits, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(rcmgr.InfiniteLimits), rcmgr.WithMetricsDisabled())
	if err != nil {
		return nil, err
	}
	h, err := libp2p.New(
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(limits),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
	)
	if err != nil {
		return nil, errors.Join(err, limits.Close())
	}
	return h, nil
}

// plainHosts are two plain hosts, the first connected to the second.
func plainHosts(ctx context.Context, s *scope) (near, far host.Host, err error) {
	for _, h := range []*host.Host{&near, &far} {
		if *h, err = newHost(); err != nil {
			return nil, nil, err
		}
		s.add((*h).Close)
	}
	return near, far, join(ctx, near, far)
}

func join(ctx context.Context, near, far host.Host) error {
	if err := near.Connect(ctx, peer.AddrInfo{ID: far.ID(), Addrs: far.Addrs()}); err != nil {
		return fmt.Errorf("connect two hosts: %w", err)
	}
	return nil
}

const rawProtocol protocol.ID = "/bench/raw/1.0.0"

// dialRaw serves the traffic on far over bare libp2p streams, and opens them.
func dialRaw(near, far host.Host) dialFunc {
	far.SetStreamHandler(rawProtocol, func(s network.Stream) {
		if serve(s) != nil {
			s.Reset()
		}
	})
	return func(ctx context.Context) (conn, error) {
		return near.NewStream(ctx, far.ID(), rawProtocol)
	}
}
