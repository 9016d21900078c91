package addrbook

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith/address"
)

// full is one book after 1,000,000 adds, for all benchmarks: its table is as
// full as it gets, and a third of the tried table is taken.
var full = sync.OnceValue(func() *fullBook {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f := &fullBook{}
	b, err := Open(nowhere{}, Options{LearnRate: -1})
	if err != nil {
		panic(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	start := time.Now()
	for i := range 1_000_000 {
		ip := inGroup(i/8%(64*256), r.IntN(1<<16))
		b.Add(at(i, ip.String()), Source{Kind: PEX, Peer: id(1<<40 + i%8192), IP: inGroup(i%8192, 7), Protocol: address.MConn})
	}
	f.add = time.Since(start) / 1_000_000
	for i, e := range b.c.all.items {
		if i%4 == 0 {
			b.Good(e.addr)
		}
	}
	f.Book = b
	if err := b.Flush(context.Background()); err != nil {
		panic(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	f.memory = after.HeapAlloc - before.HeapAlloc
	return f
})

type fullBook struct {
	*Book
	add    time.Duration
	memory uint64
}

// nowhere is a store that keeps nothing, so that the memory measured is the
// book's.
type nowhere struct{}

func (nowhere) Load(func(string, []byte)) ([]string, error) { return nil, nil }
func (nowhere) Save([]Change) error                         { return nil }

// BenchmarkAddFull is one more add of 1,000,000 into a full book: the figure
// asked for is 20 us.
func BenchmarkAddFull(b *testing.B) {
	f := full()
	r := rand.New(rand.NewPCG(2, 1))
	i := 1_000_000
	b.ReportAllocs()
	for b.Loop() {
		ip := inGroup(r.IntN(64*256), r.IntN(1<<16))
		f.Add(at(i, ip.String()), Source{Kind: PEX, Peer: id(1<<40 + i%8192), IP: inGroup(i%8192, 7), Protocol: address.MConn})
		i++
	}
	s := f.Stats()
	b.ReportMetric(float64(s.Addresses), "addresses")
	b.ReportMetric(float64(f.add.Nanoseconds()), "ns/add-while-filling")
	b.ReportMetric(float64(f.memory)/(1<<20), "MiB")
	b.ReportMetric(float64(f.memory)/float64(s.Addresses), "B/address")
}

// BenchmarkPickFull is a pick from a full book: 2 us are allowed. In "due" all
// of it may be dialled; in "failed" all but a few wait for their retry; in
// "failing" each pick fails, so that it pays for what waits, too.
func BenchmarkPickFull(b *testing.B) {
	f := full()
	b.Run("due", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := f.Pick(Any); !ok {
				b.Fatal("nothing")
			}
		}
	})
	b.Run("hold", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a, ok := f.Pick(Any)
			if !ok {
				b.Fatal("nothing")
			}
			f.Hold(a.NodeID)
			f.Release(a.NodeID, time.Time{})
		}
	})
	b.Run("failed", func(b *testing.B) {
		f := full()
		as := make([]address.NodeAddress, 0, 1<<17)
		for _, e := range f.c.all.items {
			as = append(as, e.addr)
		}
		for _, a := range as[10:] {
			f.Failed(a, time.Now().Add(time.Hour))
		}
		for b.Loop() {
			if _, ok := f.Pick(Any); !ok {
				b.Fatal("nothing")
			}
		}
		b.StopTimer()
		f.ResetRetries()
	})
	b.Run("failing", func(b *testing.B) {
		for b.Loop() {
			if a, ok := f.Pick(Any); ok {
				f.Failed(a, time.Now().Add(50*time.Millisecond))
			}
		}
		b.StopTimer()
		f.ResetRetries()
	})
}

// BenchmarkOpenFull opens a full book: 2 s are allowed.
func BenchmarkOpenFull(b *testing.B) {
	f := full()
	path := filepath.Join(b.TempDir(), "book.db")
	s, err := OpenStore(path)
	if err != nil {
		b.Fatal(err)
	}
	var rows []Change
	for _, e := range f.c.all.items {
		rows = append(rows, Change{string(rowAddress) + e.addr.String(), encodeEntry(e)})
	}
	for _, name := range []string{metaSecret, metaShape} {
		rows = append(rows, Change{string(rowMeta) + name, f.c.encodeMeta(name)})
	}
	start := time.Now()
	if err := s.Save(rows); err != nil {
		b.Fatal(err)
	}
	save := time.Since(start)
	fi, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	s.Close()
	for b.Loop() {
		s, err := OpenStore(path)
		if err != nil {
			b.Fatal(err)
		}
		book, err := Open(s, Options{})
		if err != nil || len(book.Notices()) > 0 {
			b.Fatal(err, book.Notices())
		}
		if n := book.Stats().Addresses; n != f.Stats().Addresses {
			b.Fatalf("%d addresses, %d before", n, f.Stats().Addresses)
		}
		book.Close()
		s.Close()
	}
	b.ReportMetric(float64(len(rows)), "rows")
	b.ReportMetric(float64(save.Milliseconds()), "ms/save-all")
	b.ReportMetric(float64(fi.Size())/(1<<20), "MiB-file")
}

func BenchmarkSampleFull(b *testing.B) {
	f := full()
	b.ReportAllocs()
	for b.Loop() {
		if n := len(f.Sample(100, Audience{IP: global(5)})); n < 50 {
			b.Fatal(n)
		}
	}
}

func BenchmarkGoodFull(b *testing.B) {
	f := full()
	b.ReportAllocs()
	for b.Loop() {
		if a, ok := f.Pick(New); ok {
			f.Good(a)
		}
	}
}
