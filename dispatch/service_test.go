package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
	"github.com/kith-p2p/kith/p2p"
)

// fakeNode is what a Service starts and stops.
type fakeNode struct {
	log  *[]string
	fail error
}

func (n fakeNode) Start() error { *n.log = append(*n.log, "start"); return n.fail }
func (n fakeNode) Stop() error  { *n.log = append(*n.log, "stop"); return errors.New("from the node") }

// Start: dispatcher, then node; Stop: node, then dispatcher.
func TestServiceLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		s, err := dispatch.NewService(fakeNode{log: &log}, dispatch.Options{Key: testKey(1)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Publish(t.Context(), "t", say("x")); !errors.Is(err, dispatch.ErrClosed) {
			t.Errorf("Publish before Start: %v", err)
		}
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(); err == nil {
			t.Error("started twice")
		}
		sub, err := s.SubscribeBytes("t", dispatch.Policy{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.Stop(); err == nil || err.Error() != "from the node" {
				t.Errorf("Stop: %v", err)
			}
		}
		expect(t, "the node", log, "start", "stop")
		for _, err := range sub.Messages(t.Context()) {
			if !errors.Is(err, dispatch.ErrClosed) {
				t.Errorf("a subscription after Stop: %v", err)
			}
		}
		if _, err := s.SubscribeBytes("t", dispatch.Policy{}); !errors.Is(err, dispatch.ErrClosed) {
			t.Errorf("Subscribe after Stop: %v", err)
		}
		if err := s.Start(); !errors.Is(err, dispatch.ErrClosed) {
			t.Errorf("Start after Stop: %v", err)
		}
		sub.Close()
	})
}

// actingNode is a node that does something while it starts and stops.
type actingNode struct{ start, stop func() error }

func (n actingNode) Start() error { return n.start() }
func (n actingNode) Stop() error  { return n.stop() }

// The order of the contract: the dispatcher runs when the node starts, and still when
// it stops, so that nothing that comes from the node finds nobody there. Afterwards
// neither runs.
func TestServiceOrder(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprint("node fails ", fails), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s *dispatch.Service
				ch := make(chan dispatch.Message, 1)
				var log []string
				handedOut := func(when string) { // blocks for ever if the dispatcher does not run
					if err := s.Dispatcher().Put(dispatch.NewMessage("t", "", []byte(when))); err != nil {
						t.Errorf("%s: %v", when, err)
						return
					}
					log = append(log, string((<-ch).Data()))
				}
				broken := errors.New("no port")
				s, err := dispatch.NewService(actingNode{
					start: func() error {
						handedOut("the node starts")
						if fails {
							return broken
						}
						return nil
					},
					stop: func() error {
						handedOut("the node stops")
						return nil
					},
				}, dispatch.Options{Key: testKey(1)})
				if err != nil {
					t.Fatal(err)
				}
				s.Register(dispatch.NewSubscriber("s", ch, false, "t", 1))
				sub, err := s.SubscribeBytes("u", dispatch.Policy{})
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Start(); errors.Is(err, broken) != fails {
					t.Fatal(err)
				}
				want := []string{"the node starts"}
				if !fails {
					handedOut("it runs")
					want = append(want, "it runs", "the node stops")
				}
				if err := s.Stop(); err != nil {
					t.Error(err)
				}
				expect(t, "order", log, want...)
				if err := s.Dispatcher().Put(dispatch.NewMessage("t", "", nil)); !errors.Is(err, dispatch.ErrClosed) {
					t.Errorf("the dispatcher runs on: %v", err)
				}
				for _, err := range sub.Messages(t.Context()) {
					if !errors.Is(err, dispatch.ErrClosed) {
						t.Errorf("a subscription: %v", err)
					}
				}
			})
		})
	}
}

// When the node fails, the dispatcher is stopped and the error returned.
func TestServiceNodeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		broken := errors.New("no port")
		s, err := dispatch.NewService(fakeNode{&log, broken}, dispatch.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
		if err := s.Dispatcher().Put(dispatch.NewMessage("t", "", nil)); err != nil {
			t.Errorf("nobody wants it: %v", err)
		}
		s.Register(dispatch.NewSubscriber("s", make(chan dispatch.Message, 1), false, "t", 1))
		if err := s.Dispatcher().Put(dispatch.NewMessage("t", "", nil)); !errors.Is(err, dispatch.ErrClosed) {
			t.Errorf("the dispatcher runs: %v", err)
		}
		expect(t, "the node", log, "start")
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestOptionsValidate(t *testing.T) {
	inMemory(t, func(w *world) {
		n := w.bare()
		for name, o := range map[string]dispatch.Options{
			"a router alone": {Router: n.router}, "peers alone": {Peers: n.pm}, "another key": {Router: n.router, Peers: n.pm, Key: testKey(9)},
			"no room for channels": {Channel: 0xFFFE}, "negative time": {ScoreEvery: -1}, "negative rate": {RelayRate: -1},
			"a bad limit": {Dispatcher: dispatch.DispatcherOptions{MaxMessage: -1}},
		} {
			if _, err := dispatch.NewService(nil, o); err == nil {
				w.Errorf("%s: taken", name)
			}
		}
		o := dispatch.Options{Router: n.router, Peers: n.pm}
		if _, err := dispatch.NewService(nil, o); err != nil {
			w.Error(err)
		}
		if _, err := dispatch.NewService(nil, o); !errors.Is(err, p2p.ErrChannelOpen) {
			w.Errorf("the channels are taken: %v", err)
		}
	})
}

func TestBroadcast(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b, c, d := w.node(), w.node(), w.node(), w.bare()
		if err := d.router.Start(); err != nil { // another program, without our channels
			w.Fatal(err)
		}
		w.connect(a, b, c)
		var subs []*dispatch.Subscription[*text]
		for _, n := range []*node{b, c} {
			subs = append(subs, w.subscribe(n, "news", dispatch.Policy{}))
		}
		for _, p := range []dispatch.Priority{dispatch.PriorityHigh, dispatch.PriorityNormal, dispatch.PriorityLow} {
			if got := a.s.Broadcast("news", say("hello "+p.String()), p); !slices.Equal(got, ids(b, c)) {
				w.Errorf("queued for %v", got)
			}
		}
		for _, sub := range subs {
			got := waiting(sub)
			all := texts(got)
			slices.Sort(all)
			expect(w, "broadcast", all, "hello high", "hello low", "hello normal")
			for _, m := range got {
				if m.From != a.id || m.Author != a.id || !m.Direct || m.AuthorPeer() != "" {
					w.Errorf("%+v", m)
				}
			}
		}
		if st := a.s.Stats(); st.Sent != 6 || st.NotSent != 0 || st.Peers != 2 {
			w.Errorf("%+v", st)
		}
		for _, bad := range []string{"", strings.Repeat("x", 129), "a\x00b", "\xff"} {
			if got := a.s.Broadcast(bad, say("x"), 0); got != nil {
				w.Errorf("type %q: %v", bad, got)
			}
		}
		if got := a.s.Broadcast("news", say(strings.Repeat("x", 1<<20)), 0); got != nil {
			w.Errorf("too large: %v", got)
		}
		if got := a.s.Broadcast("news", nil, 0); got != nil {
			w.Errorf("nil: %v", got)
		}
		if st := a.s.Stats(); st.TooLarge != 1 || st.Unencodable != 1 {
			w.Errorf("%+v", st)
		}
	})
}

func TestSendMessageToPeer(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b := w.node(), w.node()
		sub := w.subscribe(b, "t", dispatch.Policy{})
		if err := a.s.SendMessageToPeer("t", say("x"), 0, b.id); !errors.Is(err, p2p.ErrPeerUnknown) {
			w.Errorf("not connected: %v", err)
		}
		w.connect(a, b)
		if err := a.s.SendMessageToPeer("t", say("hi"), dispatch.PriorityHigh, b.id); err != nil {
			w.Error(err)
		}
		if err := a.s.SendMessageToPeer("", say("x"), 0, b.id); !errors.Is(err, dispatch.ErrType) {
			w.Errorf("no type: %v", err)
		}
		if err := a.s.SendMessageToPeer("t", wrapperspb.Bytes(make([]byte, 1<<20)), 0, b.id); !errors.Is(err, dispatch.ErrTooLarge) {
			w.Errorf("too large: %v", err)
		}
		expect(w, "b", texts(waiting(sub)), "hi")
		// The peer reads nothing: its queue fills, and the error says so.
		w.net.Stall(a.id, b.id)
		var err error
		for i := 0; err == nil && i < 10_000; i++ {
			err = a.s.SendMessageToPeer("t", wrapperspb.Bytes(make([]byte, 1000)), 0, b.id)
		}
		if !errors.Is(err, p2p.ErrQueueFull) {
			w.Errorf("a peer that does not read: %v", err)
		}
		if got := a.s.Broadcast("t", say("x"), 0); len(got) != 0 {
			w.Errorf("queued for a full peer: %v", got)
		}
		w.net.HealAll()
	})
	s, err := dispatch.NewService(nil, dispatch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SendMessageToPeer("t", say("x"), 0, "x"); !errors.Is(err, dispatch.ErrNoRouter) {
		t.Errorf("without a router: %v", err)
	}
	s.ClosePeer("x", nil) // nothing to close
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

func TestPeerFilters(t *testing.T) {
	inMemory(t, func(w *world) {
		a := w.node()
		var others []*node
		for range 10 {
			others = append(others, w.node())
		}
		special := w.bare()
		if _, err := p2p.OpenTyped[*text](special.router, 0x20); err != nil {
			w.Fatal(err)
		}
		s, err := dispatch.NewService(special.router, dispatch.Options{Router: special.router, Peers: special.pm})
		if err != nil {
			w.Fatal(err)
		}
		if err := s.Start(); err != nil {
			w.Fatal(err)
		}
		defer s.Stop()
		special.s = s
		w.connect(a, append(others, special)...)
		count := func(f dispatch.PeerFilter) int { return len(a.s.SendMessageToPeers("t", say("x"), 0, f)) }
		foreign := func([]dispatch.Peer) []dispatch.Peer {
			return []dispatch.Peer{{ID: "someone"}, {ID: special.id}, {ID: special.id}}
		}
		for name, c := range map[string]struct {
			f    dispatch.PeerFilter
			want int
		}{
			"all": {dispatch.AllPeers, 11}, "nil": {nil, 11}, "one": {dispatch.RandomPeer, 1}, "root of 11": {dispatch.SqrtPeers, 4},
			"3": {dispatch.RandomPeers(3), 3}, "99": {dispatch.RandomPeers(99), 11}, "-1": {dispatch.RandomPeers(-1), 0},
			"capability": {dispatch.WithChannels(0x20), 1}, "nobody's": {dispatch.WithChannels(0x20, 0x21), 0},
			"these": {dispatch.OnlyPeers(others[0].id, others[1].id, "x"), 2}, "made up": {foreign, 1},
			"chain": {dispatch.Filters(dispatch.OnlyPeers(others[0].id, others[1].id), dispatch.RandomPeer), 1},
		} {
			if got := count(c.f); got != c.want {
				w.Errorf("%s: %d, want %d", name, got, c.want)
			}
		}
		if got := a.s.SendMessageToPeers("t", say("x"), 0, dispatch.WithChannels(0x20)); !slices.Equal(got, ids(special)) {
			w.Errorf("%v", got)
		}
		// Over time, everybody has a turn.
		seen := make(map[p2p.NodeID]bool)
		for range 300 {
			for _, id := range a.s.SendMessageToPeers("t", say("x"), 0, dispatch.RandomPeer) {
				seen[id] = true
			}
			synctest.Wait()
		}
		if len(seen) != 11 {
			w.Errorf("%d of 11 were ever chosen", len(seen))
		}
	})
}

func TestRelay(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b, c, d := w.node(), w.node(), w.node(), w.node()
		w.connect(a, b)
		w.connect(b, c, d)
		sub := w.subscribe(b, "t", dispatch.Policy{})
		a.s.Broadcast("t", say("news"), 0)
		got := waiting(sub)
		if len(got) != 1 {
			w.Fatalf("%d arrived", len(got))
		}
		if got := b.s.Relay("t", got[0].Message, 0); !slices.Equal(got, ids(c, d)) {
			w.Errorf("relayed to %v, not to who has it", got)
		}
		if got := b.s.Relay("t", say("news"), 0); len(got) != 0 {
			w.Errorf("relayed again to %v", got)
		}
		if got := b.s.RelayMessage(got[0].Raw(), 0); len(got) != 0 {
			w.Errorf("relayed again to %v", got)
		}
		if got := b.s.Relay("u", say("news"), 0); !slices.Equal(got, ids(a, c, d)) {
			w.Errorf("the same under another type: %v", got)
		}
		if got := b.s.RelayMessage(dispatch.NewMessage("t", "", []byte("raw")), 0); !slices.Equal(got, ids(a, c, d)) {
			w.Errorf("bytes: %v", got)
		}
		if got := b.s.Relay("", say("x"), 0); got != nil {
			w.Errorf("no type: %v", got)
		}
		time.Sleep(11 * time.Minute) // it is forgotten
		if got := b.s.Relay("t", say("news"), 0); !slices.Equal(got, ids(a, c, d)) {
			w.Errorf("later: %v", got)
		}
	})
}

func TestClosePeer(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b := w.node(), w.node()
		w.connect(a, b)
		a.s.ClosePeer(b.id, errors.New("off you go"))
		w.until(func() bool { return len(a.s.Peers()) == 0 })
	})
}

// Peers that were up before the Service are known to it.
func TestServiceStartsLate(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b := w.node(), w.bare()
		s, err := dispatch.NewService(nil, dispatch.Options{Router: b.router, Peers: b.pm})
		if err != nil {
			w.Fatal(err)
		}
		if err := b.router.Start(); err != nil {
			w.Fatal(err)
		}
		w.connect(a, b)
		if err := s.Start(); err != nil {
			w.Fatal(err)
		}
		if got := s.Broadcast("t", say("x"), 0); !slices.Equal(got, ids(a)) {
			w.Errorf("%v", got)
		}
		b.router.Stop()
		if err := s.Stop(); err != nil {
			w.Error(err)
		}
	})
}

// Whoever sends what is wanted earns the weight of its types, shared with the
// others who sent them; whoever sends rubbish loses.
func TestWeightsFeedTheScore(t *testing.T) {
	inMemory(t, func(w *world) {
		a, good, half, bad, idle := w.node(), w.node(), w.node(), w.stranger(), w.node()
		w.connect(a, good, half, bad, idle)
		w.subscribe(a, "blocks", dispatch.Policy{Weight: 60})
		w.subscribe(a, "gossip", dispatch.Policy{}) // the default weight
		w.subscribe(a, "junk", dispatch.Policy{Weight: dispatch.NoWeight})
		for i := range 30 {
			m := say(fmt.Sprint(i))
			if i < 20 {
				good.s.Broadcast("blocks", m, 0)
			} else {
				half.s.Broadcast("blocks", m, 0)
			}
			half.s.Broadcast("junk", m, 0)
			idle.s.Broadcast("unwanted", m, 0)
		}
		half.s.Broadcast("gossip", say("x"), 0)
		for range 5 {
			w.send(bad, a, &dispatchv1.Envelope{Kind: 99, Type: "x"})
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		scores := a.pm.Scores()
		for _, c := range []struct {
			n    *node
			want p2p.PeerScore
		}{{good, 40}, {half, 21}, {bad, -5}, {idle, 0}} {
			if got := scores[c.n.id]; got != c.want {
				w.Errorf("score %d, want %d", got, c.want)
			}
		}
	})
}

// A typed subscription takes what is decodable, and blames the sender for the rest.
func TestUndecodable(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b := w.node(), w.stranger()
		w.connect(a, b)
		sub := w.subscribe(a, "t", dispatch.Policy{})
		w.send(b, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_DIRECT, Type: "t", Data: []byte{0xff, 0xff}})
		synctest.Wait()
		a.s.Dispatcher().Put(dispatch.NewMessage("t", "", []byte{0x0a, 1, 'x'}))
		synctest.Wait()
		ctx, stop := context.WithTimeout(w.Context(), time.Second)
		defer stop()
		for m, err := range sub.Messages(ctx) {
			if err != nil || m.Message.GetValue() != "x" {
				w.Errorf("%v %v", m.Message, err)
			}
			break
		}
		if st := a.s.Stats(); st.Undecodable != 1 || st.Dispatcher.Type("t").Undecodable != 1 {
			w.Errorf("%+v", st)
		}
	})
}
