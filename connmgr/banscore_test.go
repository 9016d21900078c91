package connmgr

import (
	"math"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestBanScore(t *testing.T) {
	base := time.Unix(1_800_000_000, 0)
	type step struct {
		after                 time.Duration // since base
		persistent, transient uint32
		want                  uint32
	}
	for name, steps := range map[string][]step{
		"halves every minute": {
			{0, 100, 64, 164}, {time.Minute, 0, 0, 132}, {2 * time.Minute, 0, 0, 116}, {6 * time.Minute, 0, 0, 101}, {7 * time.Minute, 0, 0, 100},
		},
		"what decayed is added to": {
			{0, 0, 64, 64}, {time.Minute, 0, 32, 64}, {2 * time.Minute, 0, 0, 32},
		},
		"lives 1800 seconds": {
			{0, 0, math.MaxUint32, math.MaxUint32}, {1800 * time.Second, 0, 0, 3}, {1801 * time.Second, 0, 0, 0},
			{1802 * time.Second, 0, 7, 7},
		},
		"what stays does not make it live longer": {
			{0, 0, 100, 100}, {time.Minute, 50, 0, 100}, {1801 * time.Second, 0, 0, 50},
		},
		"stops at the largest number": {
			{0, math.MaxUint32, 0, math.MaxUint32}, {0, 1, 1, math.MaxUint32}, {0, 0, math.MaxUint32, math.MaxUint32}, {time.Hour, 0, 0, math.MaxUint32},
		},
		"the decaying part stops, too": {
			{0, 0, math.MaxUint32, math.MaxUint32}, {0, 0, math.MaxUint32, math.MaxUint32}, {time.Minute, 0, 0, math.MaxUint32 / 2},
		},
		"a clock that runs backwards": {
			{time.Hour, 10, 64, 74}, {0, 0, 0, 10}, {0, 0, 64, 138}, {time.Hour, 0, 0, 138},
		},
	} {
		var s DynamicBanScore
		for i, step := range steps {
			at := base.Add(step.after)
			if step.persistent != 0 || step.transient != 0 {
				if got := s.IncreaseAt(step.persistent, step.transient, at); got != step.want {
					t.Errorf("%s: step %d: increased to %d, want %d", name, i, got, step.want)
				}
			} else if got := s.IntAt(at); got != step.want {
				t.Errorf("%s: step %d: %d, want %d", name, i, got, step.want)
			}
		}
	}
}

// The decaying part at full seconds is 2^(-t/60), whatever the route: a twin
// that halves in steps agrees within one.
func TestBanScoreDecaysExponentially(t *testing.T) {
	base := time.Unix(1_800_000_000, 0)
	var s DynamicBanScore
	s.IncreaseAt(0, 1<<30, base)
	whole := uint64(1 << 30)
	for minute := range 30 {
		if got := uint64(s.IntAt(base.Add(time.Duration(minute) * time.Minute))); got > whole+1 || got+1 < whole {
			t.Fatalf("after %d minutes: %d, want %d", minute, got, whole)
		}
		whole /= 2
	}
	last := uint32(math.MaxUint32)
	for second := range 1801 {
		now := s.IntAt(base.Add(time.Duration(second) * time.Second))
		if now > last {
			t.Fatalf("it grew in second %d", second)
		}
		last = now
	}
}

func TestBanScoreNow(t *testing.T) {
	var s DynamicBanScore
	if s.Int() != 0 {
		t.Error("it does not begin with 0")
	}
	if got := s.Increase(100, 0); got != 100 || s.Int() != 100 {
		t.Errorf("%d, %d, want 100", got, s.Int())
	}
	if !strings.HasPrefix(s.String(), "100 (100 to stay, 0.0 decaying)") {
		t.Errorf("%q", s.String())
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				s.Increase(1, 0)
			}
		})
	}
	wg.Wait()
	if s.Int() != 900 {
		t.Errorf("%d, want 900", s.Int())
	}
	if s.Reset(); s.Int() != 0 {
		t.Errorf("%d after Reset", s.Int())
	}
}
