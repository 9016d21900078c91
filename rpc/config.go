package rpc

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// ServerConfig says how a Server treats its callers. The zero value of a
// number or duration means its default; a negative one is a fault. Start from
// DefaultServerConfig, or from ServerConfig{} without compression.
type ServerConfig struct {
	// ReadTimeout bounds the time from the first byte of a request to its last.
	// Who takes longer is cut off. It also bounds how long a whole request waits
	// for its turn (see Limits). Default 30 s.
	ReadTimeout time.Duration
	// WriteTimeout bounds each write of an answer: how long a peer may stop
	// reading before it is cut off. Default 30 s.
	WriteTimeout time.Duration
	// ConnectTimeout is how long a new stream may wait with the first byte of
	// its first request. Default 10 s.
	ConnectTimeout time.Duration
	// IdleTimeout is how long a stream may wait between two calls. Default 10
	// min, above the clients' IdleConnTimeout, so that it is they who close. The
	// caller is told (goaway), and no call is lost by it.
	IdleTimeout time.Duration
	// MaxIdleTime is how long a stream may go without a byte in either
	// direction while a call is open on it. The call's context then ends and the
	// stream is reset. It bounds streaming calls that both sides forgot, and
	// handlers that hang. Default 30 min.
	MaxIdleTime time.Duration
	// CleanupInterval is how often what is remembered of peers without streams
	// (their rates) is forgotten. Default 5 min.
	CleanupInterval time.Duration
	// DrainTimeout is how long Stop waits for calls before it resets them.
	// Default 5 s.
	DrainTimeout time.Duration

	// MaxBlockSize bounds one body, of a request and of an answer, in bytes,
	// compressed or not. A body of exactly MaxBlockSize passes; a larger one is
	// refused before it is read. Default 32 MiB, at most 1 GiB.
	MaxBlockSize int
	// MaxConcurrentConns bounds the streams that are served at one time.
	// Further ones are answered with CodeResourceExhausted. Default 1000.
	MaxConcurrentConns int
	// MaxConnsPerPeer bounds how many of them one peer may have, so that nobody takes
	// all. Default: an eighth of MaxConcurrentConns, but 64 at least, which is what a
	// Client opens.
	MaxConnsPerPeer int
	// MaxRequestsPerConn ends a stream after so many calls, in good order, so
	// that clients spread over time. Default 0: no limit.
	MaxRequestsPerConn int
	// MaxMemoryUsage bounds the bytes that all requests together hold at one
	// time, from arrival to the handler's return. A request above it is refused
	// with CodeResourceExhausted. So is one of a peer that holds more than
	// MaxBlockSize and would then hold more than is left for all others: one peer
	// alone holds at most half, two a third each, and so on. Default 1 GiB, at
	// least MaxBlockSize; a few times that, for peers not to be in each other's way.
	MaxMemoryUsage uint64
	// BufferPoolSize is how many bytes are read from a stream at a time. Such a
	// buffer is held while there is something to read, not while waiting.
	// Default 4 KiB, at least 64 bytes, at most 1 MiB.
	BufferPoolSize int

	// EnableCompression lets answers be compressed with zstd for callers that
	// read it, and makes callers do so with requests.
	EnableCompression bool
	// CompressMinSize is from how many bytes on a body is compressed. Default
	// 4 KiB.
	CompressMinSize int

	// Authorize is asked before the body of a request is read or decoded, with
	// who calls and which method. An error refuses the call with
	// CodePermissionDenied, or with its own code if it is an *Error. It must
	// not block. nil: all may call. See Allow for access rules.
	Authorize func(c Caller) error
	// MethodLimits apply to each method by itself, unless WithLimits gives it
	// others. A call takes its place when its request has come whole, and gives
	// it back when its handler returns. Default: 1000 calls at a time, no rate.
	MethodLimits Limits
	// PeerLimits apply to each peer over all methods. Default: 256 calls at a
	// time, no rate.
	PeerLimits Limits

	// Name and Version are what the info service tells. Default "kith", "".
	Name, Version string
	// Logger gets panics (Error), the text of redacted errors (Warn) and what
	// peers do wrong (Debug). nil: nothing is logged.
	Logger *slog.Logger
}

// DefaultServerConfig returns the defaults, with compression on.
func DefaultServerConfig() *ServerConfig {
	c := (&ServerConfig{EnableCompression: true}).withDefaults()
	return &c
}

// Validate reports all faults together, or nil.
func (c *ServerConfig) Validate() error {
	var f faults
	f.duration("ReadTimeout", c.ReadTimeout)
	f.duration("WriteTimeout", c.WriteTimeout)
	f.duration("ConnectTimeout", c.ConnectTimeout)
	f.duration("IdleTimeout", c.IdleTimeout)
	f.duration("MaxIdleTime", c.MaxIdleTime)
	f.duration("CleanupInterval", c.CleanupInterval)
	f.duration("DrainTimeout", c.DrainTimeout)
	f.number("MaxBlockSize", c.MaxBlockSize, 1, maxBlockSize)
	f.number("MaxConcurrentConns", c.MaxConcurrentConns, 1, 0)
	f.number("MaxConnsPerPeer", c.MaxConnsPerPeer, 1, 0)
	f.number("MaxRequestsPerConn", c.MaxRequestsPerConn, 1, 0)
	f.number("BufferPoolSize", c.BufferPoolSize, spillSize, 1<<20)
	f.number("CompressMinSize", c.CompressMinSize, 1, 0)
	if block := or(max(c.MaxBlockSize, 0), defaultBlockSize); c.MaxMemoryUsage != 0 && c.MaxMemoryUsage < uint64(block) {
		f.add("MaxMemoryUsage is %d: must be at least MaxBlockSize, %d, or no request of that size can be served", c.MaxMemoryUsage, block)
	}
	f.limits("MethodLimits", c.MethodLimits)
	f.limits("PeerLimits", c.PeerLimits)
	return f.join("ServerConfig")
}

const (
	defaultBlockSize = 32 << 20
	maxBlockSize     = 1 << 30
)

func (c *ServerConfig) withDefaults() ServerConfig {
	d := *c
	d.ReadTimeout = or(d.ReadTimeout, 30*time.Second)
	d.WriteTimeout = or(d.WriteTimeout, 30*time.Second)
	d.ConnectTimeout = or(d.ConnectTimeout, 10*time.Second)
	d.IdleTimeout = or(d.IdleTimeout, 10*time.Minute)
	d.MaxIdleTime = or(d.MaxIdleTime, 30*time.Minute)
	d.CleanupInterval = or(d.CleanupInterval, 5*time.Minute)
	d.DrainTimeout = or(d.DrainTimeout, 5*time.Second)
	d.MaxBlockSize = or(d.MaxBlockSize, defaultBlockSize)
	d.MaxConcurrentConns = or(d.MaxConcurrentConns, 1000)
	d.MaxConnsPerPeer = or(d.MaxConnsPerPeer, max(d.MaxConcurrentConns/8, 64))
	d.MaxMemoryUsage = or(d.MaxMemoryUsage, max(1<<30, uint64(d.MaxBlockSize)))
	d.BufferPoolSize = or(d.BufferPoolSize, 4<<10)
	d.CompressMinSize = or(d.CompressMinSize, 4<<10)
	d.MethodLimits = d.MethodLimits.withDefaults(1000)
	d.PeerLimits = d.PeerLimits.withDefaults(256)
	d.Name = or(d.Name, "kith")
	d.Logger = or(d.Logger, slog.New(slog.DiscardHandler))
	return d
}

// ClientConfig says how a Client calls. The zero value of a number or duration
// means its default; a negative one is a fault, but for MaxRetries.
type ClientConfig struct {
	// ReadTimeout is how long a call whose context has no deadline waits for
	// its answer; the deadline travels to the server. A context with a deadline
	// overrules it in both directions. In streaming calls it does not apply.
	// Default 30 s.
	ReadTimeout time.Duration
	// WriteTimeout bounds each write of a request: how long a server may stop
	// reading before the call fails. Default 30 s.
	WriteTimeout time.Duration
	// ConnectTimeout bounds the opening of a stream, and of the connection
	// below if there is none. Default 5 s.
	ConnectTimeout time.Duration
	// MaxRetries is how often a call is made again, if that is safe: the peer
	// has certainly not processed it, or the call is declared idempotent. A peer
	// that cannot be reached at all is an error at once. Default 3, negative:
	// never.
	MaxRetries int
	// RetryInterval is how long the first retry waits, give or take a quarter;
	// it doubles with each. What the server asks for comes on top. Default 1 s.
	RetryInterval time.Duration
	// RetryBudget bounds retries over all calls, as the share of calls that may
	// be retries, so that a server in trouble is not met by a multiple of the
	// load. At most 1; default 0.1. Ten retries are free at the start.
	RetryBudget float64

	// MaxBlockSize bounds one body, of a request and of an answer. Default 32
	// MiB, at most 1 GiB.
	MaxBlockSize int
	// MaxConnsPerPeer bounds the streams that are open to one peer at one time,
	// and so the calls under way; further ones wait. At most three quarters of
	// them are for streaming calls. Default 60: below the 64 that stock libp2p
	// resource limits let in.
	MaxConnsPerPeer int
	// MaxIdleConns bounds the streams that are kept for reuse, over all peers.
	// Default 100.
	MaxIdleConns int
	// IdleConnTimeout is how long a stream is kept without a call. Default 5 min.
	IdleConnTimeout time.Duration

	// EnableCompression lets requests be compressed with zstd for servers that
	// read it, and asks servers to do so with answers.
	EnableCompression bool
	// CompressMinSize is from how many bytes on a body is compressed. Default
	// 4 KiB.
	CompressMinSize int
}

// DefaultClientConfig returns the defaults, with compression on.
func DefaultClientConfig() *ClientConfig {
	c := (&ClientConfig{EnableCompression: true}).withDefaults()
	return &c
}

// Validate reports all faults together, or nil.
func (c *ClientConfig) Validate() error {
	var f faults
	f.duration("ReadTimeout", c.ReadTimeout)
	f.duration("WriteTimeout", c.WriteTimeout)
	f.duration("ConnectTimeout", c.ConnectTimeout)
	f.duration("RetryInterval", c.RetryInterval)
	f.duration("IdleConnTimeout", c.IdleConnTimeout)
	f.number("MaxBlockSize", c.MaxBlockSize, 1, maxBlockSize)
	f.number("MaxConnsPerPeer", c.MaxConnsPerPeer, 1, 0)
	f.number("MaxIdleConns", c.MaxIdleConns, 1, 0)
	f.number("CompressMinSize", c.CompressMinSize, 1, 0)
	if !(c.RetryBudget >= 0 && c.RetryBudget <= 1) {
		f.add("RetryBudget is %v: must be between 0 and 1", c.RetryBudget)
	}
	return f.join("ClientConfig")
}

func (c *ClientConfig) withDefaults() ClientConfig {
	d := *c
	d.ReadTimeout = or(d.ReadTimeout, 30*time.Second)
	d.WriteTimeout = or(d.WriteTimeout, 30*time.Second)
	d.ConnectTimeout = or(d.ConnectTimeout, 5*time.Second)
	d.MaxRetries = max(or(d.MaxRetries, 3), -1)
	d.RetryInterval = or(d.RetryInterval, time.Second)
	d.RetryBudget = or(d.RetryBudget, 0.1)
	d.MaxBlockSize = or(d.MaxBlockSize, defaultBlockSize)
	d.MaxConnsPerPeer = or(d.MaxConnsPerPeer, 60)
	d.MaxIdleConns = or(d.MaxIdleConns, 100)
	d.IdleConnTimeout = or(d.IdleConnTimeout, 5*time.Minute)
	d.CompressMinSize = or(d.CompressMinSize, 4<<10)
	return d
}

// or is v, or fallback if v is zero.
func or[T comparable](v, fallback T) T {
	if v == *new(T) {
		return fallback
	}
	return v
}

// faults collects what is wrong with a configuration.
type faults []error

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

func (f *faults) duration(name string, d time.Duration) {
	if d < 0 {
		f.add("%s is %s: must not be negative; 0 means the default", name, d)
	}
}

// number checks a number that is not 0; most 0 means no bound.
func (f *faults) number(name string, n, least, most int) {
	if n != 0 && (n < least || most > 0 && n > most) {
		if most > 0 {
			f.add("%s is %d: must be between %d and %d; 0 means the default", name, n, least, most)
		} else {
			f.add("%s is %d: must be at least %d; 0 means the default", name, n, least)
		}
	}
}

func (f *faults) limits(name string, l Limits) {
	f.number(name+".Concurrent", l.Concurrent, 1, 0)
	f.number(name+".Queue", l.Queue, -1, 0)
	f.number(name+".Burst", l.Burst, 1, 0)
	f.duration(name+".QueueTime", l.QueueTime)
	if !(l.Rate >= 0) {
		f.add("%s.Rate is %v: must not be negative; 0 means no limit", name, l.Rate)
	}
}

func (f faults) join(what string) error {
	if len(f) == 0 {
		return nil
	}
	return fmt.Errorf("rpc: invalid %s: %w", what, errors.Join(f...))
}
