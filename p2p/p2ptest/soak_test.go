//go:build soak

package p2ptest

import (
	"flag"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var (
	soakLength = flag.Duration("soak-length", 24*time.Hour, "virtual time for which faults go on in TestSoak")
	soakNodes  = flag.Int("soak-nodes", 50, "nodes of TestSoak")
	soakHeap   = flag.String("soak-heap", "", "file for a heap profile of TestSoak's last full hour")
	soakSeed   = flag.Uint64("soak-seed", 0, "seed of TestSoak; 0: another each time")
)

// soakHeapPerNode is how many MiB of heap a node may cost. Most of it is the
// address book's, which fills for days with what hostile peers tell.
const soakHeapPerNode = 3

// A day of 50 nodes, with a fault every twelve seconds. It logs once an hour of
// that day, and fails, beside what every simulation fails for, when the heap
// grows beyond what its parts may have.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("replay with: go test -tags soak -run TestSoak -v ./p2p/p2ptest/ -soak-seed %d -soak-nodes %d -soak-length %v", seed, *soakNodes, *soakLength)
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	synctest.Test(t, func(t *testing.T) {
		var heaps []float64 // in MiB, by the hour
		next := time.Hour
		var n *Network
		n = NewNetwork(t, NetworkOptions{Nodes: *soakNodes, Seed: seed, Target: 5, Traffic: 10 * time.Second, Check: func(*Node) error {
			if n == nil || n.Since() < next {
				return nil
			}
			next += time.Hour
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			heaps = append(heaps, float64(m.HeapAlloc)/(1<<20))
			t.Logf("%v: %.1f MiB of heap, %d goroutines; %d checks, %d messages", n.Since().Round(time.Second), heaps[len(heaps)-1], runtime.NumGoroutine(), n.checker.checks.Load(), n.checker.delivered.Load())
			if *soakHeap != "" {
				f, err := os.Create(*soakHeap)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				return pprof.WriteHeapProfile(f)
			}
			return nil
		}})
		mean := 10 * time.Minute / time.Duration(*soakNodes)
		report := n.Run(NewPlan(PlanOptions{Seed: seed, Nodes: *soakNodes, Length: *soakLength, Mean: mean}))
		n.Close()
		t.Log(report)
		t.Log(report.Steps)
		if most := soakHeapPerNode * float64(*soakNodes); len(heaps) > 0 && slices.Max(heaps) > most {
			t.Errorf("the heap grew to %.1f MiB, at most %.0f may be", slices.Max(heaps), most)
		}
	})
}
