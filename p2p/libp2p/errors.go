package libp2p

import (
	"errors"
	"fmt"
	"io"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/p2p"
)

// Why a transport or a dial fails.
var (
	// ErrPeerIDRequired says that an endpoint does not name the peer's libp2p ID and
	// Options.Lookup does not know it: a NodeID is a hash and cannot be dialled.
	ErrPeerIDRequired = address.ErrPeerIDRequired
	// ErrHostInUse says that a transport, or something else that speaks our
	// protocols, uses the host already.
	ErrHostInUse = errors.New("libp2p: the host has a message transport already")
	// ErrBusy says that a peer has as many sessions as one may have.
	ErrBusy = errors.New("libp2p: too many sessions with one peer")
	// ErrSelf says that the endpoint is our own.
	ErrSelf = errors.New("libp2p: that is this node")
)

// Why a handshake fails. Errors of Handshake hold one of these, what the stream
// said, or the context's error.
var (
	// ErrHandshake says that a connection is used before its handshake, or shakes
	// hands twice.
	ErrHandshake = errors.New("libp2p: the handshake comes first, and once")
	// ErrIdentity says that the NodeID is not that of the libp2p key: the peer's, or
	// our own, which has to be the host's.
	ErrIdentity = errors.New("libp2p: node ID and libp2p key do not belong together")
	// ErrNodeInfo says that a node info is malformed, too large or invalid.
	ErrNodeInfo = errors.New("libp2p: bad node info")
	// ErrNotSpoken says that the peer does not speak our protocol, or no longer.
	ErrNotSpoken = errors.New("libp2p: the peer does not speak " + ControlProtocol)
)

// What a peer can do wrong afterwards. Each closes the connection, and is what
// ReceiveMessage returns from then on.
var (
	// ErrMalformed says that a frame is not what the protocol says.
	ErrMalformed = errors.New("libp2p: malformed frame")
	// ErrMessageTooLarge says that a message is above its channel's capacity.
	ErrMessageTooLarge = errors.New("libp2p: message above its channel's capacity")
	// ErrUnknownChannel says that a message came on a channel we do not have.
	ErrUnknownChannel = errors.New("libp2p: message on a channel we do not have")
	// ErrStreams says that a channel has more than one stream, or one out of turn.
	ErrStreams = errors.New("libp2p: a stream of a channel that has one")
	// ErrCredit says that a peer sent more of a channel than it was granted.
	ErrCredit = errors.New("libp2p: a peer sent more than its credit")
	// ErrTruncated says that a stream ended within a message.
	ErrTruncated = errors.New("libp2p: a stream ended within a message")
	// ErrFlood says that control frames came faster than any honest peer sends them:
	// 1,000 at once, 100 a second after that.
	ErrFlood = errors.New("libp2p: flooded with control frames")
	// ErrPongTimeout says that a ping was not answered in time.
	ErrPongTimeout = errors.New("libp2p: the peer did not answer a ping in time")
)

// A GoodbyeError is the end of a connection whose peer said that it closes. It
// matches io.EOF.
type GoodbyeError struct {
	Reason string   // for people; may be empty
	Peers  []string // NodeAddress URLs to try instead, as the peer wrote them: unproven
}

// Error gives the reason.
func (e *GoodbyeError) Error() string {
	if e.Reason == "" {
		return "libp2p: the peer said goodbye"
	}
	return fmt.Sprintf("libp2p: the peer said goodbye: %.200q", e.Reason)
}

// Is matches io.EOF: the connection was closed.
func (e *GoodbyeError) Is(target error) bool { return target == io.EOF }

// A HandshakeError says with whom a handshake failed.
type HandshakeError struct {
	Remote p2p.Endpoint
	Peer   p2p.NodeID // of the key that libp2p proved
	Err    error
}

// Error names the peer and the fault.
func (e *HandshakeError) Error() string {
	return fmt.Sprintf("libp2p: handshake with %s at %s: %v", e.Peer, e.Remote, e.Err)
}

// Unwrap returns what went wrong.
func (e *HandshakeError) Unwrap() error { return e.Err }

// lostError is the end of a connection without a goodbye. It matches io.EOF, as
// any end that the other side, or the network, brought about.
type lostError struct{ err error }

func (e *lostError) Error() string { return fmt.Sprintf("libp2p: the session was lost: %v", e.err) }

func (e *lostError) Unwrap() []error { return []error{io.EOF, e.err} }
