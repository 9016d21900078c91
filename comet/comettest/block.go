package comettest

import (
	"crypto/sha256"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kith-p2p/kith/internal/pb/cometv1"
)

// blockTime is when a chain begins; its blocks follow by the second.
var blockTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// NextBlock is a block that follows those of a chain, from height 1 on.
func NextBlock(chain []*cometv1.Block, txs ...[]byte) *cometv1.Block {
	height := int64(len(chain) + 1)
	h := &cometv1.Header{
		Version: &cometv1.Consensus{Block: 11}, ChainId: Network, Height: height,
		Time:        timestamppb.New(blockTime.Add(time.Duration(height) * time.Second)),
		LastBlockId: &cometv1.BlockID{PartSetHeader: &cometv1.PartSetHeader{}},
		DataHash:    DataHash(txs), AppHash: []byte{0, byte(height)}, ProposerAddress: make([]byte, 20),
	}
	if height > 1 {
		h.LastBlockId = &cometv1.BlockID{Hash: HeaderHash(chain[height-2].GetHeader()), PartSetHeader: &cometv1.PartSetHeader{Total: 1, Hash: make([]byte, 32)}}
	}
	return &cometv1.Block{Header: h, Data: &cometv1.Data{Txs: txs}}
}

// DataHash is the hash of transactions: the root of RFC 6962's tree over their
// SHA-256.
func DataHash(txs [][]byte) []byte {
	leaves := make([][]byte, len(txs))
	for i, tx := range txs {
		sum := sha256.Sum256(tx)
		leaves[i] = sum[:]
	}
	return Root(leaves)
}

// HeaderHash is the hash of a header: the root of RFC 6962's tree over its fields
// as they are encoded. Numbers, texts and byte strings are the only field of a
// message each, and absent when they are zero.
func HeaderHash(h *cometv1.Header) []byte {
	bytes := func(b []byte) []byte {
		if len(b) == 0 {
			return nil
		}
		return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), b)
	}
	message := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			panic(err) // a text that is not UTF-8, and there is none
		}
		return b
	}
	var height []byte
	if h.GetHeight() != 0 {
		height = protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(h.GetHeight()))
	}
	return Root([][]byte{
		message(h.GetVersion()), bytes([]byte(h.GetChainId())), height, message(h.GetTime()), message(h.GetLastBlockId()),
		bytes(h.GetLastCommitHash()), bytes(h.GetDataHash()), bytes(h.GetValidatorsHash()), bytes(h.GetNextValidatorsHash()),
		bytes(h.GetConsensusHash()), bytes(h.GetAppHash()), bytes(h.GetLastResultsHash()), bytes(h.GetEvidenceHash()),
		bytes(h.GetProposerAddress()),
	})
}

// Root is the tree hash of RFC 6962, section 2.1, as its definition reads.
func Root(leaves [][]byte) []byte {
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
		sum := sha256.Sum256(append(append([]byte{1}, Root(leaves[:split])...), Root(leaves[split:])...))
		return sum[:]
	}
}
