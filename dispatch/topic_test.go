package dispatch_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
)

// published is an envelope of a topic, made by hand as spec.md says.
func published(key identity.PrivKey, topic string, at time.Time, data []byte) *dispatchv1.Envelope {
	var signed []byte
	signed = binary.BigEndian.AppendUint16(signed, uint16(len(topic)))
	signed = append(signed, topic...)
	signed = binary.BigEndian.AppendUint64(signed, uint64(at.UnixNano()))
	sig, err := key.SignContext("dispatch topic v1", append(signed, data...))
	if err != nil {
		panic(err)
	}
	return &dispatchv1.Envelope{
		Kind: dispatchv1.Kind_KIND_TOPIC, Type: topic, Data: data, Author: key.Public().Bytes(), Time: at.UnixNano(), Signature: sig,
	}
}

func encoded(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// A line and a ring of nodes: what one publishes, all subscribers get, once, with
// the author's name; also what says the same again.
func TestTopicsOverDirectChannels(t *testing.T) {
	for _, ring := range []bool{false, true} {
		inMemory(t, func(w *world) {
			const n = 6
			var nodes []*node
			var subs []*dispatch.Subscription[*text]
			for i := range n {
				nodes = append(nodes, w.node(func(o *dispatch.Options) { o.Compress = i%2 == 0 }))
				if i > 0 {
					w.connect(nodes[i-1], nodes[i])
				}
				if i != 2 { // who does not subscribe passes on all the same
					subs = append(subs, w.subscribe(nodes[i], "chat", dispatch.Policy{}))
				}
			}
			if ring {
				w.connect(nodes[n-1], nodes[0])
			}
			long := string(bytes.Repeat([]byte("la "), 1000))
			for _, s := range []string{"hello", "hello", long} {
				if err := nodes[0].s.Publish(w.Context(), "chat", say(s)); err != nil {
					w.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
			for i, sub := range subs {
				got := waiting(sub)
				expect(w, fmt.Sprint("subscriber ", i), texts(got), "hello", "hello", long)
				for _, m := range got {
					if m.Author != nodes[0].id || m.Direct || m.AuthorPeer() != nodes[0].key.Public().PeerID() {
						w.Errorf("%+v", m)
					}
				}
			}
			if st := nodes[2].s.Stats(); st.Relayed == 0 || st.Dispatcher.Unwanted != 0 {
				w.Errorf("%+v", st)
			}
		})
	}
}

func TestTopicNoRelay(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b, c := w.node(), w.node(func(o *dispatch.Options) { o.NoRelay = true }), w.node()
		w.connect(b, a, c)
		sub, far := w.subscribe(b, "t", dispatch.Policy{}), w.subscribe(c, "t", dispatch.Policy{})
		if err := a.s.Publish(w.Context(), "t", say("x")); err != nil {
			w.Fatal(err)
		}
		expect(w, "near", texts(waiting(sub)), "x")
		expect(w, "far", texts(waiting(far)))
	})
}

func TestPublishErrors(t *testing.T) {
	inMemory(t, func(w *world) {
		a, keyless := w.node(), w.node(func(o *dispatch.Options) { o.Key = identity.PrivKey{} })
		w.subscribe(a, "typed", dispatch.Policy{})
		ctx := w.Context()
		ended, end := context.WithCancel(ctx)
		end()
		for name, c := range map[string]struct{ err, want error }{
			"no key":     {keyless.s.Publish(ctx, "t", say("x")), dispatch.ErrNoKey},
			"no topic":   {a.s.Publish(ctx, "", say("x")), dispatch.ErrType},
			"large":      {a.s.Publish(ctx, "t", wrapperspb.Bytes(make([]byte, 1<<20))), dispatch.ErrTooLarge},
			"large data": {a.s.PublishBytes(ctx, "t", make([]byte, 1<<20+1)), dispatch.ErrTooLarge},
			"other type": {a.s.Publish(ctx, "typed", wrapperspb.Bool(true)), dispatch.ErrTopicType},
			"ended":      {a.s.Publish(ended, "t", say("x")), context.Canceled},
		} {
			if !errors.Is(c.err, c.want) {
				w.Errorf("%s: %v", name, c.err)
			}
		}
		if err := a.s.Publish(ctx, "t", nil); err == nil {
			w.Error("nil was published")
		}
		if _, err := dispatch.Subscribe[*wrapperspb.BoolValue](a.s, "typed", dispatch.Policy{}); !errors.Is(err, dispatch.ErrTopicType) {
			w.Errorf("a second type: %v", err)
		}
		if _, err := dispatch.Subscribe[proto.Message](a.s, "t", dispatch.Policy{}); err == nil {
			w.Error("the interface is a type")
		}
		for _, p := range []dispatch.Policy{{Queue: -1}, {QueueBytes: -1}, {Overflow: 9}, {Priority: 5}} {
			if _, err := a.s.SubscribeBytes("t", p); err == nil {
				w.Errorf("%+v: taken", p)
			}
		}
		if err := a.s.PublishBytes(ctx, "t", make([]byte, 1<<20)); err != nil {
			w.Errorf("exactly MaxMessage: %v", err)
		}
	})
}

// Everything that can be wrong with an envelope: refused, counted, held against
// the sender where it is at fault, and nobody else affected.
func TestBadEnvelopes(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b, c := w.node(), w.stranger(), w.node()
		w.connect(a, b, c)
		sub, far := w.subscribe(a, "t", dispatch.Policy{}), w.subscribe(c, "t", dispatch.Policy{})
		author, data := testKey(77), encoded(say("x"))
		now := time.Now()
		good := func() *dispatchv1.Envelope { return published(author, "t", now, data) }
		change := func(f func(*dispatchv1.Envelope)) *dispatchv1.Envelope {
			e := good()
			f(e)
			return e
		}
		type stats = dispatch.ServiceStats
		blamed := 0
		for _, bad := range []struct {
			name  string
			e     *dispatchv1.Envelope
			count func(stats) uint64
			blame bool
		}{
			{"empty", &dispatchv1.Envelope{}, func(s stats) uint64 { return s.BadType }, true},
			{"a long type", &dispatchv1.Envelope{Kind: 1, Type: string(make([]byte, 200))}, func(s stats) uint64 { return s.BadType }, true},
			{"no kind", &dispatchv1.Envelope{Type: "t"}, func(s stats) uint64 { return s.Malformed }, true},
			{"an unknown kind", &dispatchv1.Envelope{Kind: 77, Type: "t"}, func(s stats) uint64 { return s.Malformed }, true},
			{"an unknown encoding", &dispatchv1.Envelope{Kind: 1, Type: "t", Encoding: 9, Data: []byte("x")}, func(s stats) uint64 { return s.Malformed }, true},
			{"no zstd", &dispatchv1.Envelope{Kind: 1, Type: "t", Encoding: 1, Size: 9, Data: []byte("123456789")}, func(s stats) uint64 { return s.Malformed }, true},
			{"a large claim", &dispatchv1.Envelope{Kind: 1, Type: "t", Encoding: 1, Size: 1 << 31, Data: []byte("x")}, func(s stats) uint64 { return s.TooLarge }, true},
			{"too large", &dispatchv1.Envelope{Kind: 1, Type: "t", Data: make([]byte, 1<<20+1)}, func(s stats) uint64 { return s.TooLarge }, true},
			{"too large published", published(author, "t", now, make([]byte, 1<<20+1)), func(s stats) uint64 { return s.TooLarge }, true},
			{"no signature", change(func(e *dispatchv1.Envelope) { e.Signature = nil }), func(s stats) uint64 { return s.BadSignature }, true},
			{"a short author", change(func(e *dispatchv1.Envelope) { e.Author = e.Author[:31] }), func(s stats) uint64 { return s.BadSignature }, true},
			{"another author", change(func(e *dispatchv1.Envelope) { e.Author = testKey(5).Public().Bytes() }), func(s stats) uint64 { return s.BadSignature }, true},
			{"a flipped signature", change(func(e *dispatchv1.Envelope) { e.Signature[9] ^= 1 }), func(s stats) uint64 { return s.BadSignature }, true},
			{"other data", change(func(e *dispatchv1.Envelope) { e.Data = encoded(say("y")) }), func(s stats) uint64 { return s.BadSignature }, true},
			{"another topic", change(func(e *dispatchv1.Envelope) { e.Type = "u" }), func(s stats) uint64 { return s.BadSignature }, true},
			{"another time", change(func(e *dispatchv1.Envelope) { e.Time++ }), func(s stats) uint64 { return s.BadSignature }, true},
			{"an old one", published(author, "t", now.Add(-6*time.Minute), data), func(s stats) uint64 { return s.Stale }, false},
			{"one of the future", published(author, "t", now.Add(6*time.Minute), data), func(s stats) uint64 { return s.Stale }, false},
			{"one of ours", published(a.key, "t", now.Add(time.Second), data), func(s stats) uint64 { return s.Own }, false},
			{"of another type, its own", published(b.key, "t", now, []byte{0xff, 0xff}), func(s stats) uint64 { return s.Undecodable }, true},
			{"of another type", published(author, "t", now, []byte{0xff, 0xff}), func(s stats) uint64 { return s.Undecodable }, false},
		} {
			before := bad.count(a.s.Stats())
			w.send(b, a, bad.e)
			synctest.Wait()
			if got := bad.count(a.s.Stats()) - before; got != 1 {
				w.Errorf("%s: counted %d times", bad.name, got)
			}
			if bad.blame {
				blamed++
			}
		}
		// None of it made the filter take a good one for known.
		w.send(b, a, good())
		w.send(b, a, good())
		expect(w, "after all that", texts(waiting(sub)), "x")
		expect(w, "passed on", texts(waiting(far)), "x")
		if st := a.s.Stats(); st.Copies != 1 {
			w.Errorf("%+v", st)
		}
		time.Sleep(11 * time.Second)
		if got := int(a.pm.Scores()[b.id]); got != -blamed+1 { // and one message was wanted
			w.Errorf("score %d, %d faults", got, blamed)
		}
		if got := a.pm.Scores()[c.id]; got < 0 {
			w.Errorf("another peer's score %d", got)
		}
	})
}

// Who repeats an old message finds it known, and later too old: at no time does it
// come again.
func TestTopicReplay(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b := w.node(), w.stranger()
		w.connect(a, b)
		sub := w.subscribe(a, "t", dispatch.Policy{})
		e := published(testKey(77), "t", time.Now().Add(4*time.Minute), encoded(say("x")))
		total := 0
		for range 30 {
			w.send(b, a, e)
			total += len(waiting(sub))
			time.Sleep(time.Minute)
		}
		if total != 1 {
			w.Errorf("it came %d times", total)
		}
	})
}

// A message is decoded once, whoever subscribed: all have the same value.
func TestDecodedOnce(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b := w.node(), w.node()
		w.connect(a, b)
		s1, s2 := w.subscribe(b, "t", dispatch.Policy{}), w.subscribe(b, "t", dispatch.Policy{})
		raw, err := b.s.SubscribeBytes("t", dispatch.Policy{})
		if err != nil {
			w.Fatal(err)
		}
		a.s.Broadcast("t", say("direct"), 0)
		synctest.Wait()
		if err := a.s.Publish(w.Context(), "t", say("published")); err != nil {
			w.Fatal(err)
		}
		one, two := waiting(s1), waiting(s2)
		if len(one) != 2 || len(two) != 2 {
			w.Fatalf("%d and %d", len(one), len(two))
		}
		for i := range one {
			if one[i].Message != two[i].Message {
				w.Errorf("decoded twice: %v", one[i].Message)
			}
		}
		n := 0
		for m, err := range raw.Messages(w.Context()) {
			if err != nil || !slices.Contains([]string{"\n\x06direct", "\n\tpublished"}, string(m.Message)) {
				w.Errorf("%q %v", m.Message, err)
			}
			if n++; n == 2 {
				break
			}
		}
	})
}

// Subscriptions come and go; the last of a topic leaves it.
func TestSubscriptionLife(t *testing.T) {
	inMemory(t, func(w *world) {
		a := w.node()
		s1, s2 := w.subscribe(a, "t", dispatch.Policy{}), w.subscribe(a, "t", dispatch.Policy{})
		s1.Close()
		s1.Close()
		if err := a.s.Publish(w.Context(), "t", say("x")); err != nil {
			w.Fatal(err)
		}
		expect(w, "the other", texts(waiting(s2)), "x")
		expect(w, "the closed", texts(waiting(s1)))
		s2.Close()
		if err := a.s.Publish(w.Context(), "t", wrapperspb.Bool(true)); err != nil { // the type is free again
			w.Error(err)
		}
		b, err := dispatch.Subscribe[*wrapperspb.BoolValue](a.s, "t", dispatch.Policy{})
		if err != nil {
			w.Fatal(err)
		}
		ctx, stop := context.WithTimeout(w.Context(), time.Second)
		defer stop()
		for _, err := range b.Messages(ctx) {
			if !errors.Is(err, context.DeadlineExceeded) {
				w.Errorf("an empty one: %v", err)
			}
		}
		for range a.s.Stats().Dispatcher.Subscribers[1:] {
			w.Error("subscribers are left")
		}
	})
}

func TestWaitPeers(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b := w.node(), w.node()
		ctx, stop := context.WithTimeout(w.Context(), time.Second)
		defer stop()
		if err := a.s.WaitPeers(ctx, "t", 1); !errors.Is(err, context.DeadlineExceeded) {
			w.Errorf("nobody there: %v", err)
		}
		w.connect(a, b)
		if err := a.s.WaitPeers(w.Context(), "t", 1); err != nil {
			w.Error(err)
		}
		if got := a.s.TopicPeers("t"); got != nil {
			w.Errorf("%v", got)
		}
	})
}

// A peer that floods a topic does not fill the way to the others: so much of it is
// passed on, and what others publish is, too.
func TestTopicFlood(t *testing.T) {
	inMemory(t, func(w *world) {
		a, flooder, honest, far := w.node(func(o *dispatch.Options) { o.RelayRate = 10 }), w.stranger(), w.node(), w.node()
		w.connect(a, flooder, honest, far)
		near, sub := w.subscribe(a, "t", dispatch.Policy{}), w.subscribe(far, "t", dispatch.Policy{})
		for i := range 100 {
			w.send(flooder, a, published(testKey(77), "t", time.Now().Add(time.Duration(i)), encoded(say("flood"))))
		}
		synctest.Wait()
		if err := honest.s.Publish(w.Context(), "t", say("honest")); err != nil {
			w.Fatal(err)
		}
		if got := texts(waiting(sub)); len(got) != 21 || got[20] != "honest" {
			w.Errorf("%d were passed on", len(got))
		}
		if got := len(waiting(near)); got != 101 {
			w.Errorf("%d arrived", got)
		}
		if st := a.s.Stats(); st.NotRelayed != 80 {
			w.Errorf("%+v", st)
		}
		time.Sleep(10 * time.Second) // 20 again, of which one is long: it counts 5
		w.send(flooder, a, published(testKey(77), "t", time.Now(), encoded(say(string(make([]byte, 16<<10))))))
		for i := range 100 {
			w.send(flooder, a, published(testKey(77), "t", time.Now().Add(time.Duration(i+1)), encoded(say("flood"))))
		}
		if got := texts(waiting(sub)); len(got) != 16 {
			w.Errorf("%d were passed on", len(got))
		}
	})
}
