package p2ptest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/connmgr"
	"github.com/kith-p2p/kith/p2p"
)

// Report is what a simulation did.
type Report struct {
	Seed     uint64
	Nodes    int
	Virtual  time.Duration    // that passed
	Faults   map[Fault]uint64 // that happened
	Recovery time.Duration    // after the last fault, until every node was back at its target
	Most     time.Duration    // that Recovery may be: two maximal pauses between dials

	Checks                      uint64 // looks at invariants
	Updates                     uint64 // of peers that came or went
	Dials, Connections, Crashes uint64
	Accepted, Refused           uint64 // sends
	Delivered, Answered         uint64 // messages, and of these replies to requests
	Dropped                     p2p.Drops
	Steps                       map[string]uint64 // what hostile peers did
}

// String is one line.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d nodes, %v; faults:", r.Seed, r.Nodes, r.Virtual.Round(time.Second))
	for kind := range Fault(numFaults) {
		if n := r.Faults[kind]; n > 0 {
			fmt.Fprintf(&b, " %v=%d", kind, n)
		}
	}
	fmt.Fprintf(&b, "; back at the target after %v of %v; %d checks; %d updates, %d dials, %d connections; %d messages accepted, %d refused, %d delivered, %d requests answered, dropped %v",
		r.Recovery.Round(time.Millisecond), r.Most, r.Checks, r.Updates, r.Dials, r.Connections, r.Accepted, r.Refused, r.Delivered, r.Answered, r.Dropped)
	return b.String()
}

// Simulate runs a plan on a network, in a bubble of testing/synctest, and fails
// the test when an invariant breaks, when a fault of the plan never happened, when
// a node is not back at its target two maximal pauses after the last fault, or when
// anything is left running at the end. It logs the seed and what happened.
//
//	func TestReactor(t *testing.T) {
//		plan := p2ptest.NewPlan(p2ptest.PlanOptions{Seed: 1})
//		p2ptest.Simulate(t, p2ptest.NetworkOptions{Seed: 1, Reactor: open}, plan)
//	}
func Simulate(t *testing.T, o NetworkOptions, p Plan) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(t, o)
		report := n.Run(p)
		n.Close()
		t.Log(report)
	})
}

// Run waits until every node is at its target, lets the plan go wrong, ends all of
// it, waits until every node is back and until what was sent has arrived. It fails
// the test as Simulate does. The network goes on after it.
func (n *Network) Run(p Plan) *Report {
	n.tb.Helper()
	r, err := n.run(p)
	if err != nil {
		n.tb.Errorf("p2ptest: %v\n%s", err, p.upTo(n.Since()))
		n.checker.report()
	}
	return r
}

func (n *Network) run(p Plan) (*Report, error) {
	most := 2 * max(n.o.Peers.MaxRetryTime, n.o.Peers.MaxRetryTimePersistent)
	r := &Report{Seed: p.Options.Seed, Nodes: len(n.nodes), Most: most}
	began := time.Now()
	defer func() { n.fill(r, began) }()
	faulted := func(err error) error { return fmt.Errorf("seed %d: %w", p.Options.Seed, err) }
	if p.Options.Nodes != len(n.nodes) {
		return r, faulted(fmt.Errorf("the plan is for %d nodes, the network has %d", p.Options.Nodes, len(n.nodes)))
	}
	if len(p.Steps) == 0 {
		return r, faulted(errors.New("a plan without faults tests nothing"))
	}
	if err := n.reach(most); err != nil {
		return r, faulted(fmt.Errorf("at the start: %w", err))
	}
	start := time.Now()
	for _, s := range p.Steps {
		if err := n.advance(start.Add(s.At)); err != nil {
			return r, faulted(err)
		}
		n.do(s)
		if err := n.settle(true); err != nil {
			return r, faulted(err)
		}
	}
	if err := n.advance(start.Add(p.Options.Length)); err != nil {
		return r, faulted(err)
	}
	if err := n.makeUp(p); err != nil {
		return r, faulted(err)
	}
	n.heal()
	healed := time.Now()
	err := n.reach(most)
	r.Recovery = time.Since(healed)
	if err != nil {
		return r, faulted(fmt.Errorf("%v after the last fault: %w", r.Recovery, err))
	}
	if err := n.calm(); err != nil {
		return r, faulted(err)
	}
	if missed := n.missed(p); len(missed) > 0 {
		return r, faulted(fmt.Errorf("%v never happened", missed))
	}
	return r, nil
}

// missed are the faults of a plan that did not happen.
func (n *Network) missed(p Plan) (missed []Fault) {
	n.weigh()
	var r Report
	n.fill(&r, n.began)
	for _, kind := range slices.Sorted(maps.Keys(p.Options.Weights)) {
		if p.Options.Weights[kind] > 0 && r.Faults[kind] == 0 {
			missed = append(missed, kind)
		}
	}
	return missed
}

// makeUp tries again, for some minutes, the steps of faults that did not happen,
// since whom they would have befallen was down or alone.
func (n *Network) makeUp(p Plan) error {
	for range 5 {
		missed := n.missed(p)
		if len(missed) == 0 {
			return nil
		}
		for _, s := range p.Steps {
			if slices.Contains(missed, s.Fault) {
				n.do(s)
			}
		}
		if err := n.advance(time.Now().Add(time.Minute)); err != nil {
			return err
		}
	}
	return nil
}

// upTo is the plan until a time, for the one who reads about a failure.
func (p Plan) upTo(at time.Duration) string {
	i, _ := slices.BinarySearchFunc(p.Steps, at, func(s Step, at time.Duration) int { return int(s.At - at) })
	from := max(0, i-20)
	p.Steps = p.Steps[from:i]
	return fmt.Sprintf("the faults before that, from number %d on:\n%s", from, p)
}

// fill writes the counts into a report.
func (n *Network) fill(r *Report, began time.Time) {
	c := n.checker
	r.Virtual = time.Since(began)
	r.Checks, r.Delivered, r.Answered = c.checks.Load(), c.delivered.Load(), c.answered.Load()
	r.Accepted, r.Refused, r.Updates, r.Dials = c.accepted.Load(), c.refused.Load(), c.updates.Load(), c.dials.Load()
	s := n.mem.Stats()
	r.Connections, r.Crashes = s.Connections, s.Faults.Crashes
	r.Faults = c.faults()
	if s.Faults.Cuts > 0 {
		r.Faults[FaultReset] += s.Faults.Cuts
	}
	r.Dropped, r.Steps = p2p.Drops{}, c.hostileSteps()
	drop := func(s p2p.ChannelStats) {
		for reason := range r.Dropped {
			r.Dropped[reason] += s.Send.Dropped[reason] + s.Received.Dropped[reason]
		}
	}
	for _, node := range n.nodes {
		for _, s := range node.former {
			drop(s)
		}
		if failed := node.store.Failed(); failed > 0 {
			r.Faults[FaultStoreWriteError] += failed
		}
		if l := node.alive(); l != nil {
			r.Dials += l.router.Stats().Engine.Counters.Dialled
			for _, s := range l.traffic.stats() {
				drop(s)
			}
		}
	}
}

// undoing is the end of a fault.
type undoing struct {
	at time.Time
	do func()
}

// after has something done when a time has passed, or when all faults end.
func (n *Network) after(d time.Duration, do func()) {
	u := undoing{time.Now().Add(d), do}
	at, _ := slices.BinarySearchFunc(n.undo, u.at.Add(1), func(o undoing, t time.Time) int { return o.at.Compare(t) })
	n.undo = slices.Insert(n.undo, at, u)
}

// look is how often every node is looked at when nothing happens.
const look = 2 * time.Minute

// advance lets time pass until at, and checks after every event: where a peer came
// or went the nodes that were told of it, after a fault began or ended all.
func (n *Network) advance(at time.Time) error {
	for {
		next := at
		if len(n.undo) > 0 && n.undo[0].at.Before(next) {
			next = n.undo[0].at
		}
		if regular := n.looked.Add(look); regular.Before(next) {
			next = regular
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-n.stirred:
		case <-timer.C:
		}
		timer.Stop()
		all := time.Since(n.looked) >= look
		for len(n.undo) > 0 && !n.undo[0].at.After(time.Now()) {
			u := n.undo[0]
			n.undo = n.undo[1:]
			u.do()
			all = true
		}
		if err := n.settle(all); err != nil {
			return err
		}
		if !time.Now().Before(at) {
			return nil
		}
	}
}

// settle waits until nothing but time goes on and looks at the nodes where
// something happened, or at all.
func (n *Network) settle(all bool) error {
	synctest.Wait()
	if all {
		n.looked = time.Now()
	}
	for _, node := range n.nodes {
		l := node.alive()
		if l == nil || !l.dirty.Swap(false) && !all {
			continue
		}
		v := l.view(true)
		n.checker.note(v.check())
		n.checker.note(n.checker.tooLong(l, v.stats))
		if c := n.o.Check; c != nil {
			n.checker.note(c(node))
		}
	}
	return n.checker.failure()
}

// reach waits until every node is at its target, for most at most.
func (n *Network) reach(most time.Duration) error {
	for end := time.Now().Add(most); ; {
		missing := n.missing()
		switch {
		case missing == nil:
			return nil
		case !time.Now().Before(end):
			return missing
		}
		if err := n.advance(time.Now().Add(time.Second)); err != nil {
			return err
		}
	}
}

// missing says who is not at its target: as many peers that it dialled as it
// wants, unless it has all that it may have or all that there are, and every
// persistent one. A peer that moved and of whose new address the node has not
// heard yet does not count: no dial could find it. Since by that a node which knows
// nobody wants for nothing, each must have a peer, and a way to each other over
// sessions, too.
func (n *Network) missing() error {
	faults := n.apart()
	for _, node := range n.nodes {
		l := node.alive()
		if l == nil {
			faults = append(faults, fmt.Errorf("node %d is down", node.index))
			continue
		}
		dialled, peers := 0, l.router.Stats().Peers
		for _, p := range peers {
			if p.Direction == connmgr.Outbound {
				dialled++
			}
		}
		var left []*Node
		for _, other := range n.nodes {
			if other != node && l.pm.Status(other.id) != p2p.PeerStatusUp && slices.Contains(l.pm.Addresses(other.id), other.Address()) {
				left = append(left, other)
			}
		}
		if o := n.o.Peers; dialled < int(o.MaxOutgoingConnections) && len(peers) < int(o.MaxConnected) && len(left) > 0 {
			faults = append(faults, fmt.Errorf("node %d has dialled %d of %d peers, and has %d in all", node.index, dialled, o.MaxOutgoingConnections, len(peers)))
			for _, other := range left {
				faults = append(faults, fmt.Errorf("  it could have %s", l.prospects(other.id)))
			}
		}
		full := n.o.Peers.MaxConnectedUpgrade == 0 && len(peers) == int(n.o.Peers.MaxConnected) // then it dials nobody
		for _, other := range left {
			if full {
				break
			}
			if other.id == node.persistent || slices.Contains(n.o.Peers.PersistentPeers, other.id) {
				faults = append(faults, fmt.Errorf("node %d lacks its persistent peer: %s", node.index, l.prospects(other.id)))
			}
		}
	}
	return errors.Join(faults...)
}

// apart says which nodes have no peer, and that those that are up do not all reach
// each other over sessions.
func (n *Network) apart() (faults []error) {
	up := 0
	reached := make(map[p2p.NodeID]bool)
	var first *Node
	for _, node := range n.nodes {
		l := node.alive()
		if l == nil {
			continue
		}
		up++
		if first == nil {
			first = node
		}
		if len(l.router.Stats().Peers) == 0 {
			faults = append(faults, fmt.Errorf("node %d has no peer", node.index))
		}
	}
	for next := []*Node{first}; len(next) > 0 && first != nil; next = next[1:] {
		l := next[0].alive()
		if l == nil || reached[l.node.id] {
			continue
		}
		reached[l.node.id] = true
		for _, p := range l.router.Stats().Peers {
			if other := n.byID(p.ID); other != nil {
				next = append(next, other)
			}
		}
	}
	if len(reached) < up {
		faults = append(faults, fmt.Errorf("the network has fallen apart: over sessions node %d reaches %d of the %d nodes that are up", first.index, len(reached), up))
	}
	return faults
}

// prospects says what a node knows of another.
func (l *life) prospects(id p2p.NodeID) string {
	p, ok := l.pm.Book().Peer(id)
	if !ok {
		return fmt.Sprintf("nothing of %v", id)
	}
	b := fmt.Sprintf("%.8s is %s", id, l.pm.Status(id))
	if other := l.node.net.byID(id); other != nil {
		b = fmt.Sprintf("node %d at %s, %s", other.index, other.Address(), b)
	}
	if p.Held {
		b += ", held"
	}
	for _, e := range p.Addresses {
		b += fmt.Sprintf("; at %s:%d after %d failures", e.Address.Hostname, e.Address.Port, e.Failures)
		if wait := time.Until(e.Retry); wait > 0 {
			b += fmt.Sprintf(", again in %v", wait.Round(time.Millisecond))
		}
		if !e.Dialable {
			b += ", not dialable now"
		}
	}
	if p.Ban != nil || p.Shun != nil {
		b += fmt.Sprintf("; ban %v, shun %v", p.Ban, p.Shun)
	}
	return b
}

// calm ends the traffic and waits until all of it has arrived. Then every
// connection has a session at both of its ends.
func (n *Network) calm() error {
	n.checker.setQuiet(true)
	defer n.checker.setQuiet(false)
	var waiting error
	for range 60 {
		if err := n.advance(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if waiting = n.unfinished(); waiting == nil {
			return nil
		}
	}
	return waiting
}

// unfinished says what has not arrived yet, and who is connected to whom on one
// side only.
func (n *Network) unfinished() error {
	ends := 0
	for _, node := range n.nodes {
		l := node.alive()
		for _, c := range l.traffic.stats() {
			if c.Send.Queued > 0 || c.Received.Queued > 0 {
				return fmt.Errorf("node %d: on channel %s %d messages wait to be sent and %d to be received, and nothing happens", node.index, c.Name, c.Send.Queued, c.Received.Queued)
			}
		}
		for _, id := range l.peers() {
			ends++
			for _, other := range n.nodes {
				if other.id == id && !slices.Contains(other.alive().peers(), node.id) {
					return fmt.Errorf("node %d has a session with node %d, which has none with it", node.index, other.index)
				}
			}
		}
	}
	s := n.mem.Stats()
	if 2*s.Open != ends {
		return fmt.Errorf("%d connections are open, with %d sessions at their two ends", s.Open, ends)
	}
	for id, d := range trafficChannels {
		if in := s.Channels[id].InFlight.Messages; in > 0 {
			return fmt.Errorf("%d messages of channel %s are on their way, and nothing happens", in, d.Name)
		}
	}
	return nil
}
