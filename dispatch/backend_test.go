package dispatch_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
	"github.com/kith-p2p/kith/p2p"
)

// fakeBackend is a Backend by hand.
type fakeBackend struct {
	log     []string
	check   func(dispatch.Arrival) (dispatch.Message, error)
	deliver func(dispatch.Message)
	fail    error
	allowed p2p.NodeID
}

func (b *fakeBackend) Join(topic string, check func(dispatch.Arrival) (dispatch.Message, error), deliver func(dispatch.Message)) error {
	b.log = append(b.log, "join "+topic)
	b.check, b.deliver = check, deliver
	return b.fail
}

func (b *fakeBackend) Leave(topic string) error {
	b.log = append(b.log, "leave "+topic)
	return b.fail
}

func (b *fakeBackend) Publish(_ context.Context, topic string, data []byte) error {
	b.log = append(b.log, "publish "+topic+" "+string(data))
	return b.fail
}

func (b *fakeBackend) Peers(string) []peer.ID    { return []peer.ID{"someone"} }
func (b *fakeBackend) Allows(id p2p.NodeID) bool { return id == b.allowed }
func (b *fakeBackend) arrive(a dispatch.Arrival) error {
	m, err := b.check(a)
	if err == nil {
		b.deliver(m)
	}
	return err
}

// A Service uses its Backend for topics, and for nothing else.
func TestBackend(t *testing.T) {
	inMemory(t, func(w *world) {
		b := new(fakeBackend)
		a, friend, stranger := w.node(func(o *dispatch.Options) { o.Backend = b }), w.node(), w.stranger()
		b.allowed = friend.id
		w.connect(a, friend, stranger)
		first, second := w.subscribe(a, "t", dispatch.Policy{}), w.subscribe(a, "t", dispatch.Policy{})
		if err := a.s.PublishBytes(w.Context(), "t", []byte("x")); err != nil {
			w.Error(err)
		}
		if err := a.s.WaitPeers(w.Context(), "t", 1); err != nil || !slices.Equal(a.s.TopicPeers("t"), []peer.ID{"someone"}) {
			w.Errorf("%v %v", err, a.s.TopicPeers("t"))
		}
		author := testKey(9).Public()
		if err := b.arrive(dispatch.Arrival{Topic: "t", Data: encoded(say("hi")), From: friend.id, Author: author.NodeID(), AuthorPeer: author.PeerID()}); err != nil {
			w.Error(err)
		}
		for _, sub := range []*dispatch.Subscription[*text]{first, second} {
			got := waiting(sub)
			if len(got) != 1 || got[0].From != friend.id || got[0].Author != author.NodeID() || got[0].AuthorPeer() != author.PeerID() || got[0].Direct {
				w.Errorf("%+v", got)
			}
		}
		for _, data := range [][]byte{{0xff}, make([]byte, 1<<20+1)} {
			if err := b.arrive(dispatch.Arrival{Topic: "t", Data: data, From: friend.id, Author: friend.id}); err == nil {
				w.Error("taken")
			}
			if err := b.arrive(dispatch.Arrival{Topic: "t", Data: data, From: stranger.id, Author: author.NodeID()}); err == nil {
				w.Error("taken")
			}
		}
		// Direct messages of the topic's type: from those who may publish.
		friend.s.Broadcast("t", say("from a friend"), 0)
		w.send(stranger, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_DIRECT, Type: "t", Data: encoded(say("from a stranger"))})
		w.send(stranger, a, published(testKey(9), "t", time.Now(), encoded(say("over direct channels"))))
		expect(w, "direct", texts(waiting(first)), "from a friend")
		if st := a.s.Stats(); st.NotAllowed != 1 || st.OtherBackend != 1 || st.Undecodable != 2 || st.TooLarge != 2 {
			w.Errorf("%+v", st)
		}
		first.Close()
		second.Close()
		expect(w, "the backend", b.log, "join t", "publish t x", "leave t")
		b.fail = errors.New("broken")
		if _, err := dispatch.Subscribe[*text](a.s, "u", dispatch.Policy{}); !errors.Is(err, b.fail) {
			w.Errorf("%v", err)
		}
		if err := a.s.Publish(w.Context(), "u", say("x")); !errors.Is(err, b.fail) {
			w.Errorf("%v", err)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if friend, stranger := a.pm.Scores()[friend.id], a.pm.Scores()[stranger.id]; friend != -1 || stranger != 0 { // 1 for what was wanted, 2 faults
			w.Errorf("scores %d and %d", friend, stranger)
		}
	})
}

// A peer that sends nothing but rubbish is disconnected.
func TestTooManyFaults(t *testing.T) {
	inMemory(t, func(w *world) {
		a, b, c := w.node(), w.stranger(), w.node()
		w.connect(a, b, c)
		for range 99 {
			w.send(b, a, &dispatchv1.Envelope{Kind: 99, Type: "x"})
		}
		synctest.Wait()
		if n := len(a.s.Peers()); n != 2 {
			w.Fatalf("%d peers", n)
		}
		w.send(b, a, &dispatchv1.Envelope{Kind: 99, Type: "x"})
		synctest.Wait()
		if got := a.s.Peers(); len(got) != 1 || got[0].ID != c.id || a.s.Stats().Disconnected != 1 {
			w.Errorf("%v", got)
		}
	})
}
