package p2ptest

import (
	"testing"
	"testing/synctest"
	"time"
)

// Where nothing goes wrong, nothing happens: sessions that stand stay, for as long
// as there are places, and nobody dials but to try what it has heard of.
func TestNetworkQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(t, NetworkOptions{Seed: 1, Traffic: -1})
		if err := n.reach(2 * time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := n.advance(time.Now().Add(5 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		before := make([]map[string]time.Time, len(n.nodes))
		for i, node := range n.nodes {
			before[i] = sessions(node.alive())
		}
		if err := n.advance(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		stood, fell := 0, 0
		for i, node := range n.nodes {
			after := sessions(node.alive())
			for id, since := range before[i] {
				if after[id].Equal(since) {
					stood++
				} else {
					fell++
				}
			}
		}
		var r Report
		n.fill(&r, n.began)
		t.Logf("%d sessions, %d dials, %d updates", stood, r.Dials, r.Updates)
		if fell > 0 || stood+fell < 2*4*20 {
			t.Errorf("of %d sessions %d did not last", stood+fell, fell)
		}
		// Each node tries each of the others once.
		if r.Dials > 20*(4+19) {
			t.Errorf("%d dials", r.Dials)
		}
	})
}
