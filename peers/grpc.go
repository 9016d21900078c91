package peers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"

	"github.com/kith-p2p/kith/internal/grpcid"
	"github.com/kith-p2p/kith/transport"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

func (b *book) GRPCConnection(ctx context.Context, maddr ma.Multiaddr, reset bool) (*grpc.ClientConn, error) {
	if err := b.usable(maddr); err != nil {
		return nil, err
	}
	if b.self.is(maddr) {
		return nil, fmt.Errorf("%w: %s", ErrDialToSelf, maddr)
	}
	for {
		c, err := b.channel(maddr)
		if err != nil {
			return nil, err
		}
		if c == nil {
			continue // it was retired just now
		}
		cc, err := b.use(ctx, c, maddr, reset)
		if err != nil || cc != nil {
			return cc, err
		}
	}
}

// channel finds or makes the channel of an address, and takes a lease on it. It returns nil for one that has just been
// retired.
func (b *book) channel(maddr ma.Multiaddr) (*channel, error) {
	key := channelKeyOf(maddr)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	c := b.channels[key]
	if c == nil {
		c = &channel{b: b, key: key}
		b.channels[key] = c
	}
	if !c.lease() {
		b.dropLocked(c)
		return nil, nil
	}
	return c, nil
}

// drop takes a channel out of the book.
func (b *book) drop(c *channel) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropLocked(c)
}

func (b *book) dropLocked(c *channel) {
	if b.channels[c.key] == c {
		delete(b.channels, c.key)
	}
}

// use waits until a leased channel may be handed out, and ends the lease. Both results are nil if somebody has closed
// the channel, and another must be made.
func (b *book) use(ctx context.Context, c *channel, maddr ma.Multiaddr, reset bool) (*grpc.ClientConn, error) {
	defer c.release()
	c.learn(maddr)
	cc, err := c.client(b.newClient)
	switch {
	case errors.Is(err, ErrRemoved):
		return nil, c.whyShut()
	case err != nil:
		b.drop(c)
		return nil, err
	case cc.GetState() == connectivity.Shutdown:
		b.drop(c)
		return nil, nil
	}
	err = c.wait(ctx, cc, reset)
	switch {
	case err == nil:
		return cc, nil
	case errors.Is(err, ErrClosed), errors.Is(err, ErrRemoved):
		return nil, err
	}
	return nil, fmt.Errorf("peers: gRPC to %s: %w", maddr, err)
}

// sharedOptions are those of all channels.
func (b *book) sharedOptions() []grpc.DialOption {
	return append(b.DialOptions[:len(b.DialOptions):len(b.DialOptions)],
		grpc.WithIdleTimeout(b.Idle),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: b.KeepAlive, Timeout: b.PingTTL, PermitWithoutStream: true}),
	)
}

// newClient makes the gRPC channel of c.
func (b *book) newClient(c *channel) (*grpc.ClientConn, error) {
	maddr := c.address()
	name, creds, err := b.secure(maddr)
	if err != nil {
		return nil, err
	}
	cc, err := grpc.NewClient("passthrough:///"+url.PathEscape(name), append(b.grpcOpts[:len(b.grpcOpts):len(b.grpcOpts)],
		grpc.WithContextDialer(c.dial),
		grpc.WithTransportCredentials(&handshake{creds, c}),
		grpc.WithChainUnaryInterceptor(c.unary),
		grpc.WithChainStreamInterceptor(c.stream),
	)...)
	if err != nil {
		return nil, fmt.Errorf("peers: gRPC to %s: %w", maddr, err)
	}
	return cc, nil
}

// secure returns what an address is called, which TLS compares with the certificate, and how gRPC to it is secured.
func (b *book) secure(maddr ma.Multiaddr) (name string, creds credentials.TransportCredentials, err error) {
	if id := peerOf(maddr); id != "" {
		return id.String(), grpcid.New(id), nil
	}
	if maddr[0].Code() == ma.P_UNIX {
		return "localhost", local.NewCredentials(), nil
	}
	if name, err = transport.HostPort(maddr); err != nil {
		return "", nil, err
	}
	switch {
	case b.Credentials != nil:
		return name, b.Credentials, nil
	case b.Insecure:
		return name, insecure.NewCredentials(), nil
	}
	return "", nil, &CredentialsError{maddr}
}

// unary counts a call as live while it runs.
func (c *channel) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if !c.lease() {
		return errRetired
	}
	defer c.release()
	return call(ctx, method, req, reply, cc, opts...)
}

// stream counts a stream as live until gRPC says that it is finished.
func (c *channel) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if !c.lease() {
		return nil, errRetired
	}
	release := sync.OnceFunc(c.release) // gRPC may report the end of a stream that failed to open, or leave it to us
	s, err := open(ctx, desc, cc, method, append(opts[:len(opts):len(opts)], grpc.OnFinish(func(error) { release() }))...)
	if err != nil {
		release()
	}
	return s, err
}

// errRetired is what a call gets on a channel that the book has closed, as it would from gRPC a moment later.
var errRetired = status.Error(codes.Canceled, "peers: the channel was closed after it had been idle; ask the book for another")

// Credentials returns gRPC transport credentials that know the peer instead of a certificate: for servers whose
// listener and clients whose dialer are over libp2p streams. They read the peer ID that the connection has proven (its
// RemotePeer method) and put it into the AuthInfo, where PeerFromContext finds it, with security level
// PrivacyAndIntegrity. A client accepts only the peer that its target names ("passthrough:///" and the ID), a server
// every peer; a connection that proves none is refused. GRPCConnection uses them by itself for addresses with
// /p2p/<id>.
func Credentials() credentials.TransportCredentials { return grpcid.New("") }

// AuthInfo is the gRPC AuthInfo of a connection with these credentials.
type AuthInfo = grpcid.AuthInfo

// PeerFromContext returns, in a handler or server interceptor, the peer that called, as proven by the handshake of the
// connection below. It returns false for a call over anything else than the credentials of this package.
func PeerFromContext(ctx context.Context) (peer.ID, bool) { return grpcid.FromContext(ctx) }

// ServerOptions are for the gRPC server that books connect to: it takes pings as often as any KeepAlive allows, and
// twice as often, with and without a call. A server without them answers a ping more often than once in 5 minutes by
// closing the connection (ENHANCE_YOUR_CALM, "too_many_pings").
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime: MinKeepAlive / 2, PermitWithoutStream: true,
	})}
}
