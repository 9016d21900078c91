package connmgr

import "time"

// What a flood costs the innocent: at FloodRate one newcomer in five has to try
// again, at FloodMax nine in ten, who get in with an even chance within seven
// tries. Never all: a flood must not be able to close the house.
const (
	floodDropMin = 0.2
	floodDropMax = 0.9

	// floodRetry is what a dropped newcomer is told: a quarter of the window
	// that decides.
	floodRetry = 15 * time.Second
)

// A meter counts events of the last minute in 60 buckets of a second, O(1) in
// time and memory. The zero value is ready. Not safe for concurrent use.
type meter struct {
	ring [60]uint32
	sum  int
	last int64 // the second, since 1970, of the newest bucket; never goes back
}

// advance forgets what is older than a minute before now. When the clock went
// back it forgets nothing.
func (m *meter) advance(now time.Time) {
	second := now.Unix()
	for range min(second-m.last, int64(len(m.ring))) {
		m.last++
		m.sum -= int(m.ring[m.last%int64(len(m.ring))])
		m.ring[m.last%int64(len(m.ring))] = 0
	}
	m.last = max(m.last, second)
}

func (m *meter) add(now time.Time) {
	m.advance(now)
	m.ring[m.last%int64(len(m.ring))]++
	m.sum++
}

// flood decides when there are too many attempts in all and which are dropped.
// Not safe for concurrent use.
type flood struct {
	start, full int // attempts a minute; start 0: never a flood
	meter       meter
	active      bool
	since       time.Time // when the present flood, or calm, began
}

// update looks at the clock: a flood ends when the count of a minute is below
// three quarters of what began it, so that it does not flutter at the border.
func (f *flood) update(now time.Time) {
	f.meter.advance(now)
	if f.active && f.meter.sum < f.start-f.start/4 {
		f.active, f.since = false, now
	}
}

// attempt counts one and reports whether it is to be dropped, given a random
// number in [0,1). Dropped ones count too: it is the arrivals that end a flood.
func (f *flood) attempt(now time.Time, roll float64) (drop bool) {
	if f.start == 0 {
		return false
	}
	f.meter.add(now)
	f.update(now)
	if !f.active && f.meter.sum > f.start {
		f.active, f.since = true, now
	}
	return roll < f.chance()
}

// chance is how likely a newcomer is dropped: 0 in calm, else from floodDropMin
// at start to floodDropMax at full, slow at both ends and steep between (the
// cubic x^2 (3-2x)), so that a small excess costs little and a large one is cut
// off soon.
func (f *flood) chance() float64 {
	if !f.active {
		return 0
	}
	x := float64(f.meter.sum-f.start) / float64(f.full-f.start)
	x = min(max(x, 0), 1)
	return floodDropMin + (floodDropMax-floodDropMin)*x*x*(3-2*x)
}
