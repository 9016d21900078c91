package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
)

// What is urgent is handed out first; one inbox of each priority, so that a flood
// of one leaves the others their room.
func TestInboxPriorities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := NewDispatcher(DispatcherOptions{Inbox: 2})
		if err != nil {
			t.Fatal(err)
		}
		ch := make(chan Message, 9)
		for _, p := range []Priority{PriorityLow, PriorityNormal, PriorityHigh} {
			d.Register(&Subscriber{id: p, ch: ch, messageType: p.String(), priority: p})
		}
		var refused int
		for _, name := range []string{"low", "low", "low", "normal", "high"} {
			if err := d.Put(NewMessage(name, "", nil)); errors.Is(err, ErrInboxFull) {
				refused++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var got []string
		for len(ch) > 0 {
			got = append(got, (<-ch).MessageType())
		}
		if want := []string{"high", "normal", "low", "low"}; !slices.Equal(got, want) || refused != 1 {
			t.Errorf("%v, %d refused", got, refused)
		}
		d.Stop()
	})
}

// A type has the priority of its most urgent subscriber.
func TestInboxPriorityOfType(t *testing.T) {
	d, err := NewDispatcher(DispatcherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan Message, 1)
	low, high := &Subscriber{ch: ch, messageType: "t", priority: PriorityLow}, &Subscriber{ch: ch, messageType: "t", priority: PriorityHigh}
	d.Register(low, high)
	lane := func() int { return int((*d.wanted.Load())["t"].how.Load()) }
	if got := lane(); got != PriorityHigh.lane() {
		t.Errorf("with both: %d", got)
	}
	d.Deregister(high)
	if got := lane(); got != PriorityLow.lane() {
		t.Errorf("with the low one: %d", got)
	}
}

// putWait waits for room, and for nothing else.
func TestPutWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := NewDispatcher(DispatcherOptions{Inbox: 1})
		if err != nil {
			t.Fatal(err)
		}
		ch := make(chan Message, 100)
		d.Register(NewSubscriber("s", ch, false, "t", 1))
		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, 100)
		for i := range 20 {
			go func() { results <- d.putWait(ctx, NewMessage("t", "", fmt.Append(nil, i))) }()
		}
		synctest.Wait()
		if len(results) != 1 {
			t.Fatalf("%d came in", len(results))
		}
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if len(ch) != 20 {
			t.Errorf("%d arrived", len(ch))
		}
		d.Stop()
		if err := d.putWait(ctx, NewMessage("t", "", nil)); !errors.Is(err, ErrClosed) {
			t.Errorf("after Stop: %v", err)
		}

		d, _ = NewDispatcher(DispatcherOptions{Inbox: 1})
		d.Register(NewSubscriber("s", ch, false, "t", 1))
		_ = d.Put(NewMessage("t", "", nil))
		for range 2 {
			go func() { results <- d.putWait(ctx, NewMessage("t", "", nil)) }()
		}
		synctest.Wait()
		cancel()
		for range 2 {
			if err := <-results; !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		}
		go func() { results <- d.putWait(t.Context(), NewMessage("t", "", nil)) }()
		synctest.Wait()
		d.Stop()
		if err := <-results; !errors.Is(err, ErrClosed) {
			t.Errorf("stopped while it waited: %v", err)
		}
	})
}
