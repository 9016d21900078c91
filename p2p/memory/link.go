package memory

import (
	"sync"
	"time"
)

// link is the way from one node to another, with all connections over it.
type link struct {
	net *Network

	mu          sync.Mutex // guards the rest; taken after a pipe's, never before
	is          Link
	free        time.Time // when what was sent so far will have gone out
	partitioned bool
	stalled     bool
	changed     chan struct{} // closed and replaced by whatever opens the link
	pipes       map[*pipe]struct{}
	cutIn       int // chunks until a connection is cut; 0: none is
	breaker     *time.Timer
	harm        Harm
}

func newLink(n *Network, is Link) *link {
	return &link{net: n, is: is, changed: make(chan struct{}), pipes: make(map[*pipe]struct{})}
}

func (l *link) add(p *pipe) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pipes[p] = struct{}{}
}

func (l *link) remove(p *pipe) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pipes, p)
}

// passage is how one segment gets through.
type passage struct {
	gone    time.Time // when it has gone out
	arrives time.Time
	lost    bool // the link is shut: it arrives some time after that ends
	cut     bool // the connection is cut behind it
}

// pass sends size bytes. chunk says that they count for CutAfter. random is in
// [0,1). The caller holds its pipe's mutex, so that shut and open, which visit
// every pipe after they changed the link, cannot miss the segment.
func (l *link) pass(size int, chunk bool, random float64) passage {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	if l.is.Bandwidth > 0 {
		l.free = l.free.Add(time.Duration(float64(size) / float64(l.is.Bandwidth) * float64(time.Second)))
	}
	p := passage{gone: l.free, lost: l.partitioned || l.stalled}
	p.arrives = p.gone.Add(l.is.Latency + time.Duration(random*float64(l.is.Jitter)))
	l.suffer(l.is != l.net.o.Link && p.arrives.After(now.Add(l.net.o.Link.takes(size, random))))
	if chunk && l.cutIn > 0 {
		if l.cutIn--; l.cutIn == 0 {
			p.cut = true
		}
	}
	return p
}

// paced reports whether the link has a bandwidth, and jittery whether it needs a
// random number.
func (l *link) paced() (paced, jittery bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.is.Bandwidth > 0, l.is.Jitter > 0
}

// suffer counts what faults do to a segment. l.mu is held.
func (l *link) suffer(slowed bool) {
	if l.partitioned {
		l.harm.Cut++
	}
	if l.stalled {
		l.harm.Stalled++
	}
	if slowed {
		l.harm.Slowed++
	}
}

// trip is the latency, whether dials get through, and what to wait for if not.
// first says that the dial has not been told before.
func (l *link) trip(first bool) (latency time.Duration, partitioned bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !first:
	case l.partitioned:
		l.harm.Cut++
	case l.is.Latency > l.net.o.Link.Latency:
		l.harm.Slowed++
	}
	return l.is.Latency, l.partitioned, l.changed
}

// change sets what shuts the link and tells every pipe. It reports whether
// anything changed.
func (l *link) change(set func(*link)) bool {
	l.mu.Lock()
	before := [2]bool{l.partitioned, l.stalled}
	set(l)
	if before == [2]bool{l.partitioned, l.stalled} {
		l.mu.Unlock()
		return false
	}
	shut := l.partitioned || l.stalled
	if !l.partitioned && l.breaker != nil {
		l.breaker.Stop()
		l.breaker = nil
	}
	if l.partitioned && l.breaker == nil && l.net.o.BreakAfter > 0 {
		l.breaker = time.AfterFunc(l.net.o.BreakAfter, l.breakAll)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	latency := l.is.Latency
	pipes := make([]*pipe, 0, len(l.pipes))
	for p := range l.pipes {
		pipes = append(pipes, p)
	}
	l.mu.Unlock()
	for _, p := range pipes {
		p.linkChanged(shut, latency)
	}
	return true
}

// breakAll resets the connections of a link that is still partitioned.
func (l *link) breakAll() {
	l.mu.Lock()
	var pairs []*pair
	if l.partitioned {
		for p := range l.pipes {
			pairs = append(pairs, p.pair)
		}
	}
	l.mu.Unlock()
	for _, p := range pairs {
		if p.reset() {
			l.mu.Lock()
			l.harm.Cut++
			l.mu.Unlock()
			l.net.count(func(s *Stats) { s.Faults.Broken++ })
		}
	}
}
