package stream

// DialOption changes one call of Dial. WithLazy, WithConfirm, WithAllowLimited
// and WithHostPortAddr make them.
type DialOption interface{ applyDial(*dialConfig) }

// ListenOption changes one call of Listen. WithBacklog and WithHostPortAddr
// make them.
type ListenOption interface{ applyListen(*listenConfig) }

// Option is for both Dial and Listen.
type Option interface {
	DialOption
	ListenOption
}

type dialConfig struct {
	lazy, confirm, limited, hostPort bool
}

type listenConfig struct {
	backlog  int
	hostPort bool
}

type dialOption func(*dialConfig)

func (o dialOption) applyDial(c *dialConfig) { o(c) }

type listenOption func(*listenConfig)

func (o listenOption) applyListen(c *listenConfig) { o(c) }

type hostPortAddr struct{}

func (hostPortAddr) applyDial(c *dialConfig)     { c.hostPort = true }
func (hostPortAddr) applyListen(c *listenConfig) { c.hostPort = true }

// WithLazy makes Dial send nothing: the hello leaves with the first Write,
// CloseWrite or Read. That saves a packet, but Accept does not see the dialler
// before then, and a peer that knows of the stream already (every transport but
// QUIC) gives up on it after its negotiation timeout, 10 s in go-libp2p.
func WithLazy() DialOption { return dialOption(func(c *dialConfig) { c.lazy = true }) }

// WithConfirm makes Dial wait, for at most the context or 10 s, until the peer
// has agreed to serve the protocol, and return ErrNoSuchService if it refuses.
// That costs one round trip. It overrides WithLazy.
func WithConfirm() DialOption { return dialOption(func(c *dialConfig) { c.confirm = true }) }

// WithAllowLimited accepts a connection over a relay that limits it, usually to
// two minutes and 128 KiB, after which it is cut.
func WithAllowLimited() DialOption { return dialOption(func(c *dialConfig) { c.limited = true }) }

// WithBacklog sets how many connections may wait for Accept, at least 1,
// default 128. Further ones are reset with code
// network.StreamResourceLimitExceeded.
func WithBacklog(n int) ListenOption { return listenOption(func(c *listenConfig) { c.backlog = n }) }

// WithHostPortAddr makes LocalAddr, RemoteAddr and Listener.Addr print as
// "<peer ID>:0", for software that insists on splitting host and port. The
// port means nothing.
func WithHostPortAddr() Option { return hostPortAddr{} }
