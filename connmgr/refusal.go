package connmgr

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// ErrRefused is what every *Refusal is (errors.Is).
var ErrRefused = errors.New("connmgr: refused")

// A Rule is one of the engine's limits. The numbers are stable.
type Rule uint8

// The rules, in the order in which they are checked.
const (
	_                Rule = iota
	RuleRate              // Limits.Rate: this source tries too often
	RulePending           // Limits.Pending: too many handshakes
	RulePendingHost       // Limits.PendingPerHost
	RulePendingGroup      // Limits.Pending: too many handshakes of one group
	RuleHost              // Share.PerHost
	RulePrefix            // Share.PerPrefix
	RuleGroup             // Share.PerGroup
	RuleDirection         // Share.Total
	RuleTotal             // Limits.Total
	RuleFlood             // Limits.FloodRate: dropped at random
	RuleDuplicate         // Limits.RefuseDuplicates
	endOfRules
)

var ruleNames = [endOfRules]string{
	RuleRate: "rate", RulePending: "pending", RulePendingHost: "pending-host", RulePendingGroup: "pending-group", RuleHost: "host", RulePrefix: "prefix",
	RuleGroup: "group", RuleDirection: "direction", RuleTotal: "total", RuleFlood: "flood", RuleDuplicate: "duplicate",
}

// String is a short word: "rate", "pending", "pending-host", "pending-group",
// "host", "prefix", "group", "direction", "total", "flood" or "duplicate".
func (r Rule) String() string {
	if r == 0 || r >= endOfRules {
		return fmt.Sprintf("rule(%d)", uint8(r))
	}
	return ruleNames[r]
}

// MarshalText is String, for JSON and logs.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// A Refusal says which limit kept a connection out.
type Refusal struct {
	Rule      Rule
	Direction Direction
	IP        netip.Addr // of the other side; the zero Addr if unknown
	// Key is what was counted: an address, a prefix, the name of a group, an
	// identity. "" where everything was.
	Key string
	// Limit is the configured limit and Count what it was compared with. For
	// RuleRate they are the burst and the tokens left, for RuleFlood FloodRate
	// and the attempts of the last minute, for RuleDuplicate 1 and 1.
	Limit, Count int
	// RetryAfter is how long to wait before another try can succeed, where that
	// is known (RuleRate) or can be guessed (RuleFlood, RulePending); else 0.
	RetryAfter time.Duration
}

// Error says it in one line.
func (r *Refusal) Error() string {
	return "connmgr: refused: " + r.reason()
}

// Is makes errors.Is(r, ErrRefused) true.
func (r *Refusal) Is(target error) bool { return target == ErrRefused }
