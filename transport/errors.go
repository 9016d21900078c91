package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

var (
	// ErrBreakerOpen is matched by every *OpenError.
	ErrBreakerOpen = errors.New("transport: breaker is open")
	// ErrAddress is matched by every *AddressError.
	ErrAddress = errors.New("transport: address cannot be used")
	// ErrWrongPeer says that a connection of the PeerNetwork leads to another peer than the one that was dialled.
	ErrWrongPeer = errors.New("transport: connected to another peer")
)

// OpenError is a refusal by a breaker: the address failed too often, and nothing was sent to it now. It matches
// ErrBreakerOpen.
type OpenError struct {
	Name    string        // of the breaker: the text of the address
	RetryAt time.Time     // when the breaker next lets a trial through; with Trial, at the latest
	Wait    time.Duration // how far off that was when the error was made
	Trial   bool          // another caller's trial is under way and will decide sooner
}

// Error names the address and the wait.
func (e *OpenError) Error() string {
	wait := e.Wait.Round(time.Millisecond)
	if e.Trial {
		return fmt.Sprintf("transport: %s failed repeatedly; another caller is trying it now (wait at most %v, or dial with reset)", clip(e.Name), wait)
	}
	return fmt.Sprintf("transport: %s failed repeatedly; next attempt in %v (or dial with reset)", clip(e.Name), wait)
}

// Unwrap returns ErrBreakerOpen.
func (e *OpenError) Unwrap() error { return ErrBreakerOpen }

// AddressError says that an address cannot be dialled or listened on, and why. Nothing was sent, and no breaker knows
// of it. It matches ErrAddress, and *address.UnsupportedError where one component is to blame.
type AddressError struct {
	Addr string // the address, cut to 200 bytes
	Err  error  // the fault
}

// Error names address and fault.
func (e *AddressError) Error() string {
	if e.Addr == "" {
		return fmt.Sprintf("transport: %v", e.Err)
	}
	return fmt.Sprintf("transport: %s: %v", e.Addr, e.Err)
}

// Unwrap returns ErrAddress and the fault.
func (e *AddressError) Unwrap() []error { return []error{ErrAddress, e.Err} }

// timeoutError is an end by Options.Timeout or by that of Breaker.Call.
type timeoutError struct{ limit time.Duration }

func (e *timeoutError) Error() string   { return fmt.Sprintf("no success within %v", e.limit) }
func (e *timeoutError) Unwrap() error   { return context.DeadlineExceeded }
func (e *timeoutError) Timeout() bool   { return true }
func (e *timeoutError) Temporary() bool { return true }

// allFailed is what each of several IPs answered, on one line.
type allFailed []error

func (e allFailed) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (e allFailed) Unwrap() []error { return e }

// clip bounds what an error repeats of its input.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
