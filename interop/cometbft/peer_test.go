package cometbft

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Everything one node answers, whoever dialled: who it is and how high its chain,
// addresses, ten blocks, a transaction.
func TestNode(t *testing.T) {
	t.Parallel()
	each(t, 4, func(t *testing.T, n *node, meet meet) {
		t.Run("node info", func(t *testing.T) {
			t.Parallel()
			s := meet(t, pexChannel, blockChannel)
			info := s.Info()
			if info.Network != n.network || info.ProtocolVersion.Block != 11 || info.Moniker == "" || info.Version == "" || !slices.Contains(info.Channels, blockChannel) {
				t.Errorf("%+v", info)
			}
			if err := info.Validate(); err != nil {
				t.Error(err)
			}
			// And what it knows of us.
			poll(t, "the node to list us", func() error {
				peers, err := n.peers()
				if err != nil {
					return err
				}
				if peers[s.us] == (listed{"kith", s.accepted}) {
					return nil
				}
				return fmt.Errorf("it lists %v", peers)
			})
			// The node says how high its chain is, unasked.
			next(t, s, blockChannel, func(m []byte) bool {
				status, err := get(m, 5)
				if err != nil {
					t.Fatal(err)
				}
				height, err := get(status.bytes, 1)
				if err != nil {
					t.Fatal(err)
				}
				return height.value >= 1
			})
		})
		t.Run("addresses", func(t *testing.T) {
			t.Parallel()
			s := meet(t, pexChannel)
			if err := s.Send(pexChannel, message(1, nil)); err != nil {
				t.Fatal(err)
			}
			next(t, s, pexChannel, func(m []byte) bool {
				all, err := fields(m)
				if err != nil {
					t.Fatal(err)
				}
				return len(all) == 1 && all[0].number == 2
			})
		})
		t.Run("blocks", func(t *testing.T) {
			t.Parallel()
			fetchBlocks(t, n, meet)
		})
		t.Run("transaction", func(t *testing.T) {
			t.Parallel()
			s := meet(t, mempoolChannel)
			name, value := fmt.Sprintf("kith%d", rand.Uint32()), "hello"
			if err := s.Send(mempoolChannel, message(1, message(1, []byte(name+"="+value)))); err != nil {
				t.Fatal(err)
			}
			poll(t, "the transaction to be committed", func() error {
				if got, err := n.query(name); err != nil || got != value {
					return fmt.Errorf("the application has %q, %v", got, err)
				}
				return nil
			})
		})
	})
}

// fetchBlocks asks for ten blocks and compares heights and hashes with the
// node's RPC, and asks for one that is not there.
func fetchBlocks(t *testing.T, n *node, meet meet) {
	const count = 10
	s := meet(t, blockChannel)
	n.waitHeight(t, count)
	for height := uint64(1); height <= count; height++ {
		if err := s.Send(blockChannel, message(1, varint(1, height))); err != nil {
			t.Fatal(err)
		}
		var hash string
		next(t, s, blockChannel, func(m []byte) bool {
			response, err := get(m, 3)
			if err != nil {
				t.Fatal(err)
			}
			if response.bytes == nil {
				return false // a status that came in between
			}
			block, err := get(response.bytes, 1)
			if err != nil {
				t.Fatal(err)
			}
			header, err := get(block.bytes, 1)
			if err != nil {
				t.Fatal(err)
			}
			sum, got, err := headerHash(header.bytes)
			if err != nil || got != height {
				t.Fatalf("asked for block %d, got %d, %v", height, got, err)
			}
			hash = strings.ToUpper(hex.EncodeToString(sum))
			return true
		})
		if said := n.blockHash(t, int64(height)); said != hash {
			t.Errorf("block %d has hash %s, the RPC says %s", height, hash, said)
		}
	}
	const never = 1 << 40
	if err := s.Send(blockChannel, message(1, varint(1, never))); err != nil {
		t.Fatal(err)
	}
	next(t, s, blockChannel, func(m []byte) bool {
		none, err := get(m, 2)
		if err != nil {
			t.Fatal(err)
		}
		height, _ := get(none.bytes, 1)
		return height.value == never
	})
}
