package cometbft

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kith-p2p/kith/p2p"
)

// Everything one node answers: who it is, addresses, ten blocks, a transaction.
func TestNode(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node, dial func(p2p.NodeInfo, p2p.PrivKey) session) {
		t.Run("node info", func(t *testing.T) {
			key := newKey(t)
			s := dial(ourInfo(n, key, pexChannel, blockChannel), key)
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
				if peers[key.Public().NodeID()] == "kith" {
					return nil
				}
				return fmt.Errorf("it lists %v", peers)
			})
		})
		t.Run("addresses", func(t *testing.T) {
			key := newKey(t)
			s := dial(ourInfo(n, key, pexChannel), key)
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
		t.Run("blocks", func(t *testing.T) { fetchBlocks(t, n, dial) })
		t.Run("transaction", func(t *testing.T) {
			key := newKey(t)
			s := dial(ourInfo(n, key, mempoolChannel), key)
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
func fetchBlocks(t *testing.T, n *node, dial func(p2p.NodeInfo, p2p.PrivKey) session) {
	const count = 10
	n.waitHeight(t, count)
	key := newKey(t)
	s := dial(ourInfo(n, key, blockChannel), key)
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
