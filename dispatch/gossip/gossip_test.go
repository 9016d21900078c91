package gossip_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-msgio/pbio"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/dispatch/gossip"
	"github.com/kith-p2p/kith/p2p"
)

func TestGossipPresets(t *testing.T) {
	for _, preset := range []gossip.Preset{gossip.Open, gossip.Permissioned, gossip.Small} {
		t.Run(string(preset), func(t *testing.T) {
			noLeaks(t)
			set := func(o *gossip.Options) {
				o.Preset, o.Allow = preset, func(p2p.NodeID) bool { return true }
			}
			a, b, c := newNode(t, set), newNode(t, set), newNode(t, set)
			subs := []*dispatch.Subscription[*text]{subscribe(t, a, "t", dispatch.Policy{}), subscribe(t, b, "t", dispatch.Policy{}), subscribe(t, c, "t", dispatch.Policy{})}
			connect(t, a.host, b.host)
			connect(t, b.host, c.host)
			meet(t, "t", a, b, c)
			publish(t, a, "t", "hello")
			publish(t, a, "t", "hello") // again is another message
			for i, sub := range subs {
				for _, m := range next(t, sub, 2) {
					if m.Message.GetValue() != "hello" || m.Author != a.id || m.Direct || m.AuthorPeer() != a.host.ID() {
						t.Errorf("%d: %+v", i, m)
					}
					if want := []p2p.NodeID{a.id, a.id, b.id}[i]; m.From != want {
						t.Errorf("%d: from %v, not %v", i, m.From, want)
					}
				}
			}
			if st := b.b.Stats(); st.Topic("t").Delivered != 2 || st.Peers != 2 || st.Undeliverable != 0 || st.InvalidSignature != 0 {
				t.Errorf("%+v", st)
			}
			if err := a.s.WaitPeers(t.Context(), "t", 1); err != nil {
				t.Error(err)
			}
			if got := a.s.TopicPeers("t"); !slices.Equal(got, []peer.ID{b.host.ID()}) {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestGossipOptions(t *testing.T) {
	h := newHost(t)
	for name, o := range map[string]gossip.Options{
		"unknown preset": {Preset: "huge"}, "nobody allowed": {Preset: gossip.Permissioned}, "negative": {MaxMessage: -1},
		"pubsub's": {Options: []pubsub.Option{func(*pubsub.PubSub) error { return errors.New("no") }}},
	} {
		if _, err := gossip.New(h, o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestGossipLife(t *testing.T) {
	noLeaks(t)
	a := newNode(t)
	nothing := func(dispatch.Arrival) (dispatch.Message, error) { return nil, nil }
	if err := a.b.Join("t", nothing, func(dispatch.Message) {}); err != nil {
		t.Fatal(err)
	}
	if err := a.b.Join("t", nothing, nil); !errors.Is(err, gossip.ErrJoined) {
		t.Errorf("twice: %v", err)
	}
	for range 2 {
		if err := a.b.Leave("t"); err != nil {
			t.Error(err)
		}
	}
	if err := a.b.Join("t", nothing, func(dispatch.Message) {}); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := a.b.Publish(t.Context(), "t", make([]byte, gossip.DefaultMaxMessage+1)); !errors.Is(err, dispatch.ErrTooLarge) {
		t.Errorf("%v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := a.s.Publish(ended, "t", say("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	a.b.Close()
	a.b.Close()
	if err := a.b.Publish(t.Context(), "t", nil); !errors.Is(err, gossip.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := a.b.Join("u", nothing, nil); !errors.Is(err, gossip.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := a.b.Leave("t"); err != nil {
		t.Error(err)
	}
}

// Subscriptions of a topic come and go, and with the last one the topic.
func TestGossipTopicLeft(t *testing.T) {
	noLeaks(t)
	a, b := newNode(t), newNode(t)
	first, second := subscribe(t, a, "t", dispatch.Policy{}), subscribe(t, a, "t", dispatch.Policy{})
	connect(t, a.host, b.host)
	until(t, "the subscription", func() bool { return len(b.b.Peers("t")) == 1 })
	first.Close()
	publish(t, b, "t", "x") // without a subscription
	next(t, second, 1)
	second.Close()
	until(t, "the end of it", func() bool { return len(b.b.Peers("t")) == 0 })
	if st := a.b.Stats(); len(st.Topics) != 0 {
		t.Errorf("%+v", st.Topics)
	}
}

// A stock go-libp2p-pubsub host takes part: it gets what we publish, and we what it
// does, and what it passes on.
func TestStockPubsubTakesPart(t *testing.T) {
	noLeaks(t)
	a, c := newNode(t), newNode(t)
	stock := newHost(t)
	ps, err := pubsub.NewGossipSub(t.Context(), stock)
	if err != nil {
		t.Fatal(err)
	}
	topic, err := ps.Join("/chat/1")
	if err != nil {
		t.Fatal(err)
	}
	sub, err := topic.Subscribe()
	if err != nil {
		t.Fatal(err)
	}
	ours, far := subscribe(t, a, "/chat/1", dispatch.Policy{}), subscribe(t, c, "/chat/1", dispatch.Policy{})
	connect(t, a.host, stock)
	connect(t, stock, c.host) // between us is only the stock one
	meet(t, "/chat/1", a, c)
	publish(t, a, "/chat/1", "from kith")
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	m, err := sub.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got text
	if err := proto.Unmarshal(m.Data, &got); err != nil || got.Value != "from kith" || m.GetFrom() != a.host.ID() {
		t.Errorf("the stock host got %q of %v (%v)", m.Data, m.GetFrom(), err)
	}
	data, _ := proto.Marshal(say("from stock"))
	if err := topic.Publish(ctx, data); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dispatch.Subscription[*text]{ours, far} {
		var texts []string
		want := []string{"from kith", "from stock"}
		for _, m := range next(t, s, 2) {
			texts = append(texts, m.Message.GetValue())
			if m.Message.GetValue() == "from stock" && m.AuthorPeer() != stock.ID() {
				t.Errorf("author %v", m.AuthorPeer())
			}
		}
		if slices.Sort(texts); !slices.Equal(texts, want) {
			t.Errorf("%q", texts)
		}
	}
}

// A subscriber that is stuck loses only its own messages; pubsub drops none.
func TestGossipStuckSubscriber(t *testing.T) {
	noLeaks(t)
	const messages = 500
	a, b := newNode(t), newNode(t)
	stuck := subscribe(t, b, "t", dispatch.Policy{Queue: 10})
	healthy := subscribe(t, b, "t", dispatch.Policy{Queue: messages})
	other := subscribe(t, b, "u", dispatch.Policy{})
	subscribe(t, a, "t", dispatch.Policy{})
	connect(t, a.host, b.host)
	meet(t, "t", a, b)
	until(t, "the other topic", func() bool { return len(a.b.Peers("u")) == 1 })
	for i := range messages {
		publish(t, a, "t", fmt.Sprint(i))
		if i%32 == 31 { // no faster than the connection: what is tested is the other end
			until(t, "the messages", func() bool { return healthy.Stats().Delivered == uint64(i+1) })
		}
	}
	publish(t, a, "u", "x")
	next(t, other, 1)
	next(t, healthy, messages)
	if st := stuck.Stats(); st.Queued != 10 || st.DroppedOldest != messages-10 || st.DroppedNewest != 0 {
		t.Errorf("%+v", st)
	}
	if st := b.b.Stats(); st.Undeliverable != 0 || st.Topic("t").Delivered != messages {
		t.Errorf("%+v", st)
	}
}

// A message is decoded once, in the validator.
func TestGossipDecodedOnce(t *testing.T) {
	noLeaks(t)
	a, b := newNode(t), newNode(t)
	one, two := subscribe(t, b, "t", dispatch.Policy{}), subscribe(t, b, "t", dispatch.Policy{})
	connect(t, a.host, b.host)
	until(t, "the subscription", func() bool { return len(a.b.Peers("t")) == 1 })
	publish(t, a, "t", "x")
	if m, n := next(t, one, 1)[0], next(t, two, 1)[0]; m.Message != n.Message {
		t.Error("decoded twice")
	}
}

// rogue is a host that speaks GossipSub's wire by hand.
type rogue struct {
	testing.TB
	h      corehost.Host
	stream network.Stream
	out    pbio.WriteCloser
}

// newRogue makes one; a deaf one takes no streams.
func newRogue(tb testing.TB, to *node, topic string, deaf bool) *rogue {
	tb.Helper()
	r := &rogue{TB: tb, h: newHost(tb)}
	if !deaf {
		r.h.SetStreamHandler(pubsub.GossipSubID_v11, func(s network.Stream) { _, _ = io.Copy(io.Discard, s) })
	}
	connect(tb, r.h, to.host)
	r.open(to)
	r.write(&pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Topicid: &topic, Subscribe: proto.Bool(true)}}})
	return r
}

func (r *rogue) open(to *node) {
	r.Helper()
	s, err := r.h.NewStream(r.Context(), to.host.ID(), pubsub.GossipSubID_v11)
	if err != nil {
		r.Fatal(err)
	}
	r.stream, r.out = s, pbio.NewDelimitedWriter(s)
}

func (r *rogue) write(rpc *pb.RPC) {
	r.Helper()
	if err := r.out.WriteMsg(rpc); err != nil {
		r.Fatal(err)
	}
}

// message is a signed message of the rogue's.
func (r *rogue) message(topic string, number byte, data []byte) *pb.Message {
	r.Helper()
	m := &pb.Message{From: []byte(r.h.ID()), Seqno: []byte{0, 0, 0, 0, 0, 0, 0, number}, Topic: &topic, Data: data}
	b, err := proto.Marshal(m)
	if err != nil {
		r.Fatal(err)
	}
	if m.Signature, err = r.h.Peerstore().PrivKey(r.h.ID()).Sign(append([]byte(pubsub.SignPrefix), b...)); err != nil {
		r.Fatal(err)
	}
	return m
}

// What is invalid is refused, counted, and costs its sender the score, until
// nothing of him is read; others notice nothing. One that takes no streams has no
// score with pubsub, and is not listened to all the same.
func TestGossipInvalidMessages(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprint("deaf=", deaf), func(t *testing.T) { invalidMessages(t, deaf) })
	}
}

func invalidMessages(t *testing.T, deaf bool) {
	noLeaks(t)
	a, good := newNode(t), newNode(t)
	sub := subscribe(t, a, "t", dispatch.Policy{})
	raw, err := a.s.SubscribeBytes("raw", dispatch.Policy{})
	if err != nil {
		t.Fatal(err)
	}
	subscribe(t, good, "t", dispatch.Policy{})
	connect(t, good.host, a.host)
	meet(t, "t", a, good)
	r := newRogue(t, a, "t", deaf)
	if !deaf {
		until(t, "the rogue", func() bool { return a.b.Stats().Peers == 2 })
	}
	valid, _ := proto.Marshal(say("fine"))
	number := byte(0)
	send := func(data []byte, change func(*pb.Message)) {
		number++
		m := r.message("t", number, data)
		change(m)
		r.write(&pb.RPC{Publish: []*pb.Message{m}})
	}
	send(valid, func(*pb.Message) {})
	if got := next(t, sub, 1)[0]; got.AuthorPeer() != r.h.ID() {
		t.Errorf("%+v", got)
	}
	send(valid, func(m *pb.Message) { m.Signature[3] ^= 1 })
	until(t, "a wrong signature", func() bool { return a.b.Stats().InvalidSignature == 1 })
	send(valid, func(m *pb.Message) { m.Signature = nil })
	until(t, "no signature", func() bool { return a.b.Stats().InvalidSignature == 2 })
	send(valid, func(m *pb.Message) { m.From = []byte(good.host.ID()) }) // forged
	until(t, "a forged author", func() bool { return a.b.Stats().InvalidSignature == 3 })
	send(valid, func(m *pb.Message) { m.Data = append(slices.Clone(m.Data), 0) })
	until(t, "changed data", func() bool { return a.b.Stats().InvalidSignature == 4 })
	send(valid, func(m *pb.Message) { m.From = []byte(a.host.ID()) })
	until(t, "one that is not ours", func() bool { return a.b.Stats().FromSelf == 1 })
	// Passed on for somebody else: not the rogue's fault.
	other := &rogue{TB: t, h: newHost(t)}
	r.write(&pb.RPC{Publish: []*pb.Message{other.message("t", 1, []byte{0xff, 0xff})}})
	until(t, "another's fault", func() bool { return a.b.Stats().Ignored == 1 && a.s.Stats().Undecodable == 1 })
	send(make([]byte, gossip.DefaultMaxMessage+1), func(*pb.Message) {})
	until(t, "a long message", func() bool { return a.b.Stats().TooLarge == 1 && a.b.Stats().Refused == 1 })
	if !deaf {
		until(t, "the score", func() bool { return a.b.Stats().Scores[r.h.ID()] < -2500 })
	}
	// The fifth fault was the last: nothing of it is read any more.
	before := sub.Stats().Delivered
	send([]byte{0xff, 0xff}, func(*pb.Message) {})
	send(valid, func(*pb.Message) {})
	until(t, "the end", func() bool { return a.b.Stats().Shunned == 2 })
	publish(t, good, "t", "still here")
	if got := next(t, sub, 1)[0]; got.Message.GetValue() != "still here" || sub.Stats().Delivered != before+1 {
		t.Errorf("%+v %+v", got, sub.Stats())
	}
	if st := a.b.Stats(); st.Topic("t").Rejected != 7 || st.Scores[good.host.ID()] < 0 {
		t.Errorf("%+v", st)
	}
	if raw.Stats().Delivered != 0 {
		t.Error("another topic")
	}
}

// Five messages of the wrong type, from a person at a shell, muted a peer on all
// topics for an hour.
func TestRegressionHonestMistakesMuteNobody(t *testing.T) {
	noLeaks(t)
	a := newNode(t)
	sub := subscribe(t, a, "t", dispatch.Policy{})
	r := newRogue(t, a, "t", false)
	until(t, "the other", func() bool { return a.b.Stats().Peers == 1 })
	number := byte(0)
	send := func(data []byte) {
		number++
		r.write(&pb.RPC{Publish: []*pb.Message{r.message("t", number, data)}})
	}
	for range 50 {
		send([]byte{0xff, 0xff})
	}
	until(t, "mistakes", func() bool { return a.b.Stats().Ignored == 50 && a.s.Stats().Undecodable == 50 })
	valid, _ := proto.Marshal(say("fine"))
	send(valid)
	if got := next(t, sub, 1)[0]; got.Message.GetValue() != "fine" || a.b.Stats().Scores[r.h.ID()] < 0 {
		t.Errorf("%+v, score %v", got, a.b.Stats().Scores[r.h.ID()])
	}
	send([]byte{0xff, 0xff}) // the fifty-first
	until(t, "one too many", func() bool { return a.b.Stats().Refused == 1 })
}

// An RPC above the limit ends the stream, counted, before it is read.
func TestGossipOversizeRPC(t *testing.T) {
	noLeaks(t)
	a, good := newNode(t), newNode(t)
	sub := subscribe(t, a, "t", dispatch.Policy{})
	connect(t, good.host, a.host)
	until(t, "the subscription", func() bool { return len(good.b.Peers("t")) == 1 })
	r := newRogue(t, a, "t", false)
	_ = r.out.WriteMsg(&pb.RPC{Publish: []*pb.Message{r.message("t", 1, bytes.Repeat([]byte("x"), 2<<20))}}) // it may fail
	until(t, "the end of the stream", func() bool { return a.b.Stats().RefusedRPCs == 1 })
	r.open(a)
	if _, err := r.stream.Write([]byte{3, 0xff, 0xff, 0xff}); err != nil { // no RPC
		t.Fatal(err)
	}
	until(t, "the end of the next", func() bool { return a.b.Stats().RefusedRPCs == 2 })
	publish(t, good, "t", "x")
	if got := next(t, sub, 1); got[0].Message.GetValue() != "x" {
		t.Errorf("%+v", got)
	}
}

// A peer that subscribes to everything is remembered for some of it.
func TestGossipTooManyTopics(t *testing.T) {
	noLeaks(t)
	a := newNode(t)
	subscribe(t, a, "t", dispatch.Policy{})
	r := newRogue(t, a, "t", false)
	for i := range 4 {
		var rpc pb.RPC
		for j := range 1000 {
			rpc.Subscriptions = append(rpc.Subscriptions, &pb.RPC_SubOpts{Topicid: proto.String(fmt.Sprint("x", i, " ", j)), Subscribe: proto.Bool(true)})
		}
		r.write(&rpc)
	}
	until(t, "the limit", func() bool { return a.b.Stats().TooManyTopics == 4001-1024 })
	until(t, "the first ones", func() bool { return len(a.b.Peers("x0 0")) == 1 })
	if len(a.b.Peers("x3 999")) != 0 {
		t.Error("the last ones count")
	}
}

// Permissioned: neither a stranger's messages nor those he is passed on by get in,
// and he gets none.
func TestGossipPermissioned(t *testing.T) {
	noLeaks(t)
	allowed := make(map[p2p.NodeID]bool)
	set := func(o *gossip.Options) {
		o.Preset, o.Allow = gossip.Permissioned, func(id p2p.NodeID) bool { return allowed[id] }
	}
	// Filled in before anybody is connected.
	a, member, lax, stranger := newNode(t, set), newNode(t, set), newNode(t), newNode(t)
	allowed[a.id], allowed[member.id], allowed[lax.id] = true, true, true
	subA, subM, subL, subS := subscribe(t, a, "t", dispatch.Policy{}), subscribe(t, member, "t", dispatch.Policy{}), subscribe(t, lax, "t", dispatch.Policy{}), subscribe(t, stranger, "t", dispatch.Policy{})
	connect(t, a.host, member.host)
	connect(t, a.host, lax.host)
	connect(t, stranger.host, a.host)
	connect(t, stranger.host, lax.host) // a member that lets everybody in
	meet(t, "t", a, member, lax)
	until(t, "the stranger at the lax one", func() bool { return stranger.b.Stats().Topic("t").Mesh == 1 })
	publish(t, stranger, "t", "intruder")
	if got := next(t, subL, 1); got[0].Message.GetValue() != "intruder" {
		t.Errorf("%+v", got)
	}
	next(t, subS, 1) // its own
	until(t, "the refusal", func() bool { return a.b.Stats().NotAllowed > 0 })
	publish(t, member, "t", "members only")
	for _, sub := range []*dispatch.Subscription[*text]{subA, subM, subL} {
		if got := next(t, sub, 1); got[0].Message.GetValue() != "members only" {
			t.Errorf("%+v", got)
		}
	}
	if a.b.Allows(stranger.id) || a.b.Allows("") || !a.b.Allows(member.id) || !stranger.b.Allows(a.id) {
		t.Error("Allows")
	}
}

// The program's score of a peer counts, against it more than for it.
func TestGossipApplicationScore(t *testing.T) {
	noLeaks(t)
	b, c := newNode(t), newNode(t)
	a := newNode(t, func(o *gossip.Options) {
		o.Score = func(id peer.ID) float64 {
			if id == b.host.ID() {
				return -9999
			}
			return 9999
		}
	})
	connect(t, a.host, b.host)
	connect(t, a.host, c.host)
	until(t, "the scores", func() bool {
		scores := a.b.Stats().Scores
		return scores[b.host.ID()] == -9999 && scores[c.host.ID()] == 100
	})
}

// Bytes that are no Protobuf, and names of keys that are not Ed25519.
func TestGossipBytes(t *testing.T) {
	noLeaks(t)
	a, b := newNode(t), newNode(t)
	sub, err := b.s.SubscribeBytes("raw", dispatch.Policy{})
	if err != nil {
		t.Fatal(err)
	}
	connect(t, a.host, b.host)
	until(t, "the subscription", func() bool { return len(a.b.Peers("raw")) == 1 })
	for _, data := range [][]byte{{0xff, 0xff}, {}, make([]byte, gossip.DefaultMaxMessage)} {
		if err := a.s.PublishBytes(t.Context(), "raw", data); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), patience)
		for m, err := range sub.Messages(ctx) {
			if err != nil || !bytes.Equal(m.Message, data) {
				t.Errorf("%d bytes, %v", len(m.Message), err)
			}
			break
		}
		stop()
	}
	if err := a.s.Publish(t.Context(), "raw", wrapperspb.Bytes(make([]byte, gossip.DefaultMaxMessage))); !errors.Is(err, dispatch.ErrTooLarge) {
		t.Errorf("%v", err)
	}
	// Where the topic has a type, what is not of it is not even sent.
	subscribe(t, a, "typed", dispatch.Policy{})
	var invalid pubsub.ValidationError
	if err := a.s.PublishBytes(t.Context(), "typed", []byte{0xff}); !errors.As(err, &invalid) {
		t.Errorf("%v", err)
	}
}

// A stock host with a key of another type takes part: it has no NodeID.
func TestGossipOtherKeys(t *testing.T) {
	noLeaks(t)
	a := newNode(t)
	sub := subscribe(t, a, "t", dispatch.Policy{})
	key, _, err := crypto.GenerateECDSAKeyPair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stock, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stock.Close() })
	ps, err := pubsub.NewGossipSub(t.Context(), stock)
	if err != nil {
		t.Fatal(err)
	}
	connect(t, stock, a.host)
	until(t, "the subscription", func() bool { return len(ps.ListPeers("t")) == 1 })
	topic, err := ps.Join("t")
	if err != nil {
		t.Fatal(err)
	}
	data, _ := proto.Marshal(say("x"))
	if err := topic.Publish(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	if m := next(t, sub, 1)[0]; m.Author != "" || m.From != "" || m.AuthorPeer() != stock.ID() {
		t.Errorf("%+v", m)
	}
}
