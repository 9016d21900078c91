package cometbft

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// A field is one field of a message, as it stands.
type field struct {
	number protowire.Number
	value  uint64 // of a varint
	bytes  []byte // of bytes and messages
}

// fields takes a message apart.
func fields(b []byte) ([]field, error) {
	var out []field
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		f := field{number: number}
		switch kind {
		case protowire.VarintType:
			f.value, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		out = append(out, f)
	}
	return out, nil
}

// get is one field of a message; absent is empty.
func get(b []byte, number protowire.Number) (field, error) {
	all, err := fields(b)
	if err != nil {
		return field{}, err
	}
	for _, f := range all {
		if f.number == number {
			return f, nil
		}
	}
	return field{number: number}, nil
}

// message is a message with one field that is bytes.
func message(number protowire.Number, body []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), body)
}

// varint is a message with one field that is a number.
func varint(number protowire.Number, v uint64) []byte {
	if v == 0 {
		return nil
	}
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), v)
}

// headerHash is a block's hash: the root of a Merkle tree (RFC 6962) over the 14
// fields of its header. Numbers, texts and byte strings are put into messages of
// their own (google.protobuf's wrappers), messages stand as they are.
func headerHash(header []byte) (hash []byte, height uint64, err error) {
	var leaves [][]byte
	for number := protowire.Number(1); number <= 14; number++ {
		f, err := get(header, number)
		if err != nil {
			return nil, 0, err
		}
		switch {
		case number == 3:
			height = f.value
			leaves = append(leaves, varint(1, f.value))
		case number == 1 || number == 4 || number == 5:
			leaves = append(leaves, f.bytes)
		case len(f.bytes) == 0:
			leaves = append(leaves, nil)
		default:
			leaves = append(leaves, message(1, f.bytes))
		}
	}
	if height == 0 {
		return nil, 0, errors.New("a header without a height")
	}
	return merkle(leaves), height, nil
}

func merkle(leaves [][]byte) []byte {
	if len(leaves) == 1 {
		sum := sha256.Sum256(append([]byte{0}, leaves[0]...))
		return sum[:]
	}
	split := 1 << (bits.Len(uint(len(leaves)-1)) - 1)
	both := append([]byte{1}, merkle(leaves[:split])...)
	sum := sha256.Sum256(append(both, merkle(leaves[split:])...))
	return sum[:]
}

func TestMerkle(t *testing.T) {
	// RFC 6962's leaves and nodes, computed with sha256sum.
	if got := fmt.Sprintf("%x", merkle([][]byte{nil})); got != "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d" {
		t.Error(got)
	}
}
