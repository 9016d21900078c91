package mconn

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"
)

// Packets: what stands in the data of the frames, one after another, each
// behind its length as an unsigned varint.
//
//	Packet  { oneof: 1 ping {} | 2 pong {} | 3 message | 4 goodbye }
//	message { 1 channel_id int32; 2 eof bool; 3 data bytes }
//	goodbye { 1 reason string; 2 peers string, repeated }       between kith nodes
//
//	02 0a 00                                        ping
//	02 12 00                                        pong
//	len 1a len [08 channel] [10 01] [1a len data]   message; zero fields are absent
//
// A message of a channel is the data of its packets up to one with eof; packets
// of different channels come in any order. Unknown fields are ignored, as
// Protobuf says; a packet without a known field is not known.
const (
	packetData     = 1024     // of a message packet, towards everybody
	widePacketData = 16 << 10 // between kith nodes
	packetSlack    = 64       // what else a packet may hold: its own fields and unknown ones
	maxPacketHead  = 3 + 1 + 3 + 1 + 10 + 2 + 1 + 3
)

// packetKind is the field number of the packet's content.
type packetKind uint8

const (
	packetNone packetKind = iota
	packetPing
	packetPong
	packetMessage
	packetGoodbye
)

// A packet is one parsed packet. Its data belongs to the buffer it was parsed from.
type packet struct {
	kind    packetKind
	channel int32
	eof     bool
	data    []byte // of a message; of a goodbye, its encoding
}

// appendControl appends a ping or a pong.
func appendControl(dst []byte, kind packetKind) []byte {
	return append(dst, 2, byte(kind)<<3|2, 0)
}

// appendMessage appends a message packet.
func appendMessage(dst []byte, channel uint16, eof bool, data []byte) []byte {
	inner := 0
	if channel != 0 {
		inner = 1 + varintSize(uint64(channel))
	}
	if eof {
		inner += 2
	}
	if len(data) > 0 {
		inner += 1 + varintSize(uint64(len(data))) + len(data)
	}
	dst = binary.AppendUvarint(dst, uint64(1+varintSize(uint64(inner))+inner))
	dst = append(dst, byte(packetMessage)<<3|2)
	dst = binary.AppendUvarint(dst, uint64(inner))
	if channel != 0 {
		dst = binary.AppendUvarint(append(dst, 0x08), uint64(channel))
	}
	if eof {
		dst = append(dst, 0x10, 1)
	}
	if len(data) > 0 {
		dst = binary.AppendUvarint(append(dst, 0x1a), uint64(len(data)))
		dst = append(dst, data...)
	}
	return dst
}

func varintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// parsePacket parses one packet without its length; goodbyes are known between
// kith nodes only. It allocates nothing but errors, which are ErrMalformed or
// ErrUnknownPacket.
func parsePacket(b []byte, kith bool) (packet, error) {
	known := protowire.Number(packetMessage)
	if kith {
		known = protowire.Number(packetGoodbye)
	}
	if p, ok := parseCommon(b); ok {
		return p, nil
	}
	var p packet
	for len(b) > 0 {
		number, kind, body, rest, err := nextField(b)
		if err != nil {
			return p, err
		}
		b = rest
		if kind != protowire.BytesType || number > known {
			continue
		}
		body, _ = protowire.ConsumeBytes(body)
		// Fields of a oneof: the last one counts, and twice the same one is merged.
		if p.kind != packetKind(number) {
			p = packet{kind: packetKind(number)}
		}
		if err := p.merge(body); err != nil {
			return p, err
		}
	}
	if p.kind == packetNone {
		return p, ErrUnknownPacket
	}
	return p, nil
}

// merge adds one encoding of the packet's content.
func (p *packet) merge(b []byte) error {
	if p.kind == packetGoodbye {
		p.data = b
	}
	for len(b) > 0 {
		number, kind, value, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		if p.kind != packetMessage {
			continue
		}
		switch {
		case number == 1 && kind == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(value)
			p.channel = int32(v)
		case number == 2 && kind == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(value)
			p.eof = v != 0
		case number == 3 && kind == protowire.BytesType:
			p.data, _ = protowire.ConsumeBytes(value)
		}
	}
	return nil
}

// nextField takes one Protobuf field off b: its number, type and encoded value.
func nextField(b []byte) (number protowire.Number, kind protowire.Type, value, rest []byte, err error) {
	number, kind, n := protowire.ConsumeTag(b)
	if n >= 0 && number > protowire.MaxValidNumber {
		return 0, 0, nil, nil, fmt.Errorf("%w: field %d", ErrMalformed, number)
	}
	if n >= 0 {
		b = b[n:]
		n = protowire.ConsumeFieldValue(number, kind, b)
	}
	if n < 0 {
		return 0, 0, nil, nil, fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
	}
	return number, kind, b[:n], b[n:], nil
}

// parseCommon parses the one spelling that everybody writes: fields once, in
// order, lengths up to 2^21. Everything else is left to parsePacket.
func parseCommon(b []byte) (p packet, ok bool) {
	if len(b) < 2 {
		return p, false
	}
	switch b[0] {
	case byte(packetPing)<<3 | 2, byte(packetPong)<<3 | 2:
		return packet{kind: packetKind(b[0] >> 3)}, len(b) == 2 && b[1] == 0
	case byte(packetMessage)<<3 | 2:
	default:
		return p, false
	}
	p.kind = packetMessage
	n, b := shortVarint(b[1:])
	if n != len(b) {
		return p, false
	}
	if len(b) > 0 && b[0] == 0x08 {
		n, b = shortVarint(b[1:])
		if n < 0 {
			return p, false
		}
		p.channel = int32(n)
	}
	if len(b) > 1 && b[0] == 0x10 && b[1] <= 1 {
		p.eof = b[1] == 1
		b = b[2:]
	}
	if len(b) > 0 && b[0] == 0x1a {
		n, b = shortVarint(b[1:])
		if n != len(b) {
			return p, false
		}
		p.data, b = b, nil
	}
	return p, len(b) == 0
}

// shortVarint reads a varint of at most 3 bytes and returns it and the rest;
// -1 if there is none.
func shortVarint(b []byte) (int, []byte) {
	if len(b) > 0 && b[0] < 0x80 {
		return int(b[0]), b[1:]
	}
	if len(b) > 1 && b[1] < 0x80 {
		return int(b[0]&0x7f) | int(b[1])<<7, b[2:]
	}
	if len(b) > 2 && b[2] < 0x80 {
		return int(b[0]&0x7f) | int(b[1]&0x7f)<<7 | int(b[2])<<14, b[3:]
	}
	return -1, nil
}

// What a goodbye may hold.
const (
	maxReason       = 1024
	maxGoodbyePeers = 32
	maxPeerURL      = 512
)

// appendGoodbye appends a goodbye packet, cut to what one may hold.
func appendGoodbye(dst []byte, reason string, peers []string) []byte {
	var body []byte
	body = protowire.AppendTag(body, 1, protowire.BytesType)
	body = protowire.AppendString(body, reason[:min(len(reason), maxReason)])
	for i, url := range peers {
		if i == maxGoodbyePeers || len(body)+len(url)+packetSlack > widePacketData {
			break
		}
		if len(url) <= maxPeerURL {
			body = protowire.AppendTag(body, 2, protowire.BytesType)
			body = protowire.AppendString(body, url)
		}
	}
	outer := 1 + varintSize(uint64(len(body))) + len(body)
	dst = binary.AppendUvarint(dst, uint64(outer))
	dst = protowire.AppendTag(dst, protowire.Number(packetGoodbye), protowire.BytesType)
	return protowire.AppendBytes(dst, body)
}

// parseGoodbye reads what parsePacket checked. What is above the limits is left out.
func parseGoodbye(b []byte) *GoodbyeError {
	e := &GoodbyeError{}
	for len(b) > 0 {
		number, kind, value, rest, err := nextField(b)
		if err != nil {
			break
		}
		b = rest
		if kind != protowire.BytesType {
			continue
		}
		text, _ := protowire.ConsumeBytes(value)
		switch {
		case number == 1 && len(text) <= maxReason:
			e.Reason = string(text)
		case number == 2 && len(text) <= maxPeerURL && len(e.Peers) < maxGoodbyePeers:
			e.Peers = append(e.Peers, string(text))
		}
	}
	return e
}
