package connmgr

import (
	"fmt"
	"strings"
	"time"
)

// Explain says for a person which rule refused what, what it counted, what its
// limit is, and which field of the configuration changes it. It reads only r.
func (e *Engine[A, C]) Explain(r *Refusal) string { return explain(r) }

func explain(r *Refusal) string {
	if r == nil {
		return "nothing was refused"
	}
	var b strings.Builder
	switch r.Direction {
	case Inbound:
		b.WriteString("An inbound connection")
		if r.IP.IsValid() {
			fmt.Fprintf(&b, " from %s", r.IP)
		}
	default:
		b.WriteString("An outbound connection")
		if r.IP.IsValid() {
			fmt.Fprintf(&b, " to %s", r.IP)
		}
	}
	fmt.Fprintf(&b, " was refused: %s. %s", r.reason(), r.advice())
	return b.String()
}

// reason is the fact: what was counted against which limit.
func (r *Refusal) reason() string {
	if r.Limit == None && r.Rule != RuleRate && r.Rule != RuleFlood {
		return fmt.Sprintf("the limit %s allows none", r.field())
	}
	switch r.Rule {
	case RuleRate:
		return fmt.Sprintf("too many attempts from %s, more than %d at once%s", r.Key, r.Limit, after(r.RetryAfter))
	case RulePending:
		return fmt.Sprintf("%d of at most %d handshakes are in progress", r.Count, r.Limit)
	case RulePendingHost:
		return fmt.Sprintf("%d of at most %d handshakes with %s are in progress", r.Count, r.Limit, r.Key)
	case RulePendingGroup:
		return fmt.Sprintf("the address group %s has %d of at most %d handshakes in progress; the rest is for others", r.Key, r.Count, r.Limit)
	case RuleHost:
		return fmt.Sprintf("%d of at most %d %s connections are with the address %s", r.Count, r.Limit, r.Direction, r.Key)
	case RulePrefix:
		return fmt.Sprintf("%d of at most %d %s connections are within the prefix %s", r.Count, r.Limit, r.Direction, r.Key)
	case RuleGroup:
		return fmt.Sprintf("%d of at most %d %s connections are within the address group %s", r.Count, r.Limit, r.Direction, r.Key)
	case RuleDirection:
		return fmt.Sprintf("%d of at most %d %s connections are in use", r.Count, r.Limit, r.Direction)
	case RuleTotal:
		return fmt.Sprintf("%d of at most %d connections are in use", r.Count, r.Limit)
	case RuleFlood:
		return fmt.Sprintf("dropped at random in a flood: %d attempts in the last minute, more than %d", r.Count, r.Limit)
	case RuleDuplicate:
		return fmt.Sprintf("%s is connected already", r.Key)
	}
	return "by " + r.Rule.String()
}

func after(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return fmt.Sprintf(", try again in %s", d.Round(100*time.Millisecond))
}

// field is the one to change.
func (r *Refusal) field() string {
	share := "Limits.Inbound."
	if r.Direction == Outbound {
		share = "Limits.Outbound."
	}
	switch r.Rule {
	case RuleRate:
		return "Limits.Rate"
	case RulePending, RulePendingGroup:
		return "Limits.Pending"
	case RulePendingHost:
		return "Limits.PendingPerHost"
	case RuleHost:
		return share + "PerHost"
	case RulePrefix:
		return share + "PerPrefix"
	case RuleGroup:
		return share + "PerGroup"
	case RuleDirection:
		return share + "Total"
	case RuleTotal:
		return "Limits.Total"
	case RuleFlood:
		return "Limits.FloodRate"
	case RuleDuplicate:
		return "Limits.RefuseDuplicates"
	}
	return "Limits"
}

func (r *Refusal) advice() string {
	var loopback string
	if r.IP.IsLoopback() {
		loopback = ", or set Limits.ExemptLoopback if several nodes run on this machine"
	}
	switch r.Rule {
	case RuleRate:
		return "To allow more, raise Limits.Rate (attempts a second in the long run) or Limits.Burst (at once)" + loopback + "."
	case RulePending, RulePendingGroup:
		return "To allow more, raise Limits.Pending, or lower EstablishTimeout so that slow handshakes end sooner."
	case RulePendingHost, RuleHost, RulePrefix:
		return "To allow more, raise " + r.field() + loopback + "."
	case RuleGroup:
		return "To allow more, raise " + r.field() + ", or set EngineConfig.Group to draw groups otherwise" + loopback + "."
	case RuleDirection, RuleTotal:
		if r.Direction == Inbound {
			return "To allow more, raise " + r.field() + "; with Limits.Evict, the least useful connection makes room when the policy names one."
		}
		return "To allow more, raise " + r.field() + "."
	case RuleFlood:
		return "It passes when fewer come. If this many are normal here, raise Limits.FloodRate and Limits.FloodMax" + loopback + "."
	case RuleDuplicate:
		return "Close the other connection first, or allow several by clearing Limits.RefuseDuplicates."
	}
	return "See Limits."
}
