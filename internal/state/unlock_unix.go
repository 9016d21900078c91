//go:build unix

package state

import (
	"os"
	"syscall"
)

// unlock gives bbolt's lock back: closing the file does not, while it is mapped.
func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
