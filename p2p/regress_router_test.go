package p2p_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// An urgent message behind a megabyte of bulk is delivered after at most a few
// chunks, and none of both is lost.
func TestRegressionUrgentMessageLastOrLost(t *testing.T) {
	const rate = 1 << 20
	inMemory(t, memory.Options{Link: memory.Link{Bandwidth: rate}}, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		urgent := openBytes(t, a, 1, p2p.ChannelDescriptor{Class: 0})
		bulk := openBytes(t, a, 2, p2p.ChannelDescriptor{Class: 3, SendQueueBytes: 8 << 20})
		toUrgent := openBytes(t, b, 1, p2p.ChannelDescriptor{})
		toBulk := openBytes(t, b, 2, p2p.ChannelDescriptor{RecvQueueBytes: 8 << 20})
		w.start(a, b)
		w.connect(a, b)
		big := wrapperspb.Bytes(make([]byte, 1<<20-16))
		for range 4 {
			if err := bulk.TrySend(b.id, big); err != nil {
				t.Fatal(err)
			}
		}
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			sent := time.Now()
			if err := urgent.TrySend(b.id, wrapperspb.Bytes(make([]byte, 100))); err != nil {
				t.Fatal(err)
			}
			next(t, toUrgent)
			chunk := time.Second * (1024 + memory.Overhead) / rate
			if took := time.Since(sent); took > 3*chunk {
				t.Errorf("behind bulk for %v, a chunk takes %v", took, chunk)
			}
		}
		for range 4 {
			next(t, toBulk)
		}
	})
}

// A broadcast to 50 peers of which one has stopped reading: for the other 49
// nothing changes, not by a nanosecond of virtual time, and nothing is lost.
func TestRegressionSlowPeerStallsTheChannelForAll(t *testing.T) {
	inMemory(t, memory.Options{Link: memory.Link{Latency: time.Millisecond}}, func(t *testing.T, w *world) {
		hub := w.node()
		from := openBytes(t, hub, 1, p2p.ChannelDescriptor{SendQueueBytes: 2 << 20})
		var (
			peers []*testNode
			tos   []*bytesFace
		)
		for range 50 {
			n := w.node()
			peers, tos = append(peers, n), append(tos, openBytes(t, n, 1, p2p.ChannelDescriptor{}))
		}
		w.start(hub)
		w.start(peers...)
		w.connect(hub, peers...)
		w.net.Stall(hub.id, peers[0].id)
		m := wrapperspb.Bytes(make([]byte, 10<<10))
		for i := range 300 {
			sent := time.Now()
			queued, err := from.Broadcast(t.Context(), m)
			if took := time.Since(sent); err != nil || queued < 49 || took != 0 {
				t.Fatal(i, queued, err, took)
			}
			for _, to := range tos[1:] {
				next(t, to)
			}
			if took := time.Since(sent); took != time.Millisecond {
				t.Fatalf("message %d took %v", i, took)
			}
		}
		for _, p := range hub.r.Stats().Peers {
			if p.ID != peers[0].id {
				if p.Send.Written != 300 || p.Send.Dropped.Total() != 0 {
					t.Errorf("%+v", p.Send)
				}
			} else if p.Send.Dropped[p2p.DropFull] == 0 || p.Send.QueuedBytes > 2<<20 {
				t.Errorf("the slow one: %+v", p.Send)
			}
		}
		balance(t, from.Stats())
		if s := from.Stats(); s.Send.Offered != 300*50 {
			t.Errorf("%+v", s.Send)
		}
	})
}

// A channel whose application never reads: the other channel's and peers' delays
// do not change, the connection stays, and memory stays within the caps.
func TestRegressionHandlersOnTheReadLoop(t *testing.T) {
	inMemory(t, memory.Options{Link: memory.Link{Latency: time.Millisecond}}, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		deaf := openBytes(t, a, 1, p2p.ChannelDescriptor{})
		ask := openBytes(t, a, 2, p2p.ChannelDescriptor{Requests: true})
		unread := openBytes(t, b, 1, p2p.ChannelDescriptor{RecvQueueBytes: 1 << 20, RecvTotalBytes: 1 << 20})
		answer := openBytes(t, b, 2, p2p.ChannelDescriptor{Requests: true})
		w.start(a, b)
		w.connect(a, b)
		go func() {
			for in, err := range answer.Receive(t.Context()) {
				if err != nil {
					return
				}
				_ = in.Reply(t.Context(), in.Message)
			}
		}()
		m := wrapperspb.Bytes(make([]byte, 64<<10))
		for range 200 {
			if err := deaf.TrySend(b.id, m); err != nil {
				t.Fatal(err)
			}
			sent := time.Now()
			if _, err := ask.Request(t.Context(), b.id, wrapperspb.Bytes([]byte("?"))); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(sent); took != 2*time.Millisecond {
				t.Fatalf("took %v", took)
			}
		}
		s, in := deaf.Stats().Send, unread.Stats().Received
		if s.Queued != 0 || in.QueuedBytes > 1<<20 || in.Dropped[p2p.DropFull] == 0 || in.Received != 200 {
			t.Errorf("%+v\n%+v", s, in)
		}
		balance(t, unread.Stats())
	})
}

// Accept loops outlive errors, dial loops outlive refusals, and no dial waits for
// another or for a pause of its own.
func TestRegressionAcceptAndDialLoopsThatDie(t *testing.T) {
	inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		w.net.FailAccepts(b.id, syscall.EMFILE, syscall.EMFILE, errors.New("something"), syscall.ECONNABORTED)
		w.net.RefuseDials(b.id, 3)
		w.start(a, b)
		w.connect(a, b)
		if f := w.net.Stats().Faults; f.AcceptErrors != 4 || f.RefusedDials != 3 {
			t.Errorf("%+v", f)
		}
	})
}

// Forty peers are dialled at once: there is no sleep between dials, and some that
// hang hold up no other.
func TestRegressionDialSleeps(t *testing.T) {
	inMemory(t, memory.Options{Link: memory.Link{Latency: 10 * time.Millisecond}}, func(t *testing.T, w *world) {
		hub := w.node()
		var peers []*testNode
		for i := range 40 {
			n := w.node()
			if i < 10 {
				w.net.Partition(hub.id, n.id) // dials hang
			} else {
				peers = append(peers, n)
			}
			w.start(n)
			if _, err := hub.pm.Add(n.at); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		w.start(hub)
		w.connect(hub, peers...)
		if took := time.Since(start); took > 200*time.Millisecond {
			t.Errorf("%v for 30 peers", took)
		}
	})
}

// Two nodes that dial each other at once keep one connection, whatever the delays,
// and both keep the same; of each peer the updates alternate.
func TestTwoRoutersThatDialEachOtherKeepOneConnection(t *testing.T) {
	for seed := range uint64(60) {
		inMemory(t, memory.Options{Seed: seed}, func(t *testing.T, w *world) {
			random := rand.New(rand.NewPCG(seed, 1))
			a, b := w.node(), w.node()
			ca, cb := openText(t, a, 1), openText(t, b, 1)
			delay := func() time.Duration { return time.Duration(random.IntN(4)) * time.Millisecond }
			w.net.SetLink(a.id, b.id, memory.Link{Latency: delay()})
			w.net.SetLink(b.id, a.id, memory.Link{Latency: delay()})
			subs := []*p2p.PeerUpdates{a.pm.Subscribe(), b.pm.Subscribe()}
			a.pm.Add(b.at)
			b.pm.Add(a.at)
			w.start(a)
			time.Sleep(delay())
			w.start(b)
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := w.net.Stats().Open; n != 1 || !up(a, b.id) || !up(b, a.id) {
				t.Fatalf("seed %d: %d connections, up: %v, %v", seed, n, up(a, b.id), up(b, a.id))
			}
			if a.r.Stats().Peers[0].Direction == b.r.Stats().Peers[0].Direction {
				t.Errorf("seed %d: two halves", seed)
			}
			for _, way := range []struct {
				from *textFace
				to   *textFace
				id   p2p.NodeID
			}{{ca, cb, b.id}, {cb, ca, a.id}} {
				if err := way.from.TrySend(way.id, wrapperspb.String("x")); err != nil {
					t.Fatal(err)
				}
				next(t, way.to)
			}
			for _, s := range subs {
				s.Close()
				last := p2p.PeerStatusDown
				for u := range s.Updates() {
					if u.Status == last {
						t.Errorf("seed %d: %s twice", seed, last)
					}
					last = u.Status
				}
			}
		})
	}
}

// 300,000 numbered messages over resets and cuts in the middle of messages. At the
// sender accepted = written + dropped by reason, exactly; what the connection took
// the network delivered or destroyed; what is delivered is in order, nothing
// twice, and gaps come only with resets.
func TestRouterConservationOverResets(t *testing.T) {
	const total, channel = 300_000, p2p.ChannelID(1)
	inMemory(t, memory.Options{MaxChunk: 64, Window: 16 << 10, Batch: 1 << 10}, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		from := openBytes(t, a, channel, p2p.ChannelDescriptor{SendPolicy: p2p.SendBlock, SendQueueCapacity: 256})
		to := openBytes(t, b, channel, p2p.ChannelDescriptor{RecvQueueCapacity: 1 << 20, RecvQueueBytes: 1 << 28})
		w.start(a, b)
		w.connect(a, b)
		var delivered, gaps uint64
		done := make(chan struct{})
		go func() {
			defer close(done)
			last := uint64(0)
			for in, err := range to.Receive(t.Context()) {
				if err != nil {
					return
				}
				n := binary.BigEndian.Uint64(in.Message.Value)
				if n <= last {
					t.Errorf("%d after %d", n, last)
				}
				if n != last+1 {
					gaps++
				}
				last = n
				delivered++
			}
		}()
		random := rand.New(rand.NewPCG(7, 7))
		accepted := uint64(0)
		for n := uint64(1); n <= total; {
			if n%10_000 == 0 {
				if n%20_000 == 0 {
					w.net.Reset(a.id, b.id)
				} else {
					w.net.CutAfter(a.id, b.id, 1+random.IntN(100))
				}
			}
			value := make([]byte, 8+random.IntN(120))
			binary.BigEndian.PutUint64(value, n)
			switch err := from.Send(t.Context(), b.id, wrapperspb.Bytes(value)); {
			case err == nil:
				accepted++
				n++
			case errors.Is(err, p2p.ErrPeerUnknown), errors.Is(err, p2p.ErrQueueClosed):
				time.Sleep(time.Millisecond) // until it is back; the same number again
			default:
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		a.r.Stop()
		synctest.Wait()
		s, in, book := from.Stats().Send, to.Stats().Received, w.net.Stats()
		b.r.Stop()
		<-done
		balance(t, from.Stats())
		if s.Accepted != accepted || s.Queued != 0 {
			t.Errorf("accepted %d, %+v", accepted, s)
		}
		c := book.Channels[channel]
		if s.Written != c.Sent.Messages || c.Sent.Messages != c.Delivered.Messages+c.Destroyed.Messages+c.InFlight.Messages {
			t.Errorf("written %d, network %+v", s.Written, c)
		}
		if in.Received != c.Delivered.Messages || in.Dropped.Total() != 0 || delivered != in.Received {
			t.Errorf("network %+v, received %+v, delivered %d", c, in, delivered)
		}
		resets := book.Faults.Resets + book.Faults.Cuts
		if resets < 20 || gaps > resets {
			t.Errorf("%d gaps, %+v", gaps, book.Faults)
		}
		t.Logf("accepted %d = written %d + dropped %s; delivered %d + destroyed %d; %d gaps, %d resets",
			s.Accepted, s.Written, s.Dropped, delivered, c.Destroyed.Messages, gaps, resets)
	})
}

// protecting is a transport that notes whom it protects.
type protecting struct {
	*memory.Transport
	mu        sync.Mutex // guards protected
	protected map[p2p.NodeID]bool
}

func (p *protecting) set(id p2p.NodeID, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.protected[id] = on
}

func (p *protecting) Protect(id p2p.NodeID)   { p.set(id, true) }
func (p *protecting) Unprotect(id p2p.NodeID) { p.set(id, false) }

// The end of a session that was superseded does not take the protection from the
// one that took its place.
func TestRegressionSupersededSessionUnprotects(t *testing.T) {
	for seed := range uint64(20) {
		inMemory(t, memory.Options{Seed: seed}, func(t *testing.T, w *world) {
			var guards []*protecting
			guard := func(o *p2p.RouterOptions) {
				p := &protecting{Transport: o.Transports[0].(*memory.Transport), protected: make(map[p2p.NodeID]bool)}
				guards, o.Transports = append(guards, p), []p2p.Transport{p}
			}
			a, b := w.node(guard), w.node(guard)
			w.net.SetLink(a.id, b.id, memory.Link{Latency: time.Duration(seed%5) * time.Millisecond})
			a.pm.Add(b.at)
			b.pm.Add(a.at)
			w.start(a, b)
			time.Sleep(time.Minute)
			synctest.Wait()
			if !up(a, b.id) || !guards[0].protected[b.id] || !guards[1].protected[a.id] {
				t.Errorf("seed %d: up, protected %v, %v", seed, guards[0].protected, guards[1].protected)
			}
			a.r.Stop()
			b.r.Stop()
			if guards[0].protected[b.id] || guards[1].protected[a.id] {
				t.Errorf("seed %d: down, protected %v, %v", seed, guards[0].protected, guards[1].protected)
			}
		})
	}
}
