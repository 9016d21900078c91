package connmgr

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A randomPolicy names dials as long as it likes and checks that each ends once.
type randomPolicy struct {
	t    *testing.T
	mu   sync.Mutex
	r    *rand.Rand
	open map[uint64]string
	n    uint64
	most uint64
}

func (p *randomPolicy) Next(now time.Time) (Dial[string], time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n == p.most || p.r.IntN(3) == 0 {
		return Dial[string]{}, now.Add(time.Duration(p.r.IntN(1000)) * time.Millisecond), false
	}
	p.n++
	how := []string{"quick", "slow", "fails", "hangs", "deaf"}[p.r.IntN(5)]
	target := fmt.Sprintf("%s 192.0.%d.%d", how, p.r.IntN(3), p.r.IntN(4))
	p.open[p.n] = target
	return Dial[string]{Target: target, Kind: KindAutomatic, Tag: p.n}, time.Time{}, true
}

func (p *randomPolicy) Ended(d Dial[string], o Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[d.Tag] != d.Target {
		p.t.Errorf("dial %d to %s ended, open is %q", d.Tag, d.Target, p.open[d.Tag])
	}
	delete(p.open, d.Tag)
	if o.Cause == nil || o.At.IsZero() || o.Lived < 0 || o.Lived > 0 && !o.Established {
		p.t.Errorf("outcome %+v", o)
	}
}

func (p *randomPolicy) Victim(all []Candidate) (uint64, bool) {
	p.mu.Lock()
	n := p.r.IntN(4)
	p.mu.Unlock()
	switch n {
	case 0:
		return 0, false
	case 1:
		return uint64(n) * 1000003, true // nobody
	}
	return LeastUseful(all)
}

// Whatever happens, in whatever order, and whenever it is stopped: each dial
// named is ended once, each connection is announced up and then down once, each
// socket is closed once, no cap is exceeded, and in the end nothing is left.
func TestRandomOperations(t *testing.T) {
	seeds := uint64(60)
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) { randomRun(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func randomRun(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 5))
	p := &randomPolicy{t: t, r: rand.New(rand.NewPCG(seed, 6)), open: map[uint64]string{}, most: 150}
	limit := func(most int) int {
		if r.IntN(2) == 0 {
			return 0
		}
		return 1 + r.IntN(most)
	}
	l := Limits{
		Total: limit(30), Inbound: Share{limit(15), limit(4), limit(8), limit(12)}, Outbound: Share{limit(15), limit(4), limit(8), limit(12)},
		Pending: limit(8), PendingPerHost: limit(3), Rate: float64(limit(5)), Burst: limit(5), Sources: limit(4), FloodRate: limit(200),
		RefuseDuplicates: r.IntN(2) == 0, Evict: r.IntN(2) == 0,
	}
	var mu sync.Mutex
	sockets := map[*fakeConn]bool{}
	pause := func(most time.Duration) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(r.Int64N(int64(most)))
	}
	chance := func(n int) bool { return pause(time.Duration(n)) == 0 }
	open := func(ip string) *fakeConn {
		c := newFake(ip, fmt.Sprint(pause(20)))
		mu.Lock()
		defer mu.Unlock()
		sockets[c] = true
		return c
	}
	stopped := make(chan struct{})
	accept := func() (*fakeConn, error) {
		select {
		case <-stopped:
			return nil, errors.New("closed")
		case <-time.After(pause(300 * time.Millisecond)):
			if chance(10) {
				return nil, errors.New("too many open files")
			}
			return open(fmt.Sprintf("192.0.%d.%d", pause(3), pause(4))), nil
		}
	}
	story := map[uint64][]string{} // by connection
	tell := func(id uint64, what string) {
		mu.Lock()
		defer mu.Unlock()
		story[id] = append(story[id], what)
	}
	e, err := NewEngine(EngineConfig[string, *fakeConn]{
		Policy: p, Limits: l, Accept: []func() (*fakeConn, error){accept, accept}, Stop: func() { close(stopped) },
		MaxDials: 1 + r.IntN(6), DialTimeout: 2 * time.Second, EstablishTimeout: time.Second,
		RemoteIP: func(c *fakeConn) netip.Addr { return c.ip },
		Identify: func(c *fakeConn) string { return c.id },
		Dial: func(ctx context.Context, target string) (*fakeConn, error) {
			how, ip, _ := strings.Cut(target, " ")
			switch how {
			case "fails":
				return nil, errors.New("refused")
			case "slow":
				time.Sleep(pause(3 * time.Second))
			case "deaf": // to its context
				time.Sleep(5 * time.Second)
			case "hangs":
				<-ctx.Done()
				if chance(2) {
					return nil, ctx.Err()
				}
			}
			return open(ip), nil
		},
		Establish: func(ctx context.Context, c *fakeConn, _ EstablishInfo[string]) error {
			switch pause(6) {
			case 0:
				return errors.New("bad handshake")
			case 1:
				<-c.closed
				return errors.New("closed")
			case 2:
				<-ctx.Done()
				return nil
			}
			time.Sleep(pause(200 * time.Millisecond))
			return nil
		},
		Admit: func(_ *fakeConn, i EstablishInfo[string]) error {
			if chance(10) {
				return errors.New("no")
			}
			tell(i.ID, "admitted")
			return nil
		},
		Connected: func(c *Conn[string, *fakeConn]) {
			tell(c.ID(), "up")
			if chance(3) {
				<-c.Done()
			}
			if chance(5) {
				c.Close()
			}
			time.Sleep(pause(100 * time.Millisecond))
			c.NoteUseful(1)
			tell(c.ID(), "ran")
		},
		Disconnected: func(c *Conn[string, *fakeConn], cause error) {
			tell(c.ID(), "down")
			if cause == nil || c.Err() != cause || !c.Raw().isClosed() {
				t.Errorf("cause %v, Err %v", cause, c.Err())
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	events := e.Subscribe()
	ctx, cancel := context.WithTimeout(context.Background(), pause(time.Minute))
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() { // a crowd of callers
		for ctx.Err() == nil {
			time.Sleep(pause(200 * time.Millisecond))
			s := e.Inspect()
			if l.Total > 0 && s.Inbound+s.Outbound > l.Total || l.Inbound.Total > 0 && s.Inbound > l.Inbound.Total || l.Outbound.Total > 0 && s.Outbound > l.Outbound.Total || l.Pending > 0 && s.Pending > l.Pending {
				t.Errorf("above a cap: %+v with %+v", s, l)
			}
			switch n := uint64(pause(60)); pause(6) {
			case 0:
				e.Wake()
			case 1:
				e.Drop(func(d Dial[string]) bool { return d.Tag%5 == n%5 }, errHungUp)
			case 2:
				for _, c := range s.Connections {
					if c.ID%3 == n%3 {
						wg.Go(func() { e.Close(c.ID, nil) })
					}
				}
			case 3:
				wg.Go(func() {
					if c, err := e.Admit(ctx, open("192.0.2.99")); err == nil {
						c.Protect(true)
						c.CloseWith(errHungUp)
					}
				})
			}
		}
	})
	wg.Wait()
	if _, err := e.Admit(context.Background(), open("192.0.2.1")); err != ErrStopped {
		t.Error(err)
	}

	if len(p.open) != 0 {
		t.Errorf("never ended: %v", p.open)
	}
	for c := range sockets {
		if n := c.closes.Load(); n != 1 {
			t.Errorf("a socket was closed %d times", n)
		}
	}
	for id, s := range story {
		if !slices.Equal(s, []string{"admitted", "up", "ran", "down"}) {
			t.Errorf("connection %d: %q", id, s)
		}
	}
	ups := map[uint64]int{}
	for {
		ev, err := events.Next(context.Background())
		if err != nil {
			break
		}
		switch {
		case ev.Type == EventConnected && ups[ev.ID] == 0, ev.Type == EventDisconnected && (ups[ev.ID] == 1 || ev.Missed > 0):
			ups[ev.ID]++
		case ev.Type == EventConnected, ev.Type == EventDisconnected:
			t.Errorf("event %v of %d after %d", ev.Type, ev.ID, ups[ev.ID])
		}
	}
	s := e.Inspect()
	if s.Counters.Established != uint64(len(story)) || s.Counters.Closed != s.Counters.Established || s.Inbound+s.Outbound+s.Pending+s.Hung != 0 {
		t.Errorf("%d told, %+v", len(story), s)
	}
	(&rig{t: t, e: e}).holdsNothing()
}
