package mconn

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/kith-p2p/kith/p2p"
)

// What a peer can do wrong before it is believed. Errors of Handshake are a
// *HandshakeError around one of these, around what the socket said, or around
// the context's error.
var (
	// ErrEphemeralKey says that the first message is not an ephemeral key, or a
	// key that gives no secret: a low-order point, or our own sent back.
	ErrEphemeralKey = errors.New("mconn: bad ephemeral key")
	// ErrAuth says that the peer did not prove the key it claims.
	ErrAuth = errors.New("mconn: the peer did not prove its key")
	// ErrNodeInfo says that a node info is too large, malformed, or not of the
	// key that the peer proved; or that our own cannot be sent.
	ErrNodeInfo = errors.New("mconn: bad node info")
	// ErrHandshake says that a connection is used before its handshake, or
	// shakes hands twice.
	ErrHandshake = errors.New("mconn: the handshake comes first, and once")
)

// What a peer can do wrong afterwards. Each closes the connection, and is what
// ReceiveMessage and the senders return from then on.
var (
	// ErrDecrypt says that a frame does not open: it was changed, repeated, left
	// out or put in another order on the way.
	ErrDecrypt = errors.New("mconn: a frame does not open")
	// ErrFrame says that a frame claims more or less than a frame can hold.
	ErrFrame = errors.New("mconn: malformed frame")
	// ErrMalformed says that a packet is not the Protobuf message it has to be.
	ErrMalformed = errors.New("mconn: malformed packet")
	// ErrPacketTooLarge says that a packet is above what a packet may carry.
	ErrPacketTooLarge = errors.New("mconn: packet too large")
	// ErrUnknownPacket says that a packet is neither ping, pong nor message.
	ErrUnknownPacket = errors.New("mconn: unknown packet")
	// ErrUnknownChannel says that a message came on a channel we do not have.
	ErrUnknownChannel = errors.New("mconn: message on a channel we do not have")
	// ErrMessageTooLarge says that a message is above its channel's capacity.
	// It matches p2p.ErrMessageTooLarge.
	ErrMessageTooLarge error = &alias{"mconn: message above its channel's capacity", p2p.ErrMessageTooLarge}
	// ErrFlood says that pings, pongs and empty packets came faster than any
	// honest peer sends them: 1,000 at once, 100 a second after that.
	ErrFlood = errors.New("mconn: flooded with packets that carry nothing")
	// ErrPongTimeout says that a ping was not answered in time.
	ErrPongTimeout = errors.New("mconn: the peer did not answer a ping in time")
)

// alias is a sentinel of this package that matches one of p2p's.
type alias struct {
	text string
	of   error
}

func (e *alias) Error() string { return e.text }
func (e *alias) Unwrap() error { return e.of }

// errClosedHere is the end of a handshake that we closed.
var errClosedHere = fmt.Errorf("closed here: %w", io.EOF)

// A HandshakeError says how far a handshake came before it failed.
type HandshakeError struct {
	Remote p2p.Endpoint
	Stage  string     // "key exchange", "authentication" or "node info": what was under way
	Peer   p2p.PubKey // whom we speak to, once proved (stage "node info"); else zero
	Err    error
}

func (e *HandshakeError) Error() string {
	who := e.Remote.String()
	if !e.Peer.IsZero() {
		who = string(e.Peer.NodeID()) + " at " + who
	}
	why := strings.TrimPrefix(e.Err.Error(), "mconn: ")
	if errors.Is(e.Err, io.EOF) && e.Err != errClosedHere {
		why = "it closed the connection (" + why + ")"
	}
	return fmt.Sprintf("mconn: handshake with %s: %s: %s", who, e.Stage, why)
}

// Unwrap returns what went wrong.
func (e *HandshakeError) Unwrap() error { return e.Err }

// A RefusedError is the end of a connection that the peer closed right after
// the handshake, before it sent anything: CometBFT refuses so, without a
// word. It matches io.EOF.
type RefusedError struct {
	Own, Peer p2p.NodeInfo
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("mconn: %s (%q, version %s) closed the connection right after the handshake: %s",
		e.Peer.NodeID, e.Peer.Moniker, e.Peer.Version, strings.Join(e.Reasons(), "; "))
}

// Is matches io.EOF: the connection was closed.
func (e *RefusedError) Is(target error) bool { return target == io.EOF }

// Reasons is what, as far as both node infos tell, the peer may have refused.
func (e *RefusedError) Reasons() []string {
	var why []string
	if e.Own.Network != e.Peer.Network {
		why = append(why, fmt.Sprintf("its network is %q, ours %q", e.Peer.Network, e.Own.Network))
	}
	if e.Own.ProtocolVersion.Block != e.Peer.ProtocolVersion.Block {
		why = append(why, fmt.Sprintf("its block version is %d, ours %d", e.Peer.ProtocolVersion.Block, e.Own.ProtocolVersion.Block))
	}
	common := func(id p2p.ChannelID) bool { return slices.Contains(e.Peer.Channels, id) }
	if !slices.ContainsFunc(e.Own.Channels, common) {
		why = append(why, fmt.Sprintf("no common channel: it has %s, we have %s", channelList(e.Peer.Channels), channelList(e.Own.Channels)))
	}
	if len(why) == 0 {
		why = append(why, "the node infos agree, so it may be full, know us already, or ban us")
	}
	return why
}

func channelList(ids []p2p.ChannelID) string {
	if len(ids) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, id := range ids {
		if i == 32 {
			fmt.Fprintf(&b, " and %d more", len(ids)-i)
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%#02x", uint16(id))
	}
	return b.String()
}

// A GoodbyeError is the end of a connection whose peer, a kith node, said why
// it closes. It matches io.EOF.
type GoodbyeError struct {
	Reason string   // for people; may be empty
	Peers  []string // NodeAddress URLs to try instead, as the peer wrote them: unproven
}

func (e *GoodbyeError) Error() string {
	if e.Reason == "" {
		return "mconn: the peer said goodbye"
	}
	return fmt.Sprintf("mconn: the peer said goodbye: %q", e.Reason)
}

// Is matches io.EOF: the connection was closed.
func (e *GoodbyeError) Is(target error) bool { return target == io.EOF }
