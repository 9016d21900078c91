package p2p_test

import (
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

var conserved = flag.Int("conserve", 60_000, "messages that TestConservationOverResets sends")

// memoryLine is two nodes of a network, and connections between them.
type memoryLine struct {
	net  *memory.Network
	keys [2]p2p.PrivKey
	node [2]*memory.Transport
}

func newMemoryLine(t testing.TB, o memory.Options) *memoryLine {
	t.Helper()
	l := &memoryLine{net: memory.NewNetwork(o)}
	for i := range l.keys {
		key, err := identity.PrivKeyFromSeed(slices.Repeat([]byte{byte(i + 1)}, identity.SeedSize))
		if err != nil {
			t.Fatal(err)
		}
		l.keys[i] = key
		if l.node[i], err = l.net.Listen(l.id(i)); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func (l *memoryLine) id(i int) p2p.NodeID { return l.keys[i].Public().NodeID() }

// connect returns a new connection's ends after the handshake.
func (l *memoryLine) connect(t testing.TB) (p2p.Connection, p2p.Connection) {
	t.Helper()
	x, err := l.node[0].Dial(t.Context(), l.node[1].Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	y, err := l.node[1].Accept()
	if err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	for i, c := range []p2p.Connection{x, y} {
		both.Go(func() {
			if _, _, err := c.Handshake(t.Context(), p2p.NodeInfo{NodeID: l.id(i), Channels: []p2p.ChannelID{0, 1, 2, 3}}, l.keys[i]); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	return x, y
}

// An urgent message of 100 B behind a bulk channel that saturates a link of 10
// Mbit/s comes at most two chunks later than on an idle link, in virtual time.
func TestUrgentBehindBulkAt10Mbit(t *testing.T) {
	const (
		bandwidth = 1_250_000 // bytes a second
		rounds    = 500
	)
	oneChunk := time.Duration(float64(1024+memory.Overhead) / bandwidth * float64(time.Second))
	delays := func(bulk bool) []time.Duration {
		var took []time.Duration
		synctest.Test(t, func(t *testing.T) {
			l := newMemoryLine(t, memory.Options{Link: memory.Link{Latency: 5 * time.Millisecond, Bandwidth: bandwidth}})
			x, y := l.connect(t)
			q, err := p2p.NewQueueForTest(map[p2p.ChannelID]uint8{0: 0, 3: 3}, 4)
			if err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			all.Go(func() { _ = q.Run(x) })
			if bulk {
				all.Go(func() {
					for data := make([]byte, 1<<20); q.Send(t.Context(), 3, data) == nil; {
					}
				})
			}
			arrived := make(chan time.Time)
			all.Go(func() {
				for {
					id, _, err := y.ReceiveMessage()
					if err != nil {
						return
					}
					if id == 0 {
						arrived <- time.Now()
					}
				}
			})
			rng := rand.New(rand.NewPCG(1, 1))
			for range rounds {
				time.Sleep(20*time.Millisecond + time.Duration(rng.IntN(3000))*time.Microsecond)
				sent := time.Now()
				if err := q.TrySend(0, make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
				took = append(took, (<-arrived).Sub(sent))
			}
			q.Close()
			_ = x.Close()
			_ = y.Close()
			all.Wait()
		})
		slices.Sort(took)
		return took
	}
	idle, loaded := delays(false), delays(true)
	p99 := rounds * 99 / 100
	t.Logf("idle p50 %v, p99 %v; behind bulk p50 %v, p99 %v, most %v; a chunk takes %v", idle[rounds/2], idle[p99], loaded[rounds/2], loaded[p99], loaded[rounds-1], oneChunk)
	if most := idle[p99] + 2*oneChunk; loaded[p99] > most || loaded[rounds-1] > most {
		t.Errorf("behind bulk p99 is %v, at most %v", loaded[p99], most)
	}
	if loaded[rounds/2] == idle[rounds/2] {
		t.Error("the bulk channel made no difference: was there any?")
	}
}

// Numbered messages over a connection that is reset again and again: at the
// sender accepted = written + dropped by reason; what is delivered is a
// subsequence of what was written, in order and without repetition, whose gaps lie
// at resets; and the network knows what became of each that was not delivered.
func TestConservationOverResets(t *testing.T) {
	for seed := range uint64(3) {
		synctest.Test(t, func(t *testing.T) { conservation(t, seed, *conserved/3) })
	}
}

func conservation(t *testing.T, seed uint64, messages int) {
	rng := rand.New(rand.NewPCG(seed, 9))
	l := newMemoryLine(t, memory.Options{Seed: seed, MaxChunk: 256, Window: 8 << 10, Batch: 2 << 10, Link: memory.Link{Latency: time.Millisecond, Jitter: time.Millisecond}})
	channels := map[p2p.ChannelID]uint8{0: 0, 1: 1, 2: 1, 3: 3}
	var (
		sum       p2p.SendStats
		delivered uint64
		next      [4]uint64 // number of the next message of each channel
		last      [4]uint64 // highest number delivered
		gaps      int
		sessions  int
		left      = messages
	)
	for left > 0 {
		sessions++
		x, y := l.connect(t)
		q, err := p2p.NewQueueForTest(channels, 16)
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		first := next // of this session: gaps may only lie before what comes first in a session
		all.Go(func() {
			_ = q.Run(x)
			_ = x.Close()
		})
		all.Go(func() {
			defer y.Close()
			var seen [4]bool
			for {
				id, data, err := y.ReceiveMessage()
				if err != nil {
					return
				}
				delivered++
				number := binary.BigEndian.Uint64(data)
				switch {
				case number <= last[id]:
					t.Errorf("seed %d: message %d of channel %d comes after %d", seed, number, id, last[id])
				case number < first[id]+1:
					t.Errorf("seed %d: message %d of channel %d is of an earlier session", seed, number, id)
				case number != last[id]+1 && (seen[id] || number != first[id]+1):
					t.Errorf("seed %d: a gap before message %d of channel %d, in the middle of a session", seed, number, id)
				case number != last[id]+1:
					gaps++
				}
				seen[id], last[id] = true, number
			}
		})
		switch rng.IntN(3) {
		case 0:
			l.net.CutAfter(l.id(0), l.id(1), 1+rng.IntN(400))
		case 1:
			time.AfterFunc(time.Duration(rng.IntN(20_000))*time.Microsecond, func() { l.net.Reset(l.id(0), l.id(1)) })
		default:
			time.AfterFunc(time.Duration(rng.IntN(20_000))*time.Microsecond, func() { _ = y.Close() })
		}
		// The receiver of the session reads first[], so the sender counts in next[].
		for left > 0 {
			id := p2p.ChannelID(rng.IntN(4))
			data := make([]byte, 8+rng.IntN(600))
			binary.BigEndian.PutUint64(data, next[id]+1)
			if q.Send(t.Context(), id, data) != nil {
				break
			}
			next[id]++
			left--
			if rng.IntN(10) == 0 {
				time.Sleep(time.Duration(rng.IntN(100)) * time.Microsecond)
			}
		}
		if left == 0 { // the last session ends in peace
			time.Sleep(time.Second)
		}
		q.Close()
		_ = x.Close()
		time.Sleep(time.Second)
		_ = y.Close()
		all.Wait()
		if err := q.Check(); err != nil {
			t.Fatal(err)
		}
		st := q.Stats()
		sum.Accepted += st.Accepted
		sum.Written += st.Written
		for r, n := range st.Dropped {
			sum.Dropped[r] += n
		}
	}
	var accepted uint64
	for _, n := range next {
		accepted += n
	}
	lost := sum.Dropped[p2p.DropClosed] + sum.Dropped[p2p.DropCut]
	if accepted != sum.Accepted || accepted != sum.Written+lost {
		t.Errorf("seed %d: accepted %d (by the books %d), written %d, dropped %v", seed, accepted, sum.Accepted, sum.Written, sum.Dropped)
	}
	net := l.net.Stats().Total()
	if net.Sent.Messages != sum.Written || net.Delivered.Messages != delivered || net.InFlight.Messages != 0 ||
		net.Sent.Messages != net.Delivered.Messages+net.Destroyed.Messages || net.Sent.Bytes != net.Delivered.Bytes+net.Destroyed.Bytes {
		t.Errorf("seed %d: written %d, delivered %d, the network says %+v", seed, sum.Written, delivered, net)
	}
	faults := l.net.Stats().Faults
	if faults.Cuts == 0 || faults.Resets == 0 || gaps == 0 || net.Destroyed.Messages == 0 || sum.Dropped[p2p.DropCut] == 0 {
		t.Errorf("seed %d: a test of little: %+v, %d gaps, destroyed %+v, dropped %v", seed, faults, gaps, net.Destroyed, sum.Dropped)
	}
	t.Logf("seed %d: %d messages in %d sessions: %d written, %d delivered, %d destroyed on the way, dropped %v; %+v",
		seed, accepted, sessions, sum.Written, delivered, net.Destroyed.Messages, sum.Dropped, faults)
}
