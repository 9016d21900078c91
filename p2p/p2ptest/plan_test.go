package p2ptest

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// One seed is one plan, each fault comes, and each step is one that can be done.
func TestPlan(t *testing.T) {
	for seed := range uint64(200) {
		o := PlanOptions{Seed: seed, Nodes: 7, Length: 20 * time.Minute}
		p := NewPlan(o)
		if again := NewPlan(o); p.String() != again.String() {
			t.Fatalf("seed %d has two plans:\n%s\n%s", seed, p, again)
		}
		if other := NewPlan(PlanOptions{Seed: seed + 1, Nodes: 7, Length: 20 * time.Minute}); p.String() == other.String() {
			t.Fatalf("seeds %d and %d have one plan", seed, seed+1)
		}
		if !slices.IsSortedFunc(p.Steps, func(a, b Step) int { return int(a.At - b.At) }) {
			t.Fatalf("seed %d: not in order of time:\n%s", seed, p)
		}
		came := map[Fault]int{}
		for _, s := range p.Steps {
			came[s.Fault]++
			if s.At < 0 || s.At >= o.Length || s.Node < 0 || s.Node >= 7 || s.Lasts < 0 || s.Lasts > o.Length {
				t.Fatalf("seed %d: %v", seed, s)
			}
			if slices.Contains(s.Others, s.Node) || len(s.Others) > 3 || len(s.Others) > 0 && s.Fault != FaultPartition {
				t.Fatalf("seed %d: %v", seed, s)
			}
		}
		if len(came) != numFaults {
			t.Fatalf("seed %d: of %d faults only %v", seed, numFaults, came)
		}
	}
	p := NewPlan(PlanOptions{Seed: 4})
	if len(p.Steps) < 80 || len(p.Steps) > 170 || p.Options.Nodes != 20 || p.Options.Length != time.Hour {
		t.Errorf("the default plan has %d steps, %d nodes, %v", len(p.Steps), p.Options.Nodes, p.Options.Length)
	}
	if s := p.String(); !strings.HasPrefix(s, "seed 4: 20 nodes, 1h0m0s, ") || strings.Count(s, "\n") != len(p.Steps)+1 {
		t.Errorf("printed as %q", s)
	}
	if some := NewPlan(PlanOptions{Weights: map[Fault]int{FaultReset: 1, FaultCrash: 0}}); slices.ContainsFunc(some.Steps, func(s Step) bool { return s.Fault != FaultReset }) {
		t.Errorf("a fault without weight came:\n%s", some)
	}
}

// A plan ends with something that there is to come back from.
func TestPlanFinale(t *testing.T) {
	p := NewPlan(PlanOptions{Seed: 1})
	cut, dead := 0, 0
	for _, s := range p.Steps {
		if s.At+s.Lasts == time.Hour && s.Fault == FaultPartition {
			cut = len(s.Others) + 1
		} else if s.At+s.Lasts == time.Hour && s.Fault == FaultCrash {
			dead++
		}
	}
	if cut != 10 || dead != 2 {
		t.Errorf("%d of 20 nodes are cut off at the end, and %d dead", cut, dead)
	}
}

func TestPlanRefusesNonsense(t *testing.T) {
	for name, o := range map[string]PlanOptions{
		"one node": {Nodes: 1}, "no time": {Length: -1}, "no faults": {Weights: map[Fault]int{}}, "a negative mean": {Mean: -1},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			NewPlan(o)
		}()
	}
}
