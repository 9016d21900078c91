package gossip_test

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kith-p2p/kith/dispatch"
)

// fifty are so many nodes on loopback TCP, each connected to about eight others,
// subscribed to a topic and in its mesh.
func fifty(tb testing.TB, topic string, n int) ([]*node, []*dispatch.Subscription[*timestamppb.Timestamp]) {
	tb.Helper()
	var nodes []*node
	var hosts []corehost.Host
	var subs []*dispatch.Subscription[*timestamppb.Timestamp]
	for range n {
		nodes = append(nodes, newNode(tb))
		hosts = append(hosts, nodes[len(nodes)-1].host)
		sub, err := dispatch.Subscribe[*timestamppb.Timestamp](nodes[len(nodes)-1].s, topic, dispatch.Policy{Queue: 1 << 16})
		if err != nil {
			tb.Fatal(err)
		}
		subs = append(subs, sub)
	}
	mesh(tb, hosts, 4)
	meet(tb, topic, nodes...)
	return nodes, subs
}

// Fifty nodes: whatever any of them publishes, all of them get, once. How fast, the
// benchmark says.
func TestGossip50Hosts(t *testing.T) {
	const n, messages = 50, 20
	noLeaks(t)
	nodes, subs := fifty(t, "t", n)
	for i := range messages {
		if err := nodes[i*7%n].s.Publish(t.Context(), "t", &timestamppb.Timestamp{Seconds: int64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i, sub := range subs {
		until(t, fmt.Sprint("node ", i), func() bool { return sub.Stats().Delivered == messages })
	}
	for i, sub := range subs {
		seen := make(map[int64]bool)
		for m, err := range sub.Messages(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if seen[m.Message.Seconds] {
				t.Errorf("node %d got %d twice", i, m.Message.Seconds)
			}
			if seen[m.Message.Seconds] = true; len(seen) == messages {
				break
			}
		}
		if st := sub.Stats(); st.Queued != 0 || st.Delivered != messages {
			t.Errorf("node %d: %+v", i, st)
		}
	}
}

// BenchmarkGossip50Hosts publishes ten messages a second, each from another of 50
// nodes, and reports how long they take to arrive at the other 49.
func BenchmarkGossip50Hosts(b *testing.B) {
	const n = 50
	nodes, subs := fifty(b, "t", n)
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var times []time.Duration
	var readers sync.WaitGroup
	for _, sub := range subs {
		readers.Go(func() {
			for m, err := range sub.Messages(ctx) {
				if err != nil {
					return
				}
				took := time.Since(m.Message.AsTime())
				mu.Lock()
				times = append(times, took)
				mu.Unlock()
			}
		})
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	sent := 0
	for b.Loop() {
		if err := nodes[sent*7%n].s.Publish(ctx, "t", timestamppb.Now()); err != nil {
			b.Fatal(err)
		}
		sent++
		<-tick.C
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(times)
	}
	for end := time.Now().Add(10 * time.Second); count() < sent*n && time.Now().Before(end); {
		<-tick.C
	}
	cancel()
	readers.Wait()
	slices.Sort(times)
	within, _ := slices.BinarySearch(times, 500*time.Millisecond)
	at := func(share float64) float64 {
		return float64(times[min(int(share*float64(len(times))), len(times)-1)].Microseconds()) / 1000
	}
	b.ReportMetric(100*float64(within)/float64(sent*n), "%within500ms")
	b.ReportMetric(100*float64(len(times))/float64(sent*n), "%delivered")
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(at(0.999), "p99.9-ms")
	b.ReportMetric(at(1), "max-ms")
}

// BenchmarkGossipAllocations is one message at a time from one host to another:
// with bare pubsub, whose user encodes and decodes himself, as it comes; the same
// with the options of a preset (scores, validation, limits); and with the typed
// face. What the typed face itself costs is the difference to the second.
func BenchmarkGossipAllocations(b *testing.B) {
	for _, c := range []struct {
		name string
		make func(testing.TB) func()
	}{{"bare", stock}, {"preset", preset}, {"typed", typed}} {
		b.Run(c.name, func(b *testing.B) {
			one := c.make(b)
			b.ReportAllocs()
			for b.Loop() {
				one()
			}
		})
	}
}

// The typed face allocates at most twice as often for a message as bare pubsub does,
// whose user encodes and decodes himself.
func TestTypedFaceAllocations(t *testing.T) {
	count := func(one func()) float64 {
		const n = 200
		for range n {
			one() // and buffers, maps and pools have their size
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			one()
		}
		runtime.ReadMemStats(&after)
		return float64(after.Mallocs-before.Mallocs) / n
	}
	bare, typed := count(stock(t)), count(typed(t))
	t.Logf("typed %.1f, bare %.1f", typed, bare)
	if typed > 2*bare {
		t.Errorf("the typed face allocates %.1f times for a message, bare pubsub %.1f times", typed, bare)
	}
}

// stock, preset and typed make two hosts, and a step that sends a message from one to
// the other and waits for it.
func stock(tb testing.TB) func() {
	from, to := newHost(tb), newHost(tb)
	ps := func(h corehost.Host) *pubsub.PubSub {
		ps, err := pubsub.NewGossipSub(tb.Context(), h)
		if err != nil {
			tb.Fatal(err)
		}
		return ps
	}
	return bare(tb, from, to, ps(from), ps(to))
}

func preset(tb testing.TB) func() {
	from, to := newNode(tb), newNode(tb)
	return bare(tb, from.host, to.host, from.b.PubSub(), to.b.PubSub())
}

func bare(tb testing.TB, from, to corehost.Host, fromPS, toPS *pubsub.PubSub) func() {
	tb.Helper()
	join := func(ps *pubsub.PubSub) *pubsub.Topic {
		topic, err := ps.Join("t")
		if err != nil {
			tb.Fatal(err)
		}
		return topic
	}
	out, in := join(fromPS), join(toPS)
	sub, err := in.Subscribe()
	if err != nil {
		tb.Fatal(err)
	}
	connect(tb, from, to)
	until(tb, "the subscription", func() bool { return len(out.ListPeers()) == 1 })
	ctx := tb.Context()
	return func() {
		data, err := proto.Marshal(say(someText))
		if err != nil {
			tb.Fatal(err)
		}
		if err := out.Publish(ctx, data); err != nil {
			tb.Fatal(err)
		}
		m, err := sub.Next(ctx)
		if err != nil {
			tb.Fatal(err)
		}
		var got text
		if err := proto.Unmarshal(m.Data, &got); err != nil || got.Value != someText {
			tb.Fatal(err)
		}
	}
}

func typed(tb testing.TB) func() {
	from, to := newNode(tb), newNode(tb)
	sub := subscribe(tb, to, "t", dispatch.Policy{})
	connect(tb, from.host, to.host)
	until(tb, "the subscription", func() bool { return len(from.b.Peers("t")) == 1 })
	ctx := tb.Context()
	receive, stop := iter.Pull2(sub.Messages(ctx))
	tb.Cleanup(stop)
	return func() {
		if err := from.s.Publish(ctx, "t", say(someText)); err != nil {
			tb.Fatal(err)
		}
		if m, err, _ := receive(); err != nil || m.Message.GetValue() != someText {
			tb.Fatal(err)
		}
	}
}

const someText = "a message of some length, as they are"
