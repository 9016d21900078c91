package dispatch

import (
	"errors"
	"fmt"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kith-p2p/kith/p2p"
)

// Message is what the Dispatcher hands to subscribers. Its methods are called
// by several goroutines and must not change anything; neither may a subscriber
// change the data, which others read too.
type Message interface {
	MessageType() string
	MessageFrom() p2p.NodeID // who handed it to us; our own ID, or "", for our own
	Data() []byte
}

// NewMessage makes a Message of bytes, which it keeps.
func NewMessage(messageType string, from p2p.NodeID, data []byte) Message {
	return &message{name: messageType, from: from, data: data, author: from, direct: true}
}

// message is the Message that Service makes. Nothing changes but what once
// guards.
type message struct {
	name       string
	from       p2p.NodeID
	data       []byte
	author     p2p.NodeID // "" when it has a key of another type than Ed25519
	authorPeer peer.ID    // "" where nobody has asked for it: then that of author
	direct     bool       // sent to us by from, not published on a topic
	digest     digest     // where hashed says so
	hashed     bool

	once    sync.Once
	decoded proto.Message
	err     error
}

func (m *message) MessageType() string     { return m.name }
func (m *message) MessageFrom() p2p.NodeID { return m.from }
func (m *message) Data() []byte            { return m.data }

// decode decodes the message, the first time: whoever needs it shares the
// result. All callers have the same type, which Service sees to.
func (m *message) decode(kind protoreflect.MessageType) (proto.Message, error) {
	m.once.Do(func() { m.decoded, m.err = decode(kind, m.data) })
	return m.decoded, m.err
}

func decode(kind protoreflect.MessageType, data []byte) (proto.Message, error) {
	m := kind.New().Interface()
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("dispatch: not a %s: %w", kind.Descriptor().FullName(), err)
	}
	return m, nil
}

// MaxTypeName is the most bytes of a message type or topic.
const MaxTypeName = 128

// ErrType says that a message type or topic is empty, too long, or no plain text.
var ErrType = errors.New("dispatch: invalid message type")

// checkType checks the name of a message type or topic, ours or a peer's.
func checkType(name string) error {
	if len(name) == 0 || len(name) > MaxTypeName {
		return fmt.Errorf("%w: %d bytes, 1 to %d are allowed", ErrType, len(name), MaxTypeName)
	}
	if !utf8.ValidString(name) {
		return fmt.Errorf("%w: %q is not UTF-8", ErrType, name)
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return fmt.Errorf("%w: %q has control characters", ErrType, name)
		}
	}
	return nil
}
