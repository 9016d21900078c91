package p2p_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
)

// pairOfRouters are two Routers that are connected over loopback TCP, with one
// channel open on both.
func pairOfRouters(tb testing.TB, d p2p.ChannelDescriptor) (a, b *testNode, ca, cb *p2p.TypedChannel[*wrapperspb.BytesValue]) {
	a, b = newTestNode(tb, 1), newTestNode(tb, 2)
	open := func(n *testNode) *p2p.TypedChannel[*wrapperspb.BytesValue] {
		c, err := p2p.OpenTyped[*wrapperspb.BytesValue](n.r, 0x10, p2p.WithDescriptor(d))
		if err != nil {
			tb.Fatal(err)
		}
		return c
	}
	ca, cb = open(a), open(b)
	subA, subB := a.pm.Subscribe(), b.pm.Subscribe()
	defer subA.Close()
	defer subB.Close()
	for _, n := range []*testNode{a, b} {
		if err := n.r.Start(); err != nil {
			tb.Fatal(err)
		}
	}
	if _, err := a.pm.Add(b.at); err != nil {
		tb.Fatal(err)
	}
	<-subA.Updates()
	<-subB.Updates()
	return a, b, ca, cb
}

// BenchmarkRouterThroughput sends messages through two whole Routers, from Send
// to Receive, over mconn on loopback.
func BenchmarkRouterThroughput(b *testing.B) {
	for _, size := range []int{256, 1 << 10, 16 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			_, to, ca, cb := pairOfRouters(b, p2p.ChannelDescriptor{
				SendPolicy: p2p.SendBlock, RecvMessageCapacity: 1<<20 + 64, SendQueueBytes: 8 << 20, SendQueueCapacity: 1 << 16,
				RecvQueueBytes: 512 << 20, RecvQueueCapacity: 1 << 20, RecvTotalBytes: 512 << 20,
			})
			m := wrapperspb.Bytes(make([]byte, size))
			done := make(chan struct{})
			// A receiver that keeps no more than a window on its way, so that its
			// queue, which drops what is too much, never does.
			window := make(chan struct{}, max(64, 4<<20/size))
			go func() {
				defer close(done)
				n := 0
				for _, err := range cb.Receive(context.Background()) {
					if err != nil {
						b.Error(err)
						return
					}
					<-window
					if n++; n == b.N {
						return
					}
				}
			}()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				window <- struct{}{}
				if err := ca.Send(context.Background(), to.id, m); err != nil {
					b.Fatal(err)
				}
			}
			<-done
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkRouterEcho is one round trip at a time through two Routers.
func BenchmarkRouterEcho(b *testing.B) {
	from, to, ca, cb := pairOfRouters(b, p2p.ChannelDescriptor{})
	go func() {
		for in, err := range cb.Receive(context.Background()) {
			if err != nil {
				return
			}
			_ = cb.TrySend(from.id, in.Message)
		}
	}()
	m := wrapperspb.Bytes(make([]byte, 100))
	times := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	next := make(chan struct{})
	go func() {
		for range ca.Receive(context.Background()) {
			next <- struct{}{}
		}
	}()
	for range b.N {
		start := time.Now()
		if err := ca.Send(context.Background(), to.id, m); err != nil {
			b.Fatal(err)
		}
		<-next
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds()), "p50-ns")
}
