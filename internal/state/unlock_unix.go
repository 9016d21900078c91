//go:build unix

package state

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// unlock gives bbolt's lock back: closing the file does not, while it is mapped.
func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }

// holdDir waits at most so long until nobody else restores a file in dir, and
// keeps others from it until release. Where a directory cannot be locked,
// nothing is.
func holdDir(dir string, wait time.Duration) (release func(), ok bool) {
	d, err := os.Open(dir)
	if err != nil {
		return func() {}, true
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		switch err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return func() { d.Close() }, true
		case time.Now().After(deadline):
			d.Close()
			return nil, false
		}
	}
}

// syncDir returns when the names of the files in dir are on disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) { // a file system that has no such thing
		err = nil
	}
	return errors.Join(err, d.Close())
}
