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
	var transport *mconn.Transport
	var err error
	for range 10 { // a port that was free may be taken by now
		transport, err = mconn.New(mconn.Options{Listen: fmt.Sprintf("127.0.0.1:%d", freePort(t)), PingInterval: pingEvery, PongTimeout: pongWait})
		if err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { transport.Close() })
	return transport
}

func at(key p2p.PrivKey, transport *mconn.Transport) string {
	return fmt.Sprintf("%s@127.0.0.1:%d", key.Public().NodeID(), transport.Endpoints()[0].Port)
}

// The node dials us, because it was told to (persistent_peers), and the Routers that
// it finds there are no peers of its; each says why. Those that are its peers:
// the ways that accept, in every test that uses each.
func TestRefusalsWhenDialled(t *testing.T) {
	t.Parallel()
	for _, r := range releases {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			keys := make([]p2p.PrivKey, 3)
			transports := make([]*mconn.Transport, 3)
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
		})
	}
}
