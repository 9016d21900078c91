package tunnel

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limits bounds one service. The zero value of a field means its default.
type Limits struct {
	// MaxConnections is how many connections the service carries at once.
	// Default 4096, at most 1,000,000.
	MaxConnections int
	// ConnectionRate is how many new connections a second are taken, after a
	// burst of as many. Default: no limit.
	ConnectionRate float64
	// Bandwidth is bytes a second in each direction, for all connections
	// together, after a short burst. Default: no limit.
	Bandwidth int64
	// IdleTimeout cuts a connection on which nothing moved for that long.
	// Default: never.
	IdleTimeout time.Duration
	// ConnectTimeout bounds how long the target may take to accept. Default
	// 10 s.
	ConnectTimeout time.Duration
}

const (
	defaultMaxConnections = 4096
	defaultConnectTimeout = 10 * time.Second
	minBandwidthBurst     = bufMax
)

func (l Limits) validate() error {
	switch {
	case l.MaxConnections < 0 || l.MaxConnections > 1_000_000:
		return fmt.Errorf("%w: %d connections at once: give 1 to 1000000", ErrOption, l.MaxConnections)
	case l.ConnectionRate < 0:
		return fmt.Errorf("%w: a rate of %v connections a second", ErrOption, l.ConnectionRate)
	case l.Bandwidth < 0:
		return fmt.Errorf("%w: a bandwidth of %d bytes a second", ErrOption, l.Bandwidth)
	case l.IdleTimeout < 0 || l.ConnectTimeout < 0:
		return fmt.Errorf("%w: a timeout below zero", ErrOption)
	}
	return nil
}

// limiter enforces Limits. A nil limiter enforces nothing.
type limiter struct {
	Limits
	live    atomic.Int64
	rate    *rate.Limiter
	in, out *rate.Limiter
}

func newLimiter(l Limits) *limiter {
	if l.MaxConnections == 0 {
		l.MaxConnections = defaultMaxConnections
	}
	if l.ConnectTimeout == 0 {
		l.ConnectTimeout = defaultConnectTimeout
	}
	lim := &limiter{Limits: l}
	if l.ConnectionRate > 0 {
		lim.rate = rate.NewLimiter(rate.Limit(l.ConnectionRate), max(1, int(l.ConnectionRate)))
	}
	if l.Bandwidth > 0 {
		burst := max(1, min(int(l.Bandwidth), max(minBandwidthBurst, int(l.Bandwidth/10))))
		lim.in = rate.NewLimiter(rate.Limit(l.Bandwidth), burst)
		lim.out = rate.NewLimiter(rate.Limit(l.Bandwidth), burst)
	}
	return lim
}

// take counts a connection in, or says which limit is reached.
func (l *limiter) take(service string) *Error {
	if n := l.live.Add(1); n > int64(l.MaxConnections) {
		l.live.Add(-1)
		return &Error{Reason: ReasonLimit, Service: service, Detail: fmt.Sprintf("%q serves %d connections at once, which are in use; try again when one has ended, or raise its --max-connections where it is exposed", service, l.MaxConnections)}
	}
	if l.rate != nil && !l.rate.Allow() {
		l.live.Add(-1)
		return &Error{Reason: ReasonLimit, Service: service, Detail: fmt.Sprintf("%q takes %v new connections a second; try again", service, l.ConnectionRate)}
	}
	return nil
}

func (l *limiter) give() { l.live.Add(-1) }

func (l *limiter) idle() time.Duration {
	if l == nil {
		return 0
	}
	return l.IdleTimeout
}
