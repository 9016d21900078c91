package connmgr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// A handshake blocked in a read ends with EstablishTimeout: the connection is
// closed under it.
func TestEstablishTimeoutClosesTheConnection(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.EstablishTimeout = 3 * time.Second
		r.cfg.Establish = func(_ context.Context, c *fakeConn, _ EstablishInfo[string]) error {
			<-c.closed
			return io.ErrUnexpectedEOF
		}
	}, func(r *rig) {
		r.p.dial("192.0.2.1")
		r.start()
		in := newFake("192.0.2.2", "")
		r.accept <- in
		time.Sleep(2900 * time.Millisecond)
		if s := r.e.Inspect(); in.isClosed() || s.Pending != 1 || len(s.Dials) != 1 {
			t.Errorf("too early: %+v", s)
		}
		time.Sleep(200 * time.Millisecond)
		r.wait()
		ends := r.p.ends()
		if len(ends) != 1 || !errors.Is(ends[0].Cause, context.DeadlineExceeded) || !errors.Is(ends[0].Cause, io.ErrUnexpectedEOF) {
			t.Errorf("%+v", ends)
		}
		if s := r.e.Inspect(); in.closes.Load() != 1 || s.Counters.HandshakesFailed != 1 || s.Counters.DialsFailed != 1 || len(r.history()) != 0 {
			t.Errorf("closed %d times, %+v", in.closes.Load(), s.Counters)
		}
		r.holdsTasks(2)
		r.stop()
	})
}

// holdsTasks checks the number of goroutines the engine waits for.
func (r *rig) holdsTasks(n int) {
	r.t.Helper()
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	if len(r.e.tasks) != n {
		r.t.Errorf("%d tasks, want %d", len(r.e.tasks), n)
	}
}

// A handshake that succeeds after its time does not count.
func TestLateEstablish(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.EstablishTimeout = time.Second
		r.cfg.Establish = func(ctx context.Context, _ *fakeConn, _ EstablishInfo[string]) error {
			time.Sleep(2 * time.Second)
			return nil
		}
	}, func(r *rig) {
		r.p.dial("192.0.2.1")
		r.start()
		time.Sleep(3 * time.Second)
		r.wait()
		if e := r.p.ends(); len(e) != 1 || !errors.Is(e[0].Cause, context.DeadlineExceeded) || len(r.conns()) != 0 {
			t.Errorf("%+v", e)
		}
		r.stop()
	})
}

// What Establish and Admit say is the cause of the end; nothing is announced.
func TestEstablishAndAdmitRefuse(t *testing.T) {
	var infos []EstablishInfo[string]
	bubble(t, func(r *rig) {
		r.cfg.Establish = func(_ context.Context, c *fakeConn, i EstablishInfo[string]) error {
			if i.Dial.Target == "192.0.2.1" {
				return errHungUp
			}
			return nil
		}
		r.cfg.Admit = func(c *fakeConn, i EstablishInfo[string]) error {
			infos = append(infos, i)
			if i.Dial.Target == "192.0.2.2" || i.Direction == Inbound {
				return io.ErrNoProgress
			}
			return nil
		}
		r.cfg.MaxDials = 1
	}, func(r *rig) {
		r.p.dial("192.0.2.1", "192.0.2.2", "192.0.2.3")
		r.start()
		r.wait()
		in := newFake("192.0.2.4", "")
		r.accept <- in
		r.wait()
		ends := r.p.ends()
		if len(ends) != 2 || ends[0].Cause != errHungUp || ends[1].Cause != io.ErrNoProgress {
			t.Errorf("%+v", ends)
		}
		if len(r.conns()) != 1 || !in.isClosed() || len(infos) != 3 || infos[0].Dial.Target != "192.0.2.2" || infos[0].ID != 2 || infos[2] != (EstablishInfo[string]{ID: 4}) {
			t.Errorf("%d connections, %+v", len(r.conns()), infos)
		}
		r.stop()
	})
}

// After Admit said yes, Connected and Disconnected follow, even if the
// connection was dropped in that moment.
func TestAnnouncedAfterAdmit(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.Admit = func(_ *fakeConn, i EstablishInfo[string]) error {
			if n := r.e.Drop(nil, errHungUp); n != 1 {
				r.t.Errorf("dropped %d", n)
			}
			return nil
		}
	}, func(r *rig) {
		r.p.dial("192.0.2.1")
		r.start()
		r.wait()
		h := r.history()
		if len(h) != 2 || !strings.HasPrefix(h[0], "up") || !strings.HasSuffix(h[1], "hung up") {
			t.Errorf("%q", h)
		}
		if e := r.p.ends(); len(e) != 1 || !e[0].Established || e[0].Cause != errHungUp {
			t.Errorf("%+v", e)
		}
		r.stop()
	})
}

// One connection for each identity, in whatever direction.
func TestRefuseDuplicates(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.Limits.RefuseDuplicates = true
		r.cfg.Dial = func(_ context.Context, target string) (*fakeConn, error) { return newFake("192.0.2.1", target), nil }
	}, func(r *rig) {
		r.p.dial("alice")
		r.start()
		r.wait()
		double, bob, nobody := newFake("192.0.2.2", "alice"), newFake("192.0.2.2", "bob"), newFake("192.0.2.2", "")
		for _, c := range []*fakeConn{double, bob, nobody, newFake("192.0.2.2", "")} {
			r.accept <- c
		}
		r.wait()
		r.p.dial("bob", "carol")
		r.e.Wake()
		r.wait()
		if !double.isClosed() || bob.isClosed() || nobody.isClosed() || len(r.conns()) != 5 {
			t.Errorf("%v", r.conns())
		}
		e := r.p.ends()
		if len(e) != 1 || r.e.Inspect().Refused[RuleDuplicate] != 2 {
			r.t.Fatalf("%+v", e)
		}
		refusal, ok := errors.AsType[*Refusal](e[0].Cause)
		if !ok || refusal.Key != "bob" || !strings.Contains(r.e.Explain(refusal), "bob is connected already") {
			t.Errorf("%v", e[0].Cause)
		}
		r.conns()[0].Close() // alice
		r.accept <- newFake("192.0.2.2", "alice")
		r.wait()
		if len(r.conns()) != 6 {
			t.Error("alice cannot come back")
		}
		r.stop()
	})
}

// When full, the policy names who goes, after the newcomer's handshake.
func TestEviction(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.Limits = Limits{Inbound: Share{Total: 2}, Evict: true}
		r.cfg.Establish = func(ctx context.Context, c *fakeConn, _ EstablishInfo[string]) error {
			if c.id == "bad" {
				return errHungUp
			}
			return nil
		}
		r.p.victim = func(all []Candidate) (uint64, bool) {
			slices.SortFunc(all, func(a, b Candidate) int { return int(a.ID) - int(b.ID) })
			for _, c := range all {
				if !c.Protected {
					return c.ID, true
				}
			}
			return 0, false
		}
	}, func(r *rig) {
		r.p.dial("192.0.2.100") // outbound ones are no candidates
		r.start()
		r.wait()
		for range 2 {
			r.accept <- newFake("192.0.2.1", "")
			r.wait()
		}
		conns := r.conns()
		first, second := conns[1], conns[2]
		first.Protect(true)
		r.accept <- newFake("192.0.2.2", "bad")
		r.wait()
		if second.Err() != nil {
			t.Error("evicted for a handshake that failed")
		}
		r.accept <- newFake("192.0.2.3", "")
		r.wait()
		if second.Err() != ErrEvicted || first.Err() != nil || len(r.conns()) != 4 {
			t.Errorf("%v, %v", first.Err(), second.Err())
		}
		for _, c := range r.conns() {
			c.Protect(true)
		}
		refused := newFake("192.0.2.4", "")
		r.accept <- refused
		r.wait()
		s := r.e.Inspect()
		if !refused.isClosed() || s.Refused[RuleDirection] != 1 || s.Counters.Evicted != 1 || s.Inbound != 2 || s.InboundRejected != 1 {
			t.Errorf("%+v", s)
		}
		// A policy that makes up a number, or names somebody who is no
		// candidate, evicts nobody.
		for _, id := range []uint64{0, 1, 1 << 60} {
			r.p.victim = func([]Candidate) (uint64, bool) { return id, true }
			r.accept <- newFake("192.0.2.5", "")
			r.wait()
		}
		if s := r.e.Inspect(); s.Counters.Evicted != 1 || s.Refused[RuleDirection] != 4 || s.Outbound != 1 {
			t.Errorf("%+v", s)
		}
		r.stop()
	})
}

// However many come at once, everyone who comes in evicts one, nobody twice,
// and the cap holds.
func TestConcurrentEviction(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.Limits = Limits{Total: 10, Evict: true}
		r.p.victim = func(all []Candidate) (uint64, bool) {
			if len(all) > 10 {
				r.t.Errorf("%d candidates", len(all))
			}
			time.Sleep(time.Millisecond) // so that all think at the same time
			oldest := slices.MinFunc(all, func(a, b Candidate) int { return int(a.ID) - int(b.ID) })
			return oldest.ID, true
		}
	}, func(r *rig) {
		r.start()
		for range 10 {
			r.accept <- newFake("192.0.2.1", "")
		}
		r.wait()
		for range 40 {
			r.accept <- newFake("192.0.2.1", "")
		}
		time.Sleep(time.Second)
		r.wait()
		s := r.e.Inspect()
		in := uint64(len(r.conns()) - 10)
		if s.Inbound != 10 || len(s.Connections) != 10 || s.Counters.Evicted != in || in+s.Refused[RuleTotal] != 40 || in < 10 {
			t.Errorf("%d came in, %+v", in, s)
		}
		r.stop()
	})
}

// What is noted of a connection is what the policy sees of a candidate.
func TestCandidates(t *testing.T) {
	var got []Candidate
	bubble(t, func(r *rig) {
		r.cfg.Limits = Limits{Inbound: Share{Total: 1}, Evict: true}
		r.p.victim = func(all []Candidate) (uint64, bool) { got = all; return 0, false }
	}, func(r *rig) {
		r.start()
		since := time.Now()
		r.accept <- newFake("192.0.2.1", "alice")
		r.wait()
		time.Sleep(time.Minute)
		c := r.conns()[0]
		c.NoteUseful(3)
		c.NoteUseful(4)
		c.NoteRTT(time.Second)
		c.NoteRTT(0)
		c.NoteRTT(-1)
		useful := time.Now()
		time.Sleep(time.Minute)
		r.accept <- newFake("192.0.2.2", "bob")
		r.wait()
		want := Candidate{ID: 1, IP: c.RemoteIP(), Group: "192.0.0.0/16", Identity: "alice", Since: since, RTT: time.Second, LastUseful: useful, Useful: 7}
		if len(got) != 1 || !got[0].LastUseful.Equal(useful) || !got[0].Since.Equal(since) {
			r.t.Fatalf("%+v", got)
		}
		got[0].LastUseful, got[0].Since = useful, since
		if got[0] != want {
			t.Errorf("%+v", got[0])
		}
		if i := r.e.Inspect().Connections[0]; i.Useful != 7 || i.RTT != time.Second || i.Identity != "alice" || i.Group != "192.0.0.0/16" {
			t.Errorf("%+v", i)
		}
		r.stop()
	})
}

// Nothing is pending without a handshake, so limits on pending ones do not
// refuse anybody.
func TestPendingLimitsWithoutHandshake(t *testing.T) {
	bubble(t, func(r *rig) { r.cfg.Limits = Limits{Pending: 1, PendingPerHost: 1} }, func(r *rig) {
		r.start()
		for range 50 {
			r.accept <- newFake("192.0.2.1", "")
		}
		r.wait()
		if len(r.conns()) != 50 {
			t.Errorf("%d connections", len(r.conns()))
		}
		r.stop()
	})
}

// Whom the limits refuse after the handshake gets a last word, while the
// connection is still open.
func TestRefusedHasALastWord(t *testing.T) {
	var told []string
	bubble(t, func(r *rig) {
		r.cfg.Limits = Limits{Inbound: Share{Total: 1}, Evict: true}
		r.cfg.Refused = func(c *fakeConn, why *Refusal) {
			told = append(told, fmt.Sprint(c.id, " ", why.Rule, " ", c.isClosed()))
		}
		r.p.victim = func([]Candidate) (uint64, bool) { return 0, false }
	}, func(r *rig) {
		r.start()
		for _, id := range []string{"ann", "bob"} {
			r.accept <- newFake("192.0.2.1", id)
			r.wait()
		}
		r.stop()
	})
	if want := []string{fmt.Sprint("bob ", RuleDirection, " false")}; !slices.Equal(told, want) {
		t.Errorf("%q, want %q", told, want)
	}
}
