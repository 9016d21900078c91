package connmgr

import (
	"errors"
	"fmt"
	"math"
)

// None as a limit means none at all, where 0 means no limit.
const None = -1

// A Share caps the connections of one direction. In every field 0 means no
// limit and None means none at all. Connections whose address is not known
// count in Total only.
type Share struct {
	Total     int // all of this direction
	PerHost   int // with one IP address
	PerPrefix int // within one IPv4 /24 or IPv6 /56
	PerGroup  int // within one address group (EngineConfig.Group)
}

// Limits say what an Engine lets in and out. The zero value limits nothing;
// DefaultLimits is meant for a node on the open internet. Counts are exact:
// they are reserved before a connection is used, under one lock, and given back
// once when it is closed.
type Limits struct {
	// Total caps both directions together, dials in progress included.
	Total int
	// Inbound caps what others opened. Total counts a connection from its
	// arrival on; with Evict, from the end of its handshake on. The rest count
	// from arrival.
	Inbound Share
	// Outbound caps what we open, from the start of the dial on.
	Outbound Share

	// Pending caps inbound handshakes in progress, and PendingPerHost those of
	// one IP address. One address group may have no more than are left for
	// others: half of Pending if it is alone, a third if there are two, so that
	// few networks with handshakes that never end leave room for the rest (the
	// dynamic thresholds of Choudhury and Hahne, 1998). With Evict, at most
	// Inbound.Total + Pending inbound connections are open at a time.
	Pending        int
	PendingPerHost int

	// Rate is how many inbound attempts a second one source (an IPv4 address or
	// an IPv6 /64; in flood mode a /24 or /56) may make in the long run, and
	// Burst how many at once (a token bucket). Rate 0: no limit. Burst 0: 1.
	Rate  float64
	Burst int
	// Sources is how many sources are remembered for Rate, the least recently
	// seen forgotten first. Each costs less than 300 bytes. 0: 10,000, which is
	// eight minutes of flood at the FloodMax of DefaultLimits, in under 3 MiB.
	Sources int

	// FloodRate is how many attempts within a minute, counting only those that
	// passed every other check, begin flood mode: sources coarsen and newcomers
	// are dropped at random, with a chance of 1/5 at FloodRate rising to 9/10 at
	// FloodMax. It ends when the count falls below three quarters of
	// FloodRate. 0: never. FloodMax 0: 4 x FloodRate.
	FloodRate int
	FloodMax  int

	// RefuseDuplicates refuses a second connection with an identity (see
	// EngineConfig.Identify) that is connected already, in either direction.
	RefuseDuplicates bool
	// Evict makes room when Total or Inbound.Total is reached: the policy's
	// Victim is closed for an inbound connection that finished its handshake.
	// Without it newcomers are refused.
	Evict bool
	// ExemptLoopback frees loopback addresses from every limit but Total, the
	// directions' Total, and Pending.
	ExemptLoopback bool
}

// DefaultLimits are limits for a node on the open internet. Each may be changed;
// what a refusal says (Engine.Explain) names the field.
func DefaultLimits() Limits {
	return Limits{
		// 256 peers: at tens of KiB each some MiB of memory, a quarter of the
		// 1,024 descriptors a process gets by default.
		Total: 256,
		Inbound: Share{
			// Three quarters: most nodes of a network cannot be dialled, so the
			// ones that can must carry several times what they dial.
			Total: 192,
			// A household behind one address has a few nodes; more is a farm.
			PerHost: 4,
			// A /24 is often one operator.
			PerPrefix: 16,
			// A /16 (one provider) gets at most a third of the inbound places,
			// so filling a node takes addresses in three of them.
			PerGroup: 64,
		},
		Outbound: Share{
			// Never more than a quarter: the rest of Total is for those who
			// can only come to us.
			Total: 64,
			// One host may serve several nodes on ports of their own, but must
			// not become our view of the network.
			PerHost: 4,
		},
		// A handshake takes well under a second, so 128 are more than 128
		// newcomers a second. Handshakes that never end, each for
		// EstablishTimeout, hold half of them from one group, at the Rate below
		// with 32 addresses.
		Pending: 128,
		// A household again.
		PendingPerHost: 4,
		// A household whose line came back may reconnect all its nodes at once
		// (PerHost), then each source is worth one attempt every five seconds.
		Rate:  0.2,
		Burst: 4,
		// Five new attempts a second, from sources each of which keeps to its
		// Rate, would fill the house in 40 seconds; a network that starts up is
		// below that. Four times as many are an attack by anyone's measure.
		FloodRate:        300,
		FloodMax:         1200,
		RefuseDuplicates: true,
		Evict:            true,
	}
}

const (
	defaultSources = 10_000
	maxSources     = 1_000_000 // under 300 MiB; more is a mistake
)

// A ConfigError names a field of EngineConfig that cannot be right, and why.
type ConfigError struct {
	Field   string // as it is spelled in Go, such as "Limits.Inbound.PerHost"
	Problem string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("connmgr: %s: %s", e.Field, e.Problem)
}

// Validate returns every fault of the limits, joined; each is a *ConfigError.
func (l Limits) Validate() error {
	var faults []error
	bad := func(field, format string, args ...any) {
		faults = append(faults, &ConfigError{"Limits." + field, fmt.Sprintf(format, args...)})
	}
	for _, f := range []struct {
		name string
		n    int
	}{
		{"Total", l.Total},
		{"Inbound.Total", l.Inbound.Total}, {"Inbound.PerHost", l.Inbound.PerHost},
		{"Inbound.PerPrefix", l.Inbound.PerPrefix}, {"Inbound.PerGroup", l.Inbound.PerGroup},
		{"Outbound.Total", l.Outbound.Total}, {"Outbound.PerHost", l.Outbound.PerHost},
		{"Outbound.PerPrefix", l.Outbound.PerPrefix}, {"Outbound.PerGroup", l.Outbound.PerGroup},
		{"Pending", l.Pending}, {"PendingPerHost", l.PendingPerHost},
	} {
		if f.n < None {
			bad(f.name, "%d is no number of connections; 0 means no limit, None (-1) none at all", f.n)
		}
	}
	if l.Rate < 0 || math.IsNaN(l.Rate) || math.IsInf(l.Rate, 0) {
		bad("Rate", "%v is no number of attempts a second; 0 means no limit", l.Rate)
	}
	if l.Burst < 0 {
		bad("Burst", "%d is negative; 0 means 1", l.Burst)
	}
	if l.Sources < 0 || l.Sources > maxSources {
		bad("Sources", "%d is not between 0 (the default, %d) and %d", l.Sources, defaultSources, maxSources)
	}
	if l.FloodRate < 0 {
		bad("FloodRate", "%d is negative; 0 means no flood mode", l.FloodRate)
	}
	if l.FloodMax != 0 && l.FloodMax <= l.FloodRate {
		bad("FloodMax", "%d must be above FloodRate (%d), or 0 for four times it", l.FloodMax, l.FloodRate)
	}
	return errors.Join(faults...)
}

// byAddress reports whether a share has a limit that needs to know addresses.
func (s Share) byAddress() bool { return s.PerHost != 0 || s.PerPrefix != 0 || s.PerGroup != 0 }

// over reports whether count connections leave no place for one more.
func over(limit, count int) bool { return limit != 0 && (limit < 0 || count >= limit) }
