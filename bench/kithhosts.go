package main

import (
	"context"

	"github.com/kith-p2p/kith/identity"
	kithhost "github.com/kith-p2p/kith/internal/host"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	kithHostConfig  = "two libp2p hosts in this process as kith makes them (internal/host), over loopback TCP, TLS, yamux"
	stockHostConfig = "two libp2p hosts in this process with libp2p's defaults, over loopback TCP, TLS, yamux"
)

// keyedHost is a host as kith makes it, with its key.
type keyedHost struct {
	host.Host
	key identity.PrivKey
}

func newKithHost(s *scope) (keyedHost, error) {
	key, err := identity.Generate()
	if err != nil {
		return keyedHost{}, err
	}
	h, err := kithhost.New(kithhost.Config{Key: key.Libp2p(), Listen: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/0")}})
	if err != nil {
		return keyedHost{}, err
	}
	s.add(h.Close)
	return keyedHost{h, key}, nil
}

// kithHosts are two hosts as kith makes them, the first connected to the second
// if that is wanted.
func kithHosts(ctx context.Context, s *scope, joined bool) (near, far keyedHost, err error) {
	if near, err = newKithHost(s); err != nil {
		return near, far, err
	}
	if far, err = newKithHost(s); err != nil || !joined {
		return near, far, err
	}
	return near, far, join(ctx, near, far)
}

// stockHosts are two hosts with libp2p's defaults, connected.
func stockHosts(ctx context.Context, s *scope) (near, far host.Host, err error) {
	for _, h := range []*host.Host{&near, &far} {
		if *h, err = libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics()); err != nil {
			return nil, nil, err
		}
		s.add((*h).Close)
	}
	return near, far, join(ctx, near, far)
}
