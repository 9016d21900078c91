package p2p

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
	"github.com/kith-p2p/kith/identity"
)

// idleTransport listens nowhere.
type idleTransport struct {
	once   sync.Once
	closed chan struct{}
}

func (t *idleTransport) Protocols() []Protocol       { return []Protocol{"idle"} }
func (t *idleTransport) Endpoints() []Endpoint       { return nil }
func (t *idleTransport) Accept() (Connection, error) { <-t.closed; return nil, context.Canceled }
func (t *idleTransport) Close() error                { t.once.Do(func() { close(t.closed) }); return nil }
func (t *idleTransport) Dial(ctx context.Context, e Endpoint) (Connection, error) {
	return nil, ErrNoTransport
}

// idleRouter is a Router that is not started, and a session of a peer that
// announced channel 1, with requests, over no connection.
func idleRouter(tb testing.TB, peers int) (*Router, *channelCore, []*remote) {
	key, err := identity.PrivKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		tb.Fatal(err)
	}
	pm, err := NewPeerManager(key.Public().NodeID(), addrbook.NewMemoryStore(), PeerManagerOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	r, err := NewRouter(RouterOptions{
		PrivKey: key, PeerManager: pm, Transports: []Transport{&idleTransport{closed: make(chan struct{})}},
		NodeInfo: NodeInfo{Moniker: "n", ListenAddr: "127.0.0.1:1"},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { r.Stop(); pm.Close() })
	c, err := r.openCore(1, new(wrapperspb.BytesValue), true, []ChannelOption{WithRequests()})
	if err != nil {
		tb.Fatal(err)
	}
	all := make(map[NodeID]*remote)
	var list []*remote
	for i := range peers {
		k, _ := identity.PrivKeyFromSeed(bytes.Repeat([]byte{byte(i + 2)}, 32))
		p := &remote{
			r: r, id: k.Public().NodeID(), number: uint64(i + 1), conn: new(connmgr.Conn[dialTarget, *link]),
			channels: ChannelIDSet{1: {}}, calls: ChannelIDSet{1: {}},
		}
		if p.queue, err = newSendQueue(queueLimits{8192, 64 << 20}, p.sendChannel(c)); err != nil {
			tb.Fatal(err)
		}
		all[p.id] = p
		list = append(list, p)
	}
	r.peers.Store(&all)
	return r, c, list
}

// FuzzArrived: whatever bytes come as a message, the books balance, nothing waits
// that should not, and memory stays near what came.
func FuzzArrived(f *testing.F) {
	for _, h := range []callHead{{}, {kind: callRequest, id: 3, timeout: time.Hour}, {kind: callReply, id: 1}, {kind: callCancel, id: 3}} {
		f.Add(append(h.append(nil), 0x0a, 1, 'x'))
	}
	f.Add([]byte{})
	f.Add([]byte{0, 0xff})
	_, c, peers := idleRouter(f, 1)
	p := peers[0]
	f.Fuzz(func(t *testing.T, data []byte) {
		for range 2 { // the second request has an id that is in use
			c.arrived(p, bytes.Clone(data))
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		for {
			if _, err := c.receive(ctx); err != nil {
				break
			}
		}
		s := c.stats()
		if err := s.Received.check(); err != nil || s.Received.Queued != 0 {
			t.Fatalf("%v %+v", err, s)
		}
		c.calls.sessionEnded(p)
		if s := c.stats(); s.Open != 0 || s.Waiting != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// A broadcast encodes once and costs no allocation more for a peer more.
func TestBroadcastEncodesOnceAndAllocatesNothingPerPeer(t *testing.T) {
	cost := func(peers int) float64 {
		_, c, list := idleRouter(t, peers)
		m := wrapperspb.Bytes(make([]byte, 1000))
		drain := func() {
			for _, p := range list {
				for _, ok := p.queue.next(0); ok; _, ok = p.queue.next(0) {
				}
			}
		}
		for range 10 {
			if n, err := c.broadcast(m); n != peers || err != nil {
				t.Fatal(n, err)
			}
		}
		drain()
		return testing.AllocsPerRun(100, func() {
			if n, _ := c.broadcast(m); n != peers {
				t.Fatal(n)
			}
			drain()
		})
	}
	if one, fifty := cost(1), cost(50); fifty > one+2 {
		t.Errorf("%v allocations for one peer, %v for 50", one, fifty)
	}
	r, _, _ := idleRouter(t, 50)
	c, err := r.openCore(2, new(testWrapper), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range *r.peers.Load() {
		p.channels[2] = struct{}{}
		if err := p.queue.add(p.sendChannel(c)); err != nil {
			t.Fatal(err)
		}
	}
	before := testWraps
	if n, err := c.broadcast(wrapperspb.String("x")); n != 50 || err != nil || testWraps != before+1 {
		t.Errorf("queued for %d, %v, encoded %d times", n, err, testWraps-before)
	}
	var all []NodeID
	for id := range *r.peers.Load() {
		all = append(all, id)
	}
	before = testWraps
	if to, err := c.sendMany(all, wrapperspb.String("x")); !slices.Equal(to, all) || err != nil || testWraps != before+1 {
		t.Errorf("queued for %d of these, %v, encoded %d times", len(to), err, testWraps-before)
	}
}
