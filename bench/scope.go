package main

import "errors"

// scope collects how to end what was started. It belongs to one goroutine.
type scope []func() error

// add notes how to end something that was started.
func (s *scope) add(end func() error) { *s = append(*s, end) }

// end ends all of it, last first, and forgets it.
func (s *scope) end() error {
	var errs []error
	for i := len(*s) - 1; i >= 0; i-- {
		errs = append(errs, (*s)[i]())
	}
	*s = nil
	return errors.Join(errs...)
}
