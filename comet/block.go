package comet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/internal/pb/cometv1"
)

// Hash is a hash as CometBFT prints it: upper case hex.
type Hash []byte

// String is the hash in upper case hex.
func (h Hash) String() string { return fmt.Sprintf("%X", []byte(h)) }

// MarshalText is String.
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
	Proposer Hash // the validator's address
	Txs      [][]byte
}

// errBlock is wrapped by what is wrong with a block.
var errBlock = errors.New("comet: not a block that the node's chain could have")

// newBlock reads a block and checks what can be checked without the
// validators: its height, its network, and that the data are the header's.
func newBlock(b *cometv1.Block, height int64, network string) (Block, error) {
	h := b.GetHeader()
	switch {
	case h == nil:
		return Block{}, fmt.Errorf("%w: no header", errBlock)
	case h.GetHeight() != height:
		return Block{}, fmt.Errorf("%w: height %d instead of %d", errBlock, h.GetHeight(), height)
	case h.GetChainId() != network:
		return Block{}, fmt.Errorf("%w: network %q instead of %q", errBlock, h.GetChainId(), network)
	}
	leaves := make([][]byte, 0, len(b.GetData().GetTxs()))
	for _, tx := range b.GetData().GetTxs() {
		sum := sha256.Sum256(tx)
		leaves = append(leaves, sum[:])
	}
	if data := merkle(leaves); hex.EncodeToString(data) != hex.EncodeToString(h.GetDataHash()) {
		return Block{}, fmt.Errorf("%w: its %d transactions are not those of its header", errBlock, len(leaves))
	}
	hash, err := headerHash(h)
	if err != nil {
		return Block{}, err
	}
	return Block{
		Height: h.GetHeight(), Time: h.GetTime().AsTime(), Network: h.GetChainId(), Hash: hash, Previous: h.GetLastBlockId().GetHash(),
		AppHash: h.GetAppHash(), Proposer: h.GetProposerAddress(), Txs: b.GetData().GetTxs(),
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
	leaves := make([][]byte, len(fields))
	for i, f := range fields {
		if !f.ProtoReflect().IsValid() {
			continue
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(f)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBlock, err)
		}
		leaves[i] = b
	}
	return merkle(leaves), nil
}

// merkle is the root of RFC 6962's tree, section 2.1.
func merkle(leaves [][]byte) []byte {
	switch n := len(leaves); n {
	case 0:
		sum := sha256.Sum256(nil)
		return sum[:]
	case 1:
		sum := sha256.Sum256(append([]byte{0}, leaves[0]...))
		return sum[:]
	default:
		split := 1
		for split*2 < n {
			split *= 2
		}
		sum := sha256.Sum256(append(append([]byte{1}, merkle(leaves[:split])...), merkle(leaves[split:])...))
		return sum[:]
	}
}
