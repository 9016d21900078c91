package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"unicode"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/daemon"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a fault in the command line.
type usageError struct{ text string }

func (e *usageError) Error() string        { return e.text }
func (e *usageError) Is(target error) bool { return target == kith.ErrUsage }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// errInterrupted ends a command that was waiting when a signal came.
var errInterrupted = errors.New("interrupted before it was done")

// report prints an error as one line, or with --json as one object, and returns
// the exit code.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return exitDone
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	text := oneLine(strings.TrimPrefix(err.Error(), "kith: "))
	if errors.Is(err, syscall.ENOSPC) {
		text += "; free some space there and run this again"
	}
	if a.json {
		line, jerr := json.Marshal(struct {
			Error string `json:"error"`
			Code  string `json:"code"`
		}{text, errorCode(err)})
		if jerr == nil {
			fmt.Fprintf(a.stderr, "%s\n", line)
		}
	} else {
		fmt.Fprintf(a.stderr, "%s%s\n", a.errorPrefix, text)
	}
	if errors.Is(err, kith.ErrUsage) {
		return exitUsage
	}
	return exitFailed
}

// errorCode is the control API's code for err.
func errorCode(err error) string {
	if e, ok := errors.AsType[*daemon.Error](err); ok {
		return e.Code
	}
	switch {
	case errors.Is(err, kith.ErrUsage):
		return "invalid_argument"
	case errors.Is(err, daemon.ErrNotRunning):
		return "unavailable"
	case errors.Is(err, kith.ErrHomeInUse):
		return "already_exists"
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline_exceeded"
	case errors.Is(err, syscall.EADDRINUSE):
		return "already_exists"
	case errors.Is(err, syscall.ENOSPC):
		return "resource_exhausted"
	case errors.Is(err, fs.ErrPermission):
		return "permission_denied"
	case errors.Is(err, fs.ErrNotExist):
		return "not_found"
	}
	return "unknown"
}

// warn prints a line that is no result and no failure.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.stderr, "kith: warning: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// oneLine joins the lines of a text and makes its control characters harmless:
// part of it may have come from a peer.
func oneLine(s string) string { return clean(strings.Join(strings.Fields(s), " ")) }

// clean replaces what a terminal would act on.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
