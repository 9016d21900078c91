package addrbook

import (
	"math"
	"time"
)

// PeerScore ranks peers; higher is better. It saturates at both ends of int16
// instead of wrapping around.
type PeerScore int16

const (
	// MaxScore is the most that a peer can earn. Above it is only
	// math.MaxInt16, which callers keep for peers that are chosen, not scored.
	MaxScore PeerScore = math.MaxInt16 - 1
	// MinScore is the least a peer can fall to.
	MinScore PeerScore = math.MinInt16
)

// Add returns s + delta, saturated over the whole of int16.
func (s PeerScore) Add(delta int) PeerScore {
	switch {
	case delta > math.MaxUint16:
		delta = math.MaxUint16
	case delta < -math.MaxUint16:
		delta = -math.MaxUint16
	}
	return PeerScore(max(math.MinInt16, min(math.MaxInt16, int(s)+delta)))
}

// stamp is a moment in Unix nanoseconds; 0 is no moment.
type stamp int64

const never stamp = math.MaxInt64

// stampOf is the moment t; the zero time is none, and any other time is at
// least 1, so that a clock before 1970 still counts.
func stampOf(t time.Time) stamp {
	if t.IsZero() {
		return 0
	}
	return max(1, stamp(t.UnixNano()))
}

func (s stamp) time() time.Time {
	if s == 0 || s == never {
		return time.Time{}
	}
	return time.Unix(0, int64(s))
}

// after returns s + d without overflow.
func (s stamp) after(d time.Duration) stamp {
	if d > 0 && s > never-stamp(d) {
		return never
	}
	return max(1, s+stamp(d))
}

// earned is a score that halves with every half-life.
type earned struct {
	value float64 // as it was at the moment at
	at    stamp
}

// now returns what is left of the score.
func (e earned) now(now stamp, half time.Duration) float64 {
	if e.value == 0 || now <= e.at {
		return e.value
	}
	return e.value * math.Exp2(-float64(now-e.at)/float64(half))
}

func (e earned) score(now stamp, half time.Duration) PeerScore {
	return PeerScore(math.Round(e.now(now, half)))
}

// add moves the score by delta, within MinScore and MaxScore.
func (e earned) add(delta int, now stamp, half time.Duration) earned {
	v := e.now(now, half) + float64(delta)
	v = max(float64(MinScore), min(float64(MaxScore), v))
	if math.Abs(v) < 0.5 {
		v = 0
	}
	return earned{v, now}
}

// order sorts positive scores: all halve at the same pace, so that which of
// two is greater never changes by time alone.
func (e earned) order(half time.Duration) float64 {
	if e.value <= 0 {
		return math.Inf(-1)
	}
	return math.Log2(e.value) + float64(e.at)/float64(half)
}
