package libp2p

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
	"github.com/kith-p2p/kith/p2p/memory"
)

// One Router speaks three transports at once, to a peer over each.
func TestThreeTransports(t *testing.T) {
	goroutinesBack(t)
	world := memory.NewNetwork(memory.Options{})
	hub := newNode(t, "/ip4/127.0.0.1/tcp/0")
	memoryOf := func(n node) p2p.Transport {
		tr, err := world.Listen(n.id())
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	mconnOf := func(listen string) p2p.Transport {
		tr, err := mconn.New(mconn.Options{Listen: listen})
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	overTCP := mconnOf("127.0.0.1:0")
	center := route(t, hub, overTCP, memoryOf(hub))
	first, second, third := newNode(t, ""), newNode(t, ""), newNode(t, "")
	spokes := map[*routed]p2p.NodeAddress{
		route(t, first):                  listenPoint(hub).NodeAddress(hub.id()),
		route(t, second, mconnOf("")):    overTCP.Endpoints()[0].NodeAddress(hub.id()),
		route(t, third, memoryOf(third)): {NodeID: hub.id(), Protocol: memory.Protocol},
	}
	channel := open(t, center, 7, p2p.ChannelDescriptor{})
	theirs := make(map[*routed]*bytesChannel)
	for n := range spokes {
		theirs[n] = open(t, n, 7, p2p.ChannelDescriptor{})
	}
	start(t, center)
	for n, at := range spokes {
		start(t, n)
		meet(t, n, center, at)
	}
	seen := map[p2p.Protocol]bool{}
	for _, p := range center.r.Stats().Peers {
		seen[p.Endpoint.Protocol] = true
	}
	if len(seen) != 3 {
		t.Errorf("the peers came over %v", seen)
	}
	if n, err := channel.Broadcast(t.Context(), wrapperspb.Bytes([]byte("to all"))); err != nil || n != 3 {
		t.Fatalf("broadcast to %d, %v", n, err)
	}
	for n, c := range theirs {
		if in := next(t, c); in.From != hub.id() || string(in.Message.Value) != "to all" {
			t.Errorf("received %q from %v", in.Message.Value, in.From)
		}
		if err := c.Send(t.Context(), hub.id(), wrapperspb.Bytes([]byte(n.id()))); err != nil {
			t.Error(err)
		}
	}
	for range theirs {
		if in := next(t, channel); string(in.Message.Value) != string(in.From) {
			t.Errorf("%v says that it is %s", in.From, in.Message.Value)
		}
	}
}

// The same peer over two transports is one peer with one session, whoever dials.
func TestSamePeerOverTwoTransportsIsOnePeer(t *testing.T) {
	goroutinesBack(t)
	a, b := newNode(t, "/ip4/127.0.0.1/tcp/0"), newNode(t, "/ip4/127.0.0.1/tcp/0")
	tcp := make([]p2p.Transport, 2)
	for i := range tcp {
		var err error
		if tcp[i], err = mconn.New(mconn.Options{Listen: "127.0.0.1:0"}); err != nil {
			t.Fatal(err)
		}
	}
	x, y := route(t, a, tcp[0]), route(t, b, tcp[1])
	cx, cy := open(t, x, 7, p2p.ChannelDescriptor{}), open(t, y, 7, p2p.ChannelDescriptor{})
	for _, at := range []p2p.NodeAddress{listenPoint(b).NodeAddress(b.id()), tcp[1].Endpoints()[0].NodeAddress(b.id())} {
		if _, err := x.pm.Add(at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := y.pm.Add(tcp[0].Endpoints()[0].NodeAddress(a.id())); err != nil {
		t.Fatal(err)
	}
	start(t, x, y)
	until(t, "both nodes are up", func() bool { return x.up(b.id()) && y.up(a.id()) })
	// Both may have dialled: then one of the two sessions goes.
	until(t, "one session is left", func() bool {
		p, q := x.r.Stats().Peers, y.r.Stats().Peers
		return len(p) == 1 && len(q) == 1 && p[0].Endpoint.Protocol == q[0].Endpoint.Protocol && x.up(b.id()) && y.up(a.id())
	})
	if peers := x.pm.Peers(); !slices.Equal(peers, []p2p.NodeID{b.id()}) {
		t.Errorf("the peers are %v", peers)
	}
	// What is sent while one session takes the place of another may be lost.
	until(t, "a message arrives", func() bool {
		_ = cx.Send(t.Context(), b.id(), wrapperspb.Bytes([]byte("hello")))
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		for in, err := range cy.Receive(ctx) {
			return err == nil && in.From == a.id()
		}
		return false
	})
}

// Pause is refused where one of the transports cannot do it.
func TestPauseNeedsFlowControlEverywhere(t *testing.T) {
	tcp, err := mconn.New(mconn.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := route(t, newNode(t, ""), tcp)
	_, err = p2p.OpenTyped[*bytesValue](n.r, 1, p2p.WithDescriptor(p2p.ChannelDescriptor{ReceivePolicy: p2p.ReceivePause}))
	if !errors.Is(err, p2p.ErrPauseUnsupported) {
		t.Fatal(err)
	}
}

// The Router protects the libp2p connections of its peers, until they are gone, and
// leaves the connection there when it closes a session.
func TestRouterProtectsItsPeers(t *testing.T) {
	p := networks[1].make(t)
	x, y := route(t, p.a), route(t, p.b)
	open(t, x, 1, p2p.ChannelDescriptor{})
	open(t, y, 1, p2p.ChannelDescriptor{})
	start(t, x, y)
	meet(t, x, y, p.at.NodeAddress(p.b.id()))
	protected := func() bool {
		return p.a.ConnManager().IsProtected(p.b.ID(), protectTag) && p.b.ConnManager().IsProtected(p.a.ID(), protectTag)
	}
	until(t, "both sides protect the connection", protected)
	x.pm.Errored(p.b.id(), errors.New("a reason"))
	until(t, "the session ends", func() bool { return x.t.Stats().Sessions == 0 || x.t.Stats().Dialled > 1 })
	x.r.Stop()
	y.r.Stop()
	until(t, "the protection ends", func() bool {
		return !p.a.ConnManager().IsProtected(p.b.ID(), protectTag) && !p.b.ConnManager().IsProtected(p.a.ID(), protectTag)
	})
	if p.a.Network().Connectedness(p.b.ID()) != network.Connected {
		t.Error("the libp2p connection went with the session")
	}
	for _, tr := range []*Transport{x.t, y.t} {
		tr.mu.Lock()
		if len(tr.known)+len(tr.protected)+len(tr.sessions)+len(tr.perPeer) > 0 {
			t.Errorf("something is remembered: %v %v %v %v", tr.known, tr.protected, tr.sessions, tr.perPeer)
		}
		tr.mu.Unlock()
	}
}

// Two nodes that dial each other at the same time end up with one session, over
// every network.
func TestSimultaneousDials(t *testing.T) {
	for _, listen := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"} {
		a, b := newNode(t, listen), newNode(t, listen)
		x, y := route(t, a), route(t, b)
		cx, cy := open(t, x, 7, p2p.ChannelDescriptor{}), open(t, y, 7, p2p.ChannelDescriptor{})
		for _, n := range []struct {
			from *routed
			to   node
		}{{x, b}, {y, a}} {
			if _, err := n.from.pm.Add(listenPoint(n.to).NodeAddress(n.to.id())); err != nil {
				t.Fatal(err)
			}
		}
		start(t, x, y)
		until(t, "one session is left, the same on both sides", func() bool {
			p, q := x.r.Stats().Peers, y.r.Stats().Peers
			return len(p) == 1 && len(q) == 1 && p[0].Direction != q[0].Direction && x.up(b.id()) && y.up(a.id()) &&
				x.t.Stats().Sessions == 1 && y.t.Stats().Sessions == 1
		})
		for _, ends := range []struct {
			from, to *bytesChannel
			id       p2p.NodeID
		}{{cx, cy, b.id()}, {cy, cx, a.id()}} {
			if err := ends.from.Send(t.Context(), ends.id, wrapperspb.Bytes([]byte("hello"))); err != nil {
				t.Fatal(err)
			}
			next(t, ends.to)
		}
	}
}

// The reason for which a Router ends a session reaches the other side.
func TestGoodbyeSaysWhy(t *testing.T) {
	p := networks[1].make(t)
	a, b := transports(t, p, Options{})
	x, y := session(t, p, a, b, 1)
	if err := x.CloseWithReason("too many peers", []string{"memory:00"}); err != nil {
		t.Fatal(err)
	}
	_, _, err := y.ReceiveMessage()
	bye, ok := errors.AsType[*GoodbyeError](err)
	if !ok || bye.Reason != "too many peers" || !slices.Equal(bye.Peers, []string{"memory:00"}) {
		t.Errorf("the peer hears %v", err)
	}
}
