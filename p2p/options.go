package p2p

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/kith-p2p/kith/addrbook"
)

// PeerScore ranks peers: higher is better. It saturates.
type PeerScore = addrbook.PeerScore

// PeerScorePersistent is the score of persistent peers, above all others.
const PeerScorePersistent PeerScore = math.MaxInt16

// PeerManagerOptions says whom a PeerManager wants and how hard it tries. The
// zero value limits nothing and never retries a failed address.
type PeerManagerOptions struct {
	// PersistentPeers are kept connected: they are dialled before all others,
	// have PeerScorePersistent and are never evicted for another.
	PersistentPeers []NodeID
	// MaxPeers is how many peers are remembered; the worst are forgotten.
	// 0: no limit but the address book's own.
	MaxPeers uint16
	// MaxConnected is how many peers are connected at a time, both directions
	// together. 0: no limit.
	MaxConnected uint16
	// MaxConnectedUpgrade is how many connections above MaxConnected may stand
	// for a moment, while a better peer takes the place of a worse one. 0: a
	// full node dials nobody and evicts nobody.
	MaxConnectedUpgrade uint16
	// MaxOutgoingConnections is how many of MaxConnected we may have dialled,
	// those being dialled included. Persistent peers count, but are dialled all
	// the same. 0: no limit of its own.
	MaxOutgoingConnections uint16
	// MinRetryTime is the pause after the first failed dial of an address; it
	// doubles with each further failure. 0: a failed address is not dialled
	// again before it is taught or added anew, or the node starts again. A session
	// that a Router dialled and that ended sooner than this (at least a second, at
	// most a minute, is meant), unless we ended it for another peer, counts as one
	// more failed dial: the peer refused us after the handshake, say.
	MinRetryTime time.Duration
	// MaxRetryTime caps the pause. 0: no cap.
	MaxRetryTime time.Duration
	// MaxRetryTimePersistent caps the pause for persistent peers. 0: MaxRetryTime.
	MaxRetryTimePersistent time.Duration
	// RetryTimeJitter is the most that is added at random to each pause, so
	// that peers that lost one host do not come back at one moment.
	RetryTimeJitter time.Duration
	// DisconnectCooldownPeriod is how long a peer is not dialled after it
	// disconnected. 0: no pause.
	DisconnectCooldownPeriod time.Duration
	// PeerScores are fixed scores, by peer. A peer with one is not scored by
	// what it does, and is dialled before those without. A score of 0 is ignored.
	PeerScores map[NodeID]PeerScore
	// PrivatePeers are never advertised.
	PrivatePeers map[NodeID]struct{}
	// Protocols are those that can be dialled: addresses of others are
	// remembered and advertised, but not dialled. Empty: all.
	Protocols []Protocol
	// SelfAddress is advertised first, if it is set.
	SelfAddress NodeAddress
	// ScopeAddresses keeps private addresses from peers that are not on such a
	// network, and addresses without an IP from peers of another protocol. The
	// zero value advertises everything, as Tendermint does.
	ScopeAddresses bool

	Logger *slog.Logger     // nil: discard
	Now    func() time.Time // nil: time.Now (which testing/synctest makes virtual)
	Rand   func() float64   // a number in [0,1); nil: math/rand/v2
}

// Validate reports every fault of the options, joined.
func (o PeerManagerOptions) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("p2p: "+format, args...)) }
	for _, id := range o.PersistentPeers {
		if err := id.Validate(); err != nil {
			fault("persistent peer %q: %w", id, err)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(o.PrivatePeers)) {
		if err := id.Validate(); err != nil {
			fault("private peer %q: %w", id, err)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(o.PeerScores)) {
		if err := id.Validate(); err != nil {
			fault("scored peer %q: %w", id, err)
		}
	}
	for _, p := range o.Protocols {
		if err := p.Validate(); err != nil {
			fault("Protocols: %w", err)
		}
	}
	if o.MaxConnected > 0 && len(o.PersistentPeers) > int(o.MaxConnected) {
		fault("%d persistent peers, but MaxConnected is %d", len(o.PersistentPeers), o.MaxConnected)
	}
	if o.MaxPeers > 0 && (o.MaxConnected == 0 || int(o.MaxConnected)+int(o.MaxConnectedUpgrade) > int(o.MaxPeers)) {
		fault("MaxConnected %d + MaxConnectedUpgrade %d must be set and at most MaxPeers %d", o.MaxConnected, o.MaxConnectedUpgrade, o.MaxPeers)
	}
	if o.MaxConnected > 0 && o.MaxOutgoingConnections > o.MaxConnected {
		fault("MaxOutgoingConnections %d is above MaxConnected %d", o.MaxOutgoingConnections, o.MaxConnected)
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"MinRetryTime", o.MinRetryTime}, {"MaxRetryTime", o.MaxRetryTime}, {"MaxRetryTimePersistent", o.MaxRetryTimePersistent},
		{"RetryTimeJitter", o.RetryTimeJitter}, {"DisconnectCooldownPeriod", o.DisconnectCooldownPeriod},
	} {
		if d.d < 0 {
			fault("%s is negative", d.name)
		}
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"MaxRetryTime", o.MaxRetryTime}, {"MaxRetryTimePersistent", o.MaxRetryTimePersistent}} {
		switch {
		case d.d <= 0:
		case o.MinRetryTime == 0:
			fault("%s is set without MinRetryTime", d.name)
		case o.MinRetryTime > d.d:
			fault("MinRetryTime %v is above %s %v", o.MinRetryTime, d.name, d.d)
		}
	}
	if !o.SelfAddress.IsZero() {
		if err := o.SelfAddress.Validate(); err != nil {
			fault("SelfAddress: %w", err)
		}
	}
	return errors.Join(faults...)
}

// retryNever is the pause of an address that is not tried again.
const retryNever = time.Duration(math.MaxInt64)

// retryDelay is the pause after failures dials of an address failed in a row:
// MinRetryTime x 2^(failures-1), capped, plus jitter. random is in [0,1).
func (o *PeerManagerOptions) retryDelay(failures uint32, persistent bool, random float64) time.Duration {
	if failures == 0 {
		return 0
	}
	if o.MinRetryTime == 0 {
		return retryNever
	}
	most := o.MaxRetryTime
	if persistent && o.MaxRetryTimePersistent > 0 {
		most = o.MaxRetryTimePersistent
	}
	if most == 0 || most > retryNever/4 { // so that nothing below overflows
		most = retryNever / 4
	}
	d := most
	if shift := failures - 1; shift < 62 && o.MinRetryTime <= most>>shift {
		d = o.MinRetryTime << shift
	}
	return min(most, d+time.Duration(random*float64(min(o.RetryTimeJitter, most))))
}
