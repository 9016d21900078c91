package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// contest is a comparison of more than two sides: they take turns, A B C A B
// C, and each line of the table sets one of them beside another, turn by turn.
type contest struct {
	row, what, unit string
	lines           []line

	// sides makes them anew, so that no luck of one connection stays with the
	// whole row: before the first turn, and again after every few. What they
	// start ends with the scope.
	sides func(context.Context, *scope) ([]side, error)
	every int // turns between that; 0: never again

	// rates says that the sides measure how often in a second. Then the notes
	// have what processor time of this process once took, which says more than
	// the clock on a machine that has other work too.
	rates bool
}

// side is one way to do the work. measure does it for a while.
type side struct {
	name    string
	measure func(context.Context) (float64, error)
}

// line is one line of the table. Without a bar it is only printed.
type line struct {
	ours, theirs string // names of sides
	bar          float64
	atMost       bool
}

// measure takes turns, more of them when the median of any line is close to its bar.
func (c contest) measure(ctx context.Context, set settings, tick func()) (results []result, err error) {
	for _, l := range c.lines {
		results = append(results, result{Row: c.row, What: c.what, Ours: l.ours, Theirs: l.theirs, Unit: c.unit, Bar: l.bar, AtMost: l.atMost})
	}
	var running scope
	defer func() {
		if e := running.end(); err == nil {
			err = e
		}
	}()
	var sides []side
	used := make(map[string][]float64) // processor time, in microseconds
	for turn, turns := 0, set.pairs; turn < turns; turn++ {
		if turn == 0 || c.every > 0 && turn%c.every == 0 {
			if err := running.end(); err != nil {
				return nil, err
			}
			if sides, err = c.sides(ctx, &running); err != nil {
				return nil, err
			}
			for _, s := range sides { // buffers and windows grow
				if _, err := s.measure(ctx); err != nil {
					return nil, fmt.Errorf("%s, warming up: %w", s.name, err)
				}
			}
		}
		got := make(map[string]float64)
		for _, s := range sides {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			start, before := time.Now(), ownCPU()
			v, err := s.measure(ctx)
			cost, times := ownCPU()-before, v*time.Since(start).Seconds()
			used[s.name] = append(used[s.name], float64(cost)/1000/times)
			if err == nil && !(v > 0) {
				err = fmt.Errorf("measured %v, which has no ratio", v)
			}
			if err != nil {
				return nil, fmt.Errorf("turn %d, %s: %w", turn+1, s.name, err)
			}
			got[s.name] = v
		}
		for i := range results {
			r := &results[i]
			if got[r.Ours] == 0 || got[r.Theirs] == 0 {
				return nil, fmt.Errorf("%s beside %s: there is no such side", r.Ours, r.Theirs)
			}
			r.Pairs = append(r.Pairs, [2]float64{got[r.Ours], got[r.Theirs]})
			r.judge()
			if turn+1 == set.pairs && math.Abs(r.Ratio-r.Bar) <= near*r.Bar {
				turns = max(turns, set.most)
			}
		}
		tick()
	}
	if c.rates && ownCPU() > 0 {
		var each []string
		for _, s := range sides {
			each = append(each, fmt.Sprintf("%s %s", s.name, figure(quantile(used[s.name], 0.5))))
		}
		results[0].Notes = []string{"CPU time of both ends for each, in µs: " + strings.Join(each, "; ")}
	}
	return results, nil
}

// contest runs one and adds its lines to the report.
func (b *bench) contest(ctx context.Context, c contest) error {
	fmt.Fprintf(b.progress, "%s: %s ", c.row, c.what)
	results, err := c.measure(ctx, b.settings, func() { fmt.Fprint(b.progress, ".") })
	if err != nil {
		fmt.Fprintln(b.progress)
		return err
	}
	for _, r := range results {
		fmt.Fprintf(b.progress, " %.3f", r.Ratio)
	}
	fmt.Fprintln(b.progress)
	b.report.Rows = append(b.report.Rows, results...)
	if b.prof == "" {
		return nil
	}
	var running scope
	sides, err := c.sides(ctx, &running)
	for i := range sides {
		if err != nil {
			break
		}
		err = b.profile(fmt.Sprintf("%s-%d-%s", c.row, len(b.report.Rows), strings.ReplaceAll(sides[i].name, " ", "_")), func() error {
			for range profiledTurns {
				if _, err := sides[i].measure(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return errors.Join(err, running.end())
}
