package p2ptest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// PlanOptions say what goes wrong in a simulation, and how much of it. The zero
// value of each field is its default.
type PlanOptions struct {
	// Seed decides everything: one seed is one plan.
	Seed uint64
	// Nodes is how many nodes the network has. Default 20.
	Nodes int
	// Length is how long faults go on. Default an hour.
	Length time.Duration
	// Mean is the average time between two faults. Default 30 s.
	Mean time.Duration
	// Weights is how often each fault comes. Default DefaultFaultWeights. Each
	// with a weight comes at least once.
	Weights map[Fault]int
}

func (o PlanOptions) withDefaults() PlanOptions {
	if o.Nodes == 0 {
		o.Nodes = 20
	}
	if o.Length == 0 {
		o.Length = time.Hour
	}
	if o.Mean == 0 {
		o.Mean = 30 * time.Second
	}
	if o.Weights == nil {
		o.Weights = DefaultFaultWeights()
	}
	return o
}

// Plan is what goes wrong in a simulation, and when: a list that is made before it
// begins. How the nodes take it is not in the list, since goroutines run in an
// order of their own; what befalls them is the same in every run.
type Plan struct {
	Options PlanOptions
	Steps   []Step // by time
}

// Step is one fault of a plan.
type Step struct {
	// At is when it begins, after the start of the plan.
	At    time.Duration
	Fault Fault
	// Node is whom it befalls; of a node that is down, the next one that is not.
	Node int
	// Others are the nodes that a partition cuts off together with Node.
	Others []int
	// Lasts is how long it goes on, where it does.
	Lasts time.Duration
	// Choice picks one of what there is at that time: a connection, a way.
	Choice uint64
}

// String is one line.
func (s Step) String() string {
	b := fmt.Sprintf("%v %v node=%d", s.At.Round(time.Millisecond), s.Fault, s.Node)
	if len(s.Others) > 0 {
		b += fmt.Sprintf(" with=%v", s.Others)
	}
	return b + fmt.Sprintf(" lasts=%v choice=%d", s.Lasts.Round(time.Millisecond), s.Choice)
}

// longest is how long each fault may go on. Connections break after half a minute
// of a partition (see NetworkOptions), so some of each are shorter than that.
var longest = [numFaults]time.Duration{
	FaultSlowLink: 3 * time.Minute, FaultOneWayPartition: 2 * time.Minute, FaultPartition: 3 * time.Minute, FaultCrash: 2 * time.Minute,
	FaultStopsReading: 2 * time.Minute, FaultAcceptErrors: 30 * time.Second, FaultStoreWriteError: 2 * time.Minute, FaultHostileStep: time.Minute,
}

// NewPlan makes the plan of a seed. It panics on options that make no plan: less
// than two nodes, and what NewFaults does not take.
func NewPlan(o PlanOptions) Plan {
	o = o.withDefaults()
	if o.Nodes < 2 || o.Length <= 0 {
		panic(fmt.Sprintf("p2ptest: a plan for %d nodes and %v", o.Nodes, o.Length))
	}
	f := NewFaults(o.Seed, o.Mean, o.Weights)
	p := Plan{Options: o}
	came := make(map[Fault]bool)
	for kind, at := f.Next(); at < o.Length; {
		p.Steps = append(p.Steps, newStep(f, kind, at, o.Nodes))
		came[kind] = true
		next, after := f.Next()
		kind, at = next, at+after
	}
	for _, kind := range slices.Sorted(maps.Keys(o.Weights)) {
		if o.Weights[kind] > 0 && !came[kind] {
			p.Steps = append(p.Steps, newStep(f, kind, f.Lasts(0, o.Length-1), o.Nodes))
		}
	}
	p.Steps = append(p.Steps, finale(o, f)...)
	if o.Weights[FaultAddressChange] == 0 {
		for i := range p.Steps {
			p.Steps[i].Choice |= 1 // nobody moves while it is down, either
		}
	}
	slices.SortStableFunc(p.Steps, func(a, b Step) int { return int(a.At - b.At) })
	return p
}

// finale is how a plan ends, as far as it has such faults: with a tenth of the
// nodes dead and every other one cut off from the rest, for longer than
// connections live, so that there is something to come back from.
func finale(o PlanOptions, f *Faults) []Step {
	var last []Step
	long := min(5*time.Minute, o.Length/4)
	if o.Weights[FaultPartition] > 0 {
		s := Step{At: o.Length - long, Fault: FaultPartition, Lasts: long}
		for i := 2; i < o.Nodes; i += 2 {
			s.Others = append(s.Others, i)
		}
		last = append(last, s)
	}
	if o.Weights[FaultCrash] > 0 {
		for range o.Nodes / 10 {
			last = append(last, Step{At: o.Length - long/2, Fault: FaultCrash, Node: f.Pick(o.Nodes), Lasts: long / 2, Choice: 1})
		}
	}
	return last
}

func newStep(f *Faults, kind Fault, at time.Duration, nodes int) Step {
	s := Step{At: at, Fault: kind, Node: f.Pick(nodes), Choice: uint64(f.Pick(1 << 30))}
	if most := longest[kind]; most > 0 {
		s.Lasts = f.Lasts(time.Second, most)
	}
	if kind == FaultPartition {
		for range f.Pick(max(1, nodes/2)) { // up to half of the nodes, with Node
			if n := f.Pick(nodes); n != s.Node && !slices.Contains(s.Others, n) {
				s.Others = append(s.Others, n)
			}
		}
		slices.Sort(s.Others)
	}
	return s
}

// String is the plan, a line for each step.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d nodes, %v, %d faults\n", p.Options.Seed, p.Options.Nodes, p.Options.Length, len(p.Steps))
	for _, s := range p.Steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}
