package p2p

import (
	"math/rand/v2"
	"sync"
	"testing"
)

// A buffer that was freed is lent to one at a time, and has the room that was asked for.
func TestFramesAreLentOnce(t *testing.T) {
	type lent struct {
		b    []byte
		mark byte
	}
	hand := make(chan lent, 500) // frames are freed by others than those who took them
	var takers, freers sync.WaitGroup
	for worker := range byte(4) {
		takers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 9))
			for i := range 4000 {
				n := 1 + rng.IntN([]int{300, 3000, 40_000, 200_000}[i%4])
				b := frameBuffer(n)
				if len(b) != 0 || cap(b) < n {
					t.Errorf("%d bytes of %d, want none of at least %d", len(b), cap(b), n)
					return
				}
				b = b[:n]
				b[0], b[n-1] = worker, worker
				hand <- lent{b, worker}
			}
		})
		freers.Go(func() {
			for l := range hand {
				if l.b[0] != l.mark || l.b[len(l.b)-1] != l.mark {
					t.Errorf("a buffer of %d bytes has two users", len(l.b))
				}
				freeFrame(l.b)
			}
		})
	}
	takers.Wait()
	close(hand)
	freers.Wait()
}

// A magazine holds no more than about its room, whatever the class.
func TestMagazinesAreBounded(t *testing.T) {
	for class := range frameClasses {
		n, least := magazineSize(class), 1<<(class+leastFrame)
		if n < 1 || n > magazineMost || n > 1 && n*least > magazineRoom {
			t.Errorf("%d buffers of %d bytes and more in a magazine", n, least)
		}
	}
}

// Taking and freeing frames allocates nothing in the long run.
func BenchmarkFrames(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		freeFrame(append(frameBuffer(1000), 1))
	}
}
