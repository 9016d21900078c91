package cometbft

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kith-p2p/kith/p2p"
)

// Two real nodes of one chain that know nothing of each other, and two of ours.
// The first node dials ours and asks it for peers, is told of the second, dials
// that and tells our second of it.
func TestPEX(t *testing.T) {
	t.Parallel()
	for _, r := range releases {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			key, transport := newKey(t), listen(t)
			first := startNode(t, r, setup{flags: []string{"--p2p.persistent_peers", at(key, transport)}})
			other := startNode(t, r, setup{chain: first})

			// Ours knows the second node, but dials nobody.
			teller, err := newRouter(routerSetup{
				info: ourInfo(first, key, pexChannel, blockChannel), key: key, transport: transport, pex: true,
				peers: p2p.PeerManagerOptions{Protocols: []p2p.Protocol{"libp2p"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(teller.close)
			where, err := p2p.ParseNodeAddress("mconn://" + other.address())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := teller.pm.Add(where); err != nil {
				t.Fatal(err)
			}
			if err := teller.Start(); err != nil {
				t.Fatal(err)
			}
			teller.runPEX(t)
			poll(t, "the first node to ask for peers", func() error {
				if s := teller.pex.Stats(); s.Answered < 1 {
					return fmt.Errorf("%+v", s)
				}
				return nil
			})
			// It dials those it knows every 30 s.
			poll(t, "the nodes to find each other", func() error {
				for _, n := range []*node{first, other} {
					peers, err := n.peers()
					if err != nil {
						return err
					}
					wanted := map[p2p.NodeID]p2p.NodeID{first.id: other.id, other.id: first.id}[n.id]
					if _, ok := peers[wanted]; !ok {
						return fmt.Errorf("%s has the peers %v", n.id, peers)
					}
				}
				return nil
			})
			if status := teller.pm.Status(other.id); status == p2p.PeerStatusUp {
				t.Error("our node dialled the second one, so it proves nothing")
			}

			// And we ask.
			mine := newKey(t)
			learner, err := newRouter(routerSetup{info: ourInfo(first, mine, pexChannel, blockChannel), key: mine, pex: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(learner.close)
			if where, err = p2p.ParseNodeAddress("mconn://" + first.address()); err != nil {
				t.Fatal(err)
			}
			if _, err := learner.pm.Add(where); err != nil {
				t.Fatal(err)
			}
			if err := learner.Start(); err != nil {
				t.Fatal(err)
			}
			learner.runPEX(t)
			poll(t, "the answer, and a connection to the node it names", func() error {
				s := learner.pex.Stats()
				if s.Replies < 1 || s.Learnt < 1 || len(learner.pm.Addresses(other.id)) == 0 {
					return fmt.Errorf("%+v", s)
				}
				if learner.pm.Status(other.id) != p2p.PeerStatusUp {
					return errors.New("it is not up")
				}
				return nil
			})
			for _, s := range []p2p.PEXStats{teller.pex.Stats(), learner.pex.Stats()} {
				if s.Unsolicited+s.Invalid+s.Refused+s.Cut > 0 {
					t.Errorf("%+v", s)
				}
			}
			t.Logf("told: %+v; learnt: %+v", teller.pex.Stats(), learner.pex.Stats())
		})
	}
}
