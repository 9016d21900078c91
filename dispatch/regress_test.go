package dispatch_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
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

// The faults of the original that must not come back.

// The filter and the relay know a message by its content before compression:
// whether a sender compresses makes no difference.
func TestRegressionCompressionBreaksDuplicateFilter(t *testing.T) {
	inMemory(t, func(w *world) {
		squeezed := w.node(func(o *dispatch.Options) { o.Compress = true })
		plain, c := w.node(), w.node(func(o *dispatch.Options) { o.Compress = true })
		w.connect(c, squeezed, plain)
		sub := w.subscribe(c, "t", dispatch.Policy{Dedup: true})
		m := say(strings.Repeat("long and dull ", 1000))
		squeezed.s.Broadcast("t", m, 0)
		synctest.Wait()
		if n := c.router.Stats().Channels[1].Received.ReceivedBytes; n > 1000 {
			w.Errorf("%d bytes arrived: not compressed", n)
		}
		plain.s.Broadcast("t", m, 0)
		if got := waiting(sub); len(got) != 1 || got[0].Message.GetValue() != m.Value {
			w.Errorf("%d messages", len(got))
		}
		if st := c.s.Stats(); st.Dispatcher.Type("t").Duplicates != 1 {
			w.Errorf("%+v", st.Dispatcher)
		}
		if got := c.s.Relay("t", m, 0); len(got) != 0 {
			w.Errorf("relayed to %v, who both have it", got)
		}
		if got := squeezed.s.Relay("t", m, 0); len(got) != 0 {
			w.Errorf("relayed to %v, who was sent it", got)
		}
	})
}

// Deregister removes one subscriber's filter, and no other's.
func TestRegressionDeregisterRemovesAnothersFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, dispatch.DispatcherOptions{})
		a, b := make(chan dispatch.Message, 9), make(chan dispatch.Message, 9)
		first, second := dispatch.NewSubscriber("a", a, true, "t", 1), dispatch.NewSubscriber("b", b, true, "t", 1)
		d.Register(first, second)
		put(t, d, "t", "x")
		synctest.Wait()
		d.Deregister(first)
		put(t, d, "t", "x", "y")
		expect(t, "the one who stays", drain(b), "x", "y")
		expect(t, "the one who left", drain(a), "x")
		d.Register(first)
		d.Deregister(second)
		put(t, d, "t", "y", "z")
		expect(t, "the one who came back", drain(a), "z")
	})
}

// blocker is a message that stops whoever asks where it is from: the Dispatcher's
// loop, in a test that wants that to stand still.
type blocker struct{ free chan struct{} }

func (blocker) MessageType() string       { return "block" }
func (b blocker) MessageFrom() p2p.NodeID { <-b.free; return "" }
func (blocker) Data() []byte              { return nil }

// A full inbox stalls no read loop: with a Dispatcher that stands still, other
// channels of the same peers go on, and so do other peers.
func TestRegressionFullInboxStallsReadLoops(t *testing.T) {
	inMemory(t, func(w *world) {
		open := func(n *node) *p2p.TypedChannel[*text] {
			c, err := p2p.OpenTyped[*text](n.router, 0x10)
			if err != nil {
				w.Fatal(err)
			}
			return c
		}
		start := func(o dispatch.Options, n *node) {
			s, err := dispatch.NewService(n.router, o)
			if err != nil {
				w.Fatal(err)
			}
			if err := s.Start(); err != nil {
				w.Fatal(err)
			}
			n.s = s
			w.Cleanup(func() { _ = s.Stop() })
		}
		a, flooder, other := w.bare(), w.bare(), w.bare()
		inbox, fromFlooder, fromOther := open(a), open(flooder), open(other)
		start(dispatch.Options{Router: a.router, Peers: a.pm, Dispatcher: dispatch.DispatcherOptions{Inbox: 1}}, a)
		start(dispatch.Options{Router: flooder.router, Peers: flooder.pm}, flooder)
		start(dispatch.Options{Router: other.router, Peers: other.pm}, other)
		w.connect(a, flooder, other)
		w.subscribe(a, "t", dispatch.Policy{})
		w.subscribe(a, "block", dispatch.Policy{})
		free := make(chan struct{})
		a.s.Register(dispatch.NewSubscriber("x", make(chan dispatch.Message, 1), false, "block", 1))
		if err := a.s.Dispatcher().Put(blocker{free}); err != nil {
			w.Fatal(err)
		}
		for i := range 5000 {
			flooder.s.Broadcast("t", say(fmt.Sprint(i)), 0)
			if i%500 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if n := a.s.Stats().Dispatcher.Type("t").Waiting; n != 1 {
			w.Fatalf("%d in the inbox", n)
		}
		for name, c := range map[string]*p2p.TypedChannel[*text]{"flooder": fromFlooder, "other": fromOther} {
			if err := c.TrySend(a.id, say(name)); err != nil {
				w.Errorf("%s: %v", name, err)
			}
		}
		begin := time.Now()
		for range 2 {
			for in, err := range inbox.Receive(w.Context()) {
				if err != nil {
					w.Fatal(err)
				}
				_ = in
				break
			}
		}
		if took := time.Since(begin); took > time.Second {
			w.Errorf("other channels took %v", took)
		}
		close(free)
	})
}

// A node of another network, or of another block version, never becomes a peer:
// both are compared with the other side's, in the handshake.
func TestRegressionVersionComparedWithItself(t *testing.T) {
	for name, change := range map[string]func(*p2p.NodeInfo){
		"network": func(i *p2p.NodeInfo) { i.Network = "other" },
		"version": func(i *p2p.NodeInfo) { i.ProtocolVersion.Block++ },
		"":        func(*p2p.NodeInfo) {},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(w *world) {
				a := w.node()
				w.change = func(o *p2p.RouterOptions) { change(&o.NodeInfo) }
				b := w.node()
				if _, err := a.pm.Add(b.at); err != nil {
					w.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				want := 0
				if name == "" {
					want = 1
				}
				if got := len(a.s.Broadcast("t", say("x"), 0)); got != want {
					w.Errorf("queued for %d, want %d", got, want)
				}
			})
		})
	}
}

// No weight is 0 by accident: 0 is the default, and none has a name.
func TestRegressionWeightZeroByAccident(t *testing.T) {
	ch := make(chan dispatch.Message)
	for given, want := range map[int]int{0: dispatch.DefaultWeight, 1: 1, 7: 7, 1 << 20: dispatch.MaxWeight, dispatch.NoWeight: 0, -9: 0} {
		if got := dispatch.NewSubscriber("s", ch, false, "t", given).Weight(); got != want {
			t.Errorf("weight %d counts as %d, want %d", given, got, want)
		}
	}
	if dispatch.DefaultWeight == 0 {
		t.Error("the default is nothing")
	}
	inMemory(t, func(w *world) {
		a, b := w.node(), w.node()
		w.connect(a, b)
		w.subscribe(a, "t", dispatch.Policy{})
		b.s.Broadcast("t", say("x"), 0)
		time.Sleep(11 * time.Second)
		if got := a.pm.Scores()[b.id]; got != 1 {
			w.Errorf("the score is %d", got)
		}
	})
}

// What is full is called full, not a timeout: in errors, counts and the log.
func TestRegressionFullQueueCalledTimeout(t *testing.T) {
	inMemory(t, func(w *world) {
		var log bytes.Buffer
		a, b := w.node(func(o *dispatch.Options) {
			o.Dispatcher.Inbox = 1
			o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}), w.node()
		w.connect(a, b)
		w.net.Stall(a.id, b.id)
		var err error
		for i := 0; err == nil && i < 10_000; i++ {
			err = a.s.SendMessageToPeer("t", say(strings.Repeat("x", 1000)), 0, b.id)
			a.s.Broadcast("t", say("x"), 0)
		}
		if !errors.Is(err, p2p.ErrQueueFull) || strings.Contains(err.Error(), "timeout") {
			w.Errorf("%v", err)
		}
		full := make(chan dispatch.Message, 1)
		a.s.Register(dispatch.NewSubscriber("s", full, false, "t", 1))
		for range 3 {
			put(w, a.s.Dispatcher(), "t", "")
			synctest.Wait()
		}
		if st := a.s.Stats().Dispatcher.Subscribers[0]; st.DroppedNewest != 2 {
			w.Errorf("%+v", st)
		}
		if text := log.String(); !strings.Contains(text, "queue full") || strings.Contains(text, "timeout") {
			w.Errorf("the log: %.300s", text)
		}
		w.net.HealAll()
	})
}

// The filter's names are those of a cryptographic hash over type and payload, not
// of a checksum: two messages with the same CRC-32 are two.
func TestRegressionForgedChecksumSuppressesMessage(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b := w.node(), w.stranger()
		w.connect(a, b)
		sub, err := a.s.SubscribeBytes("t", dispatch.Policy{Dedup: true})
		if err != nil {
			w.Fatal(err)
		}
		var sent []string
		for _, s := range []string{"plumless", "buckeroo"} { // a known pair with one CRC-32
			w.send(b, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_DIRECT, Type: "t", Data: []byte(s)})
			sent = append(sent, s)
		}
		synctest.Wait()
		var got []string
		for m, err := range sub.Messages(w.Context()) {
			if err != nil {
				w.Fatal(err)
			}
			if got = append(got, string(m.Message)); len(got) == 2 {
				break
			}
		}
		if !slices.Equal(got, sent) {
			w.Errorf("%q", got)
		}
	})
}

// A peer that publishes junk by the thousand, all of it signed, makes no other
// peer's messages forgotten: none of them can be repeated. That it comes under a new
// name each time makes no difference.
func TestRegressionSignedJunkEvictsTheRelayFilter(t *testing.T) {
	inMemory(t, func(w *world) {
		a, honest, far := w.node(func(o *dispatch.Options) { o.Dispatcher.FilterMessages = 100 }), w.stranger(), w.node()
		w.connect(a, honest, far)
		near, sub := w.subscribe(a, "t", dispatch.Policy{}), w.subscribe(far, "t", dispatch.Policy{})
		author := testKey(77)
		var real []*dispatchv1.Envelope
		for i := range 20 {
			real = append(real, published(author, "t", time.Now().Add(time.Duration(i)), encoded(say(fmt.Sprint(i)))))
			w.send(honest, a, real[i])
		}
		synctest.Wait()
		if err := a.s.Publish(w.Context(), "t", say("ours")); err != nil {
			w.Fatal(err)
		}
		for name := range 3 {
			flooder := w.stranger()
			w.connect(a, flooder)
			for i := range 300 {
				w.send(flooder, a, published(testKey(1000+i), "junk", time.Now(), []byte(fmt.Sprint(name, i))))
			}
			synctest.Wait()
			for _, e := range real {
				w.send(flooder, a, e)
			}
			synctest.Wait()
			if name < 2 {
				flooder.router.Stop()
				w.until(func() bool { return a.s.Stats().Peers == 2 })
			}
		}
		if got := texts(waiting(near)); len(got) != 21 {
			w.Errorf("%d messages here: %q", len(got), got)
		}
		if got := texts(waiting(sub)); len(got) != 21 {
			w.Errorf("%d messages there: %q", len(got), got)
		}
		if st := a.s.Stats(); st.Copies < 60 {
			w.Errorf("%+v", st)
		}
	})
}

// What is published as bytes is of the topic's type, or is refused where it is
// published: peers would hold it against us.
func TestRegressionPublishedBytesOfAnotherType(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b := w.node(), w.node()
		w.connect(a, b)
		near, far := w.subscribe(a, "t", dispatch.Policy{}), w.subscribe(b, "t", dispatch.Policy{})
		for _, data := range [][]byte{{0xff}, encoded(wrapperspb.Bytes([]byte{0xff, 0xfe}))} { // none, and no UTF-8
			if err := a.s.PublishBytes(w.Context(), "t", data); !errors.Is(err, dispatch.ErrTopicType) {
				w.Errorf("%x: %v", data, err)
			}
		}
		if err := a.s.PublishBytes(w.Context(), "t", encoded(say("x"))); err != nil {
			w.Error(err)
		}
		for name, sub := range map[string]*dispatch.Subscription[*text]{"here": near, "there": far} {
			if got := texts(waiting(sub)); !slices.Equal(got, []string{"x"}) {
				w.Errorf("%s: %q", name, got)
			}
		}
		if here, there := a.s.Stats(), b.s.Stats(); here.Sent != 1 || here.Undecodable != 0 || there.Undecodable != 0 {
			w.Errorf("%+v\n%+v", here, there)
		}
		if err := a.s.PublishBytes(w.Context(), "raw", []byte{0xff}); err != nil {
			w.Errorf("a topic without a type: %v", err)
		}
	})
}

// A message for which a subscriber without duplicates had no room does not count as
// one that it had: the copy that comes later is taken, and only the first. What was
// dropped to make room had been outdated, and stays so.
func TestRegressionLostMessageCountsAsSeen(t *testing.T) {
	texts := func(sub *dispatch.BytesSubscription) (got []string) {
		synctest.Wait()
		for range sub.Stats().Queued {
			for m, err := range sub.Messages(t.Context()) {
				if err == nil {
					got = append(got, string(m.Message))
				}
				break
			}
		}
		return got
	}
	queued := func(p dispatch.Policy) func(*testing.T, *dispatch.Service) func() []string {
		return func(t *testing.T, s *dispatch.Service) func() []string {
			p.Dedup = true
			sub, err := s.SubscribeBytes("t", p)
			if err != nil {
				t.Fatal(err)
			}
			return func() []string { return texts(sub) }
		}
	}
	for name, c := range map[string]struct {
		subscribe     func(*testing.T, *dispatch.Service) func() []string
		first, second []string // what it gets of a b c, and then of the same again, twice
	}{
		"channel": {func(t *testing.T, s *dispatch.Service) func() []string {
			ch := make(chan dispatch.Message, 2)
			s.Register(dispatch.NewSubscriber("s", ch, true, "t", 1))
			return func() []string { return drain(ch) }
		}, []string{"a", "b"}, []string{"c"}},
		"drop-newest":          {queued(dispatch.Policy{Queue: 2, Overflow: dispatch.DropNewest}), []string{"a", "b"}, []string{"c"}},
		"drop-newest in bytes": {queued(dispatch.Policy{QueueBytes: 2, Overflow: dispatch.DropNewest}), []string{"a", "b"}, []string{"c"}},
		"hold":                 {queued(dispatch.Policy{Queue: 2, Overflow: dispatch.Hold}), []string{"a", "b"}, []string{"c"}},
		"drop-oldest":          {queued(dispatch.Policy{Queue: 2, Overflow: dispatch.DropOldest}), []string{"b", "c"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := dispatch.NewService(nil, dispatch.Options{Key: testKey(1)})
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Start(); err != nil {
					t.Fatal(err)
				}
				defer s.Stop()
				got := c.subscribe(t, s)
				other := queued(dispatch.Policy{})(t, s) // who had room for all has all once
				put(t, s.Dispatcher(), "t", "a", "b", "c")
				expect(t, "at first", got(), c.first...)
				put(t, s.Dispatcher(), "t", "a", "b", "c")
				put(t, s.Dispatcher(), "t", "a", "b", "c")
				expect(t, "again", got(), c.second...)
				expect(t, "the other one", other(), "a", "b", "c")
			})
		})
	}
}

// With Hold, the peer that has most waiting makes room for others: what it loses
// may come again as well.
func TestRegressionMessageLostToAnotherPeerCountsAsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := dispatch.NewService(nil, dispatch.Options{Key: testKey(1)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		defer s.Stop()
		sub, err := s.SubscribeBytes("t", dispatch.Policy{Queue: 2, Overflow: dispatch.Hold, Dedup: true})
		if err != nil {
			t.Fatal(err)
		}
		send := func(from, text string) {
			if err := s.Dispatcher().Put(dispatch.NewMessage("t", p2p.NodeID(from), []byte(text))); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 8 { // so many fit, two of each peer
			send(fmt.Sprint("peer ", i), fmt.Sprint(i, " first"))
			send(fmt.Sprint("peer ", i), fmt.Sprint(i, " second"))
		}
		send("new", "new")
		synctest.Wait()
		st := sub.Stats()
		if st.DroppedNewest != 1 || st.Queued != 16 {
			t.Fatalf("%+v", st)
		}
		had := make(map[string]int)
		take := func() {
			for range sub.Stats().Queued {
				for m, err := range sub.Messages(t.Context()) {
					if err == nil {
						had[string(m.Message)]++
					}
					break
				}
			}
		}
		take()
		for i := range 8 {
			send("new", fmt.Sprint(i, " second"))
			synctest.Wait()
			take()
		}
		for text, n := range had {
			if n != 1 {
				t.Errorf("%q came %d times", text, n)
			}
		}
		if len(had) != 17 {
			t.Errorf("%d of 17 came", len(had))
		}
	})
}
