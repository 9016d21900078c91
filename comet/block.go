package comet

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/internal/pb/cometv1"
)

// ErrInvalid is wrapped by what is wrong with what a node sent: a block whose
// transactions are not those of its header, a block of another chain, a message
// that cannot be read. Do not believe the node; ask another one.
var ErrInvalid = errors.New("comet: the node sent what no honest node does")

// maxHeader is the longest header that is read. A real one has some 600 bytes.
const maxHeader = 64 << 10

// Hash is a hash as CometBFT prints it: upper case hex.
type Hash []byte

// String is the hash in upper case hex.
func (h Hash) String() string { return fmt.Sprintf("%X", []byte(h)) }

// MarshalText is String, for JSON. It never fails.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// A Block is what a node sent for a height: its header, checked against
// itself, and its transactions, checked against the header.
type Block struct {
	Height   int64
	Time     time.Time
	Network  string
	Hash     Hash // of the header
	Previous Hash // of the header before; empty at the first height
	AppHash  Hash
	Proposer Hash     // the validator's address
	Txs      [][]byte // parts of one piece of memory
}

// newBlock reads a block response and checks what can be checked without the
// validators: its height, its network, and that the data are the header's.
func newBlock(body []byte, height int64, network string) (Block, error) {
	encoded, data, err := blockParts(body)
	if err != nil {
		return Block{}, err
	}
	if len(encoded) > maxHeader {
		return Block{}, fmt.Errorf("%w: a header of %d bytes", ErrInvalid, len(encoded))
	}
	h := new(cometv1.Header)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(encoded, h); err != nil {
		return Block{}, fmt.Errorf("%w: its header: %w", ErrInvalid, err)
	}
	switch {
	case h.GetHeight() != height:
		return Block{}, fmt.Errorf("%w: block %d instead of %d", ErrInvalid, h.GetHeight(), height)
	case h.GetChainId() != network:
		return Block{}, fmt.Errorf("%w: a block of network %.60q instead of %q", ErrInvalid, h.GetChainId(), network)
	}
	if err := h.GetTime().CheckValid(); err != nil { // outside of the years 1 to 9999
		return Block{}, fmt.Errorf("%w: the time of block %d: %w", ErrInvalid, height, err)
	}
	txs, err := transactions(data)
	if err != nil {
		return Block{}, err
	}
	var root merkle
	for _, tx := range txs {
		sum := sha256.Sum256(tx)
		root.add(sum[:])
	}
	if !bytes.Equal(root.sum(), h.GetDataHash()) {
		return Block{}, fmt.Errorf("%w: the %d transactions of block %d are not those of its header", ErrInvalid, len(txs), height)
	}
	hash, err := headerHash(h)
	if err != nil {
		return Block{}, err
	}
	return Block{
		Height: h.GetHeight(), Time: h.GetTime().AsTime(), Network: h.GetChainId(), Hash: hash, Previous: h.GetLastBlockId().GetHash(),
		AppHash: h.GetAppHash(), Proposer: h.GetProposerAddress(), Txs: txs,
	}, nil
}

// headerHash is the Merkle root over the encoded fields of a header, in order
// (CometBFT spec, core/data_structures, "Header").
func headerHash(h *cometv1.Header) (Hash, error) {
	fields := []proto.Message{
		h.GetVersion(), wrapperspb.String(h.GetChainId()), wrapperspb.Int64(h.GetHeight()), h.GetTime(), h.GetLastBlockId(),
	}
	for _, b := range [][]byte{
		h.GetLastCommitHash(), h.GetDataHash(), h.GetValidatorsHash(), h.GetNextValidatorsHash(), h.GetConsensusHash(),
		h.GetAppHash(), h.GetLastResultsHash(), h.GetEvidenceHash(), h.GetProposerAddress(),
	} {
		fields = append(fields, wrapperspb.Bytes(b))
	}
	var root merkle
	for _, f := range fields {
		var leaf []byte
		if f.ProtoReflect().IsValid() {
			var err error
			if leaf, err = (proto.MarshalOptions{Deterministic: true}).Marshal(f); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
			}
		}
		root.add(leaf)
	}
	return root.sum(), nil
}

// merkle is the tree hash of RFC 6962, section 2.1, over leaves that come one
// after the other. The zero value has no leaves.
type merkle struct {
	done []subtree // complete ones, each smaller than the one before
	leaf []byte    // memory for the leaf under way
}

type subtree struct {
	leaves int
	hash   [sha256.Size]byte
}

// add appends a leaf.
func (m *merkle) add(leaf []byte) {
	m.leaf = append(append(m.leaf[:0], 0), leaf...)
	s := subtree{1, sha256.Sum256(m.leaf)}
	for len(m.done) > 0 && m.done[len(m.done)-1].leaves == s.leaves {
		s = m.join(s)
	}
	m.done = append(m.done, s)
}

// join takes the last subtree and makes it the left side of one with s.
func (m *merkle) join(s subtree) subtree {
	left := m.done[len(m.done)-1]
	m.done = m.done[:len(m.done)-1]
	var both [1 + 2*sha256.Size]byte
	both[0] = 1
	copy(both[1:], left.hash[:])
	copy(both[1+sha256.Size:], s.hash[:])
	return subtree{left.leaves + s.leaves, sha256.Sum256(both[:])}
}

// sum is the root. No leaf comes after it.
func (m *merkle) sum() []byte {
	if len(m.done) == 0 {
		sum := sha256.Sum256(nil)
		return sum[:]
	}
	s := m.done[len(m.done)-1]
	m.done = m.done[:len(m.done)-1]
	for len(m.done) > 0 {
		s = m.join(s)
	}
	return s.hash[:]
}
