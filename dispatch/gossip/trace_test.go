package gossip

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

// In a topic with more subscribers than a mesh may have, whose mesh stayed small because
// the others had neighbours enough, each message went to all of them for ever.
func TestRegressionForwardedToAllForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTracer(pubsub.DefaultGossipSubParams())
		tr.joined("t", true)
		topic, yes := "t", true
		for i := range 1000 {
			id := peer.ID(fmt.Sprint(i))
			tr.opened(id)
			tr.OnNewOutboundStream(id, pubsub.GossipSubID_v12)
			if _, err := tr.FilterIncomingSubscriptions(id, []*pb.RPC_SubOpts{{Topicid: &topic, Subscribe: &yes}}); err != nil {
				t.Fatal(err)
			}
		}
		if !tr.misses("t", "from", "author") {
			t.Error("before the first heartbeat, nobody gets anything")
		}
		time.Sleep(time.Minute)
		if tr.misses("t", "from", "author") {
			t.Error("a minute later, all get everything")
		}
	})
}

// When what comes in goes to all who subscribed, and when only into the mesh.
func TestMisses(t *testing.T) {
	mesh := pubsub.DefaultGossipSubParams()
	mesh.Dlo, mesh.Dhi, mesh.HeartbeatInterval = 2, 5, time.Second
	topic, yes, no := "t", true, false
	says := func(tr *tracer, id peer.ID, subscribe *bool) {
		t.Helper()
		if _, err := tr.FilterIncomingSubscriptions(id, []*pb.RPC_SubOpts{{Topicid: &topic, Subscribe: subscribe}}); err != nil {
			t.Fatal(err)
		}
	}
	comes := func(tr *tracer, id peer.ID) {
		tr.opened(id)
		tr.OnNewOutboundStream(id, pubsub.GossipSubID_v12)
		says(tr, id, &yes)
	}
	grafted := func(n int) func(*tracer) {
		return func(tr *tracer) {
			for i := range n {
				id := peer.ID(fmt.Sprint("neighbour ", i))
				comes(tr, id)
				tr.Graft(id, topic)
			}
		}
	}
	wait := func(d time.Duration) func(*tracer) { return func(*tracer) { time.Sleep(d) } }
	x := func(tr *tracer) { comes(tr, "x") }
	for name, c := range map[string]struct {
		steps []func(*tracer)
		want  bool
	}{
		"nobody":                               {nil, false},
		"one neighbour":                        {[]func(*tracer){grafted(1)}, false},
		"one comes":                            {[]func(*tracer){grafted(1), x}, true},
		"long ago":                             {[]func(*tracer){grafted(1), x, wait(time.Hour)}, true},
		"and is grafted":                       {[]func(*tracer){grafted(1), x, func(tr *tracer) { tr.Graft("x", topic) }}, false},
		"and pruned":                           {[]func(*tracer){grafted(1), x, func(tr *tracer) { tr.Graft("x", topic); tr.Prune("x", topic) }}, true},
		"and leaves":                           {[]func(*tracer){grafted(1), x, func(tr *tracer) { says(tr, "x", &no) }}, false},
		"and goes":                             {[]func(*tracer){grafted(1), x, func(tr *tracer) { tr.ended("x", false); tr.OnClosedOutboundStream("x") }}, false},
		"the one who sent it":                  {[]func(*tracer){grafted(1), func(tr *tracer) { comes(tr, "from") }}, false},
		"the one who wrote it":                 {[]func(*tracer){grafted(1), func(tr *tracer) { comes(tr, "author") }}, false},
		"a bad one":                            {[]func(*tracer){grafted(1), x, func(tr *tracer) { tr.scored(map[peer.ID]float64{"x": -1}) }}, false},
		"of floodsub":                          {[]func(*tracer){grafted(1), x, func(tr *tracer) { tr.OnNewOutboundStream("x", pubsub.FloodSubID) }}, false},
		"no stream to it yet":                  {[]func(*tracer){grafted(1), x, func(tr *tracer) { tr.OnClosedOutboundStream("x") }}, true},
		"it takes no stream":                   {[]func(*tracer){grafted(1), x, func(tr *tracer) { tr.OnClosedOutboundStream("x") }, wait(time.Minute)}, false},
		"neighbours enough":                    {[]func(*tracer){grafted(2), x}, true},
		"for some heartbeats":                  {[]func(*tracer){grafted(2), x, wait(4 * time.Second)}, false},
		"however often it says so":             {[]func(*tracer){grafted(2), x, wait(4 * time.Second), func(tr *tracer) { says(tr, "x", &yes) }}, false},
		"as many as there may be":              {[]func(*tracer){grafted(4), x}, true},
		"more than there may be":               {[]func(*tracer){grafted(5), x}, false},
		"more of them, few grafted":            {[]func(*tracer){grafted(1), func(tr *tracer) { comes(tr, "a"); comes(tr, "b"); comes(tr, "c"); comes(tr, "d") }, x}, true},
		"more of them, few grafted, for long":  {[]func(*tracer){grafted(1), func(tr *tracer) { comes(tr, "a"); comes(tr, "b"); comes(tr, "c"); comes(tr, "d") }, wait(time.Minute), x}, false},
		"fewer of them, few grafted, for long": {[]func(*tracer){grafted(1), func(tr *tracer) { comes(tr, "a"); comes(tr, "b"); comes(tr, "c") }, wait(time.Minute)}, true},
		"more of them, joined again": {[]func(*tracer){func(tr *tracer) { comes(tr, "a"); comes(tr, "b"); comes(tr, "c"); comes(tr, "d") }, wait(time.Minute), x,
			func(tr *tracer) { tr.joined(topic, false); tr.joined(topic, true) }, wait(10 * time.Second), grafted(1)}, true},
		"it was there before us": {[]func(*tracer){func(tr *tracer) { tr.joined(topic, false) }, x, func(tr *tracer) { tr.joined(topic, true) }}, true},
		"it was, and there are neighbours": {[]func(*tracer){func(tr *tracer) { tr.joined(topic, false) }, x, func(tr *tracer) { tr.joined(topic, true) },
			grafted(2)}, false},
		"not joined": {[]func(*tracer){x, func(tr *tracer) { tr.joined(topic, false) }}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newTracer(mesh)
				tr.joined(topic, true)
				for _, step := range c.steps {
					step(tr)
				}
				if got := tr.misses(topic, "from", "author"); got != c.want {
					t.Errorf("%v, want %v", got, c.want)
				}
			})
		})
	}
}
