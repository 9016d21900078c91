package p2ptest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// A link is as bad as the worst that goes on, in each direction, and well when all
// of it is over.
func TestWeather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, NetworkOptions{Nodes: 2, Link: memory.Link{Latency: time.Millisecond}})
		a, b := n.nodes[0].id, n.nodes[1].id
		ends := map[p2p.NodeID]*memory.Transport{}
		for _, node := range n.nodes {
			tr, err := n.mem.Listen(node.id)
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			ends[node.id] = tr
		}
		// dials says how long a dial takes, which needs both directions; 0: it hangs.
		dials := func() time.Duration {
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			defer stop()
			began := time.Now()
			c, err := ends[a].Dial(ctx, p2p.Endpoint{Protocol: memory.Protocol, Path: string(b)})
			if err != nil {
				return 0
			}
			c.Close()
			return time.Since(began)
		}
		want := func(what string, d time.Duration) {
			t.Helper()
			if got := dials(); got != d {
				t.Errorf("%s: a dial takes %v, want %v", what, got, d)
			}
		}
		const well = 2 * time.Millisecond
		want("at first", well)
		first, second, back := n.weather.cut(a, b), n.weather.cut(a, b), n.weather.cut(b, a)
		want("cut both ways", 0)
		first()
		want("cut twice and opened once", 0)
		second()
		want("cut one way", 0)
		back()
		want("opened", well)
		cut, stall := n.weather.cut(a, b), n.weather.stall(a, b)
		cut()
		want("stalled", well)
		if s := n.mem.Stats().Faults; s.Stalls != 2 { // it was brought about again
			t.Errorf("%d stalls", s.Stalls)
		}
		stall()
		slow := n.weather.slow(a, b, memory.Link{Latency: time.Second})
		slower := n.weather.slow(a, b, memory.Link{Latency: 2 * time.Second})
		want("slow", 2*time.Second+time.Millisecond)
		slow()
		want("slow still", 2*time.Second+time.Millisecond)
		slower()
		want("at last", well)
	})
}
