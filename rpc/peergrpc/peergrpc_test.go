package peergrpc

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kith-p2p/kith/internal/host"
	"github.com/kith-p2p/kith/rpc"
	"github.com/kith-p2p/kith/stream"
)

// whoServer answers health checks, and remembers who asked.
type whoServer struct {
	*health.Server
	asked chan string
}

func (w whoServer) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	id, ok := Peer(ctx)
	if !ok {
		return nil, errors.New("nobody")
	}
	w.asked <- id.String()
	return w.Server.Check(ctx, r)
}

func TestGRPCKnowsThePeer(t *testing.T) {
	for _, at := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"} {
		t.Run(at, func(t *testing.T) {
			a, b := newHost(t), newHost(t, at)
			a.Peerstore().AddAddrs(b.ID(), b.Addrs(), peerstore.PermanentAddrTTL)
			const tag = "/kith-test-grpc"
			var denied atomic.Bool
			opts := append(Authorize(func(who rpc.Caller) error {
				if who.Peer != a.ID() || denied.Load() {
					return errors.New("no")
				}
				return nil
			}), ServerOption())
			srv := grpc.NewServer(opts...)
			who := whoServer{health.NewServer(), make(chan string, 1)}
			healthpb.RegisterHealthServer(srv, who)
			ln, err := stream.Listen(b, tag)
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- srv.Serve(ln) }()
			defer func() {
				srv.GracefulStop()
				select {
				case err := <-served:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(30 * time.Second):
					t.Error("the server does not end")
				}
			}()
			cc, err := Dial(a, b.ID(), tag)
			if err != nil {
				t.Fatal(err)
			}
			defer cc.Close()
			client := healthpb.NewHealthClient(cc)
			var at grpcpeer.Peer
			if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.Peer(&at)); err != nil {
				t.Fatal(err)
			}
			if asked := <-who.asked; asked != a.ID().String() {
				t.Errorf("the server was asked by %s", asked)
			}
			if info, ok := at.AuthInfo.(AuthInfo); !ok || info.Peer != b.ID() {
				t.Errorf("the client asked %+v", at)
			}
			watch, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := watch.Recv(); err != nil {
				t.Error(err)
			}
			denied.Store(true)
			if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != grpccodes.PermissionDenied {
				t.Errorf("not allowed: %v", err)
			}
			again, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
			if err == nil {
				_, err = again.Recv()
			}
			if status.Code(err) != grpccodes.PermissionDenied {
				t.Errorf("not allowed: %v", err)
			}
			if _, err := Dial(a, "", tag); err == nil {
				t.Error("dialled nobody")
			}
		})
	}
}

func newHost(t *testing.T, listen ...string) corehost.Host {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := host.Config{Key: key}
	for _, l := range listen {
		cfg.Listen = append(cfg.Listen, ma.StringCast(l))
	}
	h, err := host.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}
