// Package backoff is the one formula for waiting between attempts: exponential
// with a cap and jitter. It holds no state: whoever retries counts failures.
package backoff

import (
	"math/rand/v2"
	"time"
)

// Delay returns how long to wait after the given number of failures in a row:
// first x 2^(failures-1), at most limit, spread by up to +-25 % with random, a
// number in [0,1). No failures: no delay. The result is never negative and
// never above limit. "Exponential backoff and jitter": without jitter, peers
// that lost one host together come back together.
func Delay(failures int, first, limit time.Duration, random float64) time.Duration {
	if failures <= 0 || first <= 0 || limit <= 0 {
		return 0
	}
	d := limit
	if shift := failures - 1; shift < 62 && first <= limit>>shift {
		d = first << shift
	}
	return min(limit, time.Duration(float64(d)*(0.75+random/2)))
}

// Jittered is Delay with the process's random source.
func Jittered(failures int, first, limit time.Duration) time.Duration {
	return Delay(failures, first, limit, rand.Float64())
}
