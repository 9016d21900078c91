package connmgr

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeConn is a connection of the engine's tests. It counts its Closes.
type fakeConn struct {
	ip     netip.Addr
	id     string
	closes atomic.Int32
	closed chan struct{}
	slow   func() // runs in Close
}

func newFake(ip, id string) *fakeConn {
	c := &fakeConn{id: id, closed: make(chan struct{})}
	if ip != "" {
		c.ip = netip.MustParseAddr(ip)
	}
	return c
}

var errTwice = errors.New("closed twice")

func (c *fakeConn) Close() error {
	if c.closes.Add(1) > 1 {
		return errTwice
	}
	close(c.closed)
	if c.slow != nil {
		c.slow()
	}
	return nil
}

func (c *fakeConn) isClosed() bool { return c.closes.Load() > 0 }

// A fakePolicy names dials from a queue and remembers how they ended.
type fakePolicy struct {
	mu     sync.Mutex
	queue  []Dial[string]
	wake   time.Time
	asked  int
	named  int
	ended  []fakeEnd
	onNext func()
	onEnd  func(Dial[string], Outcome)
	victim func([]Candidate) (uint64, bool)
}

type fakeEnd struct {
	Dial[string]
	Outcome
}

func (p *fakePolicy) Next(time.Time) (Dial[string], time.Time, bool) {
	if p.onNext != nil {
		p.onNext()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if len(p.queue) == 0 {
		return Dial[string]{}, p.wake, false
	}
	d := p.queue[0]
	p.queue = p.queue[1:]
	p.named++
	return d, time.Time{}, true
}

func (p *fakePolicy) Ended(d Dial[string], o Outcome) {
	p.mu.Lock()
	p.ended = append(p.ended, fakeEnd{d, o})
	p.mu.Unlock()
	if p.onEnd != nil {
		p.onEnd(d, o)
	}
}

func (p *fakePolicy) Victim(all []Candidate) (uint64, bool) {
	if p.victim == nil {
		return 0, false
	}
	return p.victim(all)
}

// dial queues targets, tagged from 1 on.
func (p *fakePolicy) dial(targets ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range targets {
		p.queue = append(p.queue, Dial[string]{Target: t, Kind: KindManual, Tag: uint64(p.named + len(p.queue) + 1)})
	}
}

func (p *fakePolicy) ends() []fakeEnd {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ended)
}

// asks is how often Next was called.
func (p *fakePolicy) asks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// A rig is an engine with a policy and a record of its callbacks.
type rig struct {
	t      *testing.T
	p      *fakePolicy
	cfg    EngineConfig[string, *fakeConn]
	e      *Engine[string, *fakeConn]
	accept chan *fakeConn // what the accept loop returns; closing it ends the loop

	mu     sync.Mutex
	up     []*Conn[string, *fakeConn]
	log    []string // "up 1", "down 1: cause"
	cancel context.CancelFunc
	over   chan error
}

var errHungUp = errors.New("hung up")

// newRig configures an engine whose dials succeed with a connection to the
// target as its IP, and whose accept loop returns what is sent to accept.
func newRig(t *testing.T, change func(*rig)) *rig {
	t.Helper()
	r := &rig{t: t, p: &fakePolicy{}, accept: make(chan *fakeConn), over: make(chan error, 1)}
	stopped := make(chan struct{})
	r.cfg = EngineConfig[string, *fakeConn]{
		Policy: r.p,
		Dial:   func(_ context.Context, target string) (*fakeConn, error) { return newFake(target, ""), nil },
		Accept: []func() (*fakeConn, error){func() (*fakeConn, error) {
			select {
			case c := <-r.accept:
				return c, nil
			case <-stopped:
				return nil, errors.New("listener closed")
			}
		}},
		Stop:     func() { close(stopped) },
		RemoteIP: func(c *fakeConn) netip.Addr { return c.ip },
		Identify: func(c *fakeConn) string { return c.id },
		Connected: func(c *Conn[string, *fakeConn]) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.up = append(r.up, c)
			r.log = append(r.log, "up "+c.String())
		},
		Disconnected: func(c *Conn[string, *fakeConn], cause error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.log = append(r.log, "down "+c.String()+": "+cause.Error())
		},
		Rand: func() float64 { return 0.5 },
	}
	if change != nil {
		change(r)
	}
	e, err := NewEngine(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.e = e
	return r
}

// start runs the engine in the background.
func (r *rig) start() {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.over <- r.e.Run(ctx) }()
}

// stop ends Run and checks that nothing is left.
func (r *rig) stop() {
	r.t.Helper()
	r.cancel()
	if err := <-r.over; err != nil {
		r.t.Fatalf("Run: %v", err)
	}
	r.holdsNothing()
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if len(r.p.ended) != r.p.named {
		r.t.Errorf("%d dials named, %d ended", r.p.named, len(r.p.ended))
	}
}

// holdsNothing checks the engine's own tables.
func (r *rig) holdsNothing() {
	r.t.Helper()
	e := r.e
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.gate
	entries := e.hung + len(g.ids) + len(g.handshake) + len(g.crowd) + len(e.pending) + len(e.conns) + len(e.tasks) + len(e.drops) + len(e.busy)
	for d := range g.hosts {
		entries += len(g.hosts[d]) + len(g.prefixes[d]) + len(g.groups[d])
	}
	if g.total != 0 || g.pending != 0 || g.direction != [2]int{} || e.dials != 0 || entries != 0 {
		r.t.Errorf("left: %d places %v, %d pending, %d dials, %d entries", g.total, g.direction, g.pending, e.dials, entries)
	}
}

// wait returns when everything in the bubble waits.
func (r *rig) wait() { synctest.Wait() }

// conns are the announced connections, in order.
func (r *rig) conns() []*Conn[string, *fakeConn] {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.up)
}

// history is what the callbacks were told, in order.
func (r *rig) history() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, change func(*rig), test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, change)
		test(r)
	})
}
