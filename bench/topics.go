package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/dispatch/gossip"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const benchTopic = "bench"

// dispatchRow measures publishing in this process and over GossipSub.
func dispatchRow(ctx context.Context, b *bench) error {
	if err := b.contest(ctx, contest{
		row: "dispatch", what: "messages of 64 B to one subscriber in process", unit: "msg/s",
		lines: []line{
			{ours: "subscription", theirs: "asked for", bar: 1},
			{ours: "channel", theirs: "asked for", bar: 1},
		},
		sides: func(ctx context.Context, s *scope) ([]side, error) { return b.inProcessSides(s) },
	}); err != nil {
		return err
	}
	if err := b.gossipShare(ctx); err != nil {
		return err
	}
	return b.contest(ctx, contest{
		row: "dispatch", what: "allocations of a message over GossipSub, one host to another", unit: "allocations",
		lines: []line{
			{ours: "typed", theirs: "bare, our preset", bar: 2, atMost: true},
			{ours: "typed", theirs: "bare, stock", bar: 2, atMost: true},
		},
		sides: b.allocationSides,
	})
}

// ahead is how many messages in process are on their way at most, so that no
// queue is ever full.
const ahead = 16384

func (b *bench) inProcessSides(s *scope) (sides []side, err error) {
	for _, name := range []string{"subscription", "channel"} {
		key, err := benchKey(1)
		if err != nil {
			return nil, err
		}
		svc, err := dispatch.NewService(nil, dispatch.Options{Key: key})
		if err != nil {
			return nil, err
		}
		if err := svc.Start(); err != nil {
			return nil, err
		}
		s.add(svc.Stop)
		ctx, cancel := context.WithCancel(context.Background())
		var received atomic.Int64
		done := make(chan struct{})
		if name == "channel" {
			ch := make(chan dispatch.Message, ahead)
			svc.Register(dispatch.NewSubscriber("bench", ch, false, benchTopic, 1))
			go func() {
				defer close(done)
				for {
					select {
					case <-ch:
						received.Add(1)
					case <-ctx.Done():
						return
					}
				}
			}()
		} else {
			sub, err := svc.SubscribeBytes(benchTopic, dispatch.Policy{Queue: 2 * ahead, QueueBytes: 64 << 20})
			if err != nil {
				cancel()
				return nil, err
			}
			go func() {
				defer close(done)
				for _, err := range sub.Messages(ctx) {
					if err != nil {
						return
					}
					received.Add(1)
				}
			}()
		}
		s.add(func() error { cancel(); <-done; return nil })
		sent := int64(0)
		arrived := func(missing int64) error {
			for start := time.Now(); sent-received.Load() > missing; runtime.Gosched() {
				if time.Since(start) > readyTimeout {
					return fmt.Errorf("%d of %d messages arrived", received.Load(), sent)
				}
			}
			return nil
		}
		sides = append(sides, side{name, flow(func(d time.Duration) (n int, took time.Duration, err error) {
			for start := time.Now(); took < d; took = time.Since(start) {
				for range 512 {
					if err := svc.Dispatcher().Put(dispatch.NewMessage(benchTopic, "", make([]byte, 64))); err != nil {
						return n, took, err
					}
				}
				n, sent = n+512, sent+512
				if err := arrived(ahead - 512); err != nil {
					return n, took, err
				}
				if took = time.Since(start); took >= d {
					err = arrived(0)
					return n, time.Since(start), err
				}
			}
			return n, took, err
		}).rate(b.window)})
	}
	return append(sides, side{"asked for", func(context.Context) (float64, error) { return 1e6, nil }}), nil
}

// topicNode is a host with a Service over GossipSub.
type topicNode struct {
	keyedHost
	backend *gossip.Backend
	service *dispatch.Service
}

func newTopicNode(s *scope) (*topicNode, error) {
	h, err := newKithHost(s)
	if err != nil {
		return nil, err
	}
	n := &topicNode{keyedHost: h}
	if n.backend, err = gossip.New(h.Host, gossip.Options{}); err != nil {
		return nil, err
	}
	s.add(func() error { n.backend.Close(); return nil })
	if n.service, err = dispatch.NewService(nil, dispatch.Options{Key: h.key, Backend: n.backend}); err != nil {
		return nil, err
	}
	if err := n.service.Start(); err != nil {
		return nil, err
	}
	s.add(n.service.Stop)
	return n, nil
}

// gossipShare publishes ten messages a second, each from another node of a
// mesh, and counts how many of the others have it within half a second.
func (b *bench) gossipShare(ctx context.Context) error {
	const within = 500 * time.Millisecond
	var p50, p999, worst []float64
	return b.measure(ctx, comparison{
		row: "dispatch", what: fmt.Sprintf("GossipSub, %d hosts: arrived within %v", b.hosts, within),
		ours: "arrived", theirs: "published", unit: "deliveries", bar: 0.999, worst: true, rounds: b.rounds,
		pair: func(ctx context.Context) (arrived, expected float64, err error) {
			var s scope
			defer func() { err = errors.Join(err, s.end()) }()
			times, err := b.gossipRound(ctx, &s)
			if err != nil {
				return 0, 0, err
			}
			slices.Sort(times)
			in, _ := slices.BinarySearch(times, within)
			if len(times) > 0 {
				ms := func(i int) float64 { return float64(times[i].Microseconds()) / 1000 }
				p50, p999, worst = append(p50, ms(len(times)/2)), append(p999, ms(len(times)*999/1000)), append(worst, ms(len(times)-1))
			}
			return float64(in), float64(b.gossips * b.hosts), nil
		},
		notes: func() []string {
			return []string{fmt.Sprintf("medians of the rounds: p50 %s ms, p99.9 %s ms, last %s ms", figure(quantile(p50, 0.5)), figure(quantile(p999, 0.5)), figure(quantile(worst, 0.5)))}
		},
	})
}

// gossipRound returns how long each message took to each node, its own
// included. Messages that did not arrive within ten seconds are missing.
func (b *bench) gossipRound(ctx context.Context, s *scope) (times []time.Duration, err error) {
	var nodes []*topicNode
	var subs []*dispatch.Subscription[*timestamppb.Timestamp]
	for range b.hosts {
		n, err := newTopicNode(s)
		if err != nil {
			return nil, err
		}
		sub, err := dispatch.Subscribe[*timestamppb.Timestamp](n.service, benchTopic, dispatch.Policy{Queue: 1 << 16})
		if err != nil {
			return nil, err
		}
		nodes, subs = append(nodes, n), append(subs, sub)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range nodes { // each to about eight others
		for k := range 4 {
			j := (i + 1) % len(nodes)
			if k > 0 {
				j = random.IntN(len(nodes))
			}
			if j == i {
				continue
			}
			if err := join(ctx, nodes[i].Host, nodes[j].Host); err != nil {
				return nil, err
			}
		}
	}
	for _, n := range nodes {
		if err := waitFor(ctx, "the mesh", func() bool { return n.backend.Stats().Topic(benchTopic).Mesh > 0 }); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	var readers sync.WaitGroup
	s.add(func() error { cancel(); readers.Wait(); return nil })
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
	for i := range b.gossips {
		if err := nodes[i*7%len(nodes)].service.Publish(ctx, benchTopic, timestamppb.Now()); err != nil {
			return nil, err
		}
		<-tick.C
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(times)
	}
	for end := time.Now().Add(10 * time.Second); count() < b.gossips*b.hosts && time.Now().Before(end); {
		<-tick.C
	}
	cancel()
	readers.Wait()
	return times, nil
}

// published is what the allocation sides send.
func published() *wrapperspb.StringValue {
	return wrapperspb.String("a message of some length, as they are")
}

// allocationSides send one message at a time from one host to another, with bare
// pubsub, whose user encodes and decodes himself, and with the typed face.
func (b *bench) allocationSides(ctx context.Context, s *scope) (sides []side, err error) {
	for _, m := range []struct {
		name string
		make func() (func() error, error)
	}{
		{"typed", func() (func() error, error) { return typedTopic(ctx, s) }},
		{"bare, our preset", func() (func() error, error) {
			from, to, err := twoTopicNodes(s)
			if err != nil {
				return nil, err
			}
			return bareTopic(ctx, s, from.Host, to.Host, from.backend.PubSub(), to.backend.PubSub())
		}},
		{"bare, stock", func() (func() error, error) {
			near, far, err := kithHosts(ctx, s, false)
			if err != nil {
				return nil, err
			}
			var ps [2]*pubsub.PubSub
			life, cancel := context.WithCancel(context.Background())
			s.add(func() error { cancel(); return nil })
			for i, h := range []keyedHost{near, far} {
				if ps[i], err = pubsub.NewGossipSub(life, h.Host); err != nil {
					return nil, err
				}
			}
			return bareTopic(ctx, s, near.Host, far.Host, ps[0], ps[1])
		}},
	} {
		send, err := m.make()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		sides = append(sides, side{m.name, func(context.Context) (float64, error) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range b.echoes {
				if err := send(); err != nil {
					return 0, err
				}
			}
			runtime.ReadMemStats(&after)
			return float64(after.Mallocs-before.Mallocs) / float64(b.echoes), nil
		}})
	}
	return sides, nil
}

func twoTopicNodes(s *scope) (from, to *topicNode, err error) {
	if from, err = newTopicNode(s); err == nil {
		to, err = newTopicNode(s)
	}
	return from, to, err
}

// typedTopic sends and receives a message through the typed face.
func typedTopic(ctx context.Context, s *scope) (func() error, error) {
	from, to, err := twoTopicNodes(s)
	if err != nil {
		return nil, err
	}
	sub, err := dispatch.Subscribe[*wrapperspb.StringValue](to.service, benchTopic, dispatch.Policy{})
	if err != nil {
		return nil, err
	}
	if err := join(ctx, from.Host, to.Host); err != nil {
		return nil, err
	}
	if err := waitFor(ctx, "the subscription", func() bool { return len(from.backend.Peers(benchTopic)) == 1 }); err != nil {
		return nil, err
	}
	next, done := iter.Pull2(sub.Messages(ctx))
	s.add(func() error { done(); return nil })
	return func() error {
		if err := from.service.Publish(ctx, benchTopic, published()); err != nil {
			return err
		}
		_, err, _ := next()
		return err
	}, nil
}

// bareTopic does the same with pubsub alone.
func bareTopic(ctx context.Context, s *scope, near, far host.Host, from, to *pubsub.PubSub) (func() error, error) {
	out, err := from.Join(benchTopic)
	if err != nil {
		return nil, err
	}
	in, err := to.Join(benchTopic)
	if err != nil {
		return nil, err
	}
	sub, err := in.Subscribe()
	if err != nil {
		return nil, err
	}
	s.add(func() error { sub.Cancel(); return nil })
	if err := join(ctx, near, far); err != nil {
		return nil, err
	}
	if err := waitFor(ctx, "the subscription", func() bool { return len(out.ListPeers()) == 1 }); err != nil {
		return nil, err
	}
	return func() error {
		data, err := proto.Marshal(published())
		if err != nil {
			return err
		}
		if err := out.Publish(ctx, data); err != nil {
			return err
		}
		m, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		return proto.Unmarshal(m.Data, new(wrapperspb.StringValue))
	}, nil
}
