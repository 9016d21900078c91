package peers

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith/internal/host"
	"github.com/kith-p2p/kith/stream"
	"github.com/kith-p2p/kith/transport"
	"github.com/libp2p/go-libp2p/core/crypto"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// certificate makes a self-signed certificate for 127.0.0.1, and what trusts it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

func newHost(t *testing.T, listen ...string) corehost.Host {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
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

const (
	bytesProtocol = "/kith/bytes/1.0.0"
	grpcProtocol  = "/kith/grpc/1.0.0"
)

// overHost is what a node with a libp2p host gives its book.
func overHost(h corehost.Host) func(*Params) {
	return func(p *Params) {
		p.Address = ma.StringCast("/p2p/" + h.ID().String())
		p.Transport = transport.New(transport.Options{Peers: stream.NewPeerNetwork(h, bytesProtocol)})
		p.GRPCTransport = transport.New(transport.Options{Peers: stream.NewPeerNetwork(h, grpcProtocol)})
		p.Insecure = false
	}
}

// realServer serves health and bytes on l until the test ends. callers gets who called, as far as proven.
func realServer(t *testing.T, l net.Listener, callers chan<- peer.ID, opts ...grpc.ServerOption) *health.Server {
	t.Helper()
	note := func(ctx context.Context) {
		id, _ := PeerFromContext(ctx)
		select {
		case callers <- id:
		default:
		}
	}
	s := grpc.NewServer(append(append(ServerOptions(), opts...),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			note(ctx)
			return h(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			note(ss.Context())
			return h(srv, ss)
		}))...)
	state := health.NewServer()
	healthpb.RegisterHealthServer(s, state)
	registerBytes(s)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return state
}

// place is a server that runs, and a book that can reach it.
type realPlace struct {
	client  *book
	addr    ma.Multiaddr
	state   *health.Server
	callers chan peer.ID
	caller  peer.ID // who the server must see, "" for nobody in particular
}

var realPlaces = map[string]func(t *testing.T) realPlace{
	"TCP with TLS": func(t *testing.T) realPlace {
		cert, roots := certificate(t)
		server := newTestBook(t, transport.New(transport.Options{}))
		l, err := server.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
		if err != nil {
			t.Fatal(err)
		}
		callers := make(chan peer.ID, 1)
		state := realServer(t, manet.NetListener(l), callers, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
		client := newTestBook(t, transport.New(transport.Options{}), func(p *Params) {
			p.Insecure, p.Credentials = false, credentials.NewClientTLSFromCert(roots, "")
		})
		return realPlace{client, l.Multiaddr(), state, callers, ""}
	},
	"unix socket": func(t *testing.T) realPlace {
		server := newTestBook(t, transport.New(transport.Options{}))
		l, err := server.Listen(ma.StringCast("/unix" + t.TempDir() + "/s"))
		if err != nil {
			t.Fatal(err)
		}
		callers := make(chan peer.ID, 1)
		state := realServer(t, manet.NetListener(l), callers)
		client := newTestBook(t, transport.New(transport.Options{}), func(p *Params) { p.Insecure = false })
		return realPlace{client, l.Multiaddr(), state, callers, ""}
	},
	"p2p": func(t *testing.T) realPlace {
		a, b := newHost(t), newHost(t, "/ip4/127.0.0.1/tcp/0")
		server := newTestBook(t, nil, overHost(b))
		l, err := server.GRPCTransport.Listen(server.Address())
		if err != nil {
			t.Fatal(err)
		}
		callers := make(chan peer.ID, 1)
		state := realServer(t, manet.NetListener(l), callers, grpc.Creds(Credentials()))
		client := newTestBook(t, nil, overHost(a))
		return realPlace{client, b.Addrs()[0].Encapsulate(server.Address()), state, callers, a.ID()}
	},
}

// Real gRPC, as far as a book's user sees it: calls, server streams, streams of bytes both ways, many at once.
func TestRealServices(t *testing.T) {
	for name, make := range realPlaces {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			p := make(t)
			ctx := within(t, time.Minute)
			cc, err := p.client.GRPCConnection(ctx, p.addr, false)
			if err != nil {
				t.Fatal(err)
			}
			var remote grpcpeer.Peer
			if err := check(ctx, cc, grpc.Peer(&remote)); err != nil {
				t.Fatal(err)
			}
			if got := <-p.callers; got != p.caller {
				t.Errorf("the handler saw %q call, want %q", got, p.caller)
			}
			if err := credentials.CheckSecurityLevel(remote.AuthInfo, credentials.PrivacyAndIntegrity); err != nil {
				t.Error(err)
			}
			if info, ok := remote.AuthInfo.(AuthInfo); ok != (p.caller != "") || ok && info.Peer != peerOf(p.addr) {
				t.Errorf("the client sees %+v", remote.AuthInfo)
			}

			watching, stopWatching := context.WithCancel(ctx)
			defer stopWatching()
			watch, err := healthpb.NewHealthClient(cc).Watch(watching, &healthpb.HealthCheckRequest{Service: "x"})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVICE_UNKNOWN,
				healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
				if want != healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
					p.state.SetServingStatus("x", want)
				}
				if got, err := watch.Recv(); err != nil || got.Status != want {
					t.Fatalf("%v, %v, want %v", got, err, want)
				}
			}

			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() { streamBytes(ctx, t, p) })
			}
			wg.Wait()
			if channels, _ := p.client.rows(); channels != 1 {
				t.Errorf("%d channels", channels)
			}
			if got, err := p.client.GRPCConnection(ctx, p.addr, true); err != nil || got != cc {
				t.Errorf("another channel: %v", err)
			}
			if err := p.client.Shutdown(); err != nil {
				t.Error(err)
			}
			if _, err := watch.Recv(); status.Code(err) != codes.Canceled {
				t.Errorf("a stream after Shutdown: %v", err)
			}
		})
	}
}

// streamBytes sends 256 KiB through the bytes service and compares what comes back.
func streamBytes(ctx context.Context, t *testing.T, p realPlace) {
	cc, err := p.client.GRPCConnection(ctx, p.addr, false)
	if err != nil {
		t.Error(err)
		return
	}
	s, err := echo(ctx, cc)
	if err != nil {
		t.Error(err)
		return
	}
	data := make([]byte, 256<<10)
	rand.Read(data)
	go func() {
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 10_000)
			chunk := rest[:n]
			if s.SendMsg(&chunk) != nil {
				return
			}
			rest = rest[n:]
		}
		s.CloseSend()
	}()
	var got bytes.Buffer
	for {
		var chunk []byte
		if err := s.RecvMsg(&chunk); err == io.EOF {
			break
		} else if err != nil {
			t.Error(err)
			return
		}
		got.Write(chunk)
	}
	if sha256.Sum256(got.Bytes()) != sha256.Sum256(data) {
		t.Errorf("%d bytes came back of %d, or others", got.Len(), len(data))
	}
}

// One host carries raw bytes and gRPC to one peer beside each other, each on its protocol.
func TestBytesAndGRPCBesideEachOther(t *testing.T) {
	noLeaks(t)
	a, b := newHost(t), newHost(t, "/ip4/127.0.0.1/tcp/0")
	server, client := newTestBook(t, nil, overHost(b)), newTestBook(t, nil, overHost(a))
	raw, err := server.Listen(server.Address())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := raw.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	l, err := server.GRPCTransport.Listen(server.Address())
	if err != nil {
		t.Fatal(err)
	}
	realServer(t, manet.NetListener(l), make(chan peer.ID, 1), grpc.Creds(Credentials()))
	addr := b.Addrs()[0].Encapsulate(server.Address())
	c, err := client.Connect(within(t, time.Minute), addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(within(t, time.Minute), mustChannel(t, client, addr)); err != nil {
		t.Error(err)
	}
	if _, err := c.Write([]byte("raw")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "raw" {
		t.Errorf("%q, %v", got, err)
	}
	// The address is known by now: the peer alone will do, and it is the same channel.
	if cc := mustChannel(t, client, server.Address()); cc != mustChannel(t, client, addr) {
		t.Error("two channels to one peer")
	}
	if _, err := client.Connect(within(t, time.Minute), client.Address()); !errors.Is(err, ErrDialToSelf) {
		t.Error(err)
	}
}

// Security that does not fit is an error that says so, in bounded time and without a deadline of the caller.
func TestMismatchedSecurity(t *testing.T) {
	noLeaks(t)
	cert, roots := certificate(t)
	book := newTestBook(t, transport.New(transport.Options{}))
	listen := func(opts ...grpc.ServerOption) ma.Multiaddr {
		l, err := book.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
		if err != nil {
			t.Fatal(err)
		}
		realServer(t, manet.NetListener(l), nil, opts...)
		return l.Multiaddr()
	}
	secure, plain := listen(grpc.Creds(credentials.NewServerTLSFromCert(&cert))), listen()
	dial := func(addr ma.Multiaddr, creds credentials.TransportCredentials) error {
		b := newTestBook(t, transport.New(transport.Options{}), func(p *Params) { p.Insecure, p.Credentials = false, creds })
		defer b.Shutdown()
		_, err := b.GRPCConnection(context.Background(), addr, false)
		return err
	}
	if err := dial(secure, credentials.NewClientTLSFromCert(roots, "")); err != nil {
		t.Error(err)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](dial(secure, credentials.NewClientTLSFromCert(x509.NewCertPool(), ""))); !ok {
		t.Error("an unknown authority is not told")
	}
	if _, ok := errors.AsType[x509.HostnameError](dial(secure, credentials.NewClientTLSFromCert(roots, "example.com"))); !ok {
		t.Error("a wrong name is not told")
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](dial(plain, credentials.NewClientTLSFromCert(roots, ""))); !ok {
		t.Error("a server without TLS is not told")
	}
	if err := dial(secure, insecure.NewCredentials()); !errors.Is(err, ErrNotGRPC) {
		t.Errorf("a server with TLS is not told: %v", err)
	}
	if err := dial(plain, Credentials()); err == nil {
		t.Error("peer credentials took a connection that proves no peer")
	}
}
