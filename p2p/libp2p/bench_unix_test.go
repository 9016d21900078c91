//go:build unix

package libp2p

import (
	"syscall"
	"testing"
	"time"
)

// processor is the time of processors that this process has used, both ends of the
// connection together. On a machine that others load it can be compared, elapsed
// time cannot.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
