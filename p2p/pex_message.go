package p2p

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoiface"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/internal/pb/mconnv1"
)

// The messages of peer exchange, kith.mconn.v1.PexMessage, are read by hand: as
// generated code would, an empty address of two bytes would cost a hundred, and
// a reply of 64 kB several MB. Read by hand, a message costs what its bytes do,
// and addresses above what we take are only counted.
//
//	field 1  request{}                                 CometBFT's
//	field 2  addresses{ 1: { 1 id, 2 ip, 3 port } ... }
//	field 3  request{}                                 between kith nodes
//	field 4  addresses{ 1: { 1 url } ... }
const (
	pexAskComet = protowire.Number(iota + 1)
	pexTellComet
	pexAsk
	pexTell
)

// What an address may have in bytes: the shortest URL is a protocol of one
// letter, a colon and an ID; the longest is a multiaddr through a relay.
const (
	pexLeastURL = 42
	pexMostURL  = 1024
	pexMostIP   = 45
)

var (
	errPEXMessage = errors.New("p2p: not a PEX message")
	errPEXAddress = errors.New("p2p: not an address")
)

// pexMessage is one message: which field is set, and its bytes.
type pexMessage struct {
	field protowire.Number
	body  []byte
}

// add appends an address to a reply. It says no when the message would get
// longer than a peer takes.
func (m *pexMessage) add(a NodeAddress) bool {
	var entry []byte
	if m.field == pexTell {
		entry = protowire.AppendString(protowire.AppendTag(entry, 1, protowire.BytesType), a.String())
	} else {
		entry = protowire.AppendString(protowire.AppendTag(entry, 1, protowire.BytesType), string(a.NodeID))
		entry = protowire.AppendString(protowire.AppendTag(entry, 2, protowire.BytesType), a.Hostname)
		entry = protowire.AppendVarint(protowire.AppendTag(entry, 3, protowire.VarintType), uint64(a.Port))
	}
	const overhead = 2 * (1 + 5) // tags and lengths around entry and body
	if len(m.body)+len(entry)+overhead > pexMaxBytes {
		return false
	}
	m.body = protowire.AppendBytes(protowire.AppendTag(m.body, 1, protowire.BytesType), entry)
	return true
}

// parse takes a message from the wire; its bytes stay part of it. Of several
// fields the last counts, as in any oneof.
func (m *pexMessage) parse(b []byte) error {
	err := pexFields(b, func(field protowire.Number, body []byte, _ uint64) {
		if field >= pexAskComet && field <= pexTell && body != nil {
			m.field, m.body = field, body
		}
	})
	if err != nil || m.field == 0 {
		return errPEXMessage
	}
	if m.field == pexTellComet || m.field == pexTell {
		for entry := range m.entries() {
			if entry == nil {
				return errPEXMessage
			}
		}
	}
	return nil
}

// entries are the addresses of a reply as they are on the wire; nil stands for
// bytes that are none, after which there is nothing.
func (m *pexMessage) entries() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for b := m.body; len(b) > 0; {
			field, kind, n := protowire.ConsumeTag(b)
			if n < 0 {
				yield(nil)
				return
			}
			b = b[n:]
			if field != 1 || kind != protowire.BytesType {
				if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
					yield(nil)
					return
				}
				b = b[n:]
				continue
			}
			entry, n := protowire.ConsumeBytes(b)
			if n < 0 || pexFields(entry, func(protowire.Number, []byte, uint64) {}) != nil {
				yield(nil)
				return
			}
			if b = b[n:]; !yield(entry) {
				return
			}
		}
	}
}

// address reads one of the entries.
func (m *pexMessage) address(entry []byte) (NodeAddress, error) {
	var (
		texts [3][]byte
		port  uint64
	)
	_ = pexFields(entry, func(field protowire.Number, text []byte, number uint64) {
		switch {
		case field <= 2 && text != nil:
			texts[field] = text
		case field == 3 && text == nil:
			port = number
		}
	})
	if m.field == pexTell {
		if n := len(texts[1]); n < pexLeastURL || n > pexMostURL {
			return NodeAddress{}, errPEXAddress
		}
		return address.ParseNodeAddress(string(texts[1]))
	}
	if len(texts[1]) != 40 || len(texts[2]) > pexMostIP || port == 0 || port > 65535 {
		return NodeAddress{}, errPEXAddress
	}
	ip, err := netip.ParseAddr(string(texts[2]))
	if err != nil || ip.Zone() != "" {
		return NodeAddress{}, errPEXAddress
	}
	a := NodeAddress{NodeID: NodeID(texts[1]), Protocol: address.MConn, Hostname: ip.Unmap().String(), Port: uint16(port)}
	if a.NodeID.Validate() != nil {
		return NodeAddress{}, errPEXAddress
	}
	return a, nil
}

// pexFields walks over the fields of a message: bytes, never nil, or a number.
func pexFields(b []byte, field func(protowire.Number, []byte, uint64)) error {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errPEXMessage
		}
		b = b[n:]
		switch kind {
		case protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				field(num, v, 0)
			}
		case protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(b); n >= 0 {
				field(num, nil, v)
			}
		default:
			n = protowire.ConsumeFieldValue(num, kind, b)
		}
		if n < 0 {
			return errPEXMessage
		}
		b = b[n:]
	}
	return nil
}

// What makes a pexMessage a proto.Message, so that a channel carries it: it has
// the descriptor of the generated message, and methods of its own.

// Reset empties a message.
func (m *pexMessage) Reset() { *m = pexMessage{} }

// ProtoReflect is proto.Message's.
func (m *pexMessage) ProtoReflect() protoreflect.Message {
	return pexReflection{(*mconnv1.PexMessage)(nil).ProtoReflect(), m}
}

type pexReflection struct {
	protoreflect.Message // of the generated message, empty
	m                    *pexMessage
}

type pexType struct{ protoreflect.MessageType }

func (r pexReflection) Interface() protoreflect.ProtoMessage { return r.m }
func (r pexReflection) IsValid() bool                        { return r.m != nil }
func (r pexReflection) New() protoreflect.Message            { return new(pexMessage).ProtoReflect() }
func (r pexReflection) Type() protoreflect.MessageType       { return pexType{r.Message.Type()} }
func (r pexReflection) ProtoMethods() *protoiface.Methods    { return &pexMethods }

func (pexType) New() protoreflect.Message  { return new(pexMessage).ProtoReflect() }
func (pexType) Zero() protoreflect.Message { return (*pexMessage)(nil).ProtoReflect() }

var pexMethods = protoiface.Methods{
	Size: func(in protoiface.SizeInput) protoiface.SizeOutput {
		m := in.Message.(pexReflection).m
		return protoiface.SizeOutput{Size: protowire.SizeTag(m.field) + protowire.SizeBytes(len(m.body))}
	},
	Marshal: func(in protoiface.MarshalInput) (protoiface.MarshalOutput, error) {
		m := in.Message.(pexReflection).m
		b := protowire.AppendTag(in.Buf, m.field, protowire.BytesType)
		return protoiface.MarshalOutput{Buf: protowire.AppendBytes(b, m.body)}, nil
	},
	Unmarshal: func(in protoiface.UnmarshalInput) (protoiface.UnmarshalOutput, error) {
		out := protoiface.UnmarshalOutput{Flags: protoiface.UnmarshalInitialized}
		if err := in.Message.(pexReflection).m.parse(in.Buf); err != nil {
			return out, fmt.Errorf("%w of %d bytes", err, len(in.Buf))
		}
		return out, nil
	},
	CheckInitialized: func(protoiface.CheckInitializedInput) (protoiface.CheckInitializedOutput, error) {
		return protoiface.CheckInitializedOutput{}, nil
	},
}
