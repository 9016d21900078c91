package peers

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kith-p2p/kith/internal/grpcid"
	ma "github.com/multiformats/go-multiaddr"
)

var (
	// ErrClosed: Shutdown was called.
	ErrClosed = errors.New("peers: the connection book is shut down")

	// ErrEmptyAddress: the multiaddr has no component.
	ErrEmptyAddress = errors.New("peers: the address is empty")

	// ErrDialToSelf: the address is the node's own, in whatever spelling, or the connection led back to it.
	ErrDialToSelf = errors.New("peers: the address is this node's own")

	// ErrRemoved: RemoveConnection took the connection away while it was being dialled, or somebody closed the
	// gRPC channel that others were waiting for.
	ErrRemoved = errors.New("peers: the connection was removed while it was being made")

	// ErrNotGRPC: the connection was made, and ended before the other side had answered as a gRPC server does.
	ErrNotGRPC = errors.New("peers: connected, but the other side did not answer as a gRPC server; is it one, and does it want TLS?")

	// ErrNoPeer: the address names a peer, but the transport's connection proves none.
	ErrNoPeer = grpcid.ErrNoPeer
)

// MismatchError: another peer is at the other end than the address names.
type MismatchError = grpcid.MismatchError

// CredentialsError refuses gRPC to an address that proves no identity, when Params say neither how to secure it nor
// that it may go unsecured.
type CredentialsError struct {
	Addr ma.Multiaddr
}

func (e *CredentialsError) Error() string {
	return fmt.Sprintf("peers: gRPC to %s would be plain text, which anybody on the way can read and change: "+
		"set Params.Credentials (TLS), or Params.Insecure to allow it, or use an address with /p2p/<id>", e.Addr)
}

// ParamError is one fault of Params. New joins all of them.
type ParamError struct {
	Field  string // of Params
	Reason string
}

func (e *ParamError) Error() string { return "peers: Params." + e.Field + " " + e.Reason }

// attemptErrors is how an attempt failed at several addresses of one peer, on one line.
type attemptErrors []error

func (e attemptErrors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (e attemptErrors) Unwrap() []error { return slices.Clone(e) }

// joined is errs as one error.
func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return attemptErrors(errs)
}
