package rpc

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kith-p2p/kith/stream"
)

// whoServer answers health checks, and remembers who asked.
type whoServer struct {
	*health.Server
	asked chan string
}

func (w whoServer) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	id, ok := GRPCPeer(ctx)
	if !ok {
		return nil, errors.New("nobody")
	}
	w.asked <- id.String()
	return w.Server.Check(ctx, r)
}

func TestGRPCKnowsThePeer(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		const tag = "/kith-test-grpc"
		var denied atomic.Bool
		opts := append(GRPCAuthorize(func(who Caller) error {
			if who.Peer != a.ID() || denied.Load() {
				return errors.New("no")
			}
			return nil
		}), GRPCServerOption())
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
			if err := await(t, "end of the server", served); err != nil {
				t.Error(err)
			}
		}()
		cc, err := DialGRPC(a, b.ID(), tag)
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		client := healthpb.NewHealthClient(cc)
		var at grpcpeer.Peer
		if _, err := client.Check(ctxOf(t), &healthpb.HealthCheckRequest{}, grpc.Peer(&at)); err != nil {
			t.Fatal(err)
		}
		if asked := <-who.asked; asked != a.ID().String() {
			t.Errorf("the server was asked by %s", asked)
		}
		if info, ok := at.AuthInfo.(GRPCAuthInfo); !ok || info.Peer != b.ID() {
			t.Errorf("the client asked %+v", at)
		}
		watch, err := client.Watch(ctxOf(t), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Error(err)
		}
		denied.Store(true)
		if _, err := client.Check(ctxOf(t), &healthpb.HealthCheckRequest{}); status.Code(err) != grpccodes.PermissionDenied {
			t.Errorf("not allowed: %v", err)
		}
		again, err := client.Watch(ctxOf(t), &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = again.Recv()
		}
		if status.Code(err) != grpccodes.PermissionDenied {
			t.Errorf("not allowed: %v", err)
		}
		if _, err := DialGRPC(a, "", tag); err == nil {
			t.Error("dialled nobody")
		}
	})
}
