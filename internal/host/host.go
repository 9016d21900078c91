// Package host builds every libp2p host that kith uses, in tests too, so that
// the answers to "who decides" live in one place: which transports are on,
// which addresses must bind, how large the resource limits are, and in which
// order addresses are dialled.
//
// A caller owns the returned host and closes it. Nothing public is joined: no
// bootstrap nodes, no DHT, no relays, no NAT mapping.
package host

import (
	"errors"
	"fmt"
	"time"

	coreconnmgr "github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
)

// Config says what kind of host New builds. The zero value of every field but
// Key means the default.
type Config struct {
	// Key is the node's Ed25519 key. Required.
	Key crypto.PrivKey

	// Listen lists the addresses to listen on. Every one of them must bind,
	// or New fails and names the one that did not. Empty: the host only dials.
	Listen []ma.Multiaddr

	// Gater is asked before each connection, in both directions. nil: all may
	// connect.
	Gater coreconnmgr.ConnectionGater

	// Resolver looks up /dns*, /dnsaddr components while dialling. nil: the
	// system's resolver.
	Resolver network.MultiaddrDNSResolver

	// LowWater and HighWater bound the number of connections: above HighWater
	// unprotected ones are closed until LowWater are left. Defaults 192, 256.
	LowWater, HighWater int

	// UserAgent is what identify tells other peers. Default "kith".
	UserAgent string

	// Security names the security transports, the preferred one first: TLS
	// (/tls/1.0.0) and Noise (/noise). Empty: TLS, then Noise.
	Security []protocol.ID

	// QUIC is appended to the options of the QUIC sockets. It is how a test
	// asks for a simulated network.
	QUIC []quicreuse.Option
}

// connGrace is how long a new connection is safe from trimming: long enough
// for a handshake over a slow relay and the first stream on it.
const connGrace = 30 * time.Second

// New builds and starts a host. It blocks while sockets are bound, not on the
// network. On error everything that was started is stopped again.
func New(cfg Config) (corehost.Host, error) {
	if cfg.Key == nil {
		return nil, errors.New("host: no key given")
	}
	if cfg.LowWater == 0 {
		cfg.LowWater = 192
	}
	if cfg.HighWater == 0 {
		cfg.HighWater = 256
	}
	if cfg.LowWater < 0 || cfg.HighWater < cfg.LowWater {
		return nil, fmt.Errorf("host: connection water marks %d/%d: low must be between 0 and high", cfg.LowWater, cfg.HighWater)
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "kith"
	}
	if len(cfg.Security) == 0 {
		cfg.Security = defaultSecurity
	}
	cm, err := connmgr.NewConnManager(cfg.LowWater, cfg.HighWater, connmgr.WithGracePeriod(connGrace))
	if err != nil {
		return nil, fmt.Errorf("host: connection manager: %w", err)
	}
	rm, err := newResourceManager()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("host: resource limits: %w", err), cm.Close())
	}
	h, err := assemble(cfg, cm, rm)
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	// libp2p's own start would be content when any one address binds.
	for _, a := range cfg.Listen {
		if err := h.Network().Listen(a); err != nil {
			return nil, errors.Join(&ListenError{Addr: a, Err: err}, h.Close())
		}
	}
	return h, nil
}

// ListenError says which address could not be bound, and why.
type ListenError struct {
	Addr ma.Multiaddr
	Err  error
}

func (e *ListenError) Error() string { return fmt.Sprintf("cannot listen on %s: %v", e.Addr, e.Err) }

// Unwrap returns the cause, so that errors.Is(err, syscall.EADDRINUSE) works.
func (e *ListenError) Unwrap() error { return e.Err }
