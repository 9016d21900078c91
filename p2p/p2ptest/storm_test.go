package p2ptest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/p2ptest"
)

// Sixteen nodes want three outgoing connections each and have places for two
// inbound ones: they drove each other out without end, 1.4 dials a second each.
// What is left is bounded by the pauses after failed dials.
func TestRegressionDialStorm(t *testing.T) {
	const nodes = 16
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.NewNetwork(t, p2ptest.NetworkOptions{
			Nodes: nodes, Target: 3, Traffic: -1, Peers: p2p.PeerManagerOptions{MaxConnected: 5, MaxConnectedUpgrade: 1},
		})
		defer net.Close()
		dials := func() (n uint64) {
			for _, node := range net.Nodes() {
				n += node.Router().Stats().Engine.Counters.Dialled
			}
			return n
		}
		time.Sleep(3 * time.Minute) // they meet, and learn who has no place
		before := dials()
		time.Sleep(3 * time.Minute)
		if rate := float64(dials()-before) / nodes / 180; rate > 0.6 {
			t.Errorf("%.2f dials a second and node", rate)
		}
	})
}
