package peers

import (
	"context"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"google.golang.org/grpc"
)

// Interface is a connection book. Safe for concurrent use. Every method but Address fails with ErrClosed after
// Shutdown; Job returns.
type Interface interface {
	// Shutdown closes every connection, listener and channel that the book handed out, with the calls on them, ends every
	// dial, and waits for all that the book has started; goroutines of gRPC's may be a moment behind. Calls of others
	// that wait for a dial return ErrClosed. It returns all errors of closing, joined. Further calls wait for the first
	// and return nil. Connections that a listener accepted belong to whoever accepted them and live on.
	Shutdown() error

	// RemoveConnection closes the connection of the address and the gRPC channel of the address, or of the peer that it
	// names, with the calls on it; a dial under way ends with ErrRemoved. That there is none is no error. It returns
	// ErrEmptyAddress, or what closing reported.
	RemoveConnection(maddr ma.Multiaddr) error

	// Connect returns the connection to the address: the one in the book if it lives, or else a new one. One dial per
	// address is under way at a time, whoever waits for it, and it ends when nobody waits any more. Connect blocks until
	// there is a connection, the dial fails or ctx ends.
	//
	// What it returns is shared: everyone who asks for the address has the same connection, reads and writes of all mix,
	// and Close closes it for all, after which the next Connect dials anew. That a connection was closed by the other
	// side is noticed when somebody reads or writes.
	//
	// Errors: ErrDialToSelf, ErrEmptyAddress, ErrRemoved, ctx's, or the transport's (transport.ErrBreakerOpen,
	// transport.ErrAddress and others), for errors.Is.
	Connect(ctx context.Context, maddr ma.Multiaddr) (manet.Conn, error)

	// Listen returns the listener on the address: the one in the book if it is open, or else a new one. Listeners on
	// port 0 are never shared. Close closes it for all who have it. It blocks as long as the transport's Listen does.
	// Errors: ErrEmptyAddress, or the transport's.
	Listen(maddr ma.Multiaddr) (manet.Listener, error)

	// Address returns Params.Address.
	Address() ma.Multiaddr

	// GRPCConnection returns the gRPC channel to the peer that the address ends in (/p2p/<id>), or else to the address.
	// A channel that is ready or idle is returned at once; an idle one connects with the next call on it. Otherwise
	// GRPCConnection connects, or waits while gRPC does, until the channel is ready, ctx ends or every address of the
	// peer is refused by its breaker. Failed dials in between are repeated by gRPC, at intervals from 1 s to 2 min.
	//
	// The channel is shared: its Close closes it for all. Do not keep it for long: ask for it before each piece of work,
	// which costs less than a microsecond, since the book closes channels that are idle.
	//
	// The addresses with which one peer was asked for are remembered, up to 8, and each attempt tries them from the
	// latest on.
	//
	// With reset the failures of the past are forgotten once: the next dial resets the breakers of its addresses, and if
	// gRPC is waiting before that dial, it stops waiting. It does nothing to a ready channel.
	//
	// Errors: ErrDialToSelf, ErrEmptyAddress, *CredentialsError, ErrRemoved, ErrNotGRPC, *MismatchError or other errors
	// of the handshake, transport.ErrAddress, transport.ErrBreakerOpen; at the end of ctx its error together with that
	// of the last attempt. The dial's own error is in the chain, for errors.Is.
	GRPCConnection(ctx context.Context, maddr ma.Multiaddr, reset bool) (*grpc.ClientConn, error)

	// Job keeps the book clean until ctx ends or Shutdown is called: every Params.Tick it removes connections and
	// channels that are closed, and closes channels that are idle for longer than Params.Idle and have no live call or
	// stream; every Params.MetricsTimeout it calls Params.Metrics. Run it in a goroutine, once. A book without it works,
	// but keeps an entry for every address it was ever asked for.
	Job(ctx context.Context)
}

// New returns an empty book. It starts nothing and does no I/O. All faults of p are returned, as *ParamError, joined.
func New(p Params) (Interface, error) {
	p, err := p.withDefaults()
	if err != nil {
		return nil, err
	}
	return newBook(p), nil
}
