package p2p

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// A buffer that was given back is lent to one at a time, and has the room that was asked for.
func TestBuffersAreLentOnce(t *testing.T) {
	type lent struct {
		b    []byte
		mark byte
	}
	hand := make(chan lent, 500) // buffers are given back by others than those who took them
	var takers, givers sync.WaitGroup
	for worker := range byte(4) {
		takers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 9))
			for i := range 4000 {
				n := 1 + rng.IntN([]int{300, 3000, 40_000, 200_000}[i%4])
				b := Buffer(n)
				if len(b) != 0 || cap(b) < n {
					t.Errorf("%d bytes of %d, want none of at least %d", len(b), cap(b), n)
					return
				}
				b = b[:n]
				b[0], b[n-1] = worker, worker
				hand <- lent{b, worker}
			}
		})
		givers.Go(func() {
			for l := range hand {
				if l.b[0] != l.mark || l.b[len(l.b)-1] != l.mark {
					t.Errorf("a buffer of %d bytes has two users", len(l.b))
				}
				Recycle(l.b)
			}
		})
	}
	takers.Wait()
	close(hand)
	givers.Wait()
}

// A magazine holds no more than about its room, whatever the class.
func TestMagazinesAreBounded(t *testing.T) {
	for class := range bufferClasses {
		n, least := magazineSize(class), 1<<(class+leastKept)
		if n < 1 || n > magazineMost || n > 1 && n*least > magazineRoom {
			t.Errorf("%d buffers of %d bytes and more in a magazine", n, least)
		}
	}
}

// What is asked for has room, and not much more than that, whatever was given back.
func TestBufferHasRoomAndLittleMore(t *testing.T) {
	for _, n := range []int{0, 1, 255, 256, 448, 449, 511, 512, 520, 1000, 1023, 1024, 1<<21 - 1, 1 << 21, 1<<21 + 1} {
		Recycle(make([]byte, 1, max(1, n-1))) // of the same class, often, and too small
		for range 5 {
			b := Buffer(n)
			if len(b) != 0 || cap(b) < n || cap(b) > max(255, 2*n) {
				t.Errorf("%d bytes of %d for %d", len(b), cap(b), n)
			}
			Recycle(b)
		}
	}
	Recycle(nil)
	Recycle(make([]byte, 4<<20))
}

// A new buffer was of the next class if n was less than 64 below a power of two, so
// that those sizes never met a buffer that was given back: every message of a channel
// of 1,000 bytes each was memory of its own.
func TestRegressionBufferIsOfTheClassOfItsSize(t *testing.T) {
	for n := 1 << leastKept; n < 1<<12; n++ {
		asked, _ := bufferClass(n)
		if got, ok := bufferClass(cap(Buffer(n))); !ok || got != asked {
			t.Fatalf("a buffer for %d bytes has %d", n, cap(Buffer(n)))
		}
	}
}

// Taking and giving back allocates nothing in the long run.
func BenchmarkBuffers(b *testing.B) {
	for _, n := range []int{256, 500, 1000, 1024, 1 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Recycle(append(Buffer(n), 1))
			}
		})
	}
}
