package p2ptest

import (
	"flag"
	"fmt"
	"runtime/debug"
	"testing"
	"time"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

var simSeed = flag.Uint64("sim-seed", 0, "the first seed of the simulations; 0: 1")
var simRuns = flag.Uint64("sim-runs", 0, "how many seeds each simulation runs; 0: as many as are usual")

// seeds calls a test for each seed that is asked for.
func seeds(t *testing.T, usual uint64, test func(t *testing.T, seed uint64)) {
	// A third of the time would go into collecting a heap of some megabytes.
	old := debug.SetGCPercent(800)
	t.Cleanup(func() { debug.SetGCPercent(old) })
	first := max(1, *simSeed)
	if *simRuns > 0 {
		usual = *simRuns
	} else if *simSeed > 0 {
		usual = 1
	}
	for seed := first; seed < first+usual; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			test(t, seed)
		})
	}
}

func TestNetworkHour(t *testing.T) {
	seeds(t, hours, func(t *testing.T, seed uint64) {
		Simulate(t, NetworkOptions{Seed: seed}, NewPlan(PlanOptions{Seed: seed}))
	})
}

// Networks of other shapes, for ten minutes each in which something goes wrong
// every ten seconds.
func TestNetworkShapes(t *testing.T) {
	for name, o := range map[string]NetworkOptions{
		"two nodes":         {Nodes: 2},
		"three nodes":       {Nodes: 3},
		"all with all":      {Nodes: 8, Target: 7, Peers: p2p.PeerManagerOptions{MaxConnected: 14}},
		"hardly any places": {Nodes: 16, Target: 3, Peers: p2p.PeerManagerOptions{MaxConnected: 7, MaxConnectedUpgrade: 1}},
		"no upgrades":       {Nodes: 12, Peers: p2p.PeerManagerOptions{MaxConnected: 10}},
		"no latency":        {Nodes: 12, Link: memory.Link{Latency: 1}},
		"far away":          {Nodes: 12, Link: memory.Link{Latency: 400 * time.Millisecond, Jitter: 400 * time.Millisecond}},
		"no pauses":         {Nodes: 12, Peers: p2p.PeerManagerOptions{MinRetryTime: time.Millisecond, MaxRetryTime: 15 * time.Second, DisconnectCooldownPeriod: 1}},
		"much traffic":      {Nodes: 8, Traffic: 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			seeds(t, 1, func(t *testing.T, seed uint64) {
				o.Seed = seed
				nodes := o.withDefaults().Nodes
				Simulate(t, o, NewPlan(PlanOptions{Seed: seed, Nodes: nodes, Length: 10 * time.Minute, Mean: 10 * time.Second}))
			})
		})
	}
}
