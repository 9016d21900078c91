//go:build unix && !solaris && !illumos && !aix

package unixsock

import (
	"os"
	"syscall"
	"time"
)

// A turn takes microseconds, or probeTimeout. Anybody who may read a directory
// may lock it, so that nobody waits for ever.
const (
	lockPatience = 2 * probeTimeout
	lockPoll     = 2 * time.Millisecond
)

// lockDir locks a directory against other callers of Take and returns what
// unlocks it, which is nothing if it cannot be locked.
func lockDir(dir string) (unlock func()) {
	f, err := os.Open(dir)
	if err != nil {
		return func() {}
	}
	for until := time.Now().Add(lockPatience); time.Now().Before(until); time.Sleep(lockPoll) {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			break // locked, or it cannot be
		}
	}
	return func() { f.Close() } // and the lock with it
}
