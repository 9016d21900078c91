package connmgr

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"
)

func v4(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
}

// The buckets agree with a twin that keeps a sorted list.
func TestBucketsAgreeWithATwin(t *testing.T) {
	type twin struct {
		key    int
		tokens float64
		at     time.Time
	}
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 4))
		rate, burst, capacity := r.Float64()+0.01, 1+r.IntN(4), 1+r.IntN(6)
		b := newBuckets(rate, burst, capacity)
		var list []twin // newest first
		now := epoch
		for i := range 2000 {
			now = now.Add(time.Duration(r.Int64N(int64(2 * time.Second))))
			key := r.IntN(8)
			e := twin{key, float64(burst), now}
			if at := slices.IndexFunc(list, func(e twin) bool { return e.key == key }); at >= 0 {
				e = list[at]
				list = slices.Delete(list, at, at+1)
			}
			e.tokens = min(float64(burst), e.tokens+rate*now.Sub(e.at).Seconds())
			e.at = now
			want := e.tokens >= 1
			if want {
				e.tokens--
			}
			list = slices.Insert(list, 0, e)
			list = list[:min(len(list), capacity)]
			ok, left, wait := b.take(v4(key), now)
			if ok != want || math.Abs(left-e.tokens) > 1e-6 || (wait > 0) == ok {
				t.Fatalf("seed %d, step %d: %v with %v left and %v to wait, twin %v with %v", seed, i, ok, left, wait, want, e.tokens)
			}
			if !ok {
				if _, again, _ := b.take(v4(key), now); again != left {
					t.Fatalf("asking costs tokens: %v, then %v", left, again)
				}
			}
			if len(b.index) != len(list) || len(b.slots) > capacity {
				t.Fatalf("%d remembered, twin %d", len(b.index), len(list))
			}
		}
	}
}

// After waiting as long as it said, there is a token; a little earlier, none.
func TestBucketKeepsItsWord(t *testing.T) {
	for _, rate := range []float64{1e-9, 0.2, 3, 1000} {
		b := newBuckets(rate, 1, 10)
		now := epoch
		b.take(v4(1), now)
		_, _, wait := b.take(v4(1), now)
		if ok, _, _ := b.take(v4(1), now.Add(wait-wait/100)); ok {
			t.Errorf("rate %v: a token too early", rate)
		}
		if ok, _, _ := b.take(v4(1), now.Add(wait+time.Microsecond)); !ok {
			t.Errorf("rate %v: no token after %v", rate, wait)
		}
	}
	b := newBuckets(math.SmallestNonzeroFloat64, 1, 10)
	b.take(v4(1), epoch)
	if ok, _, wait := b.take(v4(1), epoch); ok || wait <= 0 {
		t.Errorf("%v, wait %v", ok, wait)
	}
	b = newBuckets(1, 1, 10)
	b.take(v4(1), epoch)
	if ok, _, _ := b.take(v4(1), epoch.Add(-time.Hour)); ok {
		t.Error("a clock that goes back gives tokens")
	}
}

// A million sources cost what ten thousand cost: under 3 MiB.
func TestBucketsAreBounded(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b := newBuckets(1, 1, defaultSources)
	for i := range 1_000_000 {
		b.take(v4(i), epoch)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > 3<<20 {
		t.Errorf("%d bytes", n)
	}
	if len(b.slots) != defaultSources || len(b.index) != defaultSources {
		t.Errorf("%d slots, %d in the index", len(b.slots), len(b.index))
	}
	runtime.KeepAlive(b)
}

func BenchmarkArrive(b *testing.B) {
	g := newGate(DefaultLimits())
	p := make([]permit, 1024)
	for i := range p {
		p[i].origin = originOf(v4(i*257).Addr(), AddressGroup)
	}
	b.ReportAllocs()
	i, now := 0, epoch
	for b.Loop() {
		i++
		now = now.Add(10 * time.Millisecond)
		q := p[i%len(p)]
		g.arrive(&q, now, 0.5)
		g.release(&q)
	}
}
