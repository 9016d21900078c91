package connmgr

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// For every rule, in both directions, with a limit and with None, the
// explanation names what happened and a field that exists.
func TestExplainEveryRule(t *testing.T) {
	fields := map[Rule]string{
		RuleRate: "Limits.Rate", RulePending: "Limits.Pending", RulePendingHost: "Limits.PendingPerHost", RulePendingGroup: "Limits.Pending", RuleHost: "Limits.%s.PerHost",
		RulePrefix: "Limits.%s.PerPrefix", RuleGroup: "Limits.%s.PerGroup", RuleDirection: "Limits.%s.Total", RuleTotal: "Limits.Total",
		RuleFlood: "Limits.FloodRate", RuleDuplicate: "Limits.RefuseDuplicates",
	}
	for rule := Rule(1); rule < endOfRules; rule++ {
		for d, name := range map[Direction]string{Inbound: "Inbound", Outbound: "Outbound"} {
			field := fields[rule]
			if strings.Contains(field, "%s") {
				field = fmt.Sprintf(field, name)
			}
			for _, limit := range []int{None, 4} {
				for _, ip := range []netip.Addr{{}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.0.1")} {
					r := &Refusal{Rule: rule, Direction: d, Limit: limit, Count: 4, Key: "192.0.2.0/24", IP: ip}
					text := explain(r)
					if !strings.Contains(text, field) || !strings.Contains(text, strings.ToLower(name)) && limit != None {
						t.Errorf("%v: %s", rule, text)
					}
					if ip.IsValid() && !strings.Contains(text, ip.String()) || strings.Contains(text, "%!") {
						t.Errorf("%v: %s", rule, text)
					}
					if !errors.Is(r, ErrRefused) || !strings.HasPrefix(r.Error(), "connmgr: refused: ") {
						t.Errorf("%v: %v", rule, r)
					}
				}
			}
		}
	}
	if text := explain(&Refusal{Rule: RuleRate, Limit: 3, Key: "192.0.2.1", RetryAfter: 1234 * time.Millisecond}); !strings.Contains(text, "try again in 1.2s") {
		t.Error(text)
	}
	if text := explain(nil); text != "nothing was refused" {
		t.Error(text)
	}
	if text := explain(&Refusal{Rule: 99}); !strings.Contains(text, "rule(99)") {
		t.Error(text)
	}
	if errors.Is(&Refusal{}, ErrClosed) {
		t.Error("a refusal is everything")
	}
}

// Names are words, also in JSON, and every number has one.
func TestNames(t *testing.T) {
	for got, want := range map[fmt.Stringer]string{
		KindInbound: "inbound", KindAnchor: "anchor", Kind(77): "kind(77)", Inbound: "inbound", Outbound: "outbound",
		RuleRate: "rate", RuleDuplicate: "duplicate", Rule(0): "rule(0)", endOfRules: "rule(12)",
		EventConnected: "connected", EventFloodEnded: "flood-ended", EventType(0): "event(0)", EventType(9): "event(9)",
	} {
		if got.String() != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
	b, err := json.Marshal(map[string]any{"a": RuleHost, "b": KindFeeler, "c": Outbound, "d": EventFailed, "e": map[Rule]int{RuleFlood: 1}})
	if want := `{"a":"host","b":"feeler","c":"outbound","d":"failed","e":{"flood":1}}`; err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
}
