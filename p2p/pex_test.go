package p2p_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/pb/mconnv1"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// pexNode is a node over mconn on loopback.
type pexNode struct {
	id   p2p.NodeID
	pm   *p2p.PeerManager
	r    *p2p.Router
	at   p2p.NodeAddress
	pex  *p2p.PEX                               // or
	raw  *p2p.TypedChannel[*mconnv1.PexMessage] // what a peer can say by hand
	said chan p2p.Incoming[*mconnv1.PexMessage] // what it heard
}

func newPEXNode(t *testing.T, seed byte, comet, raw bool, o p2p.PEXOptions, change ...func(*p2p.PeerManagerOptions)) *pexNode {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := identity.PrivKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	must(err)
	n := &pexNode{id: key.Public().NodeID(), said: make(chan p2p.Incoming[*mconnv1.PexMessage], 100)}
	peers := p2p.PeerManagerOptions{MinRetryTime: 50 * time.Millisecond, MaxRetryTime: time.Second}
	for _, c := range change {
		c(&peers)
	}
	n.pm, err = p2p.NewPeerManager(n.id, addrbook.NewMemoryStore(), peers)
	must(err)
	tr, err := mconn.New(mconn.Options{Listen: "127.0.0.1:0", CometOnly: comet})
	must(err)
	n.at = tr.Endpoints()[0].NodeAddress(n.id)
	n.r, err = p2p.NewRouter(p2p.RouterOptions{
		NodeInfo: p2p.NodeInfo{Network: "pex", Moniker: "n", ListenAddr: fmt.Sprintf("127.0.0.1:%d", n.at.Port), Version: "1"},
		PrivKey:  key, PeerManager: n.pm, Transports: []p2p.Transport{tr}, Limits: &connmgr.Limits{},
	})
	must(err)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		stop()
		must(n.r.Stop())
		running.Wait()
		n.pm.Close()
	})
	if raw {
		n.raw, err = p2p.OpenTyped[*mconnv1.PexMessage](n.r, p2p.PEXChannel)
		must(err)
		running.Go(func() {
			for in, err := range n.raw.Receive(ctx) {
				if err != nil {
					return
				}
				select {
				case n.said <- in:
				case <-ctx.Done():
				}
			}
		})
	} else {
		n.pex, err = p2p.NewPEX(n.r, o)
		must(err)
		running.Go(func() { _ = n.pex.Run(ctx) })
	}
	must(n.r.Start())
	return n
}

func (n *pexNode) knows(t *testing.T, others ...*pexNode) {
	t.Helper()
	for _, o := range others {
		if _, err := n.pm.Add(o.at); err != nil {
			t.Fatal(err)
		}
	}
}

// soon polls for what has to happen.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}

func (n *pexNode) up(t *testing.T, o *pexNode) {
	t.Helper()
	soon(t, "connected", func() bool {
		return n.pm.Status(o.id) == p2p.PeerStatusUp && o.pm.Status(n.id) == p2p.PeerStatusUp
	})
}

// A node learns of the peers of its peers and connects to them, in the form of
// kith and in that of CometBFT.
func TestPEXFindsPeersOfPeers(t *testing.T) {
	for name, comet := range map[string]bool{"urls": false, "comet": true} {
		t.Run(name, func(t *testing.T) {
			a := newPEXNode(t, 1, false, false, p2p.PEXOptions{})
			b := newPEXNode(t, 2, comet, false, p2p.PEXOptions{Silent: true})
			c := newPEXNode(t, 3, false, false, p2p.PEXOptions{Silent: true})
			b.knows(t, c)
			b.up(t, c)
			a.knows(t, b)
			a.up(t, c)
			// What was said is counted after it was said.
			soon(t, "the counts", func() bool { return a.pex.Stats().Learnt > 0 && b.pex.Stats().Answered > 0 })
			if st := a.pex.Stats(); st.Replies == 0 || st.Unsolicited+st.Cut+st.Invalid != 0 {
				t.Errorf("%+v", st)
			}
			if st := b.pex.Stats(); st.Asked != 0 || st.Refused != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// Which form a question has depends on who is asked, and a reply has the form of
// its question.
func TestPEXForms(t *testing.T) {
	for name, comet := range map[string]bool{"urls": false, "comet": true} {
		t.Run(name, func(t *testing.T) {
			a := newPEXNode(t, 1, false, false, p2p.PEXOptions{}, func(o *p2p.PeerManagerOptions) {
				o.MaxOutgoingConnections = 1 // to hand, and to none of those below
			})
			hand := newPEXNode(t, 2, comet, true, p2p.PEXOptions{})
			a.knows(t, hand)
			a.up(t, hand)
			in := <-hand.said
			if in.From != a.id || (in.Message.GetRequest() != nil) != comet || (in.Message.GetRequestV2() != nil) == comet {
				t.Fatal(in.Message)
			}
			for i := range 150 {
				addr := p2p.NodeAddress{Protocol: "mconn", NodeID: p2p.NodeID(fmt.Sprintf("%040x", i+1)), Hostname: fmt.Sprintf("80.%d.1.1", i), Port: 5}
				if _, err := a.pm.Add(addr); err != nil {
					t.Fatal(err)
				}
			}
			for _, urls := range []bool{true, false} {
				ask := &mconnv1.PexMessage{Sum: &mconnv1.PexMessage_Request{Request: &mconnv1.PexRequest{}}}
				if urls {
					ask = &mconnv1.PexMessage{Sum: &mconnv1.PexMessage_RequestV2{RequestV2: &mconnv1.PexRequestV2{}}}
				}
				if err := hand.raw.Send(t.Context(), a.id, ask); err != nil {
					t.Fatal(err)
				}
				m := (<-hand.said).Message
				n := len(m.GetAddrs().GetAddrs())
				if urls {
					n = len(m.GetResponseV2().GetAddresses())
				}
				if n != 100 {
					t.Errorf("urls %v: %d addresses", urls, n)
				}
			}
		})
	}
}

// What a peer does wrong lowers its score and is counted; nobody is disconnected
// for it.
func TestPEXFaults(t *testing.T) {
	a := newPEXNode(t, 1, false, false, p2p.PEXOptions{})
	hand := newPEXNode(t, 2, false, true, p2p.PEXOptions{})
	a.knows(t, hand)
	a.up(t, hand)
	send := func(m *mconnv1.PexMessage) {
		t.Helper()
		if err := hand.raw.Send(t.Context(), a.id, m); err != nil {
			t.Fatal(err)
		}
	}
	reply := func(n int) *mconnv1.PexMessage {
		v2 := &mconnv1.PexResponseV2{}
		for i := range n {
			v2.Addresses = append(v2.Addresses, &mconnv1.PexAddrV2{Url: fmt.Sprintf("mconn://%040x@127.0.%d.%d:1", i+1, i/200, 1+i%200)})
		}
		return &mconnv1.PexMessage{Sum: &mconnv1.PexMessage_ResponseV2{ResponseV2: v2}}
	}
	<-hand.said // the question
	many := reply(300)
	many.GetResponseV2().Addresses[7].Url = "nonsense"
	send(many) // more than we take: cut
	soon(t, "the reply is learnt", func() bool { return a.pex.Stats().Learnt > 0 })
	if st := a.pex.Stats(); st.Cut != 50 || st.Invalid != 1 || st.Learnt+st.Invalid > 250 || st.Unsolicited != 0 {
		t.Errorf("%+v", st)
	}
	if s := a.pm.Scores()[hand.id]; s != 0 {
		t.Errorf("score %d, for more addresses than we take", s)
	}
	send(reply(3))
	soon(t, "an unsolicited reply", func() bool { return a.pex.Stats().Unsolicited == 1 && a.pm.Scores()[hand.id] == -1 })
	for range 6 {
		send(&mconnv1.PexMessage{Sum: &mconnv1.PexMessage_RequestV2{RequestV2: &mconnv1.PexRequestV2{}}})
	}
	soon(t, "six questions", func() bool {
		st := a.pex.Stats()
		return st.Answered == 4 && st.Refused == 2 && a.pm.Scores()[hand.id] == -3
	})
	send(&mconnv1.PexMessage{}) // says nothing
	soon(t, "an empty message", func() bool { return a.pm.Scores()[hand.id] == -4 })
	if a.pm.Status(hand.id) != p2p.PeerStatusUp {
		t.Error("disconnected")
	}
}

func TestPEXEnds(t *testing.T) {
	n := newPEXNode(t, 1, false, true, p2p.PEXOptions{}) // has the channel already
	if _, err := p2p.NewPEX(n.r, p2p.PEXOptions{}); !errors.Is(err, p2p.ErrChannelOpen) {
		t.Fatal(err)
	}
	m := newPEXNode(t, 2, false, false, p2p.PEXOptions{})
	if err := m.r.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := m.pex.Run(t.Context()); err != nil {
		t.Fatal("after Stop:", err)
	}
}
