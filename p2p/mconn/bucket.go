package mconn

import "time"

// A bucket limits a rate without sleeping: take books what has been spent, and
// says how long to wait before more. It belongs to one goroutine, or to a lock.
type bucket struct {
	rate  float64 // per second; 0: no limit
	burst float64
	left  float64 // may be below 0
	at    time.Time
}

// newBucket starts full.
func newBucket(rate, burst float64, now time.Time) bucket {
	return bucket{rate: rate, burst: burst, left: burst, at: now}
}

// take spends n and returns how long it is until the bucket is not in debt.
func (b *bucket) take(n float64, now time.Time) time.Duration {
	if b.rate <= 0 {
		return 0
	}
	b.left = min(b.burst, b.left+b.rate*now.Sub(b.at).Seconds()) - n
	b.at = now
	if b.left >= 0 {
		return 0
	}
	return time.Duration(-b.left / b.rate * float64(time.Second))
}
