package interop

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace is one OS thread with kernel namespaces of its own. Programs
// started and sockets opened from it live in them. The thread owns the
// namespaces: they have no name, and end with it and the programs in it,
// however the test process ends.
type namespace struct {
	work chan func()
	tid  int
}

// newNamespace makes namespaces of the kinds in flags (unix.CLONE_NEWNET,
// unix.CLONE_NEWNS), which last until the test ends.
func newNamespace(t *testing.T, flags int) *namespace {
	t.Helper()
	ns := &namespace{work: make(chan func())}
	made, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		ns.tid = unix.Gettid()
		err := unix.Unshare(flags)
		if err == nil && flags&unix.CLONE_NEWNS != 0 {
			// Mounts made in here are not to be seen outside.
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		made <- err
		for f := range ns.work {
			f()
		}
	}()
	t.Cleanup(func() {
		close(ns.work)
		<-ended
	})
	if err := <-made; err != nil {
		t.Fatalf("cannot make a namespace: %v; this needs root with CAP_SYS_ADMIN", err)
	}
	return ns
}

// do runs f on the namespace's thread and returns when it has. f must not end
// the goroutine (t.Fatal).
func (ns *namespace) do(f func()) {
	done := make(chan struct{})
	ns.work <- func() {
		defer close(done)
		f()
	}
	<-done
}
