package dispatch_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
)

// A subscriber that holds peers back loses nothing of one that heeds it, holds back
// nobody else, and no other type; and goes on where it stopped.
func TestHold(t *testing.T) {
	inMemory(t, func(w *world) {
		a, fast, slow := w.node(), w.node(), w.node()
		w.connect(a, fast, slow)
		sub := w.subscribe(a, "t", dispatch.Policy{Queue: 10, Overflow: dispatch.Hold})
		other := w.subscribe(a, "u", dispatch.Policy{})
		also := w.subscribe(a, "t", dispatch.Policy{})
		sent := 0
		send := func() error {
			err := fast.s.SendMessageToPeer("t", say(fmt.Sprint("fast ", sent)), 0, a.id)
			if err == nil {
				sent++
			}
			synctest.Wait()
			return err
		}
		for range 20 {
			if err := send(); err != nil {
				if !errors.Is(err, dispatch.ErrHeldBack) {
					w.Fatal(err)
				}
				break
			}
		}
		if sent != 5 {
			w.Errorf("%d were sent, the hold comes at half of 10", sent)
		}
		// For long: it is repeated.
		time.Sleep(time.Minute)
		if err := send(); !errors.Is(err, dispatch.ErrHeldBack) {
			w.Errorf("a minute later: %v", err)
		}
		if got := fast.s.Broadcast("t", say("x"), 0); len(got) != 0 {
			w.Errorf("broadcast to %v", got)
		}
		if got := fast.s.Broadcast("u", say("another type"), 0); len(got) != 1 {
			w.Errorf("another type: %v", got)
		}
		if got := slow.s.Broadcast("t", say("slow"), 0); len(got) != 1 {
			w.Errorf("another peer: %v", got)
		}
		expect(w, "other", texts(waiting(other)), "another type")
		if got := len(waiting(also)); got != 6 {
			w.Errorf("another subscriber has %d", got)
		}
		if st := sub.Stats(); st.Held != 1 || st.Dropped() != 0 {
			w.Errorf("%+v", st)
		}
		// It takes turns between the peers, and lets go.
		expect(w, "held", texts(waiting(sub)), "fast 0", "slow", "fast 1", "fast 2", "fast 3", "fast 4")
		synctest.Wait()
		if err := send(); err != nil {
			w.Errorf("released: %v", err)
		}
		expect(w, "again", texts(waiting(sub)), "fast 5")
		if st := fast.s.Stats(); st.HoldsHeard == 0 || st.HeldBack != 3 {
			w.Errorf("%+v", st)
		}
	})
}

// Whoever does not heed a hold loses his own messages; whoever asks for a hold
// and leaves silences nobody for ever.
func TestHoldUnheeded(t *testing.T) {
	inMemory(t, func(w *world) {
		a, rude, polite := w.node(), w.stranger(), w.node()
		w.connect(a, rude, polite)
		sub := w.subscribe(a, "t", dispatch.Policy{Queue: 10, Overflow: dispatch.Hold})
		for range 100 {
			w.send(rude, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_DIRECT, Type: "t", Data: encoded(say("rude"))})
		}
		polite.s.Broadcast("t", say("polite"), 0)
		got := texts(waiting(sub))
		if i := slices.Index(got, "polite"); len(got) != 11 || i < 0 || i > 1 || sub.Stats().DroppedNewest != 90 {
			w.Errorf("%v %+v", got, sub.Stats())
		}
		w.send(rude, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_HOLD, Type: "v"})
		synctest.Wait()
		if err := a.s.SendMessageToPeer("v", say("x"), 0, rude.id); !errors.Is(err, dispatch.ErrHeldBack) {
			w.Errorf("%v", err)
		}
		time.Sleep(6 * time.Second) // nobody repeated it
		if err := a.s.SendMessageToPeer("v", say("x"), 0, rude.id); err != nil {
			w.Errorf("after its time: %v", err)
		}
		// A thousand holds are not remembered.
		for i := range 1000 {
			w.send(rude, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_HOLD, Type: fmt.Sprint("h", i)})
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if st := a.s.Stats(); st.HoldsHeard != 65 || st.HoldsRefused != 936 {
			w.Errorf("%d heard, %d refused", st.HoldsHeard, st.HoldsRefused)
		}
		w.send(rude, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_RELEASE, Type: "h0"})
		synctest.Wait()
		if err := a.s.SendMessageToPeer("h0", say("x"), 0, rude.id); err != nil {
			w.Errorf("released: %v", err)
		}
	})
}

// Eight hostile peers cannot take all the room of a queue that holds peers back.
func TestHoldTotal(t *testing.T) {
	inMemory(t, func(w *world) {
		a, polite := w.node(), w.node()
		w.connect(a, polite)
		sub := w.subscribe(a, "t", dispatch.Policy{Queue: 10, Overflow: dispatch.Hold})
		for range 12 {
			rude := w.stranger()
			w.connect(a, rude)
			for range 50 {
				w.send(rude, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_DIRECT, Type: "t", Data: encoded(say("rude"))})
			}
		}
		synctest.Wait()
		polite.s.Broadcast("t", say("polite"), 0)
		synctest.Wait()
		if st := sub.Stats(); st.Queued != 80 {
			w.Errorf("%+v", st)
		}
		found := false
		for _, s := range texts(waiting(sub)) {
			found = found || s == "polite"
		}
		if !found {
			w.Error("the polite one was crowded out")
		}
	})
}

// Holds and releases that make no sense: refused, counted, held against the sender
// where nobody sends that in good faith, and nobody else affected.
func TestBadHolds(t *testing.T) {
	inMemory(t, func(w *world) {
		a, rude, polite := w.node(), w.stranger(), w.node()
		w.connect(a, rude, polite)
		sub := w.subscribe(polite, "t", dispatch.Policy{})
		type stats = dispatch.ServiceStats
		const hold, release = dispatchv1.Kind_KIND_HOLD, dispatchv1.Kind_KIND_RELEASE
		badType := func(s stats) uint64 { return s.BadType }
		ignored := func(s stats) uint64 { return s.ReleasesIgnored }
		heard := func(s stats) uint64 { return s.HoldsHeard }
		blamed := 0
		for _, bad := range []struct {
			name  string
			e     *dispatchv1.Envelope
			count func(stats) uint64
			blame bool
		}{
			{"hold of nothing", &dispatchv1.Envelope{Kind: hold}, badType, true},
			{"hold of a long type", &dispatchv1.Envelope{Kind: hold, Type: string(make([]byte, dispatch.MaxTypeName+1))}, badType, true},
			{"hold of control characters", &dispatchv1.Envelope{Kind: hold, Type: "t\x00"}, badType, true},
			{"release of nothing", &dispatchv1.Envelope{Kind: release}, badType, true},
			{"release of a long type", &dispatchv1.Envelope{Kind: release, Type: string(make([]byte, dispatch.MaxTypeName+1))}, badType, true},
			{"release without a hold", &dispatchv1.Envelope{Kind: release, Type: "t"}, ignored, false},
			{"release of what nobody knows", &dispatchv1.Envelope{Kind: release, Type: "nobody knows it"}, ignored, false},
			{"hold of what nobody knows", &dispatchv1.Envelope{Kind: hold, Type: "nobody knows it"}, heard, false},
			{"the same again", &dispatchv1.Envelope{Kind: hold, Type: "nobody knows it"}, heard, false},
			{"hold with all that a topic has", &dispatchv1.Envelope{Kind: hold, Type: "u", Author: []byte("x"), Time: 1, Signature: []byte("y"), Data: make([]byte, 1<<20), Encoding: 9, Size: 1 << 31}, heard, false},
		} {
			before, score := bad.count(a.s.Stats()), a.s.Stats()
			w.send(rude, a, bad.e)
			synctest.Wait()
			if got := bad.count(a.s.Stats()) - before; got != 1 {
				w.Errorf("%s: counted %d times: %+v, before %+v", bad.name, got, a.s.Stats(), score)
			}
			if bad.blame {
				blamed++
			}
		}
		if err := a.s.SendMessageToPeer("nobody knows it", say("x"), 0, rude.id); !errors.Is(err, dispatch.ErrHeldBack) {
			w.Errorf("what it asked for: %v", err)
		}
		for _, other := range []string{"t", "v"} {
			if err := a.s.SendMessageToPeer(other, say("x"), 0, rude.id); err != nil {
				w.Errorf("what it did not ask for, %s: %v", other, err)
			}
		}
		if got := a.s.Broadcast("t", say("to all"), 0); len(got) != 2 {
			w.Errorf("told %v", got)
		}
		expect(w, "another peer", texts(waiting(sub)), "to all")
		time.Sleep(11 * time.Second)
		if got := int(a.pm.Scores()[rude.id]); got != -blamed {
			w.Errorf("score %d, %d faults", got, blamed)
		}
	})
}

// A flood of holds and releases costs its sender what it is sent, and nobody else
// anything.
func TestHoldFlood(t *testing.T) {
	inMemory(t, func(w *world) {
		a, rude, polite := w.node(), w.stranger(), w.node()
		w.connect(a, rude, polite)
		here, there := w.subscribe(a, "t", dispatch.Policy{}), w.subscribe(polite, "t", dispatch.Policy{})
		const rounds = 10
		for i := range rounds {
			for j := range 100 {
				name := fmt.Sprint("type ", i*100+j)
				w.send(rude, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_HOLD, Type: "t"})
				w.send(rude, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_HOLD, Type: name})
				w.send(rude, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_RELEASE, Type: "t"})
				w.send(rude, a, &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_RELEASE, Type: "t"})
				if j%10 == 0 {
					synctest.Wait()
				}
			}
			text := fmt.Sprint("round ", i)
			if got := a.s.Broadcast("t", say(text), 0); !slices.Contains(got, polite.id) {
				w.Fatalf("round %d: told %v", i, got)
			}
			if got := polite.s.Broadcast("t", say(text), 0); len(got) != 1 {
				w.Fatalf("round %d: %v", i, got)
			}
			expect(w, "here", texts(waiting(here)), text)
			expect(w, "there", texts(waiting(there)), text)
		}
		// Within one moment 64 types are heeded, of which "t" had its place before the rest.
		st := a.s.Stats()
		if asked := st.HoldsHeard + st.HoldsRefused; asked != 2*100*rounds || st.HoldsRefused == 0 || st.ReleasesIgnored < 100*rounds {
			w.Errorf("%d heard, %d refused, %d releases ignored", st.HoldsHeard, st.HoldsRefused, st.ReleasesIgnored)
		}
		held := 0
		for i := range 100 * rounds {
			if err := a.s.SendMessageToPeer(fmt.Sprint("type ", i), say("x"), 0, rude.id); errors.Is(err, dispatch.ErrHeldBack) {
				held++
			}
			synctest.Wait()
		}
		if held > 64 {
			w.Errorf("%d types are held back", held)
		}
	})
}
