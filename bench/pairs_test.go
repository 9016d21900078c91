package main

import (
	"context"
	"math"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{7}, 0.5, 7},
		{[]float64{3, 1}, 0.5, 2},
		{[]float64{5, 1, 3}, 0.5, 3},
		{[]float64{4, 3, 2, 1}, 0.25, 1.75},
		{[]float64{1, 2, 3, 4, 5}, 1, 5},
		{[]float64{1, 2, 3, 4, 5}, 0, 1},
	} {
		if got := quantile(c.values, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("quantile of nothing is %v", got)
	}
}

// Each case measures the same pairs again and again.
func TestMeasure(t *testing.T) {
	set := settings{pairs: 4, most: 9}
	for name, c := range map[string]struct {
		comparison
		pairs [][2]float64
		ratio float64
		count int
		met   bool
	}{
		"far above the bar":   {comparison{bar: 1}, [][2]float64{{2, 1}}, 2, 4, true},
		"far below the bar":   {comparison{bar: 1}, [][2]float64{{1, 2}}, 0.5, 4, false},
		"close to the bar":    {comparison{bar: 1}, [][2]float64{{102, 100}}, 1.02, 9, true},
		"just below the bar":  {comparison{bar: 1}, [][2]float64{{96, 100}}, 0.96, 9, false},
		"at most, below":      {comparison{bar: 0.5, atMost: true}, [][2]float64{{1, 4}}, 0.25, 4, true},
		"at most, above":      {comparison{bar: 0.5, atMost: true}, [][2]float64{{3, 4}}, 0.75, 4, false},
		"median, not mean":    {comparison{bar: 1}, [][2]float64{{2, 1}, {2, 1}, {90, 1}, {2, 1}}, 2, 4, true},
		"ratio of each pair":  {comparison{bar: 1}, [][2]float64{{20, 10}, {2, 1}, {200, 100}, {2, 1}}, 2, 4, true},
		"the worst counts":    {comparison{bar: 1, worst: true, rounds: 3}, [][2]float64{{1, 1}, {9, 10}, {1, 1}}, 0.9, 3, false},
		"the worst of maxima": {comparison{bar: 1, worst: true, atMost: true, rounds: 2}, [][2]float64{{1, 2}, {3, 2}}, 1.5, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			taken, renewed := 0, 0
			c.pair = func(context.Context) (float64, float64, error) {
				p := c.pairs[taken%len(c.pairs)]
				taken++
				return p[0], p[1], nil
			}
			c.every = 2
			c.renew = func(context.Context) error {
				if taken%2 != 0 {
					t.Errorf("renewed after %d pairs", taken)
				}
				renewed++
				return nil
			}
			r, err := c.measure(t.Context(), set, func() {})
			if err != nil {
				t.Fatal(err)
			}
			if r.Ratio != c.ratio || len(r.Pairs) != c.count || r.Met != c.met {
				t.Errorf("ratio %v of %d pairs, met: %v; want %v of %d, %v", r.Ratio, len(r.Pairs), r.Met, c.ratio, c.count, c.met)
			}
			if want := (c.count + 1) / 2; renewed != want {
				t.Errorf("renewed %d times, want %d", renewed, want)
			}
		})
	}
}

func TestMeasureFaults(t *testing.T) {
	nothing := comparison{pair: func(context.Context) (float64, float64, error) { return 1, 0, nil }}
	if _, err := nothing.measure(t.Context(), settings{pairs: 1}, func() {}); err == nil {
		t.Error("a ratio to nothing was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	never := comparison{pair: func(context.Context) (float64, float64, error) {
		t.Error("measured after the end")
		return 1, 1, nil
	}}
	if _, err := never.measure(ctx, settings{pairs: 1}, func() {}); err == nil {
		t.Error("no error after the end")
	}
}
