package host

import (
	"context"
	"fmt"
	"net"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	tptu "github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// defaultSecurity is preferred from left to right: TLS has AES-GCM, which
// processors have instructions for.
var defaultSecurity = []protocol.ID{libp2ptls.ID, noise.ID}

// securityOptions switches on the transports of these names, in this order of
// preference, each of them with an outbox under it.
func securityOptions(ids []protocol.ID) ([]libp2p.Option, error) {
	if len(ids) == 0 {
		ids = defaultSecurity
	}
	var opts []libp2p.Option
	for _, id := range ids {
		switch id {
		case libp2ptls.ID:
			opts = append(opts, libp2p.Security(libp2ptls.ID, newTLS))
		case noise.ID:
			opts = append(opts, libp2p.Security(noise.ID, newNoise))
		default:
			return nil, fmt.Errorf("host: there is no security transport %q; there are %q", id, defaultSecurity)
		}
	}
	return opts, nil
}

func newTLS(id protocol.ID, key crypto.PrivKey, muxers []tptu.StreamMuxer) (*security, error) {
	t, err := libp2ptls.New(id, key, muxers)
	if err != nil {
		return nil, err
	}
	return &security{t}, nil
}

func newNoise(id protocol.ID, key crypto.PrivKey, muxers []tptu.StreamMuxer) (*security, error) {
	t, err := noise.New(id, key, muxers)
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
