package addrbook

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
)

// Options of a book. The zero value is a book of Bitcoin Core's size.
type Options struct {
	// Self is our own ID. It never enters the book, and what the store has
	// under it, from a time when that was somebody else, is dropped. Empty:
	// nobody.
	Self identity.NodeID
	// Protocols are those that we can dial. Addresses of others are kept and
	// told, but never picked. Empty: all.
	Protocols []address.Protocol
	// PrivatePeers are never told to anybody. The map must not change after.
	PrivatePeers map[identity.NodeID]struct{}
	// MaxPeers is how many peers have addresses here. 0: as many as there are
	// slots for.
	MaxPeers int
	// NewBuckets and TriedBuckets are the sizes of the two tables in buckets, at
	// most 65536; BucketSize is the slots of each bucket, at most 64. Defaults:
	// 1024, 256, 64, for at most 81,920 addresses. A book whose sizes change
	// places its addresses anew.
	NewBuckets, TriedBuckets, BucketSize int
	// AddressesPerPeer is how many addresses one peer can have. Default 8.
	AddressesPerPeer int
	// MaxRecords is how many peers without an address are remembered, for their
	// ban, score or last connection. Of more, the least interesting go; bans
	// without end never do. Default 16384.
	MaxRecords int
	// ScoreHalfLife is how fast a score is forgotten. Default 24 h.
	ScoreHalfLife time.Duration
	// MaxRetry is how far ahead a retry time may lie that is read from the
	// store: the clock may have jumped since. Default 7 days.
	MaxRetry time.Duration
	// LearnRate and LearnBurst are the token bucket of each source: it may teach
	// LearnBurst new addresses at once and LearnRate a second after. Defaults:
	// 0.1 and 1000 (Bitcoin Core's). A negative rate: no limit.
	LearnRate  float64
	LearnBurst int
	// WriteDelay is how long a change may wait to be saved. Default 5 s.
	WriteDelay time.Duration
	// Wake is called when a call (not time; see Book.Next) made an address
	// dialable. It runs on the goroutine of that call, after the book let go of
	// its lock: it must not block, and must not take a lock that the caller
	// holds. A send into a channel with a default is right.
	Wake func()
	// Now is the clock. Default time.Now, which testing/synctest makes virtual.
	Now func() time.Time
	// Rand returns numbers in [0,1); the book calls it under its lock. It is
	// for runs that can be repeated: then the secret of a new book comes from
	// it too. Default: math/rand/v2, and crypto/rand for the secret.
	Rand func() float64
	// Logger is told what cannot be returned: failed saves. Default: nobody.
	Logger *slog.Logger

	seeded bool // Rand was given
}

// complete fills in the defaults, or says what is wrong.
func (o Options) complete() (Options, error) {
	def := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	def(&o.NewBuckets, 1024)
	def(&o.TriedBuckets, 256)
	def(&o.BucketSize, maxBucket)
	def(&o.AddressesPerPeer, 8)
	def(&o.MaxRecords, 16384)
	def(&o.LearnBurst, 1000)
	wait := func(v *time.Duration, to time.Duration) {
		if *v == 0 {
			*v = to
		}
	}
	wait(&o.ScoreHalfLife, 24*time.Hour)
	wait(&o.MaxRetry, 7*24*time.Hour)
	wait(&o.WriteDelay, 5*time.Second)
	if o.LearnRate == 0 {
		o.LearnRate = 0.1
	}
	if o.Wake == nil {
		o.Wake = func() {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.seeded = o.Rand != nil; !o.seeded {
		o.Rand = rand.Float64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	within := func(name string, v, low, high int) error {
		if v < low || v > high {
			return fmt.Errorf("%w: %s is %d, it must be from %d to %d", ErrOptions, name, v, low, high)
		}
		return nil
	}
	const many = 1 << 20
	for _, err := range []error{
		within("NewBuckets", o.NewBuckets, 1, 1<<16), within("TriedBuckets", o.TriedBuckets, 1, 1<<16),
		within("BucketSize", o.BucketSize, 1, maxBucket), within("AddressesPerPeer", o.AddressesPerPeer, 1, 1024),
		within("MaxRecords", o.MaxRecords, 1, many), within("MaxPeers", o.MaxPeers, 0, many*64), within("LearnBurst", o.LearnBurst, 1, many),
	} {
		if err != nil {
			return o, err
		}
	}
	if o.ScoreHalfLife < 0 || o.MaxRetry < 0 || o.WriteDelay < 0 {
		return o, fmt.Errorf("%w: ScoreHalfLife %v, MaxRetry %v and WriteDelay %v must be positive", ErrOptions, o.ScoreHalfLife, o.MaxRetry, o.WriteDelay)
	}
	if o.Self != "" {
		if err := o.Self.Validate(); err != nil {
			return o, fmt.Errorf("%w: Self: %w", ErrOptions, err)
		}
	}
	return o, nil
}
