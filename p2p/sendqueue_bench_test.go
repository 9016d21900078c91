package p2p

import (
	"fmt"
	"testing"
	"time"
)

func benchQueue(b *testing.B) *sendQueue {
	total := queueLimits{1 << 16, 1 << 28}
	var channels []sendChannel
	for id := range ChannelID(8) {
		channels = append(channels, sendChannel{id: id, class: uint8(id % sendClasses), priority: 1 + uint8(id), limits: queueLimits{1 << 12, 1 << 26}})
	}
	q, err := newSendQueue(total, channels...)
	if err != nil {
		b.Fatal(err)
	}
	return q
}

// One message in and, chunk by chunk of 1,024 bytes, out.
func BenchmarkSendQueue(b *testing.B) {
	for _, size := range []int{256, 1 << 10, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			q, data := benchQueue(b), make([]byte, size)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				if err := q.trySend(3, data, time.Time{}); err != nil {
					b.Fatal(err)
				}
				for _, ok := q.next(1024); ok; _, ok = q.next(1024) {
				}
			}
		})
	}
}

// The same with all eight channels backlogged, so that every decision is one.
func BenchmarkSendQueueContended(b *testing.B) {
	for _, size := range []int{256, 1 << 10, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			q, data := benchQueue(b), make([]byte, size)
			for id := range ChannelID(8) {
				for range 4 {
					_ = q.trySend(id, data, time.Time{})
				}
			}
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				for {
					c, ok := q.next(1024)
					if !ok {
						b.Fatal("empty")
					}
					if c.eof {
						_ = q.trySend(c.channel, data, time.Time{})
						break
					}
				}
			}
		})
	}
}

// A message with a deadline asks the clock.
func BenchmarkSendQueueDeadline(b *testing.B) {
	q, data, deadline := benchQueue(b), make([]byte, 256), time.Now().Add(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		_ = q.trySend(3, data, deadline)
		for _, ok := q.next(1024); ok; _, ok = q.next(1024) {
		}
	}
}

// One message marshalled once, queued for 50 peers and taken by their writers.
func BenchmarkBroadcast50(b *testing.B) {
	var queues []*sendQueue
	for range 50 {
		queues = append(queues, benchQueue(b))
	}
	b.ReportAllocs()
	for b.Loop() {
		data := make([]byte, 1024)
		for _, q := range queues {
			if err := q.trySend(3, data, time.Time{}); err != nil {
				b.Fatal(err)
			}
		}
		for _, q := range queues {
			for _, ok := q.next(1024); ok; _, ok = q.next(1024) {
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/50, "ns/peer")
}

// What a peer costs before it has sent anything: a queue with eight channels.
func BenchmarkNewSendQueue(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		benchQueue(b)
	}
}
