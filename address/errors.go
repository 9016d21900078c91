package address

import (
	"errors"
	"fmt"
)

var (
	// ErrInvalid is matched by every error about what an address says.
	ErrInvalid = errors.New("address: invalid address")
	// ErrPeerIDRequired says that a libp2p address names a node by its NodeID only. That is a hash of its key, so
	// the node cannot be dialled by it.
	ErrPeerIDRequired = errors.New("address: peer ID required: give the peer ID, or an address that ends in /p2p/ and the peer ID (12D3KooW...)")
	// ErrIDMismatch says that the node before the @ and the peer ID in the path are not the same node.
	ErrIDMismatch = errors.New("address: node ID and peer ID do not belong together")
	// ErrNoMultiaddr says that an address has no form as a multiaddr (memory, third protocols, mconn with a path).
	ErrNoMultiaddr = errors.New("address: no multiaddr for this address")
	// ErrNoAddresses says that a hostname resolved to nothing usable.
	ErrNoAddresses = errors.New("address: host has no usable IP address")
)

// ParseError says what is wrong with an address and, where that is known, what to write instead. It matches ErrInvalid
// and, by errors.Is and errors.As, whatever caused it.
type ParseError struct {
	Input string // what was parsed, cut to 120 bytes
	Err   error  // the fault
}

// Error names input and fault.
func (e *ParseError) Error() string { return fmt.Sprintf("address: %q: %v", e.Input, e.Err) }

// Unwrap returns ErrInvalid and the fault.
func (e *ParseError) Unwrap() []error { return []error{ErrInvalid, e.Err} }

func parseError(input string, err error) error { return &ParseError{Input: clip(input), Err: err} }

// UnsupportedError names the part of a multiaddr or path that we cannot dial.
type UnsupportedError struct {
	Component string // the protocol's name: "webrtc-direct"
	Reason    string
}

// Error names component and reason.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("/%s is not supported: %s", e.Component, e.Reason)
}

// clip bounds what an error repeats of its input.
func clip(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
