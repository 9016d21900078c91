// Command greeter runs gRPC between peers: an ordinary gRPC service and client,
// over connections that say who is at the other end, without a certificate.
//
//	go run ./examples/greeter serve                  prints its ADDRESS
//	go run ./examples/greeter hello ADDRESS Ann
//
// With -local before the first word a node keeps to 127.0.0.1: for both on one
// machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/rpc/peergrpc"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What protoc-gen-go-grpc would make of
//
//	service Greeter { rpc Hello(StringValue) returns (StringValue); }
const hello = "/kith.example.Greeter/Hello"

var greeter = grpc.ServiceDesc{
	ServiceName: "kith.example.Greeter", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Hello", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		name := new(wrapperspb.StringValue)
		if err := decode(name); err != nil {
			return nil, err
		}
		who, _ := peergrpc.Peer(ctx) // proven by the connection
		return wrapperspb.String(fmt.Sprintf("Hello %s, whose peer ID ends in %s!", name.GetValue(), who.String()[46:])), nil
	}}},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "greeter:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("greeter", flag.ContinueOnError)
	home := flags.String("home", "", "directory of the node's key (default: a temporary one)")
	local := flags.Bool("local", false, "listen on 127.0.0.1 only")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *home == "" {
		dir, err := os.MkdirTemp("", "kith-greeter-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		*home = filepath.Join(dir, "home")
	}
	n, err := kith.New(kith.Config{Home: *home, Network: "kith-greeter", LocalOnly: *local})
	if err != nil {
		return err
	}
	defer n.Close()
	switch args = flags.Args(); {
	case len(args) == 1 && args[0] == "serve":
		return serve(ctx, n, out)
	case len(args) == 3 && args[0] == "hello":
		return greet(ctx, n, args[1], args[2], out)
	}
	return errors.New("say serve, or hello ADDRESS NAME")
}

// serve greets everybody until ctx ends.
func serve(ctx context.Context, n *kith.Node, out io.Writer) error {
	l, err := n.Listen("greeter", "*")
	if err != nil {
		return err
	}
	s := grpc.NewServer(peergrpc.ServerOption())
	s.RegisterService(&greeter, nil)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	fmt.Fprintf(out, "serving; try:\n  go run ./examples/greeter hello %s Ann\n", n.Addrs()[0])
	err = n.Run(ctx)
	s.Stop()
	if <-served; err != nil {
		return err
	}
	return nil
}

// greet makes one call.
func greet(ctx context.Context, n *kith.Node, at, name string, out io.Writer) error {
	server, err := n.Connect(ctx, at)
	if err != nil {
		return err
	}
	c, err := grpc.NewClient("passthrough:///"+server.ID.String(), grpc.WithTransportCredentials(peergrpc.Credentials()),
		grpc.WithContextDialer(func(ctx context.Context, id string) (net.Conn, error) { return n.Dial(ctx, id, "greeter") }))
	if err != nil {
		return err
	}
	defer c.Close()
	answer := new(wrapperspb.StringValue)
	if err := c.Invoke(ctx, hello, wrapperspb.String(name), answer); err != nil {
		return err
	}
	fmt.Fprintln(out, answer.GetValue())
	return nil
}
