package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/libp2p/go-libp2p/core/network"
)

var (
	// ErrNoSuchService says that the peer does not offer the protocol. It comes
	// from the first Read or Write that learns of it, or from Dial with
	// WithConfirm, or from dialling oneself.
	ErrNoSuchService = errors.New("stream: no such service")

	// ErrLimitedConn says that the peer can be reached only over a relay that
	// limits time and bytes, and that the caller did not accept that. It also
	// is network.ErrLimitedConn.
	ErrLimitedConn = errors.New("stream: peer is reachable only over a limited relay")

	// ErrAddrInUse says that the host already serves the protocol, through this
	// package or otherwise. It also is syscall.EADDRINUSE.
	ErrAddrInUse = errors.New("stream: address already in use")
)

// resetError is a connection that ended without an orderly end. It is always
// syscall.ECONNRESET and network.ErrReset, and never a timeout or io.EOF,
// whatever the transport found at the bottom.
type resetError struct {
	text  string
	cause error // *network.StreamError, *network.ConnError or nil
}

func (e *resetError) Error() string { return e.text }

func (e *resetError) Unwrap() []error {
	if e.cause == nil {
		return []error{syscall.ECONNRESET, network.ErrReset}
	}
	return []error{syscall.ECONNRESET, network.ErrReset, e.cause}
}

// closedError is a stream that was reset on this side, below the Conn.
type closedError struct{ cause *network.StreamError }

func (e *closedError) Error() string   { return e.cause.Error() }
func (e *closedError) Unwrap() []error { return []error{net.ErrClosed, e.cause} }

// MapError turns an error of a bare libp2p stream into what users of net.Conn
// expect, by the table in the package comment. nil and io.EOF stay as they
// are. An error it does not know is taken for a lost connection. It cannot
// know that the caller closed the stream itself; Conn does.
func MapError(err error) error {
	if err == nil || err == io.EOF || err == net.ErrClosed || err == os.ErrDeadlineExceeded {
		return err
	}
	if _, ok := errors.AsType[*resetError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*closedError](err); ok {
		return err
	}
	if se, ok := errors.AsType[*network.StreamError](err); ok {
		if !se.Remote {
			return &closedError{se}
		}
		return &resetError{text: fmt.Sprintf("stream reset by peer (code 0x%x)", uint32(se.ErrorCode)), cause: se}
	}
	if ce, ok := errors.AsType[*network.ConnError](err); ok {
		// Without what the transport says: QUIC's errors of a lost connection
		// claim to be net.ErrClosed, which here means that we closed it.
		return &resetError{text: "connection to peer lost: " + err.Error(),
			cause: &network.ConnError{Remote: ce.Remote, ErrorCode: ce.ErrorCode}}
	}
	// A lost connection may carry a timeout of its own at the bottom (keep-alive,
	// the kernel's); only what is not a reset can be a deadline of ours, and
	// muxers mark that one as temporary.
	if !errors.Is(err, network.ErrReset) {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return os.ErrDeadlineExceeded
		}
		if te, ok := errors.AsType[interface {
			error
			Timeout() bool
			Temporary() bool
		}](err); ok && te.Timeout() && te.Temporary() {
			return os.ErrDeadlineExceeded
		}
	}
	return &resetError{text: "connection to peer lost: " + err.Error()}
}

// contextError is a dial that its context ended: errors.Is finds
// context.Canceled or context.DeadlineExceeded, and what was under way.
type contextError struct{ doing, ctx error }

func (e *contextError) Error() string   { return e.doing.Error() + ": " + e.ctx.Error() }
func (e *contextError) Unwrap() []error { return []error{e.ctx, e.doing} }

// Timeout makes net.OpError.Timeout true for a dial that ran out of time.
func (e *contextError) Timeout() bool { return errors.Is(e.ctx, context.DeadlineExceeded) }
