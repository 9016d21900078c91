package cometbft

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
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
				var peers struct {
					Peers []struct {
						NodeInfo struct {
							ID      p2p.NodeID `json:"id"`
							Moniker string     `json:"moniker"`
						} `json:"node_info"`
					} `json:"peers"`
				}
				if err := n.ask("/net_info", &peers); err != nil {
					return err
				}
				for _, p := range peers.Peers {
					if p.NodeInfo.ID == key.Public().NodeID() && p.NodeInfo.Moniker == "kith" {
						return nil
					}
				}
				return fmt.Errorf("%+v", peers)
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
	poll(t, "ten blocks", func() error {
		var block struct{}
		return n.ask(fmt.Sprintf("/block?height=%d", count), &block)
	})
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
		var said struct {
			BlockID struct {
				Hash string `json:"hash"`
			} `json:"block_id"`
		}
		if err := n.ask(fmt.Sprintf("/block?height=%d", height), &said); err != nil {
			t.Fatal(err)
		}
		if said.BlockID.Hash != hash {
			t.Errorf("block %d has hash %s, the RPC says %s", height, hash, said.BlockID.Hash)
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

// What a node refuses, and what we can say of it.
func TestRefusals(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, n *node, dial func(p2p.NodeInfo, p2p.PrivKey) session) {
		for name, c := range map[string]struct {
			change func(*p2p.NodeInfo)
			reason string
		}{
			"wrong network":       {func(i *p2p.NodeInfo) { i.Network = "elsewhere" }, fmt.Sprintf(`its network is %q, ours "elsewhere"`, n.network)},
			"wrong block version": {func(i *p2p.NodeInfo) { i.ProtocolVersion.Block = 10 }, "its block version is 11, ours 10"},
			"no common channel":   {func(i *p2p.NodeInfo) { i.Channels = []p2p.ChannelID{0x77} }, "no common channel: it has"},
		} {
			t.Run(name, func(t *testing.T) {
				key := newKey(t)
				info := ourInfo(n, key, blockChannel)
				c.change(&info)
				s := dial(info, key)
				watchdog := time.AfterFunc(patience, s.Close)
				defer watchdog.Stop()
				_, _, err := s.Receive()
				refused, ok := errors.AsType[*mconn.RefusedError](err)
				if !ok || !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), c.reason) || refused.Peer.NodeID != n.id {
					t.Errorf("got %v, want the reason %q", err, c.reason)
				}
			})
		}
		n.waitLog(t, "incompatible")
		t.Run("a channel it does not have", func(t *testing.T) {
			key := newKey(t)
			s := dial(ourInfo(n, key, blockChannel), key)
			if err := s.Send(0x77, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			watchdog := time.AfterFunc(patience, s.Close)
			defer watchdog.Stop()
			var err error
			for err == nil {
				_, _, err = s.Receive()
			}
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			n.waitLog(t, "unknown channel 77")
		})
	})
}

// The node dials us, because it was told to, and asks what peers ask.
func TestNodeDialsUs(t *testing.T) {
	t.Parallel()
	for _, r := range releases {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			transport, err := mconn.New(mconn.Options{Listen: fmt.Sprintf("127.0.0.1:%d", port)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { transport.Close() })
			key := newKey(t)
			n := startNode(t, r, "--p2p.persistent_peers", fmt.Sprintf("%s@127.0.0.1:%d", key.Public().NodeID(), port))
			watchdog := time.AfterFunc(patience, func() { transport.Close() })
			defer watchdog.Stop()
			c, err := transport.Accept()
			if err != nil {
				t.Fatal(err)
			}
			s, err := shake(t.Context(), c, n.id, ourInfo(n, key, pexChannel, blockChannel), key)
			if err != nil {
				// It gives a peer 3 s, which this one waited in the queue; it dials again.
				if c, err = transport.Accept(); err == nil {
					s, err = shake(t.Context(), c, n.id, ourInfo(n, key, pexChannel, blockChannel), key)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Close)
			// It says how high its chain is.
			next(t, s, blockChannel, func(m []byte) bool {
				status, err := get(m, 5)
				return err == nil && status.bytes != nil
			})
		})
	}
}

// A node that pings is answered: it would close 45 s after the first ping
// otherwise. Its pings come once a minute.
func TestPings(t *testing.T) {
	t.Parallel()
	period := 125 * time.Second
	if s := os.Getenv("KITH_INTEROP_PINGS"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < period {
			t.Fatalf("KITH_INTEROP_PINGS is %q, want a duration of at least %v", s, period)
		}
		period = d
	}
	each(t, func(t *testing.T, n *node, dial func(p2p.NodeInfo, p2p.PrivKey) session) {
		key := newKey(t)
		s := dial(ourInfo(n, key, pexChannel, blockChannel), key)
		end := time.AfterFunc(period, s.Close)
		defer end.Stop()
		start := time.Now()
		var err error
		for err == nil {
			_, _, err = s.Receive()
		}
		if took := time.Since(start); err != io.EOF || took < period {
			t.Fatalf("the node hung up after %v: %v", took, err)
		}
		counted, ok := s.(interface{ Stats() mconn.Stats })
		if !ok {
			return // a session that does not count
		}
		if stats := counted.Stats(); stats.Received.Pings < 2 || stats.Sent.Pongs < 2 || stats.Sent.Pings < 2 || stats.Received.Pongs < 2 {
			t.Errorf("%+v", stats)
		}
	})
}
