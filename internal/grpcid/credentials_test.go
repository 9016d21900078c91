package grpcid

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcpeer "google.golang.org/grpc/peer"
)

func newID(t *testing.T) peer.ID {
	t.Helper()
	_, pub, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// proven is a connection that says who is at the other end.
type proven struct {
	net.Conn
	id peer.ID
}

func (p proven) RemotePeer() peer.ID { return p.id }

// wrapper is one that hides it, but says what it wraps.
type wrapper struct{ net.Conn }

func (w wrapper) NetConn() net.Conn { return w.Conn }

// loop says that it wraps itself.
type loop struct{ net.Conn }

func (l loop) NetConn() net.Conn { return l }

func TestRemotePeer(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	id := newID(t)
	for _, tc := range []struct {
		name string
		conn net.Conn
		want peer.ID
	}{
		{"nil", nil, ""},
		{"anonymous", near, ""},
		{"empty answer", proven{near, ""}, ""},
		{"proven", proven{near, id}, id},
		{"wrapped", wrapper{wrapper{proven{near, id}}}, id},
		{"empty answer around a proven one", proven{wrapper{proven{near, id}}, ""}, ""},
		{"under TLS", tls.Client(proven{near, id}, &tls.Config{}), id},
		{"wraps nil", wrapper{}, ""},
		{"wraps itself", loop{near}, ""},
		{"hidden", struct{ net.Conn }{proven{near, id}}, ""},
	} {
		got, ok := RemotePeer(tc.conn)
		if got != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: %q, %v", tc.name, got, ok)
		}
	}
}

func TestClientPinsThePeer(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	a, b := newID(t), newID(t)
	overridden := New("")
	if err := override(overridden, a.String()); err != nil {
		t.Fatal(err)
	}
	if err := override(overridden, "example.com"); !errors.Is(err, ErrNoTarget) {
		t.Errorf("a name that is no peer ID: %v", err)
	}
	mismatch := &MismatchError{Want: a, Got: b}
	for _, tc := range []struct {
		name      string
		creds     credentials.TransportCredentials
		authority string
		conn      net.Conn
		want      error
	}{
		{"pinned", New(a), "anything", proven{near, a}, nil},
		{"pinned, another answers", New(a), a.String(), proven{near, b}, mismatch},
		{"pinned beats the authority", New(a), b.String(), proven{near, b}, mismatch},
		{"by authority", New(""), a.String(), proven{near, a}, nil},
		{"by authority, another answers", New(""), a.String(), proven{near, b}, mismatch},
		{"authority is a hostname", New(""), "example.com:443", proven{near, a}, ErrNoTarget},
		{"no authority", New(""), "", proven{near, a}, ErrNoTarget},
		{"nobody proven", New(a), a.String(), near, ErrNoPeer},
		{"clone", New(a).Clone(), "", proven{near, a}, nil},
		{"clone, another answers", New(a).Clone(), "", proven{near, b}, mismatch},
		{"overridden", overridden, "", proven{near, a}, nil},
		{"overridden, another answers", overridden, b.String(), proven{near, b}, mismatch},
	} {
		conn, info, err := tc.creds.ClientHandshake(t.Context(), tc.authority, tc.conn)
		switch {
		case tc.want == nil:
			if err != nil || conn != tc.conn {
				t.Errorf("%s: %v, %v", tc.name, conn, err)
			} else {
				checkInfo(t, info, a)
			}
		case conn != nil || info != nil:
			t.Errorf("%s: something returned beside the error %v", tc.name, err)
		case tc.want == mismatch:
			got, ok := errors.AsType[*MismatchError](err)
			if !ok || *got != *mismatch {
				t.Errorf("%s: %v", tc.name, err)
			}
		case !errors.Is(err, tc.want):
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func checkInfo(t *testing.T, info credentials.AuthInfo, want peer.ID) {
	t.Helper()
	got, ok := info.(AuthInfo)
	if !ok || got.Peer != want || got.AuthType() != Protocol {
		t.Fatalf("AuthInfo %#v", info)
	}
	if err := credentials.CheckSecurityLevel(info, credentials.PrivacyAndIntegrity); err != nil {
		t.Error(err)
	}
	if got.SecurityLevel != credentials.PrivacyAndIntegrity {
		t.Error(got.SecurityLevel)
	}
}

func TestServerReportsTheCaller(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	a, b := newID(t), newID(t)
	for _, c := range []credentials.TransportCredentials{New(""), New(b)} {
		conn, info, err := c.ServerHandshake(proven{near, a})
		if err != nil || conn == nil {
			t.Fatal(err)
		}
		checkInfo(t, info, a)
		if conn, info, err := c.ServerHandshake(near); conn != nil || info != nil || !errors.Is(err, ErrNoPeer) {
			t.Errorf("an anonymous caller: %v", err)
		}
		if got := c.Info().SecurityProtocol; got != Protocol {
			t.Error(got)
		}
	}
}

func TestFromContext(t *testing.T) {
	id := newID(t)
	with := func(info credentials.AuthInfo) context.Context {
		return grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{AuthInfo: info})
	}
	for name, ctx := range map[string]context.Context{
		"no gRPC":           t.Context(),
		"no AuthInfo":       with(nil),
		"another AuthInfo":  with(credentials.TLSInfo{}),
		"an empty AuthInfo": with(AuthInfo{}),
	} {
		if got, ok := FromContext(ctx); ok || got != "" {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
	if got, ok := FromContext(with(authInfo(id))); !ok || got != id {
		t.Errorf("%q, %v", got, ok)
	}
}

// provenListener accepts connections of one peer.
type provenListener struct {
	net.Listener
	id peer.ID
}

func (l provenListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return proven{c, l.id}, nil
}

// The credentials at work between a real client and a real server: the handler
// reads the caller, the client reads the callee, per-RPC credentials that want
// security are sent, and a client of another peer never gets a call through.
func TestRealGRPC(t *testing.T) {
	client, server := newID(t), newID(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	callers := make(chan peer.ID, 1)
	s := grpc.NewServer(grpc.Creds(New("")), grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		id, _ := FromContext(ctx)
		callers <- id
		return h(ctx, req)
	}))
	healthpb.RegisterHealthServer(s, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- s.Serve(provenListener{ln, client}) }()
	defer func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", ln.Addr().String())
		if err != nil {
			return nil, err
		}
		return proven{c, server}, nil
	}
	call := func(target peer.ID) (*grpcpeer.Peer, error) {
		cc, err := grpc.NewClient("passthrough:///"+target.String(), grpc.WithContextDialer(dial),
			grpc.WithTransportCredentials(New("")), grpc.WithPerRPCCredentials(token{}))
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		var p grpcpeer.Peer
		_, err = healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.Peer(&p))
		return &p, err
	}
	p, err := call(server)
	if err != nil {
		t.Fatal(err)
	}
	checkInfo(t, p.AuthInfo, server)
	if got := <-callers; got != client {
		t.Errorf("the handler saw %s", got)
	}
	if _, err := call(client); err == nil {
		t.Error("a call to the wrong peer went through")
	}
	select {
	case id := <-callers:
		t.Errorf("a handler ran for %s", id)
	default:
	}
}

type token struct{}

func (token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "x"}, nil
}
func (token) RequireTransportSecurity() bool { return true }

// override calls what gRPC no longer does but still wants of credentials.
func override(c any, name string) error {
	return c.(interface{ OverrideServerName(string) error }).OverrideServerName(name)
}
