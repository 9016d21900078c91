package dispatch_test

import (
	"context"
	"encoding/binary"
	"runtime"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kith-p2p/kith/dispatch"
)

// BenchmarkInProcess puts messages of 64 bytes into a Dispatcher for one
// subscriber, and waits until it has all of them: nothing is dropped. "new" makes
// each message, as a receiver does; "same" puts one message again and again.
func BenchmarkInProcess(b *testing.B) {
	const window = 16384 // on their way at a time, so that no queue is ever full
	for _, c := range []struct {
		name         string
		channel, new bool
		dedup        bool
	}{
		{"channel/same", true, false, false}, {"channel/new", true, true, false}, {"channel/dedup", true, true, true},
		{"queue/same", false, false, false}, {"queue/new", false, true, false}, {"queue/dedup", false, true, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, err := dispatch.NewService(nil, dispatch.Options{Key: testKey(1)})
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Start(); err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			var received atomic.Int64
			done := make(chan struct{})
			if c.channel {
				ch := make(chan dispatch.Message, window)
				s.Register(dispatch.NewSubscriber("bench", ch, c.dedup, "t", 1))
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
				sub, err := s.SubscribeBytes("t", dispatch.Policy{Queue: 2 * window, QueueBytes: 64 << 20, Dedup: c.dedup})
				if err != nil {
					b.Fatal(err)
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
			d := s.Dispatcher()
			data := make([]byte, 64)
			m := dispatch.NewMessage("t", "", data)
			sent := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				if c.new {
					data = make([]byte, 64)
					binary.BigEndian.PutUint64(data, uint64(sent))
					m = dispatch.NewMessage("t", "", data)
				}
				if err := d.Put(m); err != nil {
					b.Fatal(err)
				}
				if sent++; sent%256 == 0 {
					for sent-received.Load() > window-512 {
						runtime.Gosched()
					}
				}
			}
			for received.Load() < sent {
				runtime.Gosched()
			}
			b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "msg/s")
			cancel()
			<-done
			if err := s.Stop(); err != nil {
				b.Error(err)
			}
			if st := d.Stats(); st.Subscribers != nil && st.Subscribers[0].Dropped() != 0 {
				b.Errorf("%+v", st)
			}
		})
	}
}

// BenchmarkTyped is a typed subscription in process, with three more beside it or
// without: a message is decoded once.
func BenchmarkTyped(b *testing.B) {
	for name, n := range map[string]int{"1 subscriber": 1, "4 subscribers": 4} {
		b.Run(name, func(b *testing.B) {
			s, err := dispatch.NewService(nil, dispatch.Options{Key: testKey(1)})
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Start(); err != nil {
				b.Fatal(err)
			}
			got := make(chan struct{}, n)
			for range n {
				sub, err := dispatch.Subscribe[*text](s, "t", dispatch.Policy{})
				if err != nil {
					b.Fatal(err)
				}
				go func() {
					for _, err := range sub.Messages(context.Background()) {
						if err != nil {
							return
						}
						got <- struct{}{}
					}
				}()
			}
			data, err := proto.Marshal(say("a message of some length, as they are"))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Dispatcher().Put(dispatch.NewMessage("t", "", data)); err != nil {
					b.Fatal(err)
				}
				for range n {
					<-got
				}
			}
			if err := s.Stop(); err != nil {
				b.Error(err)
			}
		})
	}
}
