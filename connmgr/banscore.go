package connmgr

import (
	"fmt"
	"math"
	"sync"
	"time"
)

const (
	banHalfLife = 60 * time.Second
	banLifetime = 1800 * time.Second
)

// DynamicBanScore says how badly a peer behaved, as the sum of a part that
// stays and a part that decays: it halves every 60 s, and is gone 1800 s after
// it last grew. Time counts in whole seconds of Unix time. Sums stop at the
// largest uint32. What score is too much is the caller's decision. The zero
// value is ready to use; all methods are safe for concurrent use. It must not
// be copied.
type DynamicBanScore struct {
	mu         sync.Mutex // guards the rest
	persistent uint32
	transient  float64 // at the second since
	since      int64   // when transient grew last
}

// Int is the score now.
func (s *DynamicBanScore) Int() uint32 { return s.IntAt(time.Now()) }

// IntAt is the score at t. A time before the last increase counts the part that
// stays only.
func (s *DynamicBanScore) IntAt(t time.Time) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return saturated(s.persistent, s.decayed(t.Unix()))
}

// Increase adds to both parts and returns the new score.
func (s *DynamicBanScore) Increase(persistent, transient uint32) uint32 {
	return s.IncreaseAt(persistent, transient, time.Now())
}

// IncreaseAt is Increase at the time t. What is to decay is not added at a time
// before the last increase: it counts as of that.
func (s *DynamicBanScore) IncreaseAt(persistent, transient uint32, t time.Time) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.persistent = saturated(s.persistent, float64(persistent))
	at := max(t.Unix(), s.since)
	if transient > 0 {
		s.transient = min(s.decayed(at)+float64(transient), math.MaxUint32)
		s.since = at
	}
	return saturated(s.persistent, s.decayed(at))
}

// Reset sets both parts to zero.
func (s *DynamicBanScore) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.persistent, s.transient, s.since = 0, 0, 0
}

// String is the score now, with its parts.
func (s *DynamicBanScore) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	decaying := s.decayed(time.Now().Unix())
	return fmt.Sprintf("%d (%d to stay, %.1f decaying)", saturated(s.persistent, decaying), s.persistent, decaying)
}

// decayed is what is left of the decaying part in a second; mu is held.
func (s *DynamicBanScore) decayed(second int64) float64 {
	age := second - s.since
	if s.transient == 0 || age < 0 || age > int64(banLifetime/time.Second) {
		return 0
	}
	return s.transient * math.Exp2(-float64(age)/banHalfLife.Seconds())
}

// saturated is a + b without the fraction, or the largest number there is.
func saturated(a uint32, b float64) uint32 {
	return uint32(min(uint64(a)+uint64(b), math.MaxUint32))
}
