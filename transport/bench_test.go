package transport

import (
	"context"
	"net"
	"runtime"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

// Allow on a held breaker in state Closed, as Dial uses it. The bound is 100 ns and no allocation.
func BenchmarkAllow(b *testing.B) {
	breaker := New(Options{}).Panel().Lookup(ma.StringCast("/ip4/127.0.0.1/tcp/1"))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = breaker.Allow()
	}
}

func BenchmarkAllowDone(b *testing.B) {
	breaker := New(Options{}).Panel().Lookup(ma.StringCast("/ip4/127.0.0.1/tcp/1"))
	b.ReportAllocs()
	for b.Loop() {
		done, _ := breaker.Allow()
		done(nil)
	}
}

// All processors at one breaker.
func BenchmarkAllowContended(b *testing.B) {
	breaker := New(Options{}).Panel().Lookup(ma.StringCast("/ip4/127.0.0.1/tcp/1"))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, _ = breaker.Allow()
		}
	})
}

func BenchmarkRefuse(b *testing.B) {
	breaker := New(Options{Backoff: 1 << 60, MaxBackoff: 1 << 60}).Panel().Lookup(ma.StringCast("/ip4/127.0.0.1/tcp/1"))
	breaker.Trip()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = breaker.Allow()
	}
}

func BenchmarkLookup(b *testing.B) {
	p := New(Options{}).Panel()
	addrs := make([]ma.Multiaddr, 10_000)
	for i := range addrs {
		addrs[i] = breakerAddr(i, true)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		p.Lookup(addrs[i%len(addrs)])
		i++
	}
}

// 100,000 breakers that have been used. The bound is 30 MiB and no goroutine.
func Benchmark100kBreakers(b *testing.B) {
	for name, withPeer := range map[string]bool{"place": false, "place and peer": true} {
		b.Run(name, func(b *testing.B) {
			goroutines := runtime.NumGoroutine()
			for b.Loop() {
				p, bytes := heapOf100k(withPeer, func(b *Breaker) { done, _ := b.Allow(); done(nil) })
				b.ReportMetric(bytes/(1<<20), "MiB")
				b.ReportMetric(float64(runtime.NumGoroutine()-goroutines), "goroutines")
				runtime.KeepAlive(p)
			}
		})
	}
}

// What Dial adds to a dial that takes no time.
func BenchmarkDialOverhead(b *testing.B) {
	tr := New(Options{})
	near, _ := net.Pipe()
	tr.dialIP = func(context.Context, string, string) (net.Conn, error) { return near, nil }
	addr := ma.StringCast("/ip4/127.0.0.1/tcp/1")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tr.Dial(b.Context(), addr, false); err != nil {
			b.Fatal(err)
		}
	}
}
