package gossip_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	corehost "github.com/libp2p/go-libp2p/core/host"

	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/dispatch/gossip"
)

// still has pubsub make no heartbeats, so that a mesh never grows.
func still(o *gossip.Options) {
	mesh := pubsub.DefaultGossipSubParams()
	mesh.HeartbeatInitialDelay, mesh.HeartbeatInterval = time.Hour, time.Hour
	o.Options = append(o.Options, pubsub.WithGossipSubParams(mesh))
}

// A peer that subscribed and is no neighbour in the mesh yet, as none is before the
// next heartbeat, loses nothing of what others publish: we pass it on all the same.
func TestRegressionForwardedBeforeTheMesh(t *testing.T) {
	for _, preset := range []gossip.Preset{gossip.Open, gossip.Small} {
		t.Run(string(preset), func(t *testing.T) {
			noLeaks(t)
			set := func(o *gossip.Options) { o.Preset = preset; still(o) }
			hub := newNode(t, set)
			seen := subscribe(t, hub, "t", dispatch.Policy{})
			var leaves []*node
			var subs []*dispatch.Subscription[*text]
			for range 4 {
				n := newNode(t, set)
				leaves, subs = append(leaves, n), append(subs, subscribe(t, n, "t", dispatch.Policy{}))
				connect(t, n.host, hub.host)
			}
			until(t, "the subscriptions", func() bool {
				return len(hub.b.Peers("t")) == len(leaves) && !slices.ContainsFunc(leaves, func(n *node) bool { return len(n.b.Peers("t")) != 1 })
			})
			for i, n := range leaves {
				publish(t, n, "t", fmt.Sprint(i))
			}
			next(t, seen, len(leaves))
			for i, sub := range subs {
				for _, m := range next(t, sub, len(leaves)) {
					if own := m.Author == leaves[i].id; own != (m.From == leaves[i].id) || !own && m.From != hub.id {
						t.Errorf("%d got %v of %v from %v", i, m.Message, m.Author, m.From)
					}
				}
				if st := sub.Stats(); st.Delivered != uint64(len(leaves)) {
					t.Errorf("%d: %+v", i, st)
				}
			}
			if st := hub.b.Stats(); st.Topic("t").Mesh != 0 || st.Topic("t").Delivered != uint64(len(leaves)) {
				t.Errorf("%+v", st)
			}
		})
	}
}

// With a mesh that reaches all, nothing is sent to more peers than it has: nobody
// gets back what he passed on.
func TestPassedOnOnlyInTheMesh(t *testing.T) {
	noLeaks(t)
	var hosts []corehost.Host
	var nodes []*node
	var subs []*dispatch.Subscription[*text]
	for range 3 {
		n := newNode(t)
		nodes, subs, hosts = append(nodes, n), append(subs, subscribe(t, n, "t", dispatch.Policy{})), append(hosts, n.host)
	}
	connect(t, hosts[0], hosts[1])
	connect(t, hosts[1], hosts[2])
	until(t, "the mesh", func() bool {
		return nodes[0].b.Stats().Topic("t").Mesh == 1 && nodes[1].b.Stats().Topic("t").Mesh == 2 && nodes[2].b.Stats().Topic("t").Mesh == 1
	})
	const n = 50
	for i := range n {
		publish(t, nodes[0], "t", fmt.Sprint(i))
	}
	for _, sub := range subs {
		next(t, sub, n)
	}
	for i, n := range nodes {
		if st := n.b.Stats(); st.Duplicates != 0 {
			t.Errorf("node %d got %d copies", i, st.Duplicates)
		}
	}
}

// Topics that are only published to are kept open for a while, not for ever.
func TestRegressionPublishedTopicsKept(t *testing.T) {
	noLeaks(t)
	a := newNode(t)
	sub := subscribe(t, a, "joined", dispatch.Policy{})
	for i := range 300 {
		publish(t, a, fmt.Sprint("topic ", i), "x")
		publish(t, a, "again and again", "x")
	}
	if n := a.b.Open(); n > 1+64 {
		t.Errorf("%d topics are open", n)
	}
	publish(t, a, "joined", "x")
	next(t, sub, 1)
	// Leaving while publishing: the topic ends up as any that is only published to.
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < 500 && err == nil; i++ {
			err = a.s.Publish(t.Context(), "both", say("x"))
		}
		done <- err
	}()
	for range 100 {
		subscribe(t, a, "both", dispatch.Policy{}).Close()
	}
	if err := <-done; err != nil {
		t.Errorf("publish: %v", err)
	}
	if n := a.b.Open(); n > 1+64 {
		t.Errorf("%d topics are open", n)
	}
}
