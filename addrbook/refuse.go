package addrbook

import (
	"errors"
	"fmt"

	"github.com/kith-p2p/kith/address"
)

// Errors a caller can decide on.
var (
	// ErrFull says that the book has no free slot for an address, or for its peer, that may be taken.
	ErrFull = errors.New("addrbook: no free slot")
	// ErrClosed is returned by Flush, Ban and Unban after Close.
	ErrClosed = errors.New("addrbook: closed")
	// ErrOptions says that Options make no sense.
	ErrOptions = errors.New("addrbook: invalid options")
)

// Reason says why an address was not taken.
type Reason string

// The reasons.
const (
	RefusedInvalid  Reason = "invalid"          // not in canonical form
	RefusedSelf     Reason = "self"             // our own ID
	RefusedName     Reason = "name"             // a hostname that was learnt
	RefusedNoPlace  Reason = "no place"         // learnt, and does not say where
	RefusedScope    Reason = "scope"            // its source cannot speak for that network
	RefusedPeerID   Reason = "peer ID required" // libp2p, and nobody knows the peer ID
	RefusedBanned   Reason = "banned"           // the peer or the IP is banned
	RefusedShunned  Reason = "shunned"          // the peer was found useless a short time ago
	RefusedRate     Reason = "rate"             // the source taught too many
	RefusedPeerFull Reason = "peer full"        // the peer has its number of addresses
	RefusedFull     Reason = "full"             // no free slot
)

// RefusedError is the error of Add. It matches ErrFull for RefusedFull and
// RefusedPeerFull, and otherwise what caused it, if anything did.
type RefusedError struct {
	Address address.NodeAddress
	Reason  Reason
	Err     error
}

// Error says which address, and why not.
func (e *RefusedError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("addrbook: %s is not taken: %v", e.Address, e.Err)
	}
	return fmt.Sprintf("addrbook: %s is not taken: %s", e.Address, e.Reason.explain())
}

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error {
	switch {
	case e.Err != nil:
		return e.Err
	case e.Reason == RefusedFull, e.Reason == RefusedPeerFull:
		return ErrFull
	}
	return nil
}

func (r Reason) explain() string {
	switch r {
	case RefusedSelf:
		return "it is our own ID"
	case RefusedName:
		return "a learnt address must be an IP; names are taken from you only"
	case RefusedNoPlace:
		return "it does not say where the peer is"
	case RefusedScope:
		return "its source is not on that network"
	case RefusedBanned:
		return "the peer or its IP is banned"
	case RefusedShunned:
		return "the peer was of no use a short time ago"
	case RefusedRate:
		return "its source taught too many addresses"
	case RefusedPeerFull:
		return "the peer has as many addresses as are kept"
	case RefusedFull:
		return "there is no free slot for it"
	}
	return string(r)
}
