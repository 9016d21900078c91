package p2p_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

type testNode struct {
	id identity.NodeID
	pm *p2p.PeerManager
	r  *p2p.Router
	at p2p.NodeAddress
}

func newTestNode(t testing.TB, seed byte) *testNode {
	key, err := identity.PrivKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		t.Fatal(err)
	}
	id := key.Public().NodeID()
	pm, err := p2p.NewPeerManager(id, addrbook.NewMemoryStore(), p2p.PeerManagerOptions{MinRetryTime: 10 * time.Millisecond, MaxRetryTime: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := mconn.New(mconn.Options{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := p2p.NewRouter(p2p.RouterOptions{
		NodeInfo: p2p.NodeInfo{Network: "test", Moniker: "n", ListenAddr: "127.0.0.1:1", Version: "1"}, PrivKey: key, PeerManager: pm,
		Transports: []p2p.Transport{tr}, Limits: &connmgr.Limits{},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Stop()
		pm.Close()
	})
	return &testNode{id, pm, r, tr.Endpoints()[0].NodeAddress(id)}
}

func TestRouterSmoke(t *testing.T) {
	a, b := newTestNode(t, 1), newTestNode(t, 2)
	ca, err := p2p.OpenTyped[*wrapperspb.StringValue](a.r, 0x10, p2p.WithRequests())
	if err != nil {
		t.Fatal(err)
	}
	cb, err := p2p.OpenTyped[*wrapperspb.StringValue](b.r, 0x10, p2p.WithRequests())
	if err != nil {
		t.Fatal(err)
	}
	sub := a.pm.Subscribe()
	for _, n := range []*testNode{a, b} {
		if err := n.r.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.pm.Add(b.at); err != nil {
		t.Fatal(err)
	}
	if up := <-sub.Updates(); up.NodeID != b.id || up.Status != p2p.PeerStatusUp {
		t.Fatal(up)
	}
	go func() {
		for in, err := range cb.Receive(t.Context()) {
			if err != nil {
				return
			}
			if in.IsRequest() {
				in.Reply(t.Context(), wrapperspb.String("re: "+in.Message.Value))
			}
		}
	}()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	start := time.Now()
	for i := range 1000 {
		got, err := ca.Request(ctx, b.id, wrapperspb.String(fmt.Sprint(i)))
		if err != nil || got.Value != fmt.Sprint("re: ", i) {
			t.Fatal(got, err)
		}
	}
	t.Log(time.Since(start) / 1000)
	t.Logf("%+v", a.r.Stats().Channels)
	a.r.Stop()
}
