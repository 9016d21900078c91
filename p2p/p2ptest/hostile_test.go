package p2ptest

import (
	"testing"
	"testing/synctest"
	"time"
)

// Every step of a hostile peer is done, ends as it should, and costs the other
// peers of the node nothing: their sessions are the same ones after it.
func TestHostileSteps(t *testing.T) {
	for i, step := range hostileSteps {
		t.Run(step.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := NewNetwork(t, NetworkOptions{Nodes: 4, Seed: 1, Target: 2})
				if err := n.reach(2 * time.Minute); err != nil {
					t.Fatal(err)
				}
				// Nodes that have only just met still choose between each other.
				if err := n.advance(time.Now().Add(5 * time.Minute)); err != nil {
					t.Fatal(err)
				}
				l := n.nodes[1].alive()
				before := sessions(l)
				n.beHostile(l, Step{Node: 1, Lasts: time.Minute, Choice: uint64(i + len(hostileSteps))})
				if err := n.advance(time.Now().Add(2 * time.Minute)); err != nil {
					t.Fatal(err)
				}
				n.hostile.Wait()
				if n.checker.counts[FaultHostileStep] != 1 || n.checker.steps[step.name] != 1 {
					t.Errorf("it did not happen: %v", n.checker.log)
				}
				for id, since := range before {
					if now, ok := sessions(l)[id]; !ok || now != since {
						t.Errorf("the session with %v did not survive", id)
					}
				}
			})
		})
	}
}

func sessions(l *life) map[string]time.Time {
	m := make(map[string]time.Time)
	for _, p := range l.router.Stats().Peers {
		m[string(p.ID)] = p.Since
	}
	return m
}
