package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"time"

	"github.com/kith-p2p/kith/rpc/peergrpc"
	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// grpcStreamEchoers use gRPC over a libp2p stream, with rpc's credentials.
func grpcStreamEchoers(ctx context.Context, s *scope, near, far host.Host) (func() (echoer, error), error) {
	const id protocol.ID = "/kith-bench/grpc"
	ln, err := stream.Listen(far, id)
	if err != nil {
		return nil, err
	}
	serveGRPC(s, ln, peergrpc.ServerOption())
	cc, err := peergrpc.Dial(near, far.ID(), id)
	if err != nil {
		return nil, err
	}
	s.add(cc.Close)
	return grpcEchoers(ctx, cc), nil
}

// grpcTLSEchoers use gRPC as everybody does.
func grpcTLSEchoers(ctx context.Context, s *scope) (func() (echoer, error), error) {
	cert, pool, err := selfSigned()
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	serveGRPC(s, ln, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	cc, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(pool, "bench.test")))
	if err != nil {
		return nil, err
	}
	s.add(cc.Close)
	return grpcEchoers(ctx, cc), nil
}

func serveGRPC(s *scope, ln net.Listener, opts ...grpc.ServerOption) {
	srv := grpc.NewServer(opts...)
	srv.RegisterService(&echoService, nil)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	s.add(func() error {
		srv.Stop()
		return <-served
	})
}

func grpcEchoers(ctx context.Context, cc *grpc.ClientConn) func() (echoer, error) {
	return func() (echoer, error) {
		req := wrapperspb.Bytes(make([]byte, requestSize))
		return func() error {
			resp := new(wrapperspb.BytesValue)
			err := cc.Invoke(ctx, "/bench.Echo/Echo", req, resp)
			if err == nil && len(resp.Value) != requestSize {
				err = errShort
			}
			return err
		}, nil
	}
}

// echoService is what a generated one would be.
var echoService = grpc.ServiceDesc{
	ServiceName: "bench.Echo", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, ctx context.Context, decode func(any) error, mw grpc.UnaryServerInterceptor) (any, error) {
		req := new(wrapperspb.BytesValue)
		if err := decode(req); err != nil {
			return nil, err
		}
		if mw == nil {
			return req, nil
		}
		return mw(ctx, req, &grpc.UnaryServerInfo{FullMethod: "/bench.Echo/Echo"}, func(_ context.Context, r any) (any, error) { return r, nil })
	}}},
}

// selfSigned is a certificate for bench.test and a pool that trusts it.
func selfSigned() (cert tls.Certificate, pool *x509.CertPool, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"bench.test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return cert, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return cert, nil, err
	}
	pool = x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool, nil
}
