package mconn

import (
	"errors"
	"fmt"
	"time"
)

// Options is how a Transport and its connections behave. The zero value dials
// only, and has the defaults named below.
type Options struct {
	// Listen is where the transport listens, "host:port". Port 0 takes any free
	// one, an empty host all interfaces. "": it only dials.
	Listen string
	// HandshakeTimeout bounds a whole handshake, whatever its context says.
	// Default 20 s. CometBFT gives a peer 3 s for the keys and 3 s more for
	// the node info.
	HandshakeTimeout time.Duration
	// PingInterval is how often a ping is sent. Default 60 s. It must be above
	// PongTimeout.
	PingInterval time.Duration
	// PongTimeout is how long a pong may take. Default 45 s.
	PongTimeout time.Duration
	// SendRate and RecvRate limit a connection, in bytes of the wire a second, with
	// bursts of a tenth of a second. 0: no limit. A connection limits what
	// it receives by not reading the socket, so that the kernel slows the peer
	// down; what was read is handed out, and pings in it are answered, before it
	// waits, and Close ends the wait. While that lasts, a late pong is forgiven,
	// since it may be queued behind.
	SendRate, RecvRate int64
	// CometOnly speaks to other kith nodes as to CometBFT: no larger frames, no
	// extensions of the node info, no goodbye.
	CometOnly bool
	// LongQueues leaves the kernel's queue of unsent bytes as long as it likes
	// and always fills whole batches. That gains nothing but the means to
	// measure what the short queues are worth: over a slow link an urgent
	// message then waits behind seconds of others.
	LongQueues bool
}

// The defaults of Options.
const (
	DefaultHandshakeTimeout = 20 * time.Second
	DefaultPingInterval     = 60 * time.Second
	DefaultPongTimeout      = 45 * time.Second
)

// Validate reports every fault of the options, joined.
func (o Options) Validate() error {
	var faults []error
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"HandshakeTimeout", o.HandshakeTimeout}, {"PingInterval", o.PingInterval}, {"PongTimeout", o.PongTimeout}} {
		if d.d < 0 {
			faults = append(faults, fmt.Errorf("mconn: %s is negative", d.name))
		}
	}
	if o.SendRate < 0 || o.RecvRate < 0 {
		faults = append(faults, errors.New("mconn: a rate is negative"))
	}
	if d := o.withDefaults(); d.PongTimeout >= d.PingInterval {
		faults = append(faults, fmt.Errorf("mconn: PongTimeout %v is not below PingInterval %v", d.PongTimeout, d.PingInterval))
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
	return o
}
