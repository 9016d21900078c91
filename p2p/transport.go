package p2p

import (
	"context"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
)

// The value types of the layers below, so that a user imports only p2p.
type (
	NodeID      = identity.NodeID
	PrivKey     = identity.PrivKey
	PubKey      = identity.PubKey
	NodeAddress = address.NodeAddress
	Endpoint    = address.Endpoint
	Protocol    = address.Protocol
)

// ParseNodeAddress reads a node address, "mconn://id@host:port/path", "memory:id" or
// "id@host:port", as address.ParseNodeAddress does, whose errors it returns.
func ParseNodeAddress(url string) (NodeAddress, error) { return address.ParseNodeAddress(url) }

// ChannelID names a channel. The mconn transport carries 0x00 to 0x7F.
type ChannelID uint16

// ChannelIDSet is a set of channels.
type ChannelIDSet map[ChannelID]struct{}

// Contains reports whether the set holds id.
func (s ChannelIDSet) Contains(id ChannelID) bool {
	_, ok := s[id]
	return ok
}

// A Transport dials and accepts connections for the protocols it speaks. All
// methods are safe for concurrent use. The Router calls Dial and Accept only
// through the connection engine.
type Transport interface {
	// Protocols are the address protocols this transport dials, at least one.
	Protocols() []Protocol
	// Endpoints are where it listens, possibly none.
	Endpoints() []Endpoint
	// Accept blocks for the next inbound connection, which has not yet shaken
	// hands. It returns io.EOF after Close; other errors are worth a retry.
	Accept() (Connection, error)
	// Dial connects to one endpoint, without the handshake. A dial that outlives
	// its context leaves nothing behind.
	Dial(context.Context, Endpoint) (Connection, error)
	// Close stops listening and makes Accept return. Live connections stay.
	Close() error
}

// A Connection carries messages of channels to one peer, in order within a
// channel. Handshake comes first and once. SendMessage may be called by one
// goroutine at a time, ReceiveMessage by another; Close by any, more than
// once, and it releases both, which then return io.EOF.
type Connection interface {
	// Handshake exchanges NodeInfo and proves the peer's key: the returned key
	// is the peer's own, and the NodeInfo is bound to it (its NodeID is the key's).
	// When the context ends, the connection is closed and the error says so.
	Handshake(context.Context, NodeInfo, PrivKey) (NodeInfo, PubKey, error)
	// ReceiveMessage blocks for the next message. The bytes belong to the
	// caller. io.EOF: closed by either side.
	ReceiveMessage() (ChannelID, []byte, error)
	// SendMessage blocks until the message is handed to the kernel or its
	// like. The caller keeps the bytes. io.EOF: closed by either side.
	SendMessage(ChannelID, []byte) error
	LocalEndpoint() Endpoint
	RemoteEndpoint() Endpoint
	Close() error
}

// A ChunkSender is a Connection over which the Router's writer asks the
// scheduler before every chunk, so that an urgent message waits for at most
// one. Chunks of different channels interleave; within a channel they come in
// order, the last of a message with eof. What was sent is buffered until
// Flush, which the writer calls when its queues are empty; the connection
// writes earlier when its own buffer is full. One goroutine sends at a time.
type ChunkSender interface {
	MaxChunk() int
	SendChunk(ch ChannelID, data []byte, eof bool) error
	Flush() error
}

// ChannelLimits may be implemented by a Connection that puts messages together
// from chunks: how many bytes a message of each channel may have (a longer one
// closes the connection with an error), and which channels exist (a message on
// another one does, too). Called once, after Handshake and before the first
// ReceiveMessage; without it every announced channel has DefaultMaxMessage.
type ChannelLimits interface {
	SetChannelLimits(map[ChannelID]int)
}

// A Recycler is a Connection that takes back the memory of messages that its
// transport's connections returned from ReceiveMessage, once nobody uses them. It
// may be called by any goroutine, after Close too. A transport that takes that memory
// from Buffer has it pass the message on to the function Recycle.
type Recycler interface{ Recycle(message []byte) }

// A ReasonCloser is a Connection that can tell its peer why it closes, and whom
// else the peer may try (NodeAddress URLs). Both are for the peer to read, nothing
// is promised. Otherwise it is Close: it may block for a moment (mconn: a quarter
// of a second) when the peer takes nothing in, it may be called before the
// handshake is done and more than once, and after it or Close both do nothing. The
// Router calls it when it ends a session for a reason of its own. The peer's
// ReceiveMessage returns an error that matches io.EOF and holds the reason.
type ReasonCloser interface {
	CloseWithReason(reason string, peers []string) error
}

// A StaleTeller is a Connection that knows how long its peer is ever silent while
// it lives (mconn: a ping interval). Stale reports that nothing came for longer,
// so that the other end is probably gone. An inbound connection of the same peer
// then takes the place of this one. It does not block.
type StaleTeller interface {
	Stale() bool
}

// A Prover is a Connection that may have been made at another place than the one
// that was dialled, since its transport uses again what is there. Proven reports
// whether it shows that the peer is at the endpoint: whether we connected to just
// that. Without it every dial that arrives does.
type Prover interface {
	Proven(Endpoint) bool
}

// DefaultMaxMessage is the largest message of a channel whose descriptor says
// nothing else: 1 MiB.
const DefaultMaxMessage = 1 << 20

// A Protector is a Transport that can keep the connections of peers that the
// PeerManager wants from being trimmed by the layer under it.
type Protector interface {
	Protect(NodeID)
	Unprotect(NodeID)
}

// A FlowControlled Transport slows down each channel on its own: a read loop
// that waits with a message of one channel holds up no other. Channels may use
// ReceivePause only if all transports of the Router are.
type FlowControlled interface {
	Transport
	// ChannelFlowControl does nothing; it marks the transport.
	ChannelFlowControl()
}
