// Package grpcid gives gRPC the identity that a kith connection has already
// proven: transport credentials without a handshake of their own.
//
// A connection over a libp2p stream is encrypted and authenticated before the
// first byte of HTTP/2, by the handshake of the connection under it. Another
// TLS on top would prove the same again. So these credentials only ask the
// connection who is at the other end (its RemotePeer method), compare the
// answer with the peer that the client meant to call, and put it where handlers
// and interceptors find it: in the AuthInfo of the gRPC peer.
//
//	grpc.NewServer(grpc.Creds(grpcid.New("")))         // serves whoever proves a peer ID
//	grpc.NewClient("passthrough:///"+id.String(),      // calls that peer and no other
//	    grpc.WithTransportCredentials(grpcid.New("")), grpc.WithContextDialer(dial))
//	id, ok := grpcid.FromContext(ctx)                  // in a handler: who calls
//
// A connection that proves no peer ID, such as plain TCP or a unix socket, is
// refused on both sides: there is no anonymous mode to fall back to. Whoever
// implements RemotePeer vouches that the peer is authenticated and that the
// bytes are encrypted; package stream and its wrappers do.
//
// Packages peers and rpc share it. Everything in it is stateless and safe for
// concurrent use.
package grpcid

import (
	"context"
	"fmt"
	"net"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
)

// Protocol is the AuthType of AuthInfo and the security protocol that the
// credentials announce.
const Protocol = "kith-peer"

// AuthInfo is what a gRPC peer has proven. gRPC hands it out as the AuthInfo of
// peer.FromContext on a server and of the grpc.Peer call option on a client.
type AuthInfo struct {
	credentials.CommonAuthInfo // SecurityLevel is PrivacyAndIntegrity

	// Peer is who is at the other end, never empty.
	Peer peer.ID
}

// AuthType returns Protocol.
func (AuthInfo) AuthType() string { return Protocol }

// creds implements credentials.TransportCredentials.
type creds struct {
	want peer.ID // the only peer that a client accepts; "": the one that the authority names
}

// New returns transport credentials, for both sides.
//
// A client accepts only the peer want. If want is empty, the authority of the
// channel must be a peer ID, which it is with the target "passthrough:///" and
// the ID, and that peer alone is accepted; any other authority is refused, so a
// client never talks to a peer that nobody named. A server accepts every proven
// peer and reports it, whatever want is.
//
// Handshakes return ErrNoPeer, ErrNoTarget or a *MismatchError. They do not
// block and write nothing.
func New(want peer.ID) credentials.TransportCredentials { return &creds{want: want} }

// ClientHandshake checks that conn leads to the peer that is meant.
func (c *creds) ClientHandshake(_ context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	want := c.want
	if want == "" {
		var err error
		if want, err = peer.Decode(authority); err != nil {
			return nil, nil, fmt.Errorf("%w, not %q", ErrNoTarget, authority)
		}
	}
	got, ok := RemotePeer(conn)
	if !ok {
		return nil, nil, ErrNoPeer
	}
	if got != want {
		return nil, nil, &MismatchError{Want: want, Got: got}
	}
	return conn, authInfo(got), nil
}

// ServerHandshake reports who called.
func (c *creds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	got, ok := RemotePeer(conn)
	if !ok {
		return nil, nil, ErrNoPeer
	}
	return conn, authInfo(got), nil
}

func authInfo(id peer.ID) AuthInfo {
	return AuthInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, id}
}

// Info names the protocol.
func (c *creds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: Protocol}
}

// Clone returns an independent copy.
func (c *creds) Clone() credentials.TransportCredentials { return &creds{want: c.want} }

// OverrideServerName makes name, a peer ID, the only peer that a client
// accepts. gRPC itself does not call it.
func (c *creds) OverrideServerName(name string) error {
	id, err := peer.Decode(name)
	if err != nil {
		return fmt.Errorf("%w, not %q", ErrNoTarget, name)
	}
	c.want = id
	return nil
}

// maxWrappers bounds how many wrappers RemotePeer looks through, so that one
// that returns itself costs nothing.
const maxWrappers = 16

// RemotePeer says who is at the other end of conn: what its RemotePeer method
// answers, or that of the connection it wraps (its NetConn method, which
// tls.Conn has too). It returns false if there is none or the answer is empty.
func RemotePeer(conn net.Conn) (peer.ID, bool) {
	for range maxWrappers {
		if c, ok := conn.(interface{ RemotePeer() peer.ID }); ok {
			if id := c.RemotePeer(); id != "" {
				return id, true
			}
		}
		c, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = c.NetConn()
	}
	return "", false
}

// FromContext returns the authenticated peer of a call: in a handler or a
// server interceptor the caller. It returns false if the call came over a
// connection with other credentials.
func FromContext(ctx context.Context) (peer.ID, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return "", false
	}
	info, ok := p.AuthInfo.(AuthInfo)
	return info.Peer, ok && info.Peer != ""
}
