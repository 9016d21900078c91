package addrbook

import (
	"math"
	"testing"
	"time"
)

func TestPeerScoreSaturates(t *testing.T) {
	for _, c := range []struct {
		from  PeerScore
		delta int
		want  PeerScore
	}{
		{0, 1, 1}, {0, -1, -1}, {5, -10, -5},
		{math.MaxInt16, 1, math.MaxInt16}, {math.MinInt16, -1, math.MinInt16},
		{math.MaxInt16, math.MaxInt, math.MaxInt16}, {math.MinInt16, math.MinInt, math.MinInt16},
		{math.MinInt16, math.MaxInt, math.MaxInt16}, {math.MaxInt16, math.MinInt, math.MinInt16},
		{math.MaxInt16, -1, math.MaxInt16 - 1}, {-1, 32768, 32767},
	} {
		if got := c.from.Add(c.delta); got != c.want {
			t.Errorf("%d + %d = %d, want %d", c.from, c.delta, got, c.want)
		}
	}
}

func TestEarnedScoreDecays(t *testing.T) {
	const half = time.Hour
	start := stampOf(newClock().now())
	e := earned{}.add(100, start, half)
	for hours, want := range map[int]PeerScore{0: 100, 1: 50, 2: 25, 3: 13, 10: 0, 1000: 0} {
		if got := e.score(start.after(time.Duration(hours)*time.Hour), half); got != want {
			t.Errorf("after %d h: %d, want %d", hours, got, want)
		}
	}
	if got := e.score(start-1e15, half); got != 100 {
		t.Errorf("a clock that went back: %d", got)
	}
	if got := (earned{}).add(-8, start, half).score(start.after(3*half), half); got != -1 {
		t.Errorf("a bad score forgives: %d", got)
	}
	for _, delta := range []int{math.MaxInt32, math.MinInt32} {
		e := earned{}
		for range 5 {
			e = e.add(delta, start, half)
		}
		if got := e.score(start, half); got != MaxScore && got != MinScore {
			t.Errorf("%d five times: %d", delta, got)
		}
	}
	if e := (earned{}).add(1, start, half).add(0, start.after(2*half), half); e.value != 0 {
		t.Errorf("less than half a point is kept: %v", e)
	}
}

// The order of two scores is that of their values at any later moment.
func TestEarnedOrderIsTimeless(t *testing.T) {
	const half = time.Hour
	start := stampOf(newClock().now())
	r := seeded(3)
	for range 2000 {
		a := earned{}.add(1+below(r, 1000), start.after(time.Duration(below(r, 1e9))*10000), half)
		b := earned{}.add(1+below(r, 1000), start.after(time.Duration(below(r, 1e9))*10000), half)
		at := start.after(10 * time.Hour)
		if d := a.now(at, half) - b.now(at, half); math.Abs(d) > 1e-6 && (d > 0) != (a.order(half) > b.order(half)) {
			t.Fatalf("%v and %v", a, b)
		}
	}
	if !math.IsInf(earned{}.order(half), -1) {
		t.Error("no score has an order")
	}
}

func TestStamps(t *testing.T) {
	if stampOf(time.Time{}) != 0 || stampOf(time.Unix(0, 0)) != 1 || stampOf(time.Unix(-5, 0)) != 1 {
		t.Error("moments at the beginning of time")
	}
	if !stamp(0).time().IsZero() || !never.time().IsZero() {
		t.Error("no moment is the zero time")
	}
	now := time.Unix(1e9, 7)
	if !stampOf(now).time().Equal(now) || never.after(time.Hour) != never || stamp(5).after(-time.Hour) != 1 {
		t.Error("arithmetic")
	}
}
