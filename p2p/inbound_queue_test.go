package p2p

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func testInbound(t testing.TB, policy ReceivePolicy, perPeer, total queueLimits) *inboundQueue {
	t.Helper()
	q, err := newInboundQueue(policy, perPeer, total, min(100, perPeer.bytes))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestInboundLimits(t *testing.T) {
	for _, c := range []struct {
		perPeer, total queueLimits
		ok             bool
	}{
		{queueLimits{1, 100}, queueLimits{1, 100}, true}, {queueLimits{0, 100}, queueLimits{1, 100}, false}, {queueLimits{1, 99}, queueLimits{1, 100}, false},
		{queueLimits{2, 100}, queueLimits{1, 100}, false}, {queueLimits{1, 101}, queueLimits{1, 100}, false},
	} {
		if _, err := newInboundQueue(ReceivePause, c.perPeer, c.total, 100); (err == nil) != c.ok {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestReceive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testInbound(t, ReceiveDropNewest, queueLimits{2, 100}, queueLimits{10, 1000})
		if _, ok := q.tryReceive(); ok {
			t.Error("received something out of nothing")
		}
		type result struct {
			m   received
			err error
		}
		receive := func(ctx context.Context) chan result {
			done := make(chan result, 1)
			go func() {
				m, err := q.receive(ctx)
				done <- result{m, err}
			}()
			synctest.Wait()
			return done
		}
		first, second := receive(t.Context()), receive(t.Context())
		for _, text := range []string{"one", "two"} {
			if err := q.push(nil, "a", []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		r, s := <-first, <-second
		if r.err != nil || s.err != nil || r.m.from != "a" || string(r.m.data)+string(s.m.data) != "onetwo" && string(s.m.data)+string(r.m.data) != "onetwo" {
			t.Errorf("%+v %+v", r, s)
		}
		timed, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r := <-receive(timed); !errors.Is(r.err, context.DeadlineExceeded) {
			t.Errorf("%+v", r)
		}
		for _, want := range []error{nil, nil, ErrQueueFull} {
			if err := q.push(nil, "a", make([]byte, 10)); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
		if err := q.push(nil, "b", make([]byte, 101)); !errors.Is(err, ErrMessageTooLarge) {
			t.Errorf("%v", err)
		}
		if n, size := q.queued("a"); n != 2 || size != 20 {
			t.Errorf("%d messages, %d bytes", n, size)
		}
		if n, size := q.queued("nobody"); n != 0 || size != 0 {
			t.Errorf("%d messages, %d bytes of nobody", n, size)
		}
		q.forget("a")
		q.discard("a")
		waiting := receive(t.Context())
		q.close()
		q.close()
		if r := <-waiting; !errors.Is(r.err, ErrQueueClosed) {
			t.Errorf("%+v", r)
		}
		if err := q.push(nil, "a", nil); !errors.Is(err, ErrQueueClosed) {
			t.Errorf("%v", err)
		}
		if st := q.stats(); st.Delivered != 2 || st.Dropped.Total() != 5 || st.check() != nil {
			t.Errorf("%+v", st)
		}
	})
}

// Under ReceivePause push waits for room, for the end of the connection or of the
// queue, and loses nothing but then.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testInbound(t, ReceivePause, queueLimits{1, 100}, queueLimits{2, 200})
		push := func(stop chan struct{}, from NodeID, text string) chan error {
			done := make(chan error, 1)
			go func() { done <- q.push(stop, from, []byte(text)) }()
			synctest.Wait()
			return done
		}
		if err := <-push(nil, "a", "1"); err != nil {
			t.Fatal(err)
		}
		second := push(nil, "a", "2")
		if err := <-push(nil, "b", "3"); err != nil {
			t.Fatal(err)
		}
		hangup := make(chan struct{})
		third, fourth := push(hangup, "b", "4"), push(nil, "c", "5")
		if st := q.stats(); st.Paused != 3 || st.check() != nil {
			t.Errorf("%+v", st)
		}
		close(hangup)
		if err := <-third; !errors.Is(err, ErrQueueClosed) {
			t.Errorf("%v", err)
		}
		for _, want := range []string{"1", "3", "2", "5"} {
			m, err := q.receive(t.Context())
			if err != nil || string(m.data) != want {
				t.Errorf("%q %v, want %q", m.data, err, want)
			}
			synctest.Wait()
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
		if err := <-fourth; err != nil {
			t.Error(err)
		}
		// A receiver that waits hears of what came in from a waiting read loop.
		<-push(nil, "a", "6")
		fifth := push(nil, "a", "7")
		q.discard("a")
		if err := <-fifth; !errors.Is(err, ErrQueueClosed) {
			t.Errorf("%v", err)
		}
		<-push(nil, "a", "8")
		sixth := push(nil, "a", "9")
		q.close()
		if err := <-sixth; !errors.Is(err, ErrQueueClosed) {
			t.Errorf("%v", err)
		}
		if st := q.stats(); st.check() != nil || st.Delivered != 4 || st.Dropped[DropCancelled] != 1 || st.Dropped[DropClosed] != 4 {
			t.Errorf("%+v", st)
		}
	})
}

// Many read loops and receivers at once: order within a peer, and exact books.
func TestInboundConcurrently(t *testing.T) {
	for _, policy := range []ReceivePolicy{ReceiveDropNewest, ReceiveDropOldest, ReceivePause} {
		q := testInbound(t, policy, queueLimits{8, 800}, queueLimits{20, 1500})
		const peers, each = 8, 1000
		var (
			readers   sync.WaitGroup
			pushed    [peers]int
			delivered int
			last      = map[NodeID]uint64{}
		)
		receiver := make(chan struct{})
		go func() {
			defer close(receiver)
			for {
				m, err := q.receive(t.Context())
				if err != nil {
					return
				}
				n := binary.BigEndian.Uint64(m.data)
				if n <= last[m.from] {
					t.Errorf("policy %d: message %d of %s after %d", policy, n, m.from, last[m.from])
				}
				last[m.from] = n
				delivered++
			}
		}()
		for peer := range peers {
			readers.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(peer), 6))
				for i := range uint64(each) {
					data := make([]byte, 8+rng.IntN(92))
					binary.BigEndian.PutUint64(data, i+1)
					if q.push(nil, NodeID(rune('a'+peer)), data) == nil {
						pushed[peer]++
					}
				}
			})
		}
		readers.Wait()
		waitUntil(t, func() bool { return q.stats().Queued == 0 })
		q.close()
		<-receiver
		st := q.stats()
		if st.check() != nil || st.Received != peers*each || st.Delivered != uint64(delivered) || st.Queued != 0 {
			t.Errorf("policy %d: delivered %d, %+v", policy, delivered, st)
		}
		if policy == ReceivePause && delivered != peers*each {
			t.Errorf("pausing lost messages: %d of %d delivered", delivered, peers*each)
		}
		if policy == ReceiveDropNewest && uint64(delivered) != st.Received-st.Dropped.Total() {
			t.Errorf("policy %d: %+v", policy, st)
		}
	}
}

// A peer that floods a channel takes no room from the others, and no delay beyond
// its one turn: with 20 peers a message waits for at most 19 others.
func TestFloodCostsOthersNothing(t *testing.T) {
	q := testInbound(t, ReceiveDropNewest, queueLimits{1000, 100_000}, queueLimits{2000, 150_000})
	for range 5000 {
		_ = q.push(nil, "flood", make([]byte, 100))
	}
	for peer := range 19 {
		for range 20 {
			if err := q.push(nil, NodeID(rune('a'+peer)), make([]byte, 100)); err != nil {
				t.Fatalf("peer %d: %v", peer, err)
			}
		}
	}
	seen := map[NodeID]int{}
	for range 20 {
		m, _ := q.tryReceive()
		seen[m.from]++
	}
	if len(seen) != 20 {
		t.Errorf("%d of 20 peers served in the first 20 turns", len(seen))
	}
}

func BenchmarkInboundQueue(b *testing.B) {
	for _, policy := range []ReceivePolicy{ReceiveDropNewest, ReceiveDropOldest, ReceivePause} {
		b.Run([]string{"newest", "oldest", "pause"}[policy], func(b *testing.B) {
			q := testInbound(b, policy, queueLimits{1000, 1 << 20}, queueLimits{10_000, 1 << 24})
			data := make([]byte, 256)
			peers := []NodeID{"a", "b", "c", "d", "e", "f", "g", "h"}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := q.push(nil, peers[i%8], data); err != nil {
					b.Fatal(err)
				}
				if _, ok := q.tryReceive(); !ok {
					b.Fatal("nothing")
				}
			}
		})
	}
}

// The worst case: 1,000 peers, and every message has to look for the fullest.
func BenchmarkInboundQueueFull1000Peers(b *testing.B) {
	q := testInbound(b, ReceiveDropOldest, queueLimits{100, 1 << 20}, queueLimits{2000, 1 << 24})
	var peers []NodeID
	for i := range 1000 {
		peers = append(peers, NodeID(rune(0x4e00+i)))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := q.push(nil, peers[i%1000], make([]byte, 16)); err != nil {
			b.Fatal(err)
		}
	}
}
