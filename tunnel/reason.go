package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
)

// Reason says why a connection was refused or cut. It travels: in the reply
// frame between kith nodes, and as the stream's reset code (codeBase + Reason)
// everywhere, so that both ends can say the same thing. The numbers are part
// of the wire format: append only.
type Reason uint32

const (
	// ReasonNone: nothing went wrong.
	ReasonNone Reason = 0
	// ReasonNoService: the peer has no service of that name.
	ReasonNoService Reason = 1
	// ReasonNotAllowed: the service does not serve this peer.
	ReasonNotAllowed Reason = 2
	// ReasonTarget: the service's target did not accept the connection.
	ReasonTarget Reason = 3
	// ReasonLimit: a limit was reached; the message says which.
	ReasonLimit Reason = 4
	// ReasonUnreachable: no connection to the peer could be made.
	ReasonUnreachable Reason = 5
	// ReasonRelayedOnly: the peer can be reached only over a limited relay.
	ReasonRelayedOnly Reason = 6
	// ReasonShutdown: the node was stopped.
	ReasonShutdown Reason = 7
	// ReasonReset: the program at one end closed or reset its connection.
	ReasonReset Reason = 8
	// ReasonClosed: a person closed the stream or its mount.
	ReasonClosed Reason = 9
	// ReasonIdle: no traffic for the service's idle timeout.
	ReasonIdle Reason = 10
	// ReasonTimeout: the peer or the target did not answer in time.
	ReasonTimeout Reason = 11
	// ReasonProtocol: the peer broke the protocol.
	ReasonProtocol Reason = 12
	// ReasonLost: the connection to the peer was lost.
	ReasonLost Reason = 13

	reasons = iota
)

// codeBase keeps our reset codes apart from libp2p's (0x1000 and up) and from
// an application's small numbers.
const codeBase = 0x6b00

var reasonText = [reasons]string{
	"none", "no such service", "not allowed", "target refused", "limit reached", "peer unreachable",
	"relayed only", "shutting down", "connection reset", "closed by the operator", "idle timeout",
	"timed out", "protocol violation", "connection lost",
}

// String returns the reason in words, such as "not allowed".
func (r Reason) String() string {
	if r < reasons {
		return reasonText[r]
	}
	return fmt.Sprintf("reason %d", uint32(r))
}

func (r Reason) code() network.StreamErrorCode { return network.StreamErrorCode(codeBase + uint32(r)) }

// Error is why one connection through a tunnel failed.
type Error struct {
	Reason Reason
	// Service and Peer are what was asked for, where known.
	Service string
	Peer    peer.ID
	// Detail says what happened and what to do, in one line.
	Detail string
	// Remote is set when the other peer said so.
	Remote bool
	// Err is the cause, if there is one.
	Err error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Reason.String())
	if e.Detail != "" {
		b.WriteString(": ")
		b.WriteString(e.Detail)
	} else if _, plain := errors.AsType[*network.StreamError](e.Err); e.Err != nil && !plain {
		b.WriteString(": ")
		b.WriteString(oneLine(e.Err.Error()))
	}
	if e.Remote {
		b.WriteString(" (said by the peer)")
	}
	return b.String()
}

// cause is what only our own log should hear: it may name local addresses.
func (e *Error) cause() string {
	if e.Err == nil || e.Remote {
		return ""
	}
	return oneLine(e.Err.Error())
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches another *Error by its reason, so that
// errors.Is(err, &tunnel.Error{Reason: tunnel.ReasonLimit}) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason && t.Service == "" && t.Peer == "" && t.Detail == ""
}

func refuse(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// reasonOf turns any error of a connection into an *Error; nil and io.EOF mean
// that nothing went wrong.
func reasonOf(err error) *Error {
	if err == nil || err == io.EOF {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if se, ok := errors.AsType[*network.StreamError](err); ok {
		return fromCode(se)
	}
	if ce, ok := errors.AsType[*network.ConnError](err); ok {
		switch ce.ErrorCode {
		case network.ConnResourceLimitExceeded:
			return &Error{Reason: ReasonLimit, Err: err, Remote: ce.Remote, Detail: tooManyConns}
		case network.ConnRateLimited:
			return &Error{Reason: ReasonLimit, Err: err, Remote: ce.Remote, Detail: tooFast}
		}
	}
	switch {
	case errors.Is(err, stream.ErrLimitedConn):
		return &Error{Reason: ReasonRelayedOnly, Err: err,
			Detail: "the peer can be reached only over a relay with limits; give a direct address, or a relay without limits"}
	case errors.Is(err, stream.ErrNoSuchService):
		return &Error{Reason: ReasonNoService, Err: err, Remote: true}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return &Error{Reason: ReasonTimeout, Err: err}
	case errors.Is(err, context.Canceled):
		return &Error{Reason: ReasonShutdown, Err: err, Detail: "this node was stopped"}
	case errors.Is(err, network.ErrResourceLimitExceeded):
		return &Error{Reason: ReasonLimit, Err: err, Detail: resourceLimit(err)}
	case errors.Is(err, network.ErrReset): // and no stream was reset: see above
		return &Error{Reason: ReasonLost, Err: err, Detail: "the connection to the peer broke off"}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		return &Error{Reason: ReasonReset, Err: err, Detail: "the local program closed or reset its connection"}
	}
	return &Error{Reason: ReasonLost, Err: err}
}

func fromCode(se *network.StreamError) *Error {
	e := &Error{Remote: se.Remote, Err: se}
	switch c := se.ErrorCode; {
	case c > codeBase && c < codeBase+reasons:
		e.Reason = Reason(c - codeBase)
	case c == network.StreamResourceLimitExceeded:
		e.Reason, e.Detail = ReasonLimit, tooManyStreams
	case c == network.StreamRateLimited:
		e.Reason, e.Detail = ReasonLimit, tooFast
	case c == network.StreamProtocolNegotiationFailed:
		e.Reason = ReasonNoService
	case c == network.StreamShutdown:
		e.Reason = ReasonShutdown
	case c == network.StreamProtocolViolation:
		e.Reason = ReasonProtocol
	default:
		e.Reason = ReasonReset
	}
	return e
}

// unreachable says in one line why no address of a peer answered.
func unreachable(p peer.ID, err error) *Error {
	e := &Error{Reason: ReasonUnreachable, Peer: p, Err: err}
	if other, ok := wrongPeer(err); ok {
		e.Detail = fmt.Sprintf("another peer, %s, answers at that address; check the peer ID and the address of %s", other, p)
		return e
	}
	if de, ok := errors.AsType[*swarm.DialError](err); ok {
		var each []string
		tried := func(te swarm.TransportError) bool { return resourceLimit(te.Cause) == "" }
		if len(de.DialErrors) > 0 && !slices.ContainsFunc(de.DialErrors, tried) {
			e.Reason, e.Detail = ReasonLimit, resourceLimit(de.DialErrors[0].Cause)
			return e
		}
		for i, te := range de.DialErrors {
			if i == 3 {
				each = append(each, fmt.Sprintf("and %d more addresses", len(de.DialErrors)-3))
				break
			}
			each = append(each, fmt.Sprintf("%s: %s", te.Address, rootCause(te.Cause)))
		}
		if len(each) > 0 {
			e.Detail = fmt.Sprintf("cannot reach %s: %s; %s", p, strings.Join(each, "; "), lookThere)
			return e
		}
	}
	if errors.Is(err, swarm.ErrNoAddresses) || errors.Is(err, swarm.ErrNoGoodAddresses) {
		e.Detail = fmt.Sprintf("no usable address of %s is known; give a full address that ends in /p2p/%s", p, p)
		return e
	}
	cause := oneLine(rootCause(err))
	if cause == noAnswer {
		cause += "; " + lookThere
	}
	e.Detail = fmt.Sprintf("cannot reach %s: %s", p, cause)
	return e
}

const noAnswer = "no answer in time"

// lookThere is what to do about a peer that does not answer, whatever the cause.
const lookThere = "see on its machine that it runs and listens there (`kith status` says), and that no firewall is in between"

// wrongPeer says who answered, if it was somebody else.
func wrongPeer(err error) (peer.ID, bool) {
	if m, ok := errors.AsType[sec.ErrPeerIDMismatch](err); ok {
		return m.Actual, true
	}
	if de, ok := errors.AsType[*swarm.DialError](err); ok {
		for _, te := range de.DialErrors {
			if m, ok := errors.AsType[sec.ErrPeerIDMismatch](te.Cause); ok {
				return m.Actual, true
			}
		}
	}
	return "", false
}

// WrongPeer reports whether a connection failed because another peer than the
// one that was asked for answered at its address.
func WrongPeer(err error) bool {
	_, ok := wrongPeer(err)
	return ok
}

// rootCause is the system's own word where there is one: "connection refused".
func rootCause(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err) {
		return noAnswer
	}
	if limit := resourceLimit(err); limit != "" {
		return limit
	}
	return oneLine(err.Error())
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
