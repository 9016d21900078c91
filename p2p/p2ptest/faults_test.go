package p2ptest

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestFaults(t *testing.T) {
	schedule := func(seed uint64) (log string, f *Faults, total time.Duration) {
		f = NewFaults(seed, time.Minute, nil)
		for range 20_000 {
			kind, after := f.Next()
			f.Happened(kind)
			total += after
			if len(log) < 1000 {
				log += fmt.Sprint(kind, after, f.Pick(10), f.Lasts(time.Second, time.Minute), "\n")
			}
		}
		return log, f, total
	}
	a, f, total := schedule(1)
	if b, _, _ := schedule(1); a != b {
		t.Error("one seed, two schedules")
	}
	if b, _, _ := schedule(2); a == b {
		t.Error("two seeds, one schedule")
	}
	if mean := total / 20_000; mean < 55*time.Second || mean > 65*time.Second {
		t.Errorf("%v between faults", mean)
	}
	sum := 0
	for _, w := range DefaultFaultWeights() {
		sum += w
	}
	for kind, w := range DefaultFaultWeights() {
		want := float64(w) / float64(sum) * 20_000
		if n := float64(f.Count(kind)); n < 0.8*want || n > 1.2*want {
			t.Errorf("%v came %.0f times, want about %.0f", kind, n, want)
		}
	}
	if len(f.Missing()) != 0 {
		t.Errorf("missing: %v", f.Missing())
	}
	for range 1000 {
		if d := f.Lasts(time.Second, 3*time.Second); d < time.Second || d > 3*time.Second {
			t.Fatal(d)
		}
	}
}

func TestFaultsCounted(t *testing.T) {
	f := NewFaults(9, time.Second, map[Fault]int{FaultReset: 1, FaultCrash: 2, FaultSlowLink: 0})
	f.Happened(FaultCrash)
	f.Happened(FaultCrash)
	if got := f.Missing(); !slices.Equal(got, []Fault{FaultReset}) {
		t.Errorf("missing: %v", got)
	}
	if got := f.String(); got != "seed 9: crash=2" {
		t.Error(got)
	}
	for range 100 {
		if kind, _ := f.Next(); kind == FaultSlowLink {
			t.Fatal("a fault without weight came")
		}
	}
	seen := map[string]bool{}
	for kind := range Fault(numFaults) {
		if DefaultFaultWeights()[kind] == 0 || kind.String() == "" || seen[kind.String()] {
			t.Errorf("fault %d is %q with weight %d", kind, kind, DefaultFaultWeights()[kind])
		}
		seen[kind.String()] = true
	}
	if got := Fault(99).String(); got != "fault-99" {
		t.Error(got)
	}
}

func TestFaultsRefuseNonsense(t *testing.T) {
	for name, c := range map[string]struct {
		mean    time.Duration
		weights map[Fault]int
	}{
		"no faults": {time.Second, map[Fault]int{}}, "no time": {0, nil}, "a negative weight": {time.Second, map[Fault]int{FaultReset: -1}},
		"an unknown fault": {time.Second, map[Fault]int{99: 1}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			NewFaults(1, c.mean, c.weights)
		}()
	}
}
