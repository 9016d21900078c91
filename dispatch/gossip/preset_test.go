package gossip

import (
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
)

// What the presets say of themselves.
func TestPresets(t *testing.T) {
	type mesh struct{ d, least, most, score, out, lazy int }
	for _, c := range []struct {
		preset                   Preset
		mesh                     mesh
		pruned, left, remembered time.Duration
		byIP                     float64 // weight of sharing an address
	}{
		{Open, mesh{6, 5, 12, 4, 2, 6}, time.Minute, 10 * time.Second, time.Hour, -20},
		{Permissioned, mesh{6, 5, 12, 4, 2, 6}, time.Minute, 10 * time.Second, 10 * time.Minute, 0},
		{Small, mesh{4, 2, 8, 2, 1, 4}, 10 * time.Second, 2 * time.Second, time.Minute, 0},
	} {
		t.Run(string(c.preset), func(t *testing.T) {
			p, err := c.preset.params()
			if err != nil {
				t.Fatal(err)
			}
			m := p.mesh
			if got := (mesh{m.D, m.Dlo, m.Dhi, m.Dscore, m.Dout, m.Dlazy}); got != c.mesh {
				t.Errorf("mesh %+v, want %+v", got, c.mesh)
			}
			if m.PruneBackoff != c.pruned || m.UnsubscribeBackoff != c.left || m.HeartbeatInterval != time.Second {
				t.Errorf("back after %s and %s, heartbeats of %s", m.PruneBackoff, m.UnsubscribeBackoff, m.HeartbeatInterval)
			}
			if p.score.RetainScore != c.remembered {
				t.Errorf("scores are kept for %s, want %s", p.score.RetainScore, c.remembered)
			}
			if p.score.IPColocationFactorWeight != c.byIP || c.byIP != 0 && (p.score.IPColocationFactorThreshold != 10 || len(p.score.IPColocationFactorWhitelist) != 8) {
				t.Errorf("addresses: %v above %d, %d networks excepted", p.score.IPColocationFactorWeight, p.score.IPColocationFactorThreshold, len(p.score.IPColocationFactorWhitelist))
			}
			// As Options.Score and Preset say, for all of them.
			th := p.thresholds
			if th.GossipThreshold != -500 || th.PublishThreshold != -1000 || th.GraylistThreshold != -2500 || th.AcceptPXThreshold != 1000 || th.OpportunisticGraftThreshold != 2 {
				t.Errorf("thresholds %+v", th)
			}
			if p.score.AppSpecificWeight != 1 || p.score.AppSpecificScore("x") != 0 || p.score.BehaviourPenaltyWeight != -10 || p.score.BehaviourPenaltyThreshold != 6 {
				t.Errorf("score %+v", p.score)
			}
			ts := topicScore()
			if got := ts.TopicWeight * max(ts.FirstMessageDeliveriesWeight*ts.FirstMessageDeliveriesCap+ts.TimeInMeshWeight*ts.TimeInMeshCap, 0); got > p.score.TopicScoreCap || p.score.TopicScoreCap != 100 {
				t.Errorf("a topic earns %v, all of them at most %v", got, p.score.TopicScoreCap)
			}
			if ts.MeshMessageDeliveriesWeight != 0 || ts.MeshFailurePenaltyWeight != 0 {
				t.Error("peers are held to an amount of messages")
			}
			for n, want := range []struct{ gossip, messages, heard bool }{{true, true, true}, {true, true, true}, {true, true, true}, {false, true, true}, {false, false, true}, {false, false, true}} {
				invalid := float64(n * n)
				score := ts.TopicWeight * ts.InvalidMessageDeliveriesWeight * invalid
				if score >= th.GossipThreshold != want.gossip || score >= th.PublishThreshold != want.messages || score >= th.GraylistThreshold != want.heard {
					t.Errorf("%d refused messages make %v", n, score)
				}
			}
			// The best score of a peer does not pay for five refused messages, which the
			// faults of the tracer end as well.
			if best := p.score.TopicScoreCap + maxOwnScore; best+ts.InvalidMessageDeliveriesWeight*36 >= th.GraylistThreshold || maxFaults != 5 {
				t.Errorf("the best are at %v", best)
			}
			if d := ts.InvalidMessageDeliveriesDecay; d != pubsub.ScoreParameterDecay(time.Hour) {
				t.Errorf("refused messages fade by %v", d)
			}
		})
	}
	if _, err := Preset("none").params(); err == nil {
		t.Error("a preset that there is not")
	}
}
