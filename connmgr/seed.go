package connmgr

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"
)

const (
	maxSeeds       = 64               // seeds asked by one call
	maxSeedAnswer  = 256              // addresses taken from one answer
	seedTimeout    = 30 * time.Second // for all of SeedFromDNS
	serviceNetwork = 1                // the service that every node a seed names has

	seenLeast  = 3 * 24 * time.Hour // what LastSeen is made of
	seenSpread = 4 * 24 * time.Hour
)

// ErrSeedNil is returned for seeding without a configuration, a lookup or a
// callback.
var ErrSeedNil = errors.New("connmgr: seeding needs a configuration, a lookup and a callback")

// SeedConfig names the seeds of a network.
type SeedConfig struct {
	Seeds []DNSSeed
	// DefaultPort is the port of the addresses found: DNS says none.
	DefaultPort uint16
}

// DNSSeed is a host name that resolves to nodes.
type DNSSeed struct {
	Host string
	// HasFiltering says that the seed answers for names that ask for services:
	// x<services in hexadecimal>.<host>.
	HasFiltering bool
}

// LookupFunc resolves a host name. It must be safe for concurrent use.
type LookupFunc func(string) ([]net.IP, error)

// OnSeed takes the addresses that one seed answered. It is not called at the
// same time as itself, and not with none.
type OnSeed func([]SeedAddress)

// SeedAddress is a node that a seed named.
type SeedAddress struct {
	IP   net.IP
	Port uint16
	// LastSeen is made up, three to seven days ago, so that hearsay ranks below
	// what was seen.
	LastSeen time.Time
}

// SeedFromDNS asks the seeds for nodes with the services, and gives what each
// answered to seed, on a goroutine of its own. It returns at once. Seeds that
// fail are passed over; answers that come after 30 s are dropped. For errors,
// an end of one's own choice, and the bounds see SeedFromDNSContext.
func SeedFromDNS(cfg *SeedConfig, services uint64, lookup LookupFunc, seed OnSeed) {
	if cfg == nil || lookup == nil || seed == nil {
		return
	}
	snapshot := SeedConfig{Seeds: slices.Clone(cfg.Seeds), DefaultPort: cfg.DefaultPort}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), seedTimeout)
		defer cancel()
		look := func(_ context.Context, host string) ([]net.IP, error) { return lookup(host) }
		_ = SeedFromDNSContext(ctx, &snapshot, services, look, seed)
	}()
}

// SeedFromDNSContext is SeedFromDNS until ctx is over. It blocks until every
// seed has answered, and seed has returned each time, or ctx is over; a lookup
// that does not end with ctx is left behind, and its answer dropped. The error
// joins those of the seeds that failed, and ctx's.
//
// At most 64 seeds are asked, all at once, and 256 addresses taken from one
// answer. An address is given to seed once, whoever names it; what is no IP
// address of a host is left out.
func SeedFromDNSContext(ctx context.Context, cfg *SeedConfig, services uint64,
	lookup func(ctx context.Context, host string) ([]net.IP, error), seed OnSeed) error {
	if cfg == nil || lookup == nil || seed == nil {
		return ErrSeedNil
	}
	seeds := cfg.Seeds[:min(len(cfg.Seeds), maxSeeds)]
	type answer struct {
		ips []net.IP
		err error
	}
	answers := make(chan answer, len(seeds)) // room for all: nobody blocks on us
	for _, s := range seeds {
		go func() {
			host := s.Host
			if s.HasFiltering && services != serviceNetwork {
				host = fmt.Sprintf("x%x.%s", services, s.Host)
			}
			ips, err := lookup(ctx, host)
			if err != nil {
				err = fmt.Errorf("connmgr: seed %s: %w", host, err)
			}
			answers <- answer{ips, err}
		}()
	}
	var faults []error
	known := make(map[netip.Addr]bool)
	for range seeds {
		select {
		case a := <-answers:
			if a.err != nil {
				faults = append(faults, a.err)
			} else if found := cfg.addresses(a.ips, known, time.Now()); len(found) > 0 && ctx.Err() == nil {
				seed(found)
			}
		case <-ctx.Done():
			return errors.Join(append(faults, context.Cause(ctx))...)
		}
	}
	return errors.Join(faults...)
}

// addresses are the new ones of an answer.
func (cfg *SeedConfig) addresses(ips []net.IP, known map[netip.Addr]bool, now time.Time) []SeedAddress {
	var found []SeedAddress
	for _, ip := range ips[:min(len(ips), maxSeedAnswer)] {
		addr, ok := netip.AddrFromSlice(ip)
		addr = addr.Unmap()
		if !ok || addr.IsUnspecified() || addr.IsMulticast() || known[addr] {
			continue
		}
		known[addr] = true
		found = append(found, SeedAddress{
			IP: ip, Port: cfg.DefaultPort, LastSeen: now.Add(-seenLeast - rand.N(seenSpread)),
		})
	}
	return found
}
