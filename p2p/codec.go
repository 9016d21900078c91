package p2p

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoimpl"
)

// Wrapper is a message that holds one of several others, such as a oneof. On a
// channel whose message type is a Wrapper, what is sent is wrapped and what
// arrives is unwrapped.
type Wrapper interface {
	proto.Message
	// Wrap puts a message in; an error says that it does not fit.
	Wrap(proto.Message) error
	// Unwrap takes the message out; an error says that there is none.
	Unwrap() (proto.Message, error)
}

// codec turns messages of one channel into bytes and back. It holds nothing
// that changes.
type codec struct {
	kind    protoreflect.MessageType
	wrapper bool
	copies  bool // what is decoded shares no memory with the bytes: generated types
}

func newCodec(messageType proto.Message) (codec, error) {
	if messageType == nil {
		return codec{}, errors.New("p2p: a channel needs a message type")
	}
	_, wrapper := messageType.(Wrapper)
	kind := messageType.ProtoReflect().Type()
	_, generated := kind.(*protoimpl.MessageInfo)
	return codec{kind: kind, wrapper: wrapper, copies: generated}, nil
}

// wrap is what goes over the wire for a message of the channel.
func (c codec) wrap(m proto.Message) (proto.Message, error) {
	if m == nil {
		return nil, errors.New("p2p: no message to send")
	}
	if m.ProtoReflect().Type() == c.kind {
		return m, nil
	}
	if !c.wrapper {
		return nil, fmt.Errorf("p2p: a %s on a channel of %s", m.ProtoReflect().Descriptor().FullName(), c.kind.Descriptor().FullName())
	}
	w, _ := c.kind.New().Interface().(Wrapper)
	if err := w.Wrap(m); err != nil {
		return nil, fmt.Errorf("p2p: wrap a %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return w, nil
}

// encode is head and the message, wrapped if the channel wants that, in memory of
// its own. A message of more than most bytes is ErrMessageTooLarge, and not encoded.
func (c codec) encode(head []byte, m proto.Message, most int) ([]byte, error) {
	m, err := c.wrap(m)
	if err != nil {
		return nil, err
	}
	n := proto.Size(m)
	if n > most {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMessageTooLarge, n, most)
	}
	b := append(Buffer(len(head)+n), head...)
	if b, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(b, m); err != nil {
		return nil, fmt.Errorf("p2p: encode a %s: %w", c.kind.Descriptor().FullName(), err)
	}
	return b, nil
}

// decode is the reverse of encode.
func (c codec) decode(data []byte) (proto.Message, error) {
	m := c.kind.New().Interface()
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("p2p: not a %s: %w", c.kind.Descriptor().FullName(), err)
	}
	if !c.wrapper {
		return m, nil
	}
	inner, err := m.(Wrapper).Unwrap()
	if err == nil && inner == nil {
		err = errors.New("it holds nothing")
	}
	if err != nil {
		return nil, fmt.Errorf("p2p: unwrap a %s: %w", c.kind.Descriptor().FullName(), err)
	}
	return inner, nil
}
