package dispatch

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/p2p"
)

// Arrival is a message of a topic as a Backend received it: its signature holds,
// nothing else was checked. The data belongs to the receiver.
type Arrival struct {
	Topic string
	Data  []byte
	// From handed it to us, Author published it. "" where a key is of another type
	// than Ed25519.
	From, Author p2p.NodeID
	// AuthorPeer is the peer ID of the author.
	AuthorPeer peer.ID
}

// Backend carries topics for a Service, in place of its direct channels:
// dispatch/gossip has one. All methods are safe for concurrent use. Whoever made
// it closes it, after the Service was stopped.
type Backend interface {
	// Join begins to receive a topic. check is called for each message, by several
	// goroutines, before it is delivered or passed on: an error refuses it. What it returns is given to deliver, in the
	// order in which messages are delivered. Neither blocks.
	Join(topic string, check func(Arrival) (Message, error), deliver func(Message)) error
	// Leave ends that. A topic that was not joined is no error.
	Leave(topic string) error
	// Publish sends data to those who joined the topic, here as well: check is asked
	// about it, and when it refuses, that is the error. It keeps the data.
	Publish(ctx context.Context, topic string, data []byte) error
	// Peers are those we are connected to who joined a topic.
	Peers(topic string) []peer.ID
	// Allows says whether a peer may publish. Direct messages of a type that is a
	// topic are held to it, too.
	Allows(p2p.NodeID) bool
}
