package p2p

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// A fifo against a slice, on random operations.
func TestFIFO(t *testing.T) {
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var (
			f    fifo[int]
			twin []int
		)
		for i := range 3000 {
			growing := i/500%2 == 0
			switch op := rng.IntN(10); {
			case growing && op < 6 || !growing && op < 3 || len(twin) == 0:
				f.push(i)
				twin = append(twin, i)
			case op < 8:
				if got := f.pop(); got != twin[0] {
					t.Fatalf("seed %d: popped %d, want %d", seed, got, twin[0])
				}
				twin = twin[1:]
			case op == 8:
				if got := f.popBack(); got != twin[len(twin)-1] {
					t.Fatalf("seed %d: popped %d from the back, want %d", seed, got, twin[len(twin)-1])
				}
				twin = twin[:len(twin)-1]
			default:
				at := rng.IntN(len(twin))
				if got := f.remove(at); got != twin[at] {
					t.Fatalf("seed %d: removed %d, want %d", seed, got, twin[at])
				}
				twin = slices.Delete(twin, at, at+1)
			}
			if f.len() != len(twin) {
				t.Fatalf("seed %d: %d elements, want %d", seed, f.len(), len(twin))
			}
			for j := range twin {
				if *f.at(j) != twin[j] {
					t.Fatalf("seed %d: element %d is %d, want %d", seed, j, *f.at(j), twin[j])
				}
			}
		}
	}
}

func TestFIFOGivesMemoryBack(t *testing.T) {
	var f fifo[[]byte]
	for range 10 * fifoKeep {
		f.push(make([]byte, 1))
	}
	for f.len() > 0 {
		f.pop()
	}
	if f.buf != nil {
		t.Errorf("an empty queue keeps a ring of %d", len(f.buf))
	}
	for range fifoKeep {
		f.push(make([]byte, 1))
	}
	for f.len() > 1 {
		f.popBack()
	}
	f.remove(0)
	if len(f.buf) != fifoKeep {
		t.Errorf("a ring of %d, want %d kept for the next burst", len(f.buf), fifoKeep)
	}
	for i, slot := range f.buf {
		if slot != nil {
			t.Fatalf("slot %d still holds its message", i)
		}
	}
}

func TestQueueLimits(t *testing.T) {
	l := queueLimits{messages: 3, bytes: 10}
	for _, c := range []struct {
		messages, bytes, n int
		want               bool
	}{
		{0, 0, 10, true}, {0, 0, 11, false}, {2, 9, 1, true}, {2, 9, 2, false}, {3, 0, 0, false}, {2, 10, 0, true},
	} {
		if got := l.takes(c.messages, c.bytes, c.n); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestDropReasons(t *testing.T) {
	seen := map[string]bool{}
	for r := range DropReason(numDropReasons) {
		if name := r.String(); name == "" || seen[name] {
			t.Errorf("reason %d is named %q", r, name)
		} else {
			seen[name] = true
		}
	}
	if got := DropReason(200).String(); got != "reason-200" {
		t.Error(got)
	}
	for reason, want := range map[DropReason]error{
		DropFull: ErrQueueFull, DropUnsupported: ErrChannelUnsupported, DropTooLarge: ErrMessageTooLarge, DropGone: ErrQueueClosed,
	} {
		if !reason.Refused() || !errors.Is(reason.err(), want) {
			t.Errorf("%v: refused %v, %v", reason, reason.Refused(), reason.err())
		}
	}
	for _, reason := range []DropReason{DropOldest, DropDeadline, DropClosed, DropCut} {
		if reason.Refused() {
			t.Errorf("%v befalls queued messages", reason)
		}
	}
	d := Drops{DropFull: 3, DropCut: 1}
	d.add(Drops{DropCut: 4})
	if got := d.String(); got != "full=3 cut=5" || d.Total() != 8 || d.refused() != 3 {
		t.Error(got, d.Total(), d.refused())
	}
	if got := (Drops{}).String(); got != "none" {
		t.Error(got)
	}
}

// The checks of the books, shown to fail.
func TestStatsCheckCanFail(t *testing.T) {
	for _, s := range []SendStats{
		{Offered: 1}, {Offered: 1, Dropped: Drops{DropOldest: 1}}, {Offered: 2, Accepted: 2, Written: 1},
		{Offered: 1, Accepted: 1, Written: 1, Dropped: Drops{DropCut: 1}},
	} {
		if s.check() == nil {
			t.Errorf("%+v balances", s)
		}
	}
	for _, s := range []ReceiveStats{{Received: 1}, {Received: 1, Delivered: 1, Dropped: Drops{DropFull: 1}}, {Queued: 1}} {
		if s.check() == nil {
			t.Errorf("%+v balances", s)
		}
	}
}

// Rings that come back are empty, and hold nothing of what was in them before.
func TestFIFORingsComeBackEmpty(t *testing.T) {
	var rings ringPool
	held := func(ring [][]byte) (n int) {
		for _, slot := range ring {
			if slot != nil {
				n++
			}
		}
		return n
	}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		f, twin := fifo[[]byte]{rings: &rings}, [][]byte(nil)
		for range 3 {
			for range rng.IntN(20 * fifoKeep) {
				m := []byte{byte(rng.Uint32())}
				f.push(m)
				twin = append(twin, m)
				if rng.IntN(3) == 0 {
					if got := f.pop(); &got[0] != &twin[0][0] {
						t.Fatalf("seed %d: another message than was pushed", seed)
					}
					twin = twin[1:]
				}
				if f.n == len(f.buf)/2+1 && held(f.buf) != len(twin) {
					t.Fatalf("seed %d: a ring with %d messages in it, want %d", seed, held(f.buf), len(twin))
				}
			}
			for f.len() > 0 {
				if got := f.pop(); &got[0] != &twin[0][0] {
					t.Fatalf("seed %d: another message than was pushed", seed)
				}
				twin = twin[1:]
			}
			if len(f.buf) > fifoKeep {
				t.Fatalf("seed %d: an empty queue keeps a ring of %d", seed, len(f.buf))
			}
		}
	}
}
