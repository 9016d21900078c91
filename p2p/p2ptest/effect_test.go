package p2ptest

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A fault that is ordered where nobody meets it is not counted: not on links over
// which nothing goes, and not when the network does nothing of what was ordered.
func TestRegressionFaultsWithoutEffectCounted(t *testing.T) {
	t.Parallel()
	orders := map[Fault][]Step{
		FaultSlowLink:        {{Fault: FaultSlowLink, Lasts: time.Minute}},
		FaultOneWayPartition: {{Fault: FaultOneWayPartition, Lasts: time.Minute, Choice: 1}},
		FaultPartition:       {{Fault: FaultPartition, Lasts: time.Minute, Others: []int{1}}},
		FaultStopsReading:    {{Fault: FaultStopsReading, Lasts: time.Minute, Choice: 1}, {Fault: FaultStopsReading, Lasts: time.Minute}},
		FaultAcceptErrors:    {{Fault: FaultAcceptErrors, Lasts: time.Minute}},
	}
	// run says how often a fault was counted that befell the first node, and of
	// how many.
	run := func(t *testing.T, kind Fault, harm func(*Network)) (counted uint64, of int) {
		synctest.Test(t, func(t *testing.T) {
			n := NewNetwork(t, NetworkOptions{Nodes: 5, Seed: 3, Traffic: time.Second})
			if err := n.reach(time.Minute); err != nil {
				t.Fatal(err)
			}
			if harm != nil {
				harm(n)
			}
			for _, s := range orders[kind] {
				if !n.bring(n.nodes[0].alive(), s) {
					t.Errorf("%v cannot be", s)
				}
				if err := n.advance(time.Now().Add(2 * time.Minute)); err != nil {
					t.Fatal(err)
				}
			}
			if len(n.effects) != 0 {
				t.Errorf("%v: %d are not over", kind, len(n.effects))
			}
			counted = n.checker.faults()[kind]
		})
		return counted, len(orders[kind])
	}
	for kind := range orders {
		if kind == FaultAcceptErrors {
			continue // whose effect does not depend on links
		}
		if counted, of := run(t, kind, nil); counted != uint64(of) {
			t.Errorf("%v: %d of %d were counted where there is traffic", kind, counted, of)
		}
		// All the others are gone, and nobody dials.
		if counted, _ := run(t, kind, func(n *Network) {
			for _, node := range n.nodes[1:] {
				node.crash()
			}
		}); counted != 0 {
			t.Errorf("%v: counted %d times where there is nobody", kind, counted)
		}
	}
	if counted, of := run(t, FaultAcceptErrors, nil); counted != uint64(of) {
		t.Errorf("accept errors: %d of %d were counted", counted, of)
	}
}

// Weather that does nothing is a plan in which nothing happened.
func TestSimulationWithoutWeatherFails(t *testing.T) {
	t.Parallel()
	for kind, says := range map[Fault]string{
		FaultSlowLink: "[slow-link] never happened", FaultOneWayPartition: "[one-way-partition] never happened",
		FaultPartition: "[partition] never happened",
	} {
		o := small
		o.Weights = map[Fault]int{kind: 1, FaultReset: 1}
		for _, calm := range []bool{false, true} {
			said := canary(t, NetworkOptions{Nodes: 5, Seed: 3}, NewPlan(o), func(n *Network) {
				if calm { // what is ordered goes to a network that nobody is on
					n.weather = newWeather(newNetwork(n.tb, n.o).mem, n.o.Link)
				}
			})
			if calm != strings.Contains(said, says) || !calm && said != "" {
				t.Errorf("%v, without effect: %v: the simulation says %q", kind, calm, said)
			}
		}
	}
}
