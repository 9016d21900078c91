package transport

import (
	"io"
	"runtime"
	"sync"
	"testing"
)

// A copy in user space takes a buffer of 32 KiB; one by the kernel takes none. 64 copies show which it was, whatever
// else allocates meanwhile.
func TestCopiesAreSpliced(t *testing.T) {
	for _, kinds := range [][2]string{{"tcp", "tcp"}, {"tcp", "unix"}, {"unix", "tcp"}} {
		t.Run(kinds[0]+" to "+kinds[1], func(t *testing.T) {
			const copies = 64
			type end struct{ src, dst Connection }
			var ends []end
			var drained sync.WaitGroup
			for range copies {
				from, src, dst, to := relay(t, kinds[0], kinds[1])
				if _, err := from.Write(make([]byte, 4096)); err != nil {
					t.Fatal(err)
				}
				from.Close()
				buf := make([]byte, 8192)
				drained.Go(func() {
					for {
						if _, err := to.Read(buf); err != nil {
							return
						}
					}
				})
				ends = append(ends, end{src, dst})
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for _, e := range ends {
				if n, err := io.Copy(e.dst, e.src); n != 4096 || err != nil {
					t.Errorf("copied %d, %v", n, err)
				}
			}
			runtime.ReadMemStats(&after)
			for _, e := range ends {
				e.dst.Close()
			}
			drained.Wait()
			if each := (after.TotalAlloc - before.TotalAlloc) / copies; each > 16<<10 {
				t.Errorf("%d bytes a copy: not spliced", each)
			}
		})
	}
}
