package connmgr

import (
	"math/rand/v2"
	"testing"
	"time"
)

// The meter counts as a list of times does, to the second.
func TestMeterAgreesWithAList(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 3))
		var m meter
		var list []int64
		now := epoch
		for range 2000 {
			now = now.Add(time.Duration(r.ExpFloat64() * float64(time.Second)))
			if r.IntN(100) == 0 {
				now = now.Add(time.Duration(r.IntN(200)) * time.Second)
			}
			if r.IntN(3) > 0 {
				m.add(now)
				list = append(list, now.Unix())
			} else {
				m.advance(now)
			}
			for len(list) > 0 && list[0] <= now.Unix()-60 {
				list = list[1:]
			}
			if m.sum != len(list) {
				t.Fatalf("seed %d: %d, want %d", seed, m.sum, len(list))
			}
		}
	}
}

// A clock that goes back loses nothing and does not panic, even before 1970.
func TestMeterWithAClockThatGoesBack(t *testing.T) {
	var m meter
	m.add(time.Time{})
	m.add(epoch)
	m.add(epoch.Add(-time.Hour))
	m.add(time.Time{})
	if m.sum != 3 {
		t.Errorf("%d", m.sum)
	}
	m.add(epoch.Add(time.Hour))
	if m.sum != 1 {
		t.Errorf("%d an hour later", m.sum)
	}
}

// The chance rises with the count, from floodDropMin to floodDropMax, never
// beyond.
func TestFloodChanceRises(t *testing.T) {
	f := flood{start: 100, full: 400, active: true}
	last := 0.0
	for sum := range 1000 {
		f.meter.sum = sum
		c := f.chance()
		if c < last || c < floodDropMin || c > floodDropMax+1e-9 {
			t.Fatalf("%d: %v after %v", sum, c, last)
		}
		last = c
	}
	if last < floodDropMax-1e-9 {
		t.Errorf("%v in the end", last)
	}
	f.meter.sum = 250
	if mid := f.chance(); mid < 0.549 || mid > 0.551 {
		t.Errorf("%v half way", mid)
	}
	f.active = false
	if f.chance() != 0 {
		t.Error("drops in calm")
	}
}

// A flood begins above start and ends below three quarters of it: at the border
// it does not flutter.
func TestFloodDoesNotFlutter(t *testing.T) {
	f := flood{start: 100, full: 400}
	changes, now := 0, epoch
	for range 3600 { // an hour at 100 a minute, give or take one
		before := f.active
		now = now.Add(595 * time.Millisecond)
		f.attempt(now, 0.5)
		if f.active != before {
			changes++
		}
	}
	if changes != 1 {
		t.Errorf("%d changes", changes)
	}
	f.update(now.Add(13 * time.Second))
	if !f.active {
		t.Error("over too early")
	}
	f.update(now.Add(18 * time.Second))
	if f.active || !f.since.Equal(now.Add(18*time.Second)) {
		t.Error("not over")
	}
}
