package peers

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/kith-p2p/kith/transport"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Defaults of Params.
const (
	DefaultTick           = 30 * time.Second
	DefaultIdle           = 5 * time.Minute
	DefaultKeepAlive      = 30 * time.Second
	DefaultPingTTL        = 10 * time.Second
	DefaultMetricsTimeout = 5 * time.Second

	// MinKeepAlive is the shortest KeepAlive: gRPC silently raises a shorter one to this.
	MinKeepAlive = 10 * time.Second
)

// Params configure a book. Address and Transport are required; the zero value of every other field means its default.
type Params struct {
	// Address is the node's own address. It is not listened on (Listen does that); it is what Address returns and what
	// the book refuses to dial. With a /p2p/<id> at its end every address of that peer is refused, which is the surest.
	Address ma.Multiaddr

	// Transport dials and listens. Its breakers and timeouts apply to every dial of the book, which adds none. A Dial
	// must return when its context ends: Shutdown waits for it.
	Transport transport.Transport

	// GRPCTransport is what GRPCConnection dials through. nil means Transport.
	//
	// It is there for nodes that use both raw bytes and gRPC over /p2p: a libp2p stream belongs to one protocol, a
	// PeerNetwork speaks one, and so gRPC needs a transport of its own:
	//
	//	Transport:     transport.New(transport.Options{Peers: stream.NewPeerNetwork(h, "/kith/bytes/1.0.0")}),
	//	GRPCTransport: transport.New(transport.Options{Peers: stream.NewPeerNetwork(h, "/kith/grpc/1.0.0")}),
	//
	// A server listens for the second with GRPCTransport.Listen or with package stream. Addresses without a peer are
	// dialled through it too, so that one panel of breakers shows everything that gRPC does.
	GRPCTransport transport.Transport

	// Logger is told, at debug level, of connections and channels that are dialled, fail and are cleaned up. nil: nobody.
	Logger *slog.Logger

	// Tick is how often Job looks for dead and idle connections. Default DefaultTick.
	Tick time.Duration

	// Idle is how long a gRPC channel may be without a call before it is closed, counted from the end of its last call
	// or stream, or from the last look-up if that is later. gRPC frees its socket after Idle, Job removes the channel at
	// the next Tick after that. Default DefaultIdle.
	Idle time.Duration

	// KeepAlive is how often a gRPC connection is pinged on which nothing is heard, with or without a call on it, so
	// that a peer that vanished is noticed. The server must allow it: one with ServerOptions does, a gRPC server left
	// at its own defaults tolerates a ping in 5 minutes and closes connections that send more. At least MinKeepAlive.
	// Default DefaultKeepAlive.
	KeepAlive time.Duration

	// PingTTL is how long the answer to such a ping may take until the connection is given up and its calls fail.
	// Default DefaultPingTTL.
	PingTTL time.Duration

	// MetricsTimeout is how often Job calls Metrics. Default DefaultMetricsTimeout.
	MetricsTimeout time.Duration

	// Metrics is called by Job with the number of gRPC channels by state, every MetricsTimeout, in Job's goroutine and
	// with no lock held: while it runs, nothing is cleaned up. nil: nobody is told.
	Metrics func(States)

	// Credentials secure gRPC to addresses that name no peer, other than unix sockets; most often TLS. The name they
	// check is the host of the address. Addresses with /p2p/<id> do not use them (see the package comment).
	Credentials credentials.TransportCredentials

	// Insecure allows plain text to those addresses instead. Not together with Credentials.
	Insecure bool

	// DialOptions are given to each gRPC channel before the book's own, which win: message sizes, interceptors, per-RPC
	// credentials, a service config. An interceptor that retries is seen by the book as several calls.
	DialOptions []grpc.DialOption
}

// withDefaults fills in the zero values, and returns all faults, as *ParamError, joined.
func (p Params) withDefaults() (Params, error) {
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, &ParamError{field, fmt.Sprintf(format, args...)})
	}
	if len(p.Address) == 0 {
		fault("Address", "is missing: the node's own address, so that it does not dial itself (/p2p/<id> will do)")
	}
	if p.Transport == nil {
		fault("Transport", "is missing: transport.New makes one")
	}
	if p.GRPCTransport == nil {
		p.GRPCTransport = p.Transport
	}
	if p.Logger == nil {
		p.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		usual time.Duration
	}{
		{"Tick", &p.Tick, DefaultTick},
		{"Idle", &p.Idle, DefaultIdle},
		{"KeepAlive", &p.KeepAlive, DefaultKeepAlive},
		{"PingTTL", &p.PingTTL, DefaultPingTTL},
		{"MetricsTimeout", &p.MetricsTimeout, DefaultMetricsTimeout},
	} {
		switch {
		case *d.value == 0:
			*d.value = d.usual
		case *d.value < 0:
			fault(d.name, "is %v: must be above 0, or 0 for %v", *d.value, d.usual)
		}
	}
	if p.KeepAlive > 0 && p.KeepAlive < MinKeepAlive {
		fault("KeepAlive", "is %v: gRPC pings at most every %v", p.KeepAlive, MinKeepAlive)
	}
	if p.Insecure && p.Credentials != nil {
		fault("Insecure", "is set together with Credentials: choose one")
	}
	for i, o := range p.DialOptions {
		if o == nil {
			fault("DialOptions", "has nil at index %d", i)
		}
	}
	return p, errors.Join(faults...)
}
