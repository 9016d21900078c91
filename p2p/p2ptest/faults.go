package p2ptest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Fault is a kind of fault that a simulation brings about.
type Fault uint8

// The faults. The numbers are stable.
const (
	FaultReset           Fault = iota // a connection is reset
	FaultSlowLink                     // a link gets slow for a while
	FaultOneWayPartition              // a link is shut in one direction
	FaultPartition                    // nodes are cut off from each other
	FaultCrash                        // a node dies and comes back
	FaultStopsReading                 // a node stops reading
	FaultAcceptErrors                 // accepting fails
	FaultAddressChange                // a node moves
	FaultStoreWriteError              // a store cannot write
	FaultHostileStep                  // a peer does something that is not allowed

	numFaults = iota
)

var faultNames = [numFaults]string{
	"reset", "slow-link", "one-way-partition", "partition", "crash", "stops-reading", "accept-errors", "address-change", "store-write-error", "hostile-step",
}

// String is a short name, such as "slow-link".
func (f Fault) String() string {
	if int(f) < len(faultNames) {
		return faultNames[f]
	}
	return fmt.Sprintf("fault-%d", uint8(f))
}

// DefaultFaultWeights is how often each fault comes, in parts of their sum.
func DefaultFaultWeights() map[Fault]int {
	return map[Fault]int{
		FaultReset: 30, FaultSlowLink: 15, FaultOneWayPartition: 10, FaultPartition: 10, FaultCrash: 10, FaultStopsReading: 8,
		FaultAcceptErrors: 5, FaultAddressChange: 4, FaultStoreWriteError: 2, FaultHostileStep: 2,
	}
}

// Faults is a schedule of faults: which comes next, when, and to whom. One seed is
// one schedule. The simulation carries the faults out, and says so: a fault that
// never happened tested nothing, and Missing names it.
//
//	faults := p2ptest.NewFaults(seed, time.Minute, nil)
//	for fault, after := faults.Next(); simulated < end; fault, after = faults.Next() {
//		time.Sleep(after)
//		if bringAbout(fault, faults.Pick(len(nodes))) {
//			faults.Happened(fault)
//		}
//	}
//
// It is not safe for concurrent use.
type Faults struct {
	seed    uint64
	rng     *rand.Rand
	mean    time.Duration
	kinds   []Fault
	weights []int
	sum     int
	counts  [numFaults]uint64
}

// NewFaults makes a schedule. mean is the average time between two faults; the
// times are distributed as those of independent events are (exponentially). Nil
// weights are the default ones; a fault without a weight never comes. It panics
// when there is nothing to schedule or a weight is negative.
func NewFaults(seed uint64, mean time.Duration, weights map[Fault]int) *Faults {
	if weights == nil {
		weights = DefaultFaultWeights()
	}
	f := &Faults{seed: seed, rng: rand.New(rand.NewPCG(seed, 0x6661756c7473)), mean: mean}
	for _, kind := range slices.Sorted(maps.Keys(weights)) {
		w := weights[kind]
		if w < 0 || int(kind) >= numFaults {
			panic(fmt.Sprintf("p2ptest: weight %d of %v", w, kind))
		}
		if w > 0 {
			f.kinds, f.weights, f.sum = append(f.kinds, kind), append(f.weights, w), f.sum+w
		}
	}
	if f.sum == 0 || mean <= 0 {
		panic("p2ptest: a schedule without faults or without time between them")
	}
	return f
}

// Next is the next fault and how long after the one before it comes.
func (f *Faults) Next() (Fault, time.Duration) {
	at := f.rng.IntN(f.sum)
	i := 0
	for ; at >= f.weights[i]; i++ {
		at -= f.weights[i]
	}
	return f.kinds[i], time.Duration(f.rng.ExpFloat64() * float64(f.mean))
}

// Pick chooses one of n, from 0: whom it befalls.
func (f *Faults) Pick(n int) int { return f.rng.IntN(n) }

// Lasts is a duration from shortest to longest.
func (f *Faults) Lasts(shortest, longest time.Duration) time.Duration {
	return shortest + time.Duration(f.rng.Int64N(int64(longest-shortest)+1))
}

// Happened counts a fault that was brought about.
func (f *Faults) Happened(kind Fault) { f.counts[kind]++ }

// Count is how often a fault happened.
func (f *Faults) Count(kind Fault) uint64 { return f.counts[kind] }

// Missing are the faults of the schedule that never happened.
func (f *Faults) Missing() []Fault {
	var missing []Fault
	for _, kind := range f.kinds {
		if f.counts[kind] == 0 {
			missing = append(missing, kind)
		}
	}
	return missing
}

// String is the seed and what happened: "seed 7: reset=12 crash=3".
func (f *Faults) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d:", f.seed)
	for kind, n := range f.counts {
		if n > 0 {
			fmt.Fprintf(&b, " %v=%d", Fault(kind), n)
		}
	}
	return b.String()
}
