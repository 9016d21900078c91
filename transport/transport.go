package transport

import (
	"context"
	"math/rand/v2"
	"net"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Transport carries bytes by multiaddr. *Multiaddr is one. Safe for concurrent use.
type Transport interface {
	// Dial connects to addr. It blocks until there is a connection, ctx ends or the transport's own limit is reached.
	// With reset, what was remembered of earlier failures at addr is forgotten first.
	Dial(ctx context.Context, addr ma.Multiaddr, reset bool) (Connection, error)
	// Listen binds addr and returns the listener, whose Close releases it.
	Listen(addr ma.Multiaddr) (manet.Listener, error)
}

// Connection is a connection that knows whether it is still of use. Safe for concurrent use as a net.Conn is.
type Connection interface {
	manet.Conn
	// Closed reports true after a local Close, and after a Read or Write that failed for good: io.EOF, a reset, a
	// timeout of the kernel's, anything but a deadline that was set on the connection. A copy that the kernel made
	// (splice) and that failed is held against both its connections, since it does not say which one it was. Closed
	// does not block and does not ask the network, so false means only that nobody has noticed an end yet.
	Closed() bool
}

// PeerNetwork reaches peers by their ID, for the /p2p addresses of a Multiaddr. Package stream implements it over a
// libp2p host (stream.NewPeerNetwork); this package links no libp2p host. Safe for concurrent use.
type PeerNetwork interface {
	// DialPeer connects to the peer info.ID, and must have made sure that it is that peer. info.Addrs is where it may
	// be, besides what the network knows itself; it may be empty. When ctx ends the result is of no more use: should
	// DialPeer return a connection after that, it is closed.
	DialPeer(ctx context.Context, info peer.AddrInfo) (net.Conn, error)
	// ListenPeer accepts connections from peers, wherever the network listens.
	ListenPeer() (net.Listener, error)
}

// Defaults of Options.
const (
	DefaultThreshold  = 5
	DefaultTimeout    = 30 * time.Second
	DefaultBackoff    = 500 * time.Millisecond
	DefaultMaxBackoff = time.Minute
	DefaultBreakers   = 1 << 16
)

// Options configure a Multiaddr. The zero value is useful.
type Options struct {
	// Threshold is how many failures in a row open the breaker of an address. 0 or less means DefaultThreshold.
	Threshold int64

	// Timeout is the longest that a dial may take, resolving its name included; the context of a call may end it
	// earlier. It also is the longest that Listen resolves a name. A trial of a half-open breaker whose result has not
	// come after twice this time is given up, so that the next one is let through. 0 or less means DefaultTimeout.
	Timeout time.Duration

	// Peers reaches /p2p addresses. nil: they are refused.
	Peers PeerNetwork

	// Backoff is how long a breaker stays open at first. Each failed trial doubles that, up to MaxBackoff, and each
	// time is spread at random by up to 25 %. 0 or less means DefaultBackoff and DefaultMaxBackoff. A MaxBackoff below
	// Backoff wins.
	Backoff, MaxBackoff time.Duration

	// Breakers is how many addresses are remembered, at least 4 (see Panel). A breaker takes about 250 bytes, so the
	// default is 16 MiB at most, for ten times the peers that address books usually hold. 0 or less means
	// DefaultBreakers.
	Breakers int

	// Resolver looks up names. nil means net.DefaultResolver.
	Resolver address.Resolver

	// Now and Random are the clock and the random source, a number in [0,1), of the breakers. They are called under a
	// breaker's lock: they must return at once and not use the Panel. nil means time.Now and rand.Float64.
	Now    func() time.Time
	Random func() float64
}

func (o Options) withDefaults() Options {
	if o.Threshold <= 0 {
		o.Threshold = DefaultThreshold
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Backoff <= 0 {
		o.Backoff = DefaultBackoff
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = DefaultMaxBackoff
	}
	if o.Breakers <= 0 {
		o.Breakers = DefaultBreakers
	}
	o.Breakers = max(o.Breakers, 4)
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	return o
}

// Multiaddr is the Transport of the addresses that the package comment lists. Safe for concurrent use. It has no
// goroutine of its own and nothing to close.
type Multiaddr struct {
	opts  Options // with the defaults filled in
	panel *Panel
	// dialIP connects to an IP and port, or a unix socket; net.Dialer but in tests. It returns when ctx ends.
	dialIP func(ctx context.Context, network, addr string) (net.Conn, error)
}

var _ Transport = (*Multiaddr)(nil)

// New returns a Multiaddr. It does no I/O.
func New(opts Options) *Multiaddr {
	opts = opts.withDefaults()
	return &Multiaddr{opts: opts, panel: newPanel(opts), dialIP: new(net.Dialer).DialContext}
}

// Panel returns the breakers of the addresses that were dialled.
func (t *Multiaddr) Panel() *Panel { return t.panel }
