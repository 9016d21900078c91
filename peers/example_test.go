package peers_test

import (
	"context"
	"fmt"
	"io"
	"log"

	"github.com/kith-p2p/kith/peers"
	"github.com/kith-p2p/kith/transport"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// A server and a client, each with a book. In a test on one machine plain text will do.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	server, err := peers.New(peers.Params{
		Address:   ma.StringCast("/ip4/127.0.0.1/tcp/4001"),
		Transport: transport.New(transport.Options{}),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Shutdown()
	l, err := server.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer(peers.ServerOptions()...)
	healthpb.RegisterHealthServer(s, health.NewServer())
	go s.Serve(manet.NetListener(l))
	defer s.Stop()

	client, err := peers.New(peers.Params{
		Address:   ma.StringCast("/ip4/127.0.0.1/tcp/4002"),
		Transport: transport.New(transport.Options{}),
		Insecure:  true,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Shutdown()
	go client.Job(ctx)

	for range 2 { // the second time it is the same channel
		cc, err := client.GRPCConnection(ctx, l.Multiaddr(), false)
		if err != nil {
			log.Fatal(err)
		}
		reply, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(reply.Status)
	}
	// Output:
	// SERVING
	// SERVING
}

// Raw bytes: one connection for everyone who asks for the address.
func ExampleInterface_connect() {
	book, err := peers.New(peers.Params{
		Address:   ma.StringCast("/ip4/127.0.0.1/tcp/4003"),
		Transport: transport.New(transport.Options{}),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer book.Shutdown()
	l, err := book.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		if c, err := l.Accept(); err == nil {
			io.WriteString(c, "hello")
			c.Close()
		}
	}()

	first, err := book.Connect(context.Background(), l.Multiaddr())
	if err != nil {
		log.Fatal(err)
	}
	second, err := book.Connect(context.Background(), l.Multiaddr())
	if err != nil {
		log.Fatal(err)
	}
	text, err := io.ReadAll(second)
	fmt.Println(first == second, string(text), err)

	_, err = book.Connect(context.Background(), book.Address())
	fmt.Println(err)
	// Output:
	// true hello <nil>
	// peers: the address is this node's own: /ip4/127.0.0.1/tcp/4003
}
