package transport

import (
	"context"
	"slices"
	"testing"
	"time"
)

func drain(events <-chan Event) (all []Event) {
	for {
		select {
		case e := <-events:
			all = append(all, e)
		default:
			return all
		}
	}
}

func TestEvents(t *testing.T) {
	p, c := testPanel(Options{})
	b := p.Lookup(text("x"))
	fail(t, b, 1) // nobody listens yet
	events := p.Subscribe()
	fail(t, b, 2)
	refuse(t, b)
	c.advance(time.Second)
	trial := allow(t, b)
	trial(context.Canceled)
	allow(t, b)(errDown)
	c.advance(2 * time.Second)
	_ = b.State()
	allow(t, b)(nil)
	allow(t, b)(nil)
	b.Reset() // of a closed one: nothing happens
	b.Trip()
	b.Reset()
	var kinds []string
	got := drain(events)
	for _, e := range got {
		kinds = append(kinds, e.Kind.String())
		if e.Name != "x" || e.At.IsZero() || (e.Kind == Fail) != (e.Err == errDown) || (e.Kind == Tripped) != !e.RetryAt.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	want := []string{"fail", "fail", "tripped", "ready", "fail", "tripped", "ready", "reset", "tripped", "reset"}
	if !slices.Equal(kinds, want) {
		t.Errorf("%q, want %q", kinds, want)
	}
	if got[0].Failures != 2 || got[2].Failures != 3 || !got[2].RetryAt.Equal(got[2].At.Add(time.Second)) {
		t.Errorf("%+v", got)
	}
}

func TestUnsubscribe(t *testing.T) {
	p, _ := testPanel(Options{})
	a, b := p.Subscribe(), p.Subscribe()
	p.Lookup(text("x")).Trip()
	p.Unsubscribe(a)
	p.Unsubscribe(a) // twice is harmless
	p.Unsubscribe(nil)
	p.Lookup(text("y")).Trip()
	if e, ok := <-a; !ok || e.Name != "x" {
		t.Fatal("what waited must still be there")
	}
	if _, ok := <-a; ok {
		t.Fatal("not closed")
	}
	if n := len(drain(b)); n != 2 {
		t.Fatalf("the other got %d events", n)
	}
	if n := p.Stats().Subscribers; n != 1 {
		t.Fatalf("%d subscribers", n)
	}
	p.Unsubscribe(b)
	p.Lookup(text("z")).Trip() // to nobody
	if s := p.Stats(); s.Subscribers != 0 || s.Dropped != 0 {
		t.Fatalf("%+v", s)
	}
}

// A subscriber that does not read misses events and holds up nobody.
func TestRegressionSlowSubscriberBlocksNoDial(t *testing.T) {
	p, _ := testPanel(Options{})
	_ = p.Subscribe()
	b := p.Lookup(text("x"))
	for range 1000 {
		b.Trip()
		b.Reset()
	}
	if s := p.Stats(); s.Dropped != 2000-eventBuffer {
		t.Fatalf("%d dropped", s.Dropped)
	}
}
