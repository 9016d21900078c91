package connmgr

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// Events say what happened, in order, with causes.
func TestEvents(t *testing.T) {
	bubble(t, func(r *rig) {
		r.cfg.Dial = func(_ context.Context, target string) (*fakeConn, error) {
			if target == "fails" {
				return nil, errHungUp
			}
			return newFake(target, "alice"), nil
		}
		r.cfg.Limits.FloodRate = 2
	}, func(r *rig) {
		events := r.e.Subscribe()
		r.start()
		expect := func(want Event) {
			t.Helper()
			r.wait()
			got, err := events.Next(r.t.Context())
			if err != nil {
				r.t.Fatal(err)
			}
			want.At = time.Now()
			if !got.At.Equal(want.At) {
				t.Errorf("at %v", got.At)
			}
			got.At = want.At
			if want.Identity != "" {
				want.IP = got.IP
			}
			if got != want {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		}
		r.p.dial("192.0.2.1")
		r.e.Wake()
		expect(Event{Type: EventConnected, ID: 1, Direction: Outbound, Kind: KindManual, Tag: 1, Identity: "alice"})
		r.e.Close(1, errHungUp)
		expect(Event{Type: EventDisconnected, ID: 1, Direction: Outbound, Kind: KindManual, Tag: 1, Identity: "alice", Cause: errHungUp})
		r.p.dial("fails")
		r.e.Wake()
		expect(Event{Type: EventFailed, ID: 2, Direction: Outbound, Kind: KindManual, Tag: 2, Cause: errHungUp})
		for id := range uint64(2) {
			r.accept <- newFake("192.0.2.2", "bob")
			expect(Event{Type: EventConnected, ID: 3 + id, Identity: "bob"})
		}
		r.accept <- newFake("192.0.2.2", "bob")
		expect(Event{Type: EventFloodBegan})
		expect(Event{Type: EventConnected, ID: 5, Identity: "bob"})
		if f := r.e.Inspect().Flood; !f.Active || f.Attempts != 3 || f.Chance < floodDropMin || !f.Since.Equal(time.Now()) {
			t.Errorf("%+v", f)
		}
		time.Sleep(2 * time.Minute)
		if f := r.e.Inspect().Flood; f.Active || f.Attempts != 0 || f.Chance != 0 {
			t.Errorf("%+v", f)
		}
		expect(Event{Type: EventFloodEnded})
		r.stop()
		for range 3 {
			r.wait()
			if ev, err := events.Next(r.t.Context()); err != nil || ev.Type != EventDisconnected || ev.Cause != ErrStopped {
				t.Errorf("%+v, %v", ev, err)
			}
		}
		if _, err := events.Next(r.t.Context()); err != io.EOF {
			t.Error(err)
		}
	})
}

// A subscriber that does not read holds up nobody, keeps the newest events in
// order, and is told how many it missed.
func TestSlowSubscriber(t *testing.T) {
	h := &hub{subscribers: make(map[*Events]struct{})}
	slow, other := h.subscribe(), h.subscribe()
	for i := range uint64(3000) {
		h.emit(Event{ID: i + 1})
		if ev, err := other.Next(t.Context()); err != nil || ev.ID != i+1 || ev.Missed != 0 {
			t.Fatalf("%+v, %v", ev, err)
		}
	}
	next := uint64(3000 - eventsKept + 1)
	for i := range uint64(eventsKept) {
		ev, err := slow.Next(t.Context())
		missed := uint64(0)
		if i == 0 {
			missed = next - 1
		}
		if err != nil || ev.ID != next+i || ev.Missed != missed {
			t.Fatalf("%d: %+v, %v", i, ev, err)
		}
	}
	h.emit(Event{ID: 9999})
	if ev, _ := slow.Next(t.Context()); ev.ID != 9999 || ev.Missed != 0 {
		t.Errorf("%+v", ev)
	}
	if len(slow.queue) != eventsKept || len(other.queue) > 16 {
		t.Errorf("queues of %d and %d", len(slow.queue), len(other.queue))
	}
}

// Next waits, and is released by an event, by Close, by its context, and by the
// end.
func TestNextIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hub{subscribers: make(map[*Events]struct{})}
		got := make(chan error, 1)
		waiting := func(ctx context.Context, s *Events) {
			t.Helper()
			go func() {
				_, err := s.Next(ctx)
				got <- err
			}()
			synctest.Wait()
			if len(got) > 0 {
				t.Fatal("Next does not wait")
			}
		}
		s := h.subscribe()
		waiting(t.Context(), s)
		h.emit(Event{})
		if err := <-got; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		waiting(ctx, s)
		cancel()
		if err := <-got; err != context.Canceled {
			t.Error(err)
		}
		waiting(t.Context(), s)
		s.Close()
		s.Close()
		if err := <-got; err != ErrSubscriptionClosed {
			t.Error(err)
		}
		h.emit(Event{})
		if _, err := s.Next(t.Context()); err != ErrSubscriptionClosed {
			t.Error(err)
		}
		s = h.subscribe()
		waiting(t.Context(), s)
		h.end()
		if err := <-got; err != io.EOF {
			t.Error(err)
		}
		s.Close()
		if _, err := h.subscribe().Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		h.emit(Event{})
	})
}
