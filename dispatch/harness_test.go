package dispatch_test

import (
	"context"
	"encoding/binary"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

type text = wrapperspb.StringValue

func say(s string) *text { return wrapperspb.String(s) }

func testKey(n int) identity.PrivKey {
	seed := make([]byte, 32)
	binary.BigEndian.PutUint64(seed, uint64(n))
	key, err := identity.PrivKeyFromSeed(seed)
	if err != nil {
		panic(err)
	}
	return key
}

// world is a memory network with nodes, in virtual time.
type world struct {
	*testing.T
	net    *memory.Network
	nodes  int
	change func(*p2p.RouterOptions) // of the nodes made from now on
}

// node is a node of it. Without a Service it is one of another program, which
// speaks the wire by hand.
type node struct {
	id     p2p.NodeID
	key    identity.PrivKey
	pm     *p2p.PeerManager
	router *p2p.Router
	at     p2p.NodeAddress
	s      *dispatch.Service
	wire   []*p2p.TypedChannel[*dispatchv1.Envelope]
}

func inMemory(t *testing.T, test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(&world{T: t, net: memory.NewNetwork(memory.Options{})}) })
}

func (w *world) bare() *node {
	w.Helper()
	w.nodes++
	key := testKey(w.nodes)
	id := key.Public().NodeID()
	pm, err := p2p.NewPeerManager(id, addrbook.NewMemoryStore(), p2p.PeerManagerOptions{
		MinRetryTime: 10 * time.Millisecond, DisconnectCooldownPeriod: 50 * time.Millisecond,
	})
	if err != nil {
		w.Fatal(err)
	}
	tr, err := w.net.Listen(id)
	if err != nil {
		w.Fatal(err)
	}
	o := p2p.RouterOptions{
		NodeInfo: p2p.NodeInfo{Network: "test", Moniker: "n", ListenAddr: "127.0.0.1:1"}, PrivKey: key, PeerManager: pm,
		Transports: []p2p.Transport{tr},
	}
	if w.change != nil {
		w.change(&o)
	}
	r, err := p2p.NewRouter(o)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		r.Stop()
		pm.Close()
	})
	return &node{id: id, key: key, pm: pm, router: r, at: tr.Endpoints()[0].NodeAddress(id)}
}

// node makes a node with a Service, and starts it.
func (w *world) node(change ...func(*dispatch.Options)) *node {
	w.Helper()
	n := w.bare()
	o := dispatch.Options{Router: n.router, Peers: n.pm, Key: n.key}
	for _, c := range change {
		c(&o)
	}
	s, err := dispatch.NewService(n.router, o)
	if err != nil {
		w.Fatal(err)
	}
	if err := s.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = s.Stop() })
	n.s = s
	return n
}

// stranger makes a node that speaks the wire by hand, and starts it.
func (w *world) stranger() *node {
	w.Helper()
	n := w.bare()
	for i := range p2p.ChannelID(3) {
		c, err := p2p.OpenTyped[*dispatchv1.Envelope](n.router, dispatch.DefaultChannel+i, p2p.WithDescriptor(p2p.ChannelDescriptor{
			RecvMessageCapacity: 4 << 20,
		}))
		if err != nil {
			w.Fatal(err)
		}
		n.wire = append(n.wire, c)
	}
	if err := n.router.Start(); err != nil {
		w.Fatal(err)
	}
	return n
}

// say sends an envelope by hand.
func (w *world) send(from, to *node, e *dispatchv1.Envelope) {
	w.Helper()
	if err := from.wire[1].TrySend(to.id, e); err != nil {
		w.Fatal(err)
	}
}

// connect makes a dial others, and returns when all are up on both sides.
func (w *world) connect(a *node, others ...*node) {
	w.Helper()
	for _, b := range others {
		if _, err := a.pm.Add(b.at); err != nil {
			w.Fatal(err)
		}
	}
	up := func(n *node, id p2p.NodeID) bool {
		if n.s == nil {
			return n.pm.Status(id) == p2p.PeerStatusUp
		}
		return slices.ContainsFunc(n.s.Peers(), func(p dispatch.Peer) bool { return p.ID == id })
	}
	for _, b := range others {
		w.until(func() bool { return up(a, b.id) && up(b, a.id) })
	}
}

// until waits for a condition, in virtual time.
func (w *world) until(ok func() bool) {
	w.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.Fatal("waited for a minute")
		}
	}
}

// subscribe subscribes to texts.
func (w *world) subscribe(n *node, topic string, p dispatch.Policy) *dispatch.Subscription[*text] {
	w.Helper()
	sub, err := dispatch.Subscribe[*text](n.s, topic, p)
	if err != nil {
		w.Fatal(err)
	}
	return sub
}

// waiting are the messages that a subscription holds now.
func waiting[T proto.Message](sub *dispatch.Subscription[T]) (got []dispatch.Received[T]) {
	synctest.Wait()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	for n := sub.Stats().Queued; n > 0; n-- {
		for m, err := range sub.Messages(ctx) {
			if err == nil {
				got = append(got, m)
			}
			break
		}
	}
	return got
}

// texts are their texts.
func texts(got []dispatch.Received[*text]) (all []string) {
	for _, m := range got {
		all = append(all, m.Message.GetValue())
	}
	return all
}

func ids(nodes ...*node) []p2p.NodeID {
	var all []p2p.NodeID
	for _, n := range nodes {
		all = append(all, n.id)
	}
	slices.Sort(all)
	return all
}
