package p2p_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
	"github.com/kith-p2p/kith/p2p/memory"
)

// An urgent message of 100 B behind a bulk channel that saturates a link of 10 Mbit/s,
// through two whole Routers: in virtual time, where a delay is exact, p99 is at most
// two chunks above that of an idle link.
func TestUrgentBehindBulkThroughRoutersAt10Mbit(t *testing.T) {
	const (
		bandwidth = 1_250_000 // bytes a second
		rounds    = 300
		oneChunk  = time.Duration((1024 + memory.Overhead) * int(time.Second) / bandwidth)
	)
	delays := func(loaded bool) (took []time.Duration, bulkBytes uint64) {
		inMemory(t, memory.Options{Link: memory.Link{Latency: 5 * time.Millisecond, Bandwidth: bandwidth}}, func(t *testing.T, w *world) {
			a, b := w.node(), w.node()
			urgent := openBytes(t, a, 1, p2p.ChannelDescriptor{Class: 0})
			bulk := openBytes(t, a, 2, p2p.ChannelDescriptor{Class: 3, SendPolicy: p2p.SendBlock, SendQueueBytes: 2 << 20})
			toUrgent, toBulk := openBytes(t, b, 1, p2p.ChannelDescriptor{}), openBytes(t, b, 2, p2p.ChannelDescriptor{})
			w.start(a, b)
			w.connect(a, b)
			ctx, stop := context.WithCancel(t.Context())
			var all sync.WaitGroup
			if loaded {
				all.Go(func() {
					for m := wrapperspb.Bytes(make([]byte, 1<<20-16)); bulk.Send(ctx, b.id, m) == nil; {
					}
				})
			}
			all.Go(func() {
				for _, err := range toBulk.Receive(ctx) {
					if err != nil {
						return
					}
				}
			})
			random := rand.New(rand.NewPCG(1, 1))
			for range rounds {
				time.Sleep(20*time.Millisecond + time.Duration(random.IntN(3000))*time.Microsecond)
				sent := time.Now()
				if err := urgent.TrySend(b.id, wrapperspb.Bytes(make([]byte, 100))); err != nil {
					t.Fatal(err)
				}
				next(t, toUrgent)
				took = append(took, time.Since(sent))
			}
			bulkBytes = w.net.Stats().Channels[2].Sent.Bytes
			stop()
			all.Wait()
		})
		slices.Sort(took)
		return took, bulkBytes
	}
	idle, _ := delays(false)
	behind, bulk := delays(true)
	p99 := rounds * 99 / 100
	t.Logf("idle p50 %v, p99 %v; behind %d bytes of bulk p50 %v, p99 %v, most %v; a chunk takes %v",
		idle[rounds/2], idle[p99], bulk, behind[rounds/2], behind[p99], behind[rounds-1], oneChunk)
	if most := idle[p99] + 2*oneChunk; behind[p99] > most {
		t.Errorf("p99 behind bulk is %v, at most %v", behind[p99], most)
	}
	if bulk < bandwidth*5 {
		t.Errorf("only %d bytes of bulk: the link was not saturated", bulk)
	}
}

// A channel whose application never reads: the delays of the other channel with the
// same peer, and of another peer, do not change by a nanosecond of virtual time, and
// what waits at the sender stays within the channel's cap.
func TestUnreadChannelChangesNothingForTheOthers(t *testing.T) {
	const latency, most = 3 * time.Millisecond, 1 << 20
	// A window that never holds the flood up: what is measured is the unread channel.
	inMemory(t, memory.Options{Link: memory.Link{Latency: latency}, Window: 16 << 20}, func(t *testing.T, w *world) {
		a, b, c := w.node(), w.node(), w.node()
		flood := openBytes(t, a, 1, p2p.ChannelDescriptor{RecvMessageCapacity: 128 << 10, SendQueueBytes: most})
		ask := openBytes(t, a, 2, p2p.ChannelDescriptor{Requests: true})
		var answers sync.WaitGroup
		var unread []*bytesFace
		for _, n := range []*testNode{b, c} {
			unread = append(unread, openBytes(t, n, 1, p2p.ChannelDescriptor{RecvMessageCapacity: 128 << 10, RecvQueueBytes: most, RecvTotalBytes: most}))
			answer := openBytes(t, n, 2, p2p.ChannelDescriptor{Requests: true})
			answers.Go(func() {
				for in, err := range answer.Receive(t.Context()) {
					if err != nil {
						return
					}
					_ = in.Reply(t.Context(), in.Message)
				}
			})
		}
		w.start(a, b, c)
		w.connect(a, b, c)
		trip := func(to *testNode) time.Duration {
			start := time.Now()
			if _, err := ask.Request(t.Context(), to.id, wrapperspb.Bytes([]byte("?"))); err != nil {
				t.Fatal(err)
			}
			return time.Since(start)
		}
		before := [2]time.Duration{trip(b), trip(c)}
		m := wrapperspb.Bytes(make([]byte, 100<<10))
		for i := range 100 {
			for range 20 { // 2 MiB, of which a part may be refused: the queue is full
				_ = flood.TrySend(b.id, m)
			}
			if s := flood.Stats().Send; s.QueuedBytes > most {
				t.Fatalf("%d bytes wait at the sender", s.QueuedBytes)
			}
			if after := [2]time.Duration{trip(b), trip(c)}; after != before {
				t.Fatalf("round %d: %v, before %v", i, after, before)
			}
		}
		s := unread[0].Stats().Received
		if s.Received < 500 || s.QueuedBytes > most || s.Dropped[p2p.DropFull] == 0 || s.Delivered != 0 {
			t.Errorf("%+v", s)
		}
		if !up(a, b.id) || !up(a, c.id) {
			t.Error("a session ended")
		}
		balance(t, flood.Stats())
		a.r.Stop()
		b.r.Stop()
		c.r.Stop()
		answers.Wait()
	})
}

// BenchmarkUnreadChannel is the same over loopback, in real time: p99 of round trips
// beside a channel with 64 KiB every 2 ms that nobody reads, against the same where
// it is read. The bar is 1.5.
func BenchmarkUnreadChannel(b *testing.B) {
	p99 := func(read bool) float64 {
		w := &world{TB: b}
		over := func(o *p2p.RouterOptions) {
			_ = o.Transports[0].Close()
			tr, err := mconn.New(mconn.Options{Listen: "127.0.0.1:0"})
			if err != nil {
				b.Fatal(err)
			}
			o.Transports = []p2p.Transport{tr}
		}
		x, y := w.node(over), w.node(over)
		flood, ask := openBytes(b, x, 1, p2p.ChannelDescriptor{Class: 3}), openBytes(b, x, 2, p2p.ChannelDescriptor{Requests: true})
		unread := openBytes(b, y, 1, p2p.ChannelDescriptor{RecvQueueBytes: 1 << 20, RecvTotalBytes: 1 << 20})
		answer := openBytes(b, y, 2, p2p.ChannelDescriptor{Requests: true})
		w.start(x, y)
		w.connect(x, y)
		ctx, stop := context.WithCancel(context.Background())
		var all sync.WaitGroup
		defer all.Wait()
		defer stop()
		all.Go(func() {
			for in, err := range answer.Receive(ctx) {
				if err != nil {
					return
				}
				_ = in.Reply(ctx, in.Message)
			}
		})
		if read {
			all.Go(func() {
				for _, err := range unread.Receive(ctx) {
					if err != nil {
						return
					}
				}
			})
		}
		all.Go(func() {
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for m := wrapperspb.Bytes(make([]byte, 64<<10)); ctx.Err() == nil; {
				<-tick.C
				_ = flood.TrySend(y.id, m)
			}
		})
		var took []time.Duration
		for range 3000 {
			start := time.Now()
			if _, err := ask.Request(ctx, y.id, wrapperspb.Bytes([]byte("?"))); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(start))
			if rest := 500*time.Microsecond - time.Since(start); rest > 0 {
				time.Sleep(rest)
			}
		}
		slices.Sort(took)
		return float64(took[len(took)*99/100])
	}
	var with, without, ratio []float64
	for b.Loop() {
		with, without = append(with, p99(false)), append(without, p99(true))
		ratio = append(ratio, with[len(with)-1]/without[len(without)-1])
	}
	b.ReportMetric(median(without)/1e3, "p99-us-read")
	b.ReportMetric(median(with)/1e3, "p99-us-unread")
	b.ReportMetric(median(ratio), "unread/read")
}
