package main

import (
	"context"
	"fmt"
	"math"
	"slices"
)

// near is how close to its bar a median is too close to judge by few pairs.
const near = 0.05

// comparison is one line of the table.
type comparison struct {
	row, what    string
	ours, theirs string // what the two sides are
	unit         string
	bar          float64
	atMost       bool // the ratio must not be above the bar, instead of not below
	worst        bool // the worst pair counts, not the median
	rounds       int  // this many pairs and no more; 0 means the usual number

	// renew gives both sides new connections to measure with: what a connection
	// finds out about its path as it starts stays with it, and makes one as
	// much as a quarter faster than the next. It is called before the first
	// pair and again after every few.
	renew func(ctx context.Context) error
	every int // pairs between renewals

	// pair measures both sides once, ours first.
	pair func(ctx context.Context) (ours, theirs float64, err error)
	// notes adds what else is worth saying, after the last pair. May be nil.
	notes func() []string
}

// result is a comparison that was measured.
type result struct {
	Row       string       `json:"row"`
	What      string       `json:"what"`
	Ours      string       `json:"ours"`
	Theirs    string       `json:"theirs"`
	Unit      string       `json:"unit"`
	Bar       float64      `json:"bar"`
	AtMost    bool         `json:"atMost"` // the bar is an upper bound
	Worst     bool         `json:"worst"`  // ratio is that of the worst pair
	Ratio     float64      `json:"ratio"`  // the median of the pairs' ratios
	P25       float64      `json:"p25"`
	P75       float64      `json:"p75"`
	OursP50   float64      `json:"oursMedian"`
	TheirsP50 float64      `json:"theirsMedian"`
	Met       bool         `json:"met"`
	Pairs     [][2]float64 `json:"pairs"` // ours, theirs
	Notes     []string     `json:"notes,omitempty"`
}

// measure takes pairs, more of them when the median is close to the bar.
func (c comparison) measure(ctx context.Context, set settings, tick func()) (result, error) {
	pairs, most := set.pairs, set.most
	if c.rounds > 0 {
		pairs, most = c.rounds, c.rounds
	}
	r := result{Row: c.row, What: c.what, Ours: c.ours, Theirs: c.theirs, Unit: c.unit, Bar: c.bar, AtMost: c.atMost, Worst: c.worst}
	for len(r.Pairs) < pairs {
		if c.renew != nil && len(r.Pairs)%c.every == 0 {
			if err := c.renew(ctx); err != nil {
				return r, err
			}
		}
		ours, theirs, err := c.take(ctx)
		if err != nil {
			return r, fmt.Errorf("pair %d: %w", len(r.Pairs)+1, err)
		}
		r.Pairs = append(r.Pairs, [2]float64{ours, theirs})
		tick()
		if len(r.Pairs) == pairs && pairs < most {
			if r.judge(); math.Abs(r.Ratio-c.bar) <= near*c.bar {
				pairs = most
			}
		}
	}
	r.judge()
	if c.notes != nil {
		r.Notes = c.notes()
	}
	return r, nil
}

func (c comparison) take(ctx context.Context) (ours, theirs float64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	ours, theirs, err = c.pair(ctx)
	if err == nil && !(ours >= 0 && theirs > 0) {
		err = fmt.Errorf("measured %v and %v, which have no ratio", ours, theirs)
	}
	return ours, theirs, err
}

// judge computes everything that follows from the pairs.
func (r *result) judge() {
	var ours, theirs, ratios []float64
	for _, p := range r.Pairs {
		ours, theirs, ratios = append(ours, p[0]), append(theirs, p[1]), append(ratios, p[0]/p[1])
	}
	r.OursP50, r.TheirsP50 = quantile(ours, 0.5), quantile(theirs, 0.5)
	r.Ratio, r.P25, r.P75 = quantile(ratios, 0.5), quantile(ratios, 0.25), quantile(ratios, 0.75)
	if r.Worst {
		if r.Ratio = slices.Min(ratios); r.AtMost {
			r.Ratio = slices.Max(ratios)
		}
	}
	if r.Met = r.Ratio >= r.Bar; r.AtMost {
		r.Met = r.Ratio <= r.Bar
	}
}

// quantile returns the value below which the fraction q of the values lies,
// between two of them if need be (method 7 of Hyndman and Fan 1996).
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 == len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}
