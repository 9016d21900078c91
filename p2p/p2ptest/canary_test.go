package p2ptest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/p2p"
)

// canary runs ten minutes of a small network on which something is done on
// purpose, once it is at its target, and returns what the simulation says of it.
func canary(t *testing.T, o NetworkOptions, p Plan, harm func(*Network)) (said string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			n := newNetwork(r, o)
			n.start()
			defer n.Close()
			if harm != nil {
				if err := n.reach(time.Minute); err != nil {
					t.Error(err)
				}
				harm(n)
			}
			n.Run(p)
		}()
		<-done
		said = strings.Join(r.failures, "\n")
	})
	return said
}

var small = PlanOptions{Nodes: 5, Seed: 3, Length: 10 * time.Minute, Mean: 20 * time.Second, Weights: map[Fault]int{FaultReset: 3, FaultCrash: 1}}

// Each broken promise is seen, or the simulation proves nothing.
func TestSimulationCanFail(t *testing.T) {
	t.Parallel()
	everywhere := func(do func(*life)) func(*Network) {
		return func(n *Network) {
			for _, node := range n.nodes {
				do(node.alive())
			}
		}
	}
	stranger := p2p.NodeID(strings.Repeat("ab", 20))
	for name, c := range map[string]struct {
		harm func(*Network)
		says string
	}{
		"nothing": {nil, ""},
		"a message comes twice": {everywhere(func(l *life) {
			m := p2p.Incoming[*payload]{From: stranger, Message: l.traffic.number(lane{channel: channelUrgent}, 3)}
			l.node.net.checker.received(l, l.traffic.chans[channelUrgent], m)
			l.node.net.checker.received(l, l.traffic.chans[channelUrgent], m)
		}), "twice, or out of order"},
		"messages change places": {everywhere(func(l *life) {
			first, second := l.traffic.number(lane{channel: channelUrgent}, 3), l.traffic.number(lane{channel: channelUrgent}, 3)
			for _, m := range []*payload{second, first} {
				l.node.net.checker.received(l, l.traffic.chans[channelUrgent], p2p.Incoming[*payload]{From: stranger, Message: m})
			}
		}), "twice, or out of order"},
		"a message is changed": {everywhere(func(l *life) {
			m := l.traffic.number(lane{channel: channelUrgent}, 3)
			m.Value[14]++
			l.node.net.checker.received(l, l.traffic.chans[channelUrgent], p2p.Incoming[*payload]{From: stranger, Message: m})
		}), "that nobody sent so"},
		"a send takes time": {everywhere(func(l *life) {
			l.node.net.checker.sent(l, time.Now().Add(-time.Millisecond), nil)
		}), "a send that must not wait took 1ms"},
		"a send fails strangely": {everywhere(func(l *life) {
			l.node.net.checker.sent(l, time.Now(), context.Canceled)
		}), "a send failed"},
		"a message is lost silently": {func(n *Network) { n.checker.hostileWrote(channelUrgent) }, "the network took"},
		"a message is made up": {func(n *Network) {
			for range 1 << 20 {
				n.checker.hostileRead(channelUrgent)
			}
		}, "the nodes and hostile peers received"},
		"too many peers":   {func(n *Network) { n.o.Peers.MaxConnected, n.o.Peers.MaxConnectedUpgrade = 1, 0 }, "peers, at most 1 may be"},
		"too many dialled": {func(n *Network) { n.o.Peers.MaxOutgoingConnections = 1 }, "of its peers, at most 1 may be"},
		"a banned peer stays": {everywhere(func(l *life) {
			l.pm.Book().SetBan(l.peers()[0], 0, "but not evicted")
		}), "which it has banned"},
		"a saved ban is lost": {func(n *Network) {
			for _, node := range n.nodes {
				node.bans[stranger] = time.Now().Add(time.Hour)
			}
		}, "was saved, and is not there after a crash"},
		"a peer is reserved for ever": {everywhere(func(l *life) {
			a := l.node.Address()
			a.NodeID = stranger
			if _, err := l.pm.Book().Add(a, addrbook.Source{Kind: addrbook.Manual}); err != nil {
				t.Error(err)
			}
			l.pm.Book().Hold(stranger)
		}), "keeps " + string(stranger) + " reserved"},
		"peers nobody told of": {everywhere(func(l *life) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.up[stranger] = true
			l.dirty.Store(true)
		}), "and told of"},
		"updates that do not alternate": {func(n *Network) {
			l := n.nodes[0].alive()
			l.mu.Lock()
			delete(l.up, n.nodes[1].id)
			for id := range l.up {
				delete(l.up, id)
			}
			l.mu.Unlock()
			n.mem.Crash(l.node.id)
			synctest.Wait()
		}, "is told to be down, which it was"},
		"nobody lets anybody in": {func(n *Network) {
			n.sabotage = func(l *life) { n.mem.RefuseDials(l.node.id, 1<<30) } // also when they come back
			for _, node := range n.nodes {
				n.sabotage(node.alive())
			}
		}, "after the last fault: node"},
		"nobody knows anybody":                         {func(n *Network) { n.split(5) }, "after the last fault: node 0 has no peer"},
		"two networks that know nothing of each other": {func(n *Network) { n.split(2) }, "the network has fallen apart: over sessions node 0 reaches 3 of the 5 nodes that are up"},
		"a user's own invariant": {func(n *Network) {
			n.o.Check = func(node *Node) error {
				if node.Index() == 2 && node.Router() != nil && n.Since() > 5*time.Minute {
					return errors.New("the user's")
				}
				return nil
			}
		}, "the user's"},
		"a hostile peer that gets its way": {func(n *Network) {
			old := hostileSteps
			defer func() { hostileSteps = old }()
			hostileSteps = []hostileStep{{"nothing wrong", inside(func(s *session) error { return s.mustEnd(time.Second) })}}
			n.beHostile(n.nodes[0].alive(), Step{})
		}, "the connection still stands"},
	} {
		said := canary(t, NetworkOptions{Nodes: 5, Seed: 3}, NewPlan(small), c.harm)
		if said == "" && c.says != "" || !strings.Contains(said, c.says) || c.says == "" && said != "" {
			t.Errorf("%s: the simulation says %q, want %q", name, said, c.says)
		}
		if c.says != "" && !strings.Contains(said, "seed 3") {
			t.Errorf("%s: the seed is not told: %q", name, said)
		}
	}
}

// split makes a network fall apart by number, modulo the count of its parts, none
// of which knows of any other.
func (n *Network) split(parts int) {
	forget := func() {
		for i, node := range n.nodes {
			for j, other := range n.nodes {
				if i%parts != j%parts {
					node.alive().pm.Book().Forget(other.id)
				}
			}
		}
	}
	forget()
	for i, node := range n.nodes {
		for j, other := range n.nodes {
			if i%parts != j%parts {
				n.mem.Reset(node.id, other.id)
			}
		}
	}
	forget()
}

// A plan in which nothing happens, or not all that was meant to, is a failure.
func TestSimulationWithoutFaultsFails(t *testing.T) {
	t.Parallel()
	empty := NewPlan(small)
	empty.Steps = nil
	one := NewPlan(small)
	one.Steps = slices.DeleteFunc(one.Steps, func(s Step) bool { return s.Fault == FaultCrash })
	other := NewPlan(small)
	other.Options.Nodes = 7
	for _, c := range []struct {
		p    Plan
		says string
	}{{empty, "a plan without faults tests nothing"}, {one, "[crash] never happened"}, {other, "the plan is for 7 nodes, the network has 5"}} {
		if said := canary(t, NetworkOptions{Nodes: 5, Seed: 3}, c.p, nil); !strings.Contains(said, c.says) {
			t.Errorf("the simulation says %q, want %q", said, c.says)
		}
	}
}

// What a user tests is there from the start of each life to its end.
func TestNetworkReactor(t *testing.T) {
	t.Parallel()
	opened, stopped, heard := 0, 0, 0 // by one goroutine after the other
	synctest.Test(t, func(t *testing.T) {
		o := NetworkOptions{Nodes: 5, Seed: 3, Traffic: -1, Reactor: func(n *Node) func() {
			c, err := p2p.OpenTyped[*wrapperspb.StringValue](n.Router(), 0x40)
			if err != nil {
				t.Error(err)
			}
			opened++
			if n.Index() == 0 {
				go func() {
					for in, err := range c.Receive(context.Background()) {
						if err == nil && in.Message.Value == "hello" {
							heard++
						}
					}
				}()
			} else {
				go func() {
					for {
						select {
						case <-c.Done():
							return
						case <-time.After(time.Minute):
							_, _ = c.Broadcast(context.Background(), wrapperspb.String("hello"))
						}
					}
				}()
			}
			return func() { stopped++ }
		}}
		n := NewNetwork(t, o)
		r := n.Run(NewPlan(small))
		n.Close()
		n.Close()
		if opened != 5+int(r.Crashes) || stopped != opened || heard == 0 || r.Delivered != 0 {
			t.Errorf("opened %d times and stopped %d, %d crashes; heard %d, and %d of no traffic", opened, stopped, r.Crashes, heard, r.Delivered)
		}
		if n.Nodes()[1].Router() != nil || n.Nodes()[1].PeerManager() != nil {
			t.Error("a node lives on after Close")
		}
	})
}

// Every node is looked at, and all of it, when a fault ends: what is wrong for a
// second from then on, of a node to which nothing happens, is seen.
func TestRegressionEndOfFaultUnchecked(t *testing.T) {
	t.Parallel()
	p := NewPlan(PlanOptions{Nodes: 5, Seed: 3, Length: 10 * time.Minute, Weights: map[Fault]int{FaultReset: 1}})
	p.Steps = []Step{{At: 9 * time.Minute, Fault: FaultReset, Choice: 1}}
	said := canary(t, NetworkOptions{Nodes: 5, Seed: 3, Traffic: -1}, p, func(n *Network) {
		l, stranger := n.nodes[0].alive(), p2p.NodeID(strings.Repeat("ab", 20))
		a := l.node.Address()
		a.NodeID = stranger
		if _, err := l.pm.Book().Add(a, addrbook.Source{Kind: addrbook.Manual}); err != nil {
			t.Error(err)
		}
		n.after(3*time.Minute+17*time.Second, func() { l.pm.Book().Hold(stranger) })
		time.AfterFunc(3*time.Minute+18*time.Second, func() { l.pm.Book().Release(stranger, time.Time{}) })
	})
	if !strings.Contains(said, "reserved") {
		t.Errorf("the simulation says %q", said)
	}
}
