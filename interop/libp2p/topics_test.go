package libp2p

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/dispatch"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// member is a stock host in a topic.
type member struct {
	host.Host
	topic *pubsub.Topic
	sub   *pubsub.Subscription
}

// inMesh is closed when a GossipSub has taken its first peer into a mesh: what it
// publishes before goes to nobody.
type inMesh struct {
	once sync.Once
	done chan struct{}
}

func (m *inMesh) Trace(e *pb.TraceEvent) {
	if e.GetType() == pb.TraceEvent_GRAFT {
		m.once.Do(func() { close(m.done) })
	}
}

// join makes a stock host that is connected to the node and in the topic.
func join(t *testing.T, n *kith.Node, over, topic string, meshes bool, opts ...pubsub.Option) member {
	t.Helper()
	m, mesh, router := member{Host: newStock(t)}, &inMesh{done: make(chan struct{})}, pubsub.NewFloodSub
	if meshes {
		router = pubsub.NewGossipSub
		opts = append(opts, pubsub.WithEventTracer(mesh))
	} else {
		close(mesh.done)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ps, err := router(ctx, m, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if m.topic, err = ps.Join(topic); err != nil {
		t.Fatal(err)
	}
	if m.sub, err = m.topic.Subscribe(); err != nil {
		t.Fatal(err)
	}
	dial(t, m, n, over)
	eventually(t, "the host knows that the node subscribed", func() error {
		if got := m.topic.ListPeers(); !slices.Contains(got, n.ID()) {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	select {
	case <-mesh.done:
	case <-ctxOf(t).Done():
		t.Fatal("the host does not get the node into its mesh")
	}
	return m
}

// receive reads messages until one has the data, and checks who wrote it and that
// it came from the node.
func (m member) receive(t *testing.T, data string, author, by peer.ID) {
	t.Helper()
	for {
		got, err := m.sub.Next(ctxOf(t))
		if err != nil {
			t.Fatalf("%q does not come: %v", data, err)
		}
		if string(got.Data) != data {
			continue
		}
		if got.GetFrom() != author || got.ReceivedFrom != by || len(got.Signature) == 0 {
			t.Errorf("%q is of %v by %v, want %v by %v, with a signature of %d bytes", data, got.GetFrom(), got.ReceivedFrom, author, by, len(got.Signature))
		}
		return
	}
}

// Stock hosts with the stock GossipSub, and one with FloodSub, which are connected
// to the node only, take part in a topic: each gets what every other publishes,
// through the node, under its author's signature, and so does the node.
func TestTopic(t *testing.T) {
	const topic = "/interop/news/1"
	each(t, func(t *testing.T, over string) {
		n := newKith(t, kith.Config{})
		ours, err := n.Subscribe(topic, dispatch.Policy{})
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		next, stop := iter.Pull2(ours.Messages(ctxOf(t)))
		defer stop()
		members := []member{
			join(t, n, over, topic, true), join(t, n, over, topic, true),
			join(t, n, over, topic, false),
		}
		if err := n.Topics().WaitPeers(ctxOf(t), topic, len(members)); err != nil {
			t.Fatal(err)
		}
		want := map[string]peer.ID{}
		for i, data := range []string{"from kith", string(random(64 << 10))} {
			if to, err := n.Publish(ctxOf(t), topic, []byte(data)); err != nil || len(to) != len(members) {
				t.Errorf("published to %v, %v", to, err)
			}
			want[data] = n.ID()
			for _, m := range members {
				m.receive(t, data, n.ID(), n.ID())
			}
			for j, m := range members {
				data := fmt.Sprintf("%d from stock %d", i, j)
				if err := m.topic.Publish(ctxOf(t), []byte(data)); err != nil {
					t.Fatal(err)
				}
				want[data] = m.ID()
				for k, other := range members {
					by := n.ID()
					if k == j {
						by = m.ID()
					}
					other.receive(t, data, m.ID(), by)
				}
			}
		}
		got := map[string]peer.ID{}
		for len(got) < len(want) {
			m, err, ok := next()
			if !ok || err != nil {
				t.Fatalf("%d messages of %d, then %v", len(got), len(want), err)
			}
			data := string(m.Message)
			if _, twice := got[data]; twice || m.Direct || want[data] != m.AuthorPeer() {
				t.Errorf("%.20q is of %v, want %v; direct %v, twice %v", data, m.AuthorPeer(), want[data], m.Direct, twice)
			}
			got[data] = m.AuthorPeer()
		}
	})
}

// The payload of a topic with a type is the Protobuf message as it is. What is
// not of the type, or not signed, does not get in, and those who behave do not
// notice.
func TestTopicWithType(t *testing.T) {
	const topic = "/interop/texts/1"
	type text = wrapperspb.StringValue
	each(t, func(t *testing.T, over string) {
		n := newKith(t, kith.Config{})
		ours, err := dispatch.Subscribe[*text](n.Topics(), topic, dispatch.Policy{})
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		good := join(t, n, over, topic, true)
		wrong := join(t, n, over, topic, true)
		unsigned := join(t, n, over, topic, true, pubsub.WithMessageSignaturePolicy(pubsub.LaxNoSign))
		if err := n.Topics().WaitPeers(ctxOf(t), topic, 3); err != nil {
			t.Fatal(err)
		}
		if err := n.Topics().Publish(ctxOf(t), topic, wrapperspb.String("from kith")); err != nil {
			t.Fatal(err)
		}
		encoded := func(s string) []byte {
			b, err := proto.Marshal(wrapperspb.String(s))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		good.receive(t, string(encoded("from kith")), n.ID(), n.ID())
		for _, p := range []struct {
			member
			data []byte
		}{{unsigned, encoded("unsigned")}, {wrong, []byte{0xff, 0xff}}, {wrong, encoded("from another")}, {good, encoded("from stock")}} {
			if err := p.topic.Publish(ctxOf(t), p.data); err != nil {
				t.Fatal(err)
			}
		}
		heard := map[string]peer.ID{}
		for m, err := range ours.Messages(ctxOf(t)) {
			if err != nil {
				t.Fatalf("%v, then %v", heard, err)
			}
			if heard[m.Message.GetValue()] = m.AuthorPeer(); len(heard) == 3 {
				break
			}
		}
		if heard["from kith"] != n.ID() || heard["from another"] != wrong.ID() || heard["from stock"] != good.ID() {
			t.Errorf("%v", heard)
		}
		wrong.receive(t, string(encoded("from stock")), good.ID(), n.ID())
		if s := ours.Stats(); s.Delivered != 3 {
			t.Errorf("%+v", s)
		}
	})
}
