package libp2p

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kith-p2p/kith/p2p"
)

// The wire, inside what libp2p's security transport encrypts and proves. A session
// has one control stream, both ways, and one stream for each channel and direction.
//
// Control stream, protocol /kith/msg/1.0.0, opened by whoever dials:
//
//	+----------------+--------+-----------------+
//	| uvarint length | kind   | length-1 bytes  |    length at most 64 KiB
//	+----------------+--------+-----------------+
//	1 hello     session (16 bytes), node info (hello.go)      each side's first frame
//	2 ping      8 bytes                                       answered by 3 with the same 8
//	3 pong      8 bytes
//	4 goodbye   { 1 streams varint; 2 reason; 3 peers ... }   the last frame of a side
//	5 moved                                                   see path.go
//
// Channel stream, protocol /kith/msg/1.0.0/channel, opened by whoever sends, who
// alone writes messages, while grants of credit come back (credit.go):
//
//	+--------------------+-----------------+--------------+---------------------------------+
//	| session (16 bytes) | channel (2, BE) | part (4, BE) | { uvarint length, message } ... |
//	+--------------------+-----------------+--------------+---------------------------------+
//
// Every uvarint is minimal. Kinds and fields that are not known are ignored;
// numbers are only ever added. spec.md tells the rest.
const (
	kindHello   = 1
	kindPing    = 2
	kindPong    = 3
	kindGoodbye = 4
	kindMoved   = 5
)

const (
	sessionSize = 16
	headerSize  = sessionSize + 2 + 4
	pingSize    = 8

	maxControl = 64 << 10 // of a control frame: the longest hello has 41 KB

	maxReason  = p2p.MaxNodeInfoString
	maxPeers   = p2p.MaxNodeInfoAddresses
	maxPeerURL = p2p.MaxNodeInfoString
)

// sessionID tells the sessions of one peer apart. The dialler draws it.
type sessionID [sessionSize]byte

// header opens a channel stream.
type header struct {
	session sessionID
	channel p2p.ChannelID
	part    uint32 // which stream of the channel it is, from 0
}

func (h header) append(b []byte) []byte {
	b = append(b, h.session[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(h.channel))
	return binary.BigEndian.AppendUint32(b, h.part)
}

func parseHeader(b *[headerSize]byte) header {
	return header{
		session: sessionID(b[:sessionSize]),
		channel: p2p.ChannelID(binary.BigEndian.Uint16(b[sessionSize:])),
		part:    binary.BigEndian.Uint32(b[sessionSize+2:]),
	}
}

// lengthMax is the most bytes that a length takes: messages have at most 1 GiB.
const lengthMax = 5

// parseLength reads the length before a message. n is how many bytes it took; 0:
// it is not whole yet.
func parseLength(b []byte, limit int) (length, n int, err error) {
	var v uint64
	for i, c := range b {
		if i == lengthMax {
			return 0, 0, fmt.Errorf("%w: a length of more than %d bytes", ErrMalformed, lengthMax)
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c >= 0x80 {
			continue
		}
		if c == 0 && i > 0 {
			return 0, 0, fmt.Errorf("%w: a length that is not minimal", ErrMalformed)
		}
		if v > uint64(limit) {
			return 0, 0, fmt.Errorf("%w: %d bytes, at most %d", ErrMessageTooLarge, v, limit)
		}
		return int(v), i + 1, nil
	}
	if len(b) == lengthMax {
		return 0, 0, fmt.Errorf("%w: a length of more than %d bytes", ErrMalformed, lengthMax)
	}
	return 0, 0, nil
}

// goodbye is the last word of a side: how many channel streams it opened in all,
// so that the other knows when it has everything; why; and whom else to try.
type goodbye struct {
	streams uint64
	reason  string
	peers   []string
}

// append encodes it, cut to what may be sent.
func (g goodbye) append(b []byte) []byte {
	b = append(b, kindGoodbye)
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, g.streams)
	if g.reason != "" {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendString(b, g.reason[:min(len(g.reason), maxReason)])
	}
	sent := 0
	for _, p := range g.peers {
		if len(p) > maxPeerURL {
			continue
		}
		if sent++; sent > maxPeers {
			break
		}
		b = protowire.AppendTag(b, 3, protowire.BytesType)
		b = protowire.AppendString(b, p)
	}
	return b
}

// parseGoodbye reads what follows the kind.
func parseGoodbye(b []byte) (goodbye, error) {
	var g goodbye
	err := eachField(b, func(field protowire.Number, number uint64, text []byte) error {
		switch field {
		case 1:
			g.streams = number
		case 2:
			if len(text) > maxReason {
				return fmt.Errorf("a reason of %d bytes", len(text))
			}
			g.reason = string(text)
		case 3:
			if len(g.peers) == maxPeers || len(text) > maxPeerURL {
				return fmt.Errorf("more than %d peers of %d bytes", maxPeers, maxPeerURL)
			}
			g.peers = append(g.peers, string(text))
		}
		return nil
	})
	if err != nil {
		return goodbye{}, fmt.Errorf("%w: goodbye: %w", ErrMalformed, err)
	}
	return g, nil
}

// eachField calls f with every field of a message: its number for a varint, its
// bytes for the others. Fixed-size fields, which nothing here has, are passed over.
func eachField(b []byte, f func(field protowire.Number, number uint64, text []byte) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var (
			number uint64
			text   []byte
		)
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			text, n = protowire.ConsumeBytes(b)
		case protowire.StartGroupType, protowire.EndGroupType:
			return fmt.Errorf("field %d is a group", field)
		default:
			if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := f(field, number, text); err != nil {
			return err
		}
	}
	return nil
}
