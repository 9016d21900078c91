package rpc

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
)

// TestManyCallsDoNotGrow makes 100,000 calls, or KITH_RPC_CALLS, 16 at a time,
// and looks for growth in streams, goroutines and heap between the first tenth
// and the last.
func TestManyCallsDoNotGrow(t *testing.T) {
	calls := 100_000
	if v := os.Getenv("KITH_RPC_CALLS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1000 {
			t.Fatalf("KITH_RPC_CALLS=%q: want a number of at least 1000", v)
		}
		calls = n
	}
	c, s, id := pair(t, nil, nil)
	body := randomBytes(200)
	run := func(n int) {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range n / 16 {
					if _, err := c.Send(t.Context(), id, echoID, body); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	type size struct {
		streams, goroutines int
		heap                uint64
	}
	measure := func() size {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		streams := 0
		for _, conn := range c.h.Network().Conns() {
			streams += len(conn.GetStreams())
		}
		return size{streams, runtime.NumGoroutine(), m.HeapAlloc}
	}
	run(calls / 10)
	before := measure()
	run(calls * 9 / 10)
	var after size
	eventually(t, func() string {
		after = measure()
		// The handful is libp2p's own: identify, autonat.
		if after.streams > before.streams+4 || after.goroutines > before.goroutines+8 || after.heap > before.heap+2<<20 {
			return fmt.Sprintf("grown from %+v to %+v", before, after)
		}
		return ""
	})
	st, ss := c.Stats(), s.Stats()
	if st.Failed != 0 || st.Conns > 16 || st.Dials > 16 || ss.Conns > 16 || ss.Memory != 0 || ss.Running != 0 {
		t.Errorf("%+v, %+v", st, ss)
	}
	t.Logf("%d calls: from %+v to %+v, %d streams", calls, before, after, st.Dials)
}

// What a call of 1 KiB allocates, at both ends together.
func TestAllocationsOfACall(t *testing.T) {
	c, _, id := pair(t, nil, nil)
	body := randomBytes(1 << 10)
	n := testing.AllocsPerRun(500, func() {
		if _, err := c.Send(t.Context(), id, echoID, body); err != nil {
			t.Fatal(err)
		}
	})
	if n > 25 {
		t.Errorf("%v allocations", n)
	}
	t.Logf("%v allocations", n)
}
