package libp2p

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/p2p"
)

// Options is how a Transport and its connections behave. The zero value has the
// defaults named below.
type Options struct {
	// Lookup tells the libp2p ID of whoever is at an endpoint that does not name it;
	// the address book knows. It may be called by several goroutines and must not
	// block. Nil, or false: such an endpoint is ErrPeerIDRequired.
	Lookup func(p2p.Endpoint) (peer.ID, bool)
	// HandshakeTimeout bounds a whole handshake, whatever its context says, and how
	// long a stream may take to say to which session it belongs. Default 20 s.
	HandshakeTimeout time.Duration
	// PingInterval is how often a session asks whether the other side is still there.
	// Default 60 s. It must be above PongTimeout.
	PingInterval time.Duration
	// PongTimeout is how long the answer may take. Default 45 s.
	PongTimeout time.Duration
	// Backlog is how many connections may wait for Accept; more are refused.
	// Default 128.
	Backlog int
	// SessionsPerPeer is how many sessions one peer may have at once, those before
	// their handshake included. More than one live for a moment only. Default 32.
	SessionsPerPeer int
	// Logger is told what peers did wrong, at debug level. Nil: discard.
	Logger *slog.Logger
}

// The defaults of Options.
const (
	DefaultHandshakeTimeout = 20 * time.Second
	DefaultPingInterval     = 60 * time.Second
	DefaultPongTimeout      = 45 * time.Second
	DefaultBacklog          = 128
	DefaultSessionsPerPeer  = 32
)

// Validate reports every fault of the options, joined.
func (o Options) Validate() error {
	var faults []error
	for _, d := range []struct {
		name string
		n    int64
	}{
		{"HandshakeTimeout", int64(o.HandshakeTimeout)}, {"PingInterval", int64(o.PingInterval)}, {"PongTimeout", int64(o.PongTimeout)},
		{"Backlog", int64(o.Backlog)}, {"SessionsPerPeer", int64(o.SessionsPerPeer)},
	} {
		if d.n < 0 {
			faults = append(faults, fmt.Errorf("libp2p: %s is negative", d.name))
		}
	}
	if d := o.withDefaults(); d.PongTimeout >= d.PingInterval {
		faults = append(faults, fmt.Errorf("libp2p: PongTimeout %v is not below PingInterval %v", d.PongTimeout, d.PingInterval))
	}
	return errors.Join(faults...)
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		d      *time.Duration
		normal time.Duration
	}{{&o.HandshakeTimeout, DefaultHandshakeTimeout}, {&o.PingInterval, DefaultPingInterval}, {&o.PongTimeout, DefaultPongTimeout}} {
		if *d.d == 0 {
			*d.d = d.normal
		}
	}
	if o.Backlog == 0 {
		o.Backlog = DefaultBacklog
	}
	if o.SessionsPerPeer == 0 {
		o.SessionsPerPeer = DefaultSessionsPerPeer
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
