package transport

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Our Breaker and sony/gobreaker's, side by side through a million random operations, on what both have: consecutive
// failures, a fixed wait, one trial, exclusion of cancelled attempts. Ours is given a wait that does not grow, and
// endless patience with a trial that does not report, since gobreaker has no end to either.
//
// The clock is that of the synctest bubble; both read it with time.Now. gobreaker opens after its wait, ours with its
// last nanosecond (RetryAt itself is not too early), so gobreaker waits one less.
func TestSameAsGobreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			operations = 1_000_000
			threshold  = 3
			wait       = 1000 * time.Nanosecond
		)
		ours := newPanel(Options{
			Threshold: threshold, Timeout: 1 << 61, Backoff: wait, MaxBackoff: wait,
			Random: func() float64 { return 0.5 },
		}.withDefaults()).Lookup(text("x"))
		theirs := gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			MaxRequests: 1,
			Timeout:     wait - 1,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= threshold },
			IsExcluded:  func(err error) bool { return errors.Is(err, context.Canceled) },
		})
		states := map[gobreaker.State]State{
			gobreaker.StateClosed: Closed, gobreaker.StateOpen: Open, gobreaker.StateHalfOpen: HalfOpen,
		}
		type attempt struct {
			ours, theirs func(error)
		}
		type edge struct {
			from  State
			input string
			to    State
		}
		var (
			random  = rand.New(rand.NewPCG(2026, 11))
			pending []attempt
			edges   = map[edge]int{}
		)
		// The states of the edges are those stored, so that what time alone brings about shows in the next operation.
		stored := func() State { return ours.state }
		for op := range operations {
			from, input := stored(), ""
			switch r := random.IntN(100); {
			case r < 42 && len(pending) < 8:
				input = "allow"
				done, err := ours.Allow()
				theirDone, theirErr := theirs.Allow()
				open, _ := errors.AsType[*OpenError](err)
				var want error
				switch {
				case open != nil && open.Trial:
					want, input = gobreaker.ErrTooManyRequests, "refuse, trial"
				case open != nil:
					want, input = gobreaker.ErrOpenState, "refuse"
				}
				if theirErr != want || (err == nil) != (done != nil) {
					t.Fatalf("operation %d: Allow: %v; gobreaker: %v", op, err, theirErr)
				}
				if err == nil {
					pending = append(pending, attempt{done, theirDone})
				}
			case r < 84 && len(pending) > 0:
				i := random.IntN(len(pending))
				a := pending[i]
				pending[i] = pending[len(pending)-1]
				pending = pending[:len(pending)-1]
				var result error
				switch r := random.IntN(10); {
				case r < 3:
					input = "success"
				case r < 8:
					input, result = "failure", errDown
				default:
					input, result = "cancelled", context.Canceled
				}
				a.ours(result)
				a.theirs(result)
			case r < 94:
				input = "time"
				time.Sleep(time.Duration(random.Int64N(int64(wait))))
			case r < 95: // exactly to the end of the wait
				input = "time"
				if left := time.Until(ours.until); left > 0 && left <= wait {
					time.Sleep(left - time.Duration(random.Int64N(2)))
				}
			default:
				input = "state"
				if got, want := ours.State(), states[theirs.State()]; got != want {
					t.Fatalf("operation %d: state %v; gobreaker: %v", op, got, want)
				}
			}
			edges[edge{from, input, stored()}]++
		}
		for len(pending) > 0 {
			pending[0].ours(nil)
			pending[0].theirs(nil)
			pending = pending[1:]
		}
		if got, want := ours.State(), states[theirs.State()]; got != want {
			t.Fatalf("at the end: %v; gobreaker: %v", got, want)
		}
		known := map[edge]bool{
			{Closed, "allow", Closed}: true, {Closed, "success", Closed}: true, {Closed, "failure", Closed}: true,
			{Closed, "cancelled", Closed}: true, {Closed, "failure", Open}: true, {Closed, "time", Closed}: true,
			{Closed, "state", Closed}: true,
			{Open, "refuse", Open}:    true, {Open, "allow", HalfOpen}: true, {Open, "state", Open}: true,
			{Open, "state", HalfOpen}: true, {Open, "time", Open}: true,
			// Results from before it opened, which count for nothing.
			{Open, "success", Open}: true, {Open, "failure", Open}: true, {Open, "cancelled", Open}: true,
			{HalfOpen, "allow", HalfOpen}: true, {HalfOpen, "refuse, trial", HalfOpen}: true,
			{HalfOpen, "success", Closed}: true, {HalfOpen, "failure", Open}: true, {HalfOpen, "cancelled", HalfOpen}: true,
			{HalfOpen, "success", HalfOpen}: true, {HalfOpen, "failure", HalfOpen}: true, // from before
			{HalfOpen, "time", HalfOpen}: true, {HalfOpen, "state", HalfOpen}: true,
		}
		for e := range known {
			if edges[e] < 100 {
				t.Errorf("%v -%s-> %v: taken %d times", e.from, e.input, e.to, edges[e])
			}
		}
		for e, n := range edges {
			if !known[e] {
				t.Errorf("%v -%s-> %v: taken %d times, must not be", e.from, e.input, e.to, n)
			}
		}
	})
}
