package peergrpc_test

import (
	"context"
	"fmt"
	"log"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kith-p2p/kith/rpc/peergrpc"
	"github.com/kith-p2p/kith/stream"
)

// twoHosts are two nodes that know each other.
func twoHosts() (a, b host.Host, stop func()) {
	var hs [2]host.Host
	for i := range hs {
		h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
		if err != nil {
			log.Fatal(err)
		}
		hs[i] = h
	}
	if err := hs[0].Connect(context.Background(), peer.AddrInfo{ID: hs[1].ID(), Addrs: hs[1].Addrs()}); err != nil {
		log.Fatal(err)
	}
	return hs[0], hs[1], func() {
		hs[0].Close()
		hs[1].Close()
	}
}

// gRPC between peers, with the caller's ID in the handler.
func ExampleDial() {
	a, b, stop := twoHosts()
	defer stop()

	srv := grpc.NewServer(peergrpc.ServerOption(), grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			id, ok := peergrpc.Peer(ctx)
			fmt.Println(ok, id == a.ID())
			return next(ctx, req)
		}))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	ln, err := stream.Listen(b, "/example/grpc/1.0.0")
	if err != nil {
		log.Fatal(err)
	}
	go srv.Serve(ln)
	defer srv.Stop()

	cc, err := peergrpc.Dial(a, b.ID(), "/example/grpc/1.0.0")
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	resp, err := healthpb.NewHealthClient(cc).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(resp.GetStatus(), err)
	// Output:
	// true true
	// SERVING <nil>
}
