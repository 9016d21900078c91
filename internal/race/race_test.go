package race

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type conn struct {
	name   string
	closed *[]string
}

func (c *conn) Close() error { *c.closed = append(*c.closed, c.name); return nil }

// Dials of which some take their time, some fail and some do not heed their
// context; transport and p2p have further tests of their use.
func TestFirst(t *testing.T) {
	type dial struct {
		name  string
		takes time.Duration
		fails bool
		deaf  bool
	}
	second := time.Second
	for _, c := range []struct {
		name   string
		dials  []dial
		won    string
		took   time.Duration
		closed []string
		failed []int
	}{
		{"none", nil, "", 0, nil, nil},
		{"one", []dial{{name: "a", takes: second}}, "a", second, nil, nil},
		{"the first hangs", []dial{{name: "a", takes: time.Hour}, {name: "b", takes: second}}, "b", Stagger + second, nil, []int{0}},
		{"the first fails", []dial{{name: "a", fails: true}, {name: "b", takes: second}}, "b", second, nil, []int{0}},
		{"all fail", []dial{{name: "a", fails: true}, {name: "b", fails: true, takes: second}}, "", second, nil, []int{0, 1}},
		{"one comes too late", []dial{{name: "a", takes: 2 * second, deaf: true}, {name: "b", takes: second}}, "b", 2 * second, []string{"a"}, nil},
		{"the last is not needed", []dial{{name: "a", takes: Stagger / 2}, {name: "b"}}, "a", Stagger / 2, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var closed []string
				start := time.Now()
				got, won, errs := First(t.Context(), c.dials, func(ctx context.Context, d dial) (*conn, error) {
					timer := time.NewTimer(d.takes)
					defer timer.Stop()
					select {
					case <-timer.C:
					case <-ctx.Done():
						if !d.deaf {
							return nil, ctx.Err()
						}
						<-timer.C
					}
					if d.fails {
						return nil, errors.New("no")
					}
					return &conn{d.name, &closed}, nil
				})
				if took := time.Since(start); took != c.took || won != (c.won != "") || won && got.name != c.won {
					t.Errorf("%v, %v after %v", got, won, took)
				}
				var failed []int
				for i, err := range errs {
					if err != nil {
						failed = append(failed, i)
					}
				}
				if !slices.Equal(closed, c.closed) || !slices.Equal(failed, c.failed) || len(errs) != len(c.dials) {
					t.Errorf("closed %q; errors %v", closed, errs)
				}
			})
		})
	}
}

func TestFirstEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var dialled atomic.Int32
		_, won, errs := First(ctx, make([]int, 100), func(ctx context.Context, _ int) (*conn, error) {
			dialled.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if won || dialled.Load() > 5 || errs[0] == nil || errs[99] != nil {
			t.Error(won, dialled.Load(), errs)
		}
	})
}
