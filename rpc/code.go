package rpc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Code says what kind of failure a call ended with. It travels as a small
// integer; the list is append-only, and its first seventeen numbers mean what
// they mean in gRPC. A Code is an error, so that errors.Is(err,
// rpc.CodeNotFound) asks the obvious question.
type Code uint32

// The codes.
const (
	// CodeOK is not an error and never travels in an error frame.
	CodeOK Code = 0
	// CodeCanceled: the caller gave up. errors.Is context.Canceled.
	CodeCanceled Code = 1
	// CodeUnknown: the handler failed with an error that is no *Error; its
	// text stays on the server.
	CodeUnknown Code = 2
	// CodeInvalidArgument: the request makes no sense, here or anywhere.
	CodeInvalidArgument Code = 3
	// CodeDeadlineExceeded: time ran out; it may or may not have been done.
	// errors.Is context.DeadlineExceeded.
	CodeDeadlineExceeded Code = 4
	// CodeNotFound: what was asked for does not exist.
	CodeNotFound Code = 5
	// CodeAlreadyExists: what was to be made exists.
	CodeAlreadyExists Code = 6
	// CodePermissionDenied: this peer may not use the method.
	CodePermissionDenied Code = 7
	// CodeResourceExhausted: a limit was reached: calls, bytes or memory. If
	// the server said when to come back, RetryAfter holds it.
	CodeResourceExhausted Code = 8
	// CodeFailedPrecondition: not in the present state.
	CodeFailedPrecondition Code = 9
	// CodeAborted: a conflict; try the whole again.
	CodeAborted Code = 10
	// CodeOutOfRange: beyond the end.
	CodeOutOfRange Code = 11
	// CodeUnimplemented: the peer does not offer the method, or the codec.
	CodeUnimplemented Code = 12
	// CodeInternal: a broken promise: a panic, or a peer that breaks the
	// protocol.
	CodeInternal Code = 13
	// CodeUnavailable: the peer cannot be reached, was lost, or is going away.
	CodeUnavailable Code = 14
	// CodeDataLoss: something stored is gone.
	CodeDataLoss Code = 15
	// CodeUnauthenticated: who calls is not known well enough.
	CodeUnauthenticated Code = 16

	codes = 17 // how many there are
)

var codeNames = [codes]string{
	"ok", "canceled", "unknown", "invalid argument", "deadline exceeded", "not found", "already exists",
	"permission denied", "resource exhausted", "failed precondition", "aborted", "out of range", "unimplemented",
	"internal", "unavailable", "data loss", "unauthenticated",
}

// String returns the code's name, such as "not found".
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "code " + strconv.FormatUint(uint64(c), 10)
}

// Error is String behind the name of the package.
func (c Code) Error() string { return "rpc: " + c.String() }

// Is makes the codes of cancellation and timeout equal to those of package
// context.
func (c Code) Is(target error) bool {
	return c == CodeCanceled && target == context.Canceled ||
		c == CodeDeadlineExceeded && target == context.DeadlineExceeded
}

// Detail is a piece of machine-readable explanation in an Error.
type Detail struct {
	// Type names what Value is, for instance a Protobuf message.
	Type string
	// Value is its encoding.
	Value []byte
}

// Error is how a call fails. errors.Is compares it with a Code, errors.As
// gives the rest.
//
// A handler that returns one (Errorf makes it) sends its Code, Message and
// Details to the caller. The text of every other error stays on the server; that
// includes an Error that a call of the handler's own, to another peer, has ended
// with: of such a one the Code travels. To pass more on, make an Error of it.
type Error struct {
	// Code is the kind of failure.
	Code Code
	// Message is for people.
	Message string
	// Details is for programs; at most 16, and 16 KiB with the message.
	Details []Detail
	// RetryAfter is how long the server asks to be left alone; 0: it did not
	// say. Retries heed it.
	RetryAfter time.Duration
	// Refused says that no handler has seen the call, so that it may be made
	// again without harm.
	Refused bool
	// Peer is who answered with this error. Empty: it was made on this side.
	Peer peer.ID

	cause error // on this side only
	inner bool  // a call of ours ended with it: its text is not for our own callers
}

// Errorf makes an Error for a handler to return. Format and args are those of
// fmt.Errorf; whoever calls sees the text, so put nothing secret in it. Causes
// given with %w are found by errors.Is on this side.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), cause: err}
}

// callErrorf is Errorf for how a call of ours fails.
func callErrorf(code Code, format string, args ...any) *Error {
	e := Errorf(code, format, args...)
	e.inner = true
	return e
}

// Error says who answered what.
func (e *Error) Error() string {
	s := "rpc: " + e.Code.String()
	if e.Peer != "" {
		s = "rpc: peer " + e.Peer.String() + " answered: " + e.Code.String()
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.RetryAfter > 0 {
		s += fmt.Sprintf(" (try again in %s)", e.RetryAfter.Round(time.Millisecond))
	}
	return s
}

// Is compares with a Code, and so also with context.Canceled and
// context.DeadlineExceeded.
func (e *Error) Is(target error) bool {
	if c, ok := target.(Code); ok {
		return c == e.Code
	}
	return e.Code.Is(target)
}

// Unwrap returns the cause on this side, if any.
func (e *Error) Unwrap() error { return e.cause }

// CodeOf returns the code of an error: CodeOK for nil, the Code of an *Error,
// what package context's errors correspond to, and otherwise CodeUnknown.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if c, ok := errors.AsType[Code](err); ok {
		return c
	}
	switch {
	case errors.Is(err, context.Canceled):
		return CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return CodeDeadlineExceeded
	}
	return CodeUnknown
}

// Errors of this side. What a peer does wrong is counted under the same names
// in Stats and Faults.
var (
	// ErrServerAlreadyStarted says that the protocol is served already: by this
	// server, or by something else on the host.
	ErrServerAlreadyStarted = errors.New("rpc: this protocol is already being served on this host; stop the other server or choose another name")
	// ErrServerClosed comes from starting a protocol after Stop.
	ErrServerClosed = errors.New("rpc: the server is stopped; make a new one")
	// ErrClientClosed comes from calls during and after Close.
	ErrClientClosed = errors.New("rpc: the client is closed")
	// ErrHandlersRunning comes from Stop if handlers ignore that their context
	// has ended.
	ErrHandlersRunning = errors.New("rpc: handlers did not return after their context ended")
	// ErrTooLarge says that a body is above MaxBlockSize.
	ErrTooLarge = errors.New("rpc: body above the size limit")
	// ErrMalformed says that a frame cannot be read: not minimal, of an unknown
	// kind, with unknown flags, or not what its kind must hold.
	ErrMalformed = errors.New("rpc: malformed frame")
	// ErrOutOfOrder says that a frame is well-formed and may not come now.
	ErrOutOfOrder = errors.New("rpc: frame out of order")
	// ErrUnknownCall says that an answer belongs to no call.
	ErrUnknownCall = errors.New("rpc: answer to an unknown call")
	// ErrBomb says that a compressed body grows beyond all proportion.
	ErrBomb = errors.New("rpc: compressed body expands beyond the limit")
	// ErrUnknownCodec says that a body is in a codec that the other side does
	// not speak.
	ErrUnknownCodec = errors.New("rpc: unknown codec")
)

// resetBase and a Code make the code of a stream reset: 'k', then the code. A
// side that cannot answer any more says with it why. resetHandled is added when
// it is a handler's answer, on the plain wire.
const (
	resetBase    network.StreamErrorCode = 0x6b00
	resetHandled network.StreamErrorCode = 0x80
)

func resetCode(c Code) network.StreamErrorCode { return resetBase + network.StreamErrorCode(c) }

// codeOfReset is the inverse of resetCode. refused says that the reset proves
// that no handler has seen the call.
func codeOfReset(err error) (c Code, refused, ok bool) {
	se, ok := errors.AsType[*network.StreamError](err)
	if !ok || !se.Remote {
		return 0, false, false
	}
	n := se.ErrorCode &^ resetHandled
	if n <= resetBase || n >= resetBase+codes {
		return 0, false, false
	}
	c = Code(n - resetBase)
	return c, c == CodeResourceExhausted && n == se.ErrorCode, true
}
