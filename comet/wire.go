package comet

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kith-p2p/kith/internal/pb/cometv1"
)

// The messages of channel 0x40 are read by hand. A block may have 100 MiB, and
// generated code would take many times that for one with millions of short
// transactions; here they stay where they arrived, and a block costs 24 bytes
// for each beside. The message type of the channel is Empty, which keeps
// whatever comes as it is.
//
//	field 1  block request   { 1 height }
//	field 2  no block        { 1 height }
//	field 3  block           { 1 block { 1 header, 2 data { 1 transaction ... }, ... } }
//	field 4  status request  {}
//	field 5  status          { 1 height, 2 base }
const (
	askBlock = protowire.Number(iota + 1)
	noBlock
	tellBlock
	askStatus
	tellStatus
)

// toWire is a message as the channel sends it.
func toWire(m *cometv1.BlocksyncMessage) (*emptypb.Empty, error) {
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("comet: %w", err)
	}
	e := new(emptypb.Empty)
	e.ProtoReflect().SetUnknown(data)
	return e, nil
}

// message is one message of the block channel: which it is and its fields.
type message struct {
	kind protowire.Number
	body []byte
}

// readMessage takes a message from the wire; its bytes stay part of it. Of
// several the last counts, as in any oneof.
func readMessage(b []byte) (m message, err error) {
	err = eachField(b, func(n protowire.Number, body []byte, _ uint64) {
		if n >= askBlock && n <= tellStatus && body != nil {
			m = message{n, body}
		}
	})
	if err == nil && m.kind == 0 {
		err = fmt.Errorf("%w: an empty message", ErrInvalid)
	}
	return m, err
}

// height is the first field of requests, of refusals and of a status; of a
// block it is its header's.
func (m message) height() (height int64, err error) {
	body := m.body
	if m.kind == tellBlock {
		header, _, err := blockParts(body)
		if err != nil {
			return 0, err
		}
		err = eachField(header, func(n protowire.Number, b []byte, v uint64) {
			if n == 3 && b == nil {
				height = int64(v)
			}
		})
		return height, err
	}
	err = eachField(body, func(n protowire.Number, b []byte, v uint64) {
		if n == 1 && b == nil {
			height = int64(v)
		}
	})
	return height, err
}

// status reads a status, which no node can have with heights below 0 or a base
// above its height.
func (m message) status() (s Status, err error) {
	err = eachField(m.body, func(n protowire.Number, b []byte, v uint64) {
		switch {
		case n == 1 && b == nil:
			s.Height = int64(v)
		case n == 2 && b == nil:
			s.Base = int64(v)
		}
	})
	if err == nil && (s.Base < 0 || s.Height < s.Base) {
		err = fmt.Errorf("%w: a chain from height %d to %d", ErrInvalid, s.Base, s.Height)
	}
	return s, err
}

// blockParts are the header and the data of a block response.
func blockParts(body []byte) (header, data []byte, err error) {
	var block []byte
	if err := eachField(body, func(n protowire.Number, b []byte, _ uint64) {
		if n == 1 && b != nil {
			block = b
		}
	}); err != nil {
		return nil, nil, err
	}
	err = eachField(block, func(n protowire.Number, b []byte, _ uint64) {
		switch {
		case n == 1 && b != nil:
			header = b
		case n == 2 && b != nil:
			data = b
		}
	})
	if err == nil && header == nil {
		err = fmt.Errorf("%w: a block without a header", ErrInvalid)
	}
	return header, data, err
}

// transactions are those of a block's data, where they lie.
func transactions(data []byte) ([][]byte, error) {
	count := 0
	if err := eachField(data, func(n protowire.Number, b []byte, _ uint64) {
		if n == 1 && b != nil {
			count++
		}
	}); err != nil || count == 0 {
		return nil, err
	}
	txs := make([][]byte, 0, count)
	err := eachField(data, func(n protowire.Number, b []byte, _ uint64) {
		if n == 1 && b != nil {
			txs = append(txs, b[:len(b):len(b)])
		}
	})
	return txs, err
}

// eachField calls f with every field of a message, in order: with its bytes,
// which are never nil, or with its number. Groups and fixed-width fields are
// skipped. The error wraps ErrInvalid.
func eachField(b []byte, f func(n protowire.Number, bytes []byte, number uint64)) error {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed(n)
		}
		b = b[n:]
		switch kind {
		case protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				f(num, v, 0)
			}
		case protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(b); n >= 0 {
				f(num, nil, v)
			}
		default:
			n = protowire.ConsumeFieldValue(num, kind, b)
		}
		if n < 0 {
			return malformed(n)
		}
		b = b[n:]
	}
	return nil
}

func malformed(n int) error { return fmt.Errorf("%w: %v", ErrInvalid, protowire.ParseError(n)) }
