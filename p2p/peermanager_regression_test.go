package p2p

import (
	"math"
	"testing"

	"github.com/kith-p2p/kith/addrbook"
)

// Faults of the stack that this one follows, which must not come back. Others
// stand beside what they are about: TestRegressionRetryIsExponential,
// TestRegressionSlowSubscriberStopsNobody, TestRegressionPEXLimitsAgree,
// TestRegressionPeersOfOtherNetworksAreForgotten.

// Scores were lost with every restart, and wrapped around at the ends of int16.
func TestRegressionScoresLastAndDoNotWrap(t *testing.T) {
	store := addrbook.NewMemoryStore()
	m := openManager(t, store, PeerManagerOptions{})
	good, bad := memoryAddress("a"), memoryAddress("b")
	mustAdd(t, m, good, bad)
	for range 3 {
		m.Report(good.NodeID, Behaviour{Status: PeerStatusGood, Weight: math.MaxUint16})
		m.Report(bad.NodeID, Behaviour{Status: PeerStatusBad, Weight: math.MaxUint16})
	}
	if err := m.DialFailed(bad); err != nil { // below the least there is nothing
		t.Fatal(err)
	}
	for range 2 {
		s := m.Scores()
		if s[good.NodeID] < math.MaxInt16-2 || s[good.NodeID] >= PeerScorePersistent || s[bad.NodeID] > math.MinInt16+2 {
			t.Fatal(s)
		}
		m.Close()
		m = openManager(t, store, PeerManagerOptions{})
	}
}

// Every dial ranked the whole store: what a dial allocates must not depend on
// how many are known.
func TestRegressionDialNextDoesNotRankTheStore(t *testing.T) {
	cost := func(peers int) float64 {
		m := newManager(t, PeerManagerOptions{})
		for i := range peers {
			_, _ = m.Add(numberedAddress(i, 0))
		}
		return testing.AllocsPerRun(200, func() {
			a := m.TryDialNext()
			if a.IsZero() {
				t.Fatal("nobody")
			}
			m.mu.Lock()
			m.core.unreserve(a.NodeID)
			m.mu.Unlock()
		})
	}
	few, many := cost(10), cost(10_000)
	t.Logf("%.1f allocations with 10 peers, %.1f with 10,000", few, many)
	if many > few+1 {
		t.Errorf("a dial costs %.1f allocations with 10 peers and %.1f with 10,000", few, many)
	}
}
