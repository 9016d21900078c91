package transport

import "errors"

// outcome is how a function ended that Breaker.Call ran in a goroutine of its own.
type outcome struct {
	err      error
	panicked any
}

// errNotEnded counts as the failure of a function that did not return: it panicked or ended its goroutine.
var errNotEnded = errors.New("transport: the function did not return")

// run calls f and hands over how it ended, a panic included, unless nobody waits any more.
func run(f func() error, results chan<- outcome, late <-chan struct{}) {
	o := outcome{err: errNotEnded}
	defer func() {
		o.panicked = recover()
		select {
		case results <- o:
		case <-late:
			if o.panicked != nil {
				panic(o.panicked)
			}
		}
	}()
	o.err = f()
}
