package connmgr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

const (
	defaultTarget   = 8
	defaultRetry    = 5 * time.Second
	defaultMaxRetry = 5 * time.Minute
	noTimeout       = math.MaxInt64 // of a dial that ends when it likes
)

// Config is what a ConnManager is made of. The first nine fields are btcd's
// and mean what they mean there; the rest is kith's own. The zero value of
// every field but Dial means its default. New copies it.
type Config struct {
	// Listeners are accepted from while OnAccept is set. The manager owns them:
	// Stop closes them, whether it was started or not.
	Listeners []net.Listener
	// OnAccept is given each inbound connection, on a goroutine of that
	// connection. It has to be closed by whoever uses it: until then it takes
	// its place. Nil: nothing is accepted.
	OnAccept func(net.Conn)
	// TargetOutbound is how many automatic connections to keep. Those made by
	// Connect come on top. Default 8.
	TargetOutbound uint32
	// RetryDuration is the pause before a permanent request is dialled again:
	// n times this after n failures in a row, where a connection that lived
	// shorter than this counts as a failure. Default 5 s.
	RetryDuration time.Duration
	// OnConnection announces an outbound connection, OnDisconnection its end.
	// For one connection they run one after another on one goroutine; one that
	// blocks delays only its own connection, and Wait. Nothing is announced
	// about connections that end because of Stop.
	OnConnection    func(*ConnReq, net.Conn)
	OnDisconnection func(*ConnReq)
	// GetNewAddress names the next address for an automatic connection. It may
	// block and fail; several calls may run at a time. A failure counts as a
	// failed dial. Nil: no automatic connections.
	GetNewAddress func() (net.Addr, error)
	// Dial connects to an address. It cannot be cancelled: Remove forgets a dial
	// at once and closes what comes of it later, and Wait waits for it. One of
	// Dial and DialContext is required (ErrDialNil).
	Dial func(net.Addr) (net.Conn, error)
	// MaxInbound caps the inbound connections. Nil: Limits decides. 0: none.
	MaxInbound *uint32

	// DialContext is used instead of Dial if set. The context ends after
	// DialTimeout, when the request is removed, and on Stop.
	DialContext func(context.Context, net.Addr) (net.Conn, error)
	// DialTimeout bounds DialContext; Dial has its own way. Default 30 s.
	DialTimeout time.Duration
	// MaxDials is how many dials run at a time. Default 64. Automatic dials and
	// feelers take three quarters of them at most: the rest is for requests that
	// somebody made.
	MaxDials int
	// MaxRetryDuration caps the pause before a permanent request is dialled
	// again. Default 5 min.
	MaxRetryDuration time.Duration
	// Limits are the engine's gate. The zero value limits nothing, as in btcd.
	// Under Limits.Outbound.Total there are fewer automatic connections than
	// TargetOutbound if the listed requests need the places; one that comes when
	// all are taken waits for the next that is free.
	Limits Limits
	// Anchors are dialled once after the start, before anything else: peers of
	// the last run that are known to be good.
	Anchors []net.Addr
	// FeelerInterval is the average time between two feelers: single
	// connections that only test an address, announced like any other
	// (ConnReq.Kind is KindFeeler) and closed when OnConnection returns. The
	// times are spread by half of it either way. 0: no feelers.
	FeelerInterval time.Duration
	// GetFeelerAddress names the address to test. Nil: GetNewAddress.
	GetFeelerAddress func() (net.Addr, error)
	// Logger gets what the engine has to say. Nil: nothing is logged.
	Logger *slog.Logger
}

// policy makes the request table of a manager.
func (cfg *Config) policy() *requests {
	positive := func(d, otherwise time.Duration) time.Duration {
		if d <= 0 {
			return otherwise
		}
		return d
	}
	feelers := cfg.GetFeelerAddress
	if feelers == nil {
		feelers = cfg.GetNewAddress
	}
	t := tableConfig{
		retry:    positive(cfg.RetryDuration, defaultRetry),
		maxRetry: positive(cfg.MaxRetryDuration, defaultMaxRetry),
		anchors:  cfg.Anchors,
		places:   int64(max(0, cfg.Limits.Outbound.Total)),
		random:   rand.Float64,
	}
	if cfg.GetNewAddress != nil {
		t.target = int64(or(cfg.TargetOutbound, defaultTarget))
	}
	if feelers != nil {
		t.feelers = max(0, cfg.FeelerInterval)
	}
	dial := cfg.DialContext
	if dial == nil {
		dial = func(_ context.Context, addr net.Addr) (net.Conn, error) { return cfg.Dial(addr) }
	}
	dials := or(cfg.MaxDials, defaultMaxDials)
	return &requests{
		unasked: max(1, dials-max(1, dials/4)),
		now:     time.Now, dial: dial, table: newTable(t),
		source: map[Kind]func() (net.Addr, error){KindAutomatic: cfg.GetNewAddress, KindFeeler: feelers},
	}
}

// engine makes the configuration of the engine, with a new request table.
func (cfg *Config) engine() (EngineConfig[target, net.Conn], error) {
	r := cfg.policy()
	c := EngineConfig[target, net.Conn]{
		Policy: r, Dial: r.reach, Admit: r.admit, RemoteIP: remoteIP,
		TargetIP: func(t target) netip.Addr { return ipOf(t.addr) },
		Limits:   cfg.Limits, MaxDials: cfg.MaxDials, DialTimeout: cfg.DialTimeout, Logger: cfg.Logger,
	}
	var faults []error
	if cfg.DialContext == nil {
		c.DialTimeout = noTimeout
		if cfg.Dial == nil {
			faults = append(faults, ErrDialNil)
		}
	}
	if cfg.MaxInbound != nil {
		if c.Limits.Inbound.Total = int(min(uint64(*cfg.MaxInbound), math.MaxInt)); c.Limits.Inbound.Total == 0 {
			c.Limits.Inbound.Total = None
		}
	}
	for i, l := range cfg.Listeners {
		if l == nil {
			faults = append(faults, fmt.Errorf("connmgr: Config.Listeners[%d] is nil", i))
		} else if cfg.OnAccept != nil {
			c.Accept = append(c.Accept, l.Accept)
		}
	}
	return c, errors.Join(faults...)
}

func (cfg *Config) closeListeners() {
	for _, l := range cfg.Listeners {
		_ = l.Close()
	}
}

func remoteIP(c net.Conn) netip.Addr { return ipOf(c.RemoteAddr()) }

// ipOf is the IP address of a network address, the zero Addr if it has none.
func ipOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case nil:
		return netip.Addr{}
	case *net.TCPAddr:
		return a.AddrPort().Addr()
	case *net.UDPAddr:
		return a.AddrPort().Addr()
	}
	if ap, err := netip.ParseAddrPort(a.String()); err == nil {
		return ap.Addr()
	}
	ip, _ := netip.ParseAddr(a.String())
	return ip
}
