package daemon

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"connectrpc.com/connect"
	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/rpc"
	"github.com/kith-p2p/kith/tunnel"
)

// Error is why a call of a [Client] failed. Its text is one line fit for a
// person: what happened, why, and what to do next.
type Error struct {
	// Code is the control API's code for it, such as "not_found" or
	// "permission_denied".
	Code string
	// Text is the message.
	Text string
	// Peer is the peer ID of who answered a call so; empty when the code is this
	// node's own.
	Peer string
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// Is reports whether target is [kith.ErrUsage] and the fault lies in what the
// caller said, as this node sees it: that a peer makes no sense of a request is
// its answer.
func (e *Error) Is(target error) bool {
	return target == kith.ErrUsage && e.Code == connect.CodeInvalidArgument.String() && e.Peer == ""
}

// ErrNotRunning is matched by the error of [Dial] when no node runs in the home.
var ErrNotRunning = errors.New("daemon: no kith node is running")

// errStopping ends streaming calls when the node shuts down.
var errStopping = errors.New("the node is shutting down; start it again with `kith up`, and --home if you gave it one")

// usageError is a fault in what the caller said.
type usageError struct{ text string }

func (e *usageError) Error() string        { return e.text }
func (e *usageError) Is(target error) bool { return target == kith.ErrUsage }

// toConnect gives an error of the node the code that fits it; the text passes
// unchanged.
func toConnect(err error) *connect.Error {
	if ce, ok := errors.AsType[*connect.Error](err); ok {
		return ce
	}
	ce := connect.NewError(codeOf(err), err)
	if e, ok := errors.AsType[*rpc.Error](err); ok && e.Peer != "" {
		ce.Meta().Set(answeredBy, e.Peer.String())
	}
	return ce
}

// answeredBy is the header of an error that is a peer's answer.
const answeredBy = "Kith-Answered-By"

func codeOf(err error) connect.Code {
	var refused *tunnel.Error
	var answer *rpc.Error
	switch {
	case errors.Is(err, kith.ErrUsage):
		return connect.CodeInvalidArgument
	case errors.Is(err, kith.ErrNoSuchStream), errors.Is(err, kith.ErrNoSuchMount), errors.Is(err, kith.ErrUnknownPeer):
		return connect.CodeNotFound
	case errors.Is(err, kith.ErrBanned):
		return connect.CodePermissionDenied
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, tunnel.ErrExists):
		return connect.CodeAlreadyExists
	case errors.As(err, &refused):
		return codeOfReason(refused.Reason)
	case errors.Is(err, errStopping), errors.Is(err, kith.ErrClosed):
		return connect.CodeUnavailable
	case errors.As(err, &answer) && answer.Code > rpc.CodeOK && answer.Code <= rpc.CodeUnauthenticated:
		return connect.Code(answer.Code) // both count as gRPC does
	case errors.Is(err, dispatch.ErrTooLarge), errors.Is(err, rpc.ErrTooLarge):
		return connect.CodeResourceExhausted
	case errors.Is(err, context.DeadlineExceeded):
		return connect.CodeDeadlineExceeded
	case errors.Is(err, context.Canceled):
		return connect.CodeCanceled
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return connect.CodeResourceExhausted
	case errors.Is(err, fs.ErrPermission):
		return connect.CodePermissionDenied
	}
	return connect.CodeUnknown
}

func codeOfReason(r tunnel.Reason) connect.Code {
	switch r {
	case tunnel.ReasonNoService:
		return connect.CodeNotFound
	case tunnel.ReasonNotAllowed:
		return connect.CodePermissionDenied
	case tunnel.ReasonTarget, tunnel.ReasonUnreachable, tunnel.ReasonRelayedOnly, tunnel.ReasonShutdown, tunnel.ReasonLost:
		return connect.CodeUnavailable
	case tunnel.ReasonLimit:
		return connect.CodeResourceExhausted
	case tunnel.ReasonTimeout, tunnel.ReasonIdle:
		return connect.CodeDeadlineExceeded
	case tunnel.ReasonReset, tunnel.ReasonClosed:
		return connect.CodeAborted
	}
	return connect.CodeInternal
}
