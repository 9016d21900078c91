package backoff

import (
	"math"
	"testing"
	"time"
)

func TestDelay(t *testing.T) {
	for _, c := range []struct {
		failures     int
		first, limit time.Duration
		random       float64
		want         time.Duration
	}{
		{0, time.Second, time.Minute, 0.5, 0},
		{-1, time.Second, time.Minute, 0.5, 0},
		{1, time.Second, time.Minute, 0.5, time.Second},
		{2, time.Second, time.Minute, 0.5, 2 * time.Second},
		{6, time.Second, time.Minute, 0.5, 32 * time.Second},
		{7, time.Second, time.Minute, 0.5, time.Minute},
		{math.MaxInt, time.Second, time.Minute, 0.999, time.Minute},
		{1, time.Second, time.Minute, 0, 750 * time.Millisecond},
		{1, time.Minute, time.Second, 0.5, time.Second},
		{1, 0, time.Minute, 0.5, 0},
		{1, time.Second, 0, 0.5, 0},
	} {
		if got := Delay(c.failures, c.first, c.limit, c.random); got != c.want {
			t.Errorf("Delay(%d, %v, %v, %v) = %v, want %v", c.failures, c.first, c.limit, c.random, got, c.want)
		}
	}
	for range 1000 {
		if d := Jittered(3, time.Second, time.Minute); d < 3*time.Second || d > 5*time.Second {
			t.Fatalf("jitter out of range: %v", d)
		}
	}
}
