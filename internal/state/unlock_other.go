//go:build !unix

package state

import (
	"os"
	"time"
)

// unlock does nothing: the end of the process gives the lock back.
func unlock(*os.File) {}

// holdDir does nothing: a directory cannot be locked here.
func holdDir(string, time.Duration) (release func(), ok bool) { return func() {}, true }

// syncDir does nothing: a directory cannot be synced here.
func syncDir(string) error { return nil }
