package host

import (
	"context"
	"fmt"
	"net"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// defaultSecurity is preferred from left to right: TLS has AES-GCM, which
// processors have instructions for.
var defaultSecurity = []protocol.ID{libp2ptls.ID, noise.ID}

// newSecurity makes the transport of this name, with an outbox under it.
func newSecurity(id protocol.ID, key crypto.PrivKey, muxers []upgrader.StreamMuxer) (*security, error) {
	var t sec.SecureTransport
	var err error
	switch id {
	case libp2ptls.ID:
		t, err = libp2ptls.New(id, key, muxers)
	case noise.ID:
		t, err = noise.New(id, key, muxers)
	default:
		err = fmt.Errorf("there is no security transport %q; there are %q", id, defaultSecurity)
	}
	if err != nil {
		return nil, err
	}
	return &security{t}, nil
}

// security is one of libp2p's security transports, over an outbox.
type security struct{ sec.SecureTransport }

// SecureInbound implements sec.SecureTransport.
func (t *security) SecureInbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	out := &outbox{Conn: insecure}
	c, err := t.SecureTransport.SecureInbound(ctx, out, p)
	if err != nil {
		return nil, err
	}
	return &securedConn{SecureConn: c, out: out}, nil
}

// SecureOutbound implements sec.SecureTransport.
func (t *security) SecureOutbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	out := &outbox{Conn: insecure}
	c, err := t.SecureTransport.SecureOutbound(ctx, out, p)
	if err != nil {
		return nil, err
	}
	return &securedConn{SecureConn: c, out: out}, nil
}
