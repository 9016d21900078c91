package addrbook

import (
	"runtime"
	"testing"
	"unsafe"
)

// made counts the buckets of a book that exist.
func made(b *Book) (n int) {
	for _, t := range []*table{b.c.fresh, b.c.tried} {
		for _, bk := range t.buckets {
			if bk != nil {
				n++
			}
		}
	}
	return n
}

// Buckets are allocated when they are first used: an empty book has the list of
// them and none of them, and gives back what it no longer uses.
func TestBucketsAreAllocatedLazily(t *testing.T) {
	b, _ := test(t, Options{})
	all := len(b.c.fresh.buckets) + len(b.c.tried.buckets)
	a := at(1, "20.1.0.1")
	for range 2 {
		if n := made(b); n != 0 {
			t.Fatalf("an empty book has %d buckets of %d", n, all)
		}
		mustAdd(t, b, a, pex(50, "20.9.0.1"))
		if n := made(b); n != 1 {
			t.Fatalf("one address is in %d buckets", n)
		}
		b.Good(a)
		if n := made(b); n != 1 {
			t.Fatalf("one address that was verified is in %d buckets", n)
		}
		b.Remove(a)
	}

	// As many allocations for a book of any size, and a word for each bucket.
	o, err := Options{}.complete()
	if err != nil {
		t.Fatal(err)
	}
	small := o
	small.NewBuckets, small.TriedBuckets = 1, 1
	count := func(o Options) float64 { return testing.AllocsPerRun(100, func() { newCore(o) }) }
	if few, many := count(small), count(o); many != few {
		t.Errorf("%v allocations for 2 buckets, %v for %d", few, many, all)
	}
	bytes := func(o Options) uint64 {
		least := ^uint64(0)
		for range 20 { // others allocate too
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c := newCore(o)
			runtime.ReadMemStats(&after)
			runtime.KeepAlive(c)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		return least
	}
	word, whole := uint64(unsafe.Sizeof(uintptr(0))), uint64(unsafe.Sizeof(bucket{}))
	more := bytes(o) - bytes(small)
	if n := uint64(all); more > 2*word*n {
		t.Errorf("%d bytes for %d buckets; all of them would be %d", more, n, whole*n)
	}
	t.Logf("%d bytes for %d empty buckets; all of them made would be %d", more, all, whole*uint64(all))
}
