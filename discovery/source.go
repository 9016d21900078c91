package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Errors that a caller can decide on.
var (
	// ErrOptions says that a configuration makes no sense.
	ErrOptions = errors.New("discovery: invalid options")
	// ErrUnknownSource says that a Mix has no source of that name that it could
	// switch.
	ErrUnknownSource = errors.New("discovery: no such source")
	// ErrRunning says that something that runs once at a time already does.
	ErrRunning = errors.New("discovery: already running")
	// ErrNobody says that a DNS seed names no place that may be asked, or that
	// nobody is at those that were.
	ErrNobody = errors.New("discovery: the seed leads to nobody")
)

// RetryError is an error of a Source's Run that says how long to wait at least
// before it is run again. A Mix does.
type RetryError struct {
	In  time.Duration
	Err error
}

// Error is that of the cause.
func (e *RetryError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *RetryError) Unwrap() error { return e.Err }

// Found is an address, and who said so.
type Found struct {
	Address address.NodeAddress
	From    addrbook.Source
}

// Source looks for peers.
type Source interface {
	// Name names the source in counts and switches. It never changes, and no
	// two sources of a Mix share one.
	Name() string
	// Run looks for peers until ctx ends, and calls learn with what it finds;
	// learn returns in microseconds and may be called by several goroutines.
	// It returns when nothing it started runs any more: nil when there is
	// nothing more to find, or an error, after which a Mix calls it again
	// later. It is not called while it runs.
	Run(ctx context.Context, learn func([]Found)) error
}

// Reporter is a Source that says more of itself than a Mix can see: what it did
// not pass on, by reason, and what is wrong with a part of it (nil: nothing). Mix.Stats shows both. Report may be called at any time, by
// several goroutines, and returns at once.
type Reporter interface {
	Source
	Report() (refused map[addrbook.Reason]uint64, fault error)
}

// Learner is taught what sources found. *addrbook.Book is one: of a
// p2p.PeerManager, what its Book returns. It must be safe for concurrent use and
// return soon.
type Learner interface {
	Learn(from addrbook.Source, as []address.NodeAddress) addrbook.Learned
	// Entry says whether an address is known. Teaching one that is costs no share.
	Entry(address.NodeAddress) (addrbook.Entry, bool)
}

func logger(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// fromParts makes an address of what libp2p keeps apart.
func fromParts(id peer.ID, m ma.Multiaddr) (address.NodeAddress, error) {
	tail, err := ma.NewComponent("p2p", id.String())
	if err != nil {
		return address.NodeAddress{}, fmt.Errorf("discovery: %w", err)
	}
	return address.FromMultiaddr(m.Encapsulate(tail.Multiaddr()))
}

// scopeOf says how far a multiaddr means the same place: ScopeNone for names
// and for what leads over a relay.
func scopeOf(m ma.Multiaddr) addrbook.Scope {
	if relayed(m) {
		return addrbook.ScopeNone
	}
	return addrbook.ScopeOf(ipOf(m))
}

func relayed(m ma.Multiaddr) bool {
	_, err := m.ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

// ipOf is the IP that a multiaddr begins with, or the zero Addr.
func ipOf(m ma.Multiaddr) netip.Addr {
	if len(m) == 0 {
		return netip.Addr{}
	}
	ip, err := manet.ToIP(m)
	if err != nil {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

// hostIP is the IP of a node address, or the zero Addr.
func hostIP(a address.NodeAddress) netip.Addr {
	ip, err := netip.ParseAddr(a.Hostname)
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap()
}
