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
