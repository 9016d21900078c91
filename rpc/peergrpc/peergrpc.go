// Package peergrpc runs gRPC between peers over streams: the server listens on
// a protocol ID, the client dials a peer ID, and the credentials tell each who
// the other is. Streams are encrypted and authenticated, so there is no TLS of
// its own.
//
//	srv := grpc.NewServer(peergrpc.ServerOption())
//	pb.RegisterGreeterServer(srv, greeter{})
//	ln, err := stream.Listen(h, "/my/grpc/1.0.0")
//	go srv.Serve(ln)                                    // until srv.Stop
//
//	cc, err := peergrpc.Dial(h, peerID, "/my/grpc/1.0.0")
//	client := pb.NewGreeterClient(cc)                   // until cc.Close
//
// It is apart from package rpc because of what gRPC links: its tracing keeps the
// linker from leaving out methods that nobody calls, which made a program that
// never speaks gRPC, such as kith, a sixth larger.
package peergrpc

import (
	"context"
	"fmt"
	"net"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/kith-p2p/kith/internal/grpcid"
	"github.com/kith-p2p/kith/rpc"
	"github.com/kith-p2p/kith/stream"
)

// Credentials returns gRPC transport credentials for connections of package
// stream, for both sides. They put the peer ID, which the connection has
// proven, where Peer finds it. A client accepts only the peer that is named
// by its target, a server every peer; a connection that proves no peer ID is
// refused.
func Credentials() credentials.TransportCredentials { return grpcid.New("") }

// ServerOption makes a grpc.Server take peers over streams: its
// credentials are Credentials.
func ServerOption() grpc.ServerOption { return grpc.Creds(Credentials()) }

// AuthInfo is the AuthInfo of a gRPC peer with Credentials.
type AuthInfo = grpcid.AuthInfo

// Peer returns, in a gRPC handler or interceptor, who calls. It returns
// false if the call came over other credentials.
func Peer(ctx context.Context) (peer.ID, bool) { return grpcid.FromContext(ctx) }

// Authorize makes a hook as of rpc.ServerConfig.Authorize, such as rpc.Allow
// returns, an option of a grpc.Server: it is asked before each call, with the
// full name of the gRPC method. Who is refused gets PERMISSION_DENIED.
func Authorize(authorize func(rpc.Caller) error) []grpc.ServerOption {
	check := func(ctx context.Context, method string) error {
		id, ok := grpcid.FromContext(ctx)
		if !ok {
			return grpcDenied("the connection proves no peer ID")
		}
		if authorize(rpc.Caller{Peer: id, Method: method}) != nil {
			return grpcDenied("you may not use " + method)
		}
		return nil
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := check(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := check(ss.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(srv, ss)
		}),
	}
}

// Dial makes a gRPC channel to the service tag of a peer. Like
// grpc.NewClient it connects with the first call and again when it must; calls
// to another peer than this one are impossible. opts come after ours. Close it
// before the host.
func Dial(h host.Host, p peer.ID, tag protocol.ID, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("peergrpc: no peer ID given: %w", err)
	}
	cc, err := grpc.NewClient("passthrough:///"+p.String(), append([]grpc.DialOption{
		grpc.WithTransportCredentials(grpcid.New(p)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return stream.Dial(ctx, h, p, tag) }),
	}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("peergrpc: peer %s: %w", p, err)
	}
	return cc, nil
}

func grpcDenied(why string) error { return status.Error(grpccodes.PermissionDenied, "peergrpc: "+why) }
