package cometbft

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// listen is a transport that a node can be told of before anybody answers there.
func listen(t *testing.T) *mconn.Transport {
	t.Helper()
	transport, err := mconn.New(mconn.Options{Listen: fmt.Sprintf("127.0.0.1:%d", freePort(t)), PingInterval: pingEvery, PongTimeout: pongWait})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { transport.Close() })
	return transport
}

func at(key p2p.PrivKey, transport *mconn.Transport) string {
	return fmt.Sprintf("%s@127.0.0.1:%d", key.Public().NodeID(), transport.Endpoints()[0].Port)
}

// The node dials us, because it was told to (persistent_peers). First three Routers
// that it finds there are no peers of its; each says why. The fourth one is: the
// node says how high its chain is, answers and lists us.
func TestNodeDialsUs(t *testing.T) {
	t.Parallel()
	for _, r := range releases {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			keys := make([]p2p.PrivKey, 4)
			transports := make([]*mconn.Transport, 4)
			var all string
			for i := range keys {
				keys[i], transports[i] = newKey(t), listen(t)
				if i > 0 {
					all += ","
				}
				all += at(keys[i], transports[i])
			}
			n := startNode(t, r, setup{flags: []string{"--p2p.persistent_peers", all}})
			i := 0
			for name, c := range refusals(n) {
				info := ourInfo(n, keys[i], blockChannel)
				c.change(&info)
				k, err := newRouter(routerSetup{info: info, key: keys[i], transport: transports[i]})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(k.close)
				if err := k.Start(); err != nil {
					t.Fatal(err)
				}
				i++
				t.Run(name, func(t *testing.T) {
					deadline := time.After(patience)
					for {
						select {
						case err := <-k.faults.seen:
							// Those that waited in the queue until we started are dead by now.
							if !errors.Is(err, p2p.ErrIncompatible) {
								continue
							}
							c.checkRouters(t, err, n)
						case <-deadline:
							t.Errorf("waited %v for the node to dial us", patience)
						}
						return
					}
				})
			}
			t.Run("a peer", func(t *testing.T) {
				key := keys[3]
				k, err := newRouter(routerSetup{info: ourInfo(n, key, pexChannel, blockChannel), key: key, transport: transports[3]})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(k.close)
				blocks := k.channels[blockChannel]
				if err := k.Start(); err != nil {
					t.Fatal(err)
				}
				var height uint64
				for in, err := range blocks.Receive(t.Context()) {
					if err != nil || in.From != n.id {
						t.Fatal(in, err)
					}
					status, err := get(in.Message.ProtoReflect().GetUnknown(), 5)
					if err != nil {
						t.Fatal(err)
					}
					if status.bytes != nil {
						f, err := get(status.bytes, 1)
						if err != nil {
							t.Fatal(err)
						}
						height = f.value
						break
					}
				}
				if height < 1 {
					t.Errorf("its height is %d", height)
				}
				poll(t, "the node to list us", func() error {
					peers, err := n.peers()
					if err == nil && peers[key.Public().NodeID()] != "kith" {
						err = fmt.Errorf("it lists %v", peers)
					}
					return err
				})
				for _, p := range k.Router.Stats().Peers {
					if p.ID != n.id || p.Direction.String() != "inbound" || p.Info.Network != n.network {
						t.Errorf("%+v", p)
					}
				}
			})
		})
	}
}
