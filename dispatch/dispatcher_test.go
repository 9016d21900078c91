package dispatch_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/dispatch"
)

func newDispatcher(tb testing.TB, o dispatch.DispatcherOptions) *dispatch.Dispatcher {
	tb.Helper()
	d, err := dispatch.NewDispatcher(o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := d.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.Stop)
	return d
}

func put(tb testing.TB, d *dispatch.Dispatcher, name string, texts ...string) {
	tb.Helper()
	for _, s := range texts {
		if err := d.Put(dispatch.NewMessage(name, "", []byte(s))); err != nil {
			tb.Fatal(err)
		}
	}
}

// drain is what is in a channel, once the Dispatcher has nothing to do.
func drain(ch chan dispatch.Message) (got []string) {
	synctest.Wait()
	for {
		select {
		case m := <-ch:
			got = append(got, string(m.Data()))
		default:
			return got
		}
	}
}

func expect(tb testing.TB, what string, got []string, want ...string) {
	tb.Helper()
	if !slices.Equal(got, want) {
		tb.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestDispatcherByType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, dispatch.DispatcherOptions{})
		a1, a2, b := make(chan dispatch.Message, 9), make(chan dispatch.Message, 9), make(chan dispatch.Message, 9)
		d.Register(dispatch.NewSubscriber("a1", a1, false, "a", 1), dispatch.NewSubscriber("a2", a2, false, "a", 1), dispatch.NewSubscriber("b", b, false, "b", 1))
		put(t, d, "a", "1", "2")
		put(t, d, "b", "3")
		put(t, d, "nobody", "4")
		expect(t, "a1", drain(a1), "1", "2")
		expect(t, "a2", drain(a2), "1", "2")
		expect(t, "b", drain(b), "3")
		st := d.Stats()
		if st.Unwanted != 1 || st.Type("a").Received != 2 || st.Type("a").Subscribers != 2 || st.Type("b").Bytes != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// Several goroutines put, several types, all arrive in each putter's order.
func TestDispatcherKeepsOrder(t *testing.T) {
	const putters, each = 4, 5000
	d := newDispatcher(t, dispatch.DispatcherOptions{})
	ch := make(chan dispatch.Message, putters*each)
	d.Register(dispatch.NewSubscriber("s", ch, false, "t", 1))
	var wg sync.WaitGroup
	for p := range putters {
		wg.Go(func() {
			for i := range each {
				put(t, d, "t", fmt.Sprintf("%d %d", p, i))
			}
		})
	}
	wg.Wait()
	var next [putters]int
	for range putters * each {
		var p, i int
		if _, err := fmt.Sscan(string((<-ch).Data()), &p, &i); err != nil || i != next[p] {
			t.Fatalf("putter %d: %d, want %d (%v)", p, i, next[p], err)
		}
		next[p]++
	}
}

func TestDispatcherLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := dispatch.NewDispatcher(dispatch.DispatcherOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ch := make(chan dispatch.Message, 1)
		d.Register(dispatch.NewSubscriber("s", ch, false, "t", 1))
		put(t, d, "t", "early")
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		if err := d.Start(); err == nil {
			t.Error("started twice")
		}
		expect(t, "put before Start", drain(ch), "early")
		d.Stop()
		d.Stop()
		if err := d.Put(dispatch.NewMessage("t", "", nil)); !errors.Is(err, dispatch.ErrClosed) {
			t.Errorf("after Stop: %v", err)
		}
		if err := d.Start(); !errors.Is(err, dispatch.ErrClosed) {
			t.Errorf("Start after Stop: %v", err)
		}
	})
	d, _ := dispatch.NewDispatcher(dispatch.DispatcherOptions{})
	d.Register(dispatch.NewSubscriber("s", make(chan dispatch.Message, 1), false, "t", 1))
	put(t, d, "t", "never")
	d.Stop() // before Start
	if st := d.Stats().Type("t"); st.Refused != 1 || st.Waiting != 0 {
		t.Errorf("what nobody got to: %+v", st)
	}
}

// Nonsense is left out, and the same subscriber counts once.
func TestDispatcherRegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, dispatch.DispatcherOptions{})
		ch := make(chan dispatch.Message, 9)
		s := dispatch.NewSubscriber(7, ch, false, "t", 1)
		d.Register(nil, s, s, dispatch.NewSubscriber("", nil, false, "t", 1), dispatch.NewSubscriber("", ch, false, "", 1),
			dispatch.NewSubscriber("", ch, false, strings.Repeat("x", 129), 1), dispatch.NewSubscriber("", ch, false, "a\nb", 1))
		d.Register(s)
		put(t, d, "t", "once")
		expect(t, "s", drain(ch), "once")
		if st := d.Stats(); len(st.Subscribers) != 1 || st.Subscribers[0].ID != "7" || st.Subscribers[0].Delivered != 1 {
			t.Errorf("%+v", st.Subscribers)
		}
		d.Deregister(nil, s, s, dispatch.NewSubscriber("", ch, false, "other", 1))
		put(t, d, "t", "late")
		expect(t, "after Deregister", drain(ch))
	})
}

func TestDispatcherLimits(t *testing.T) {
	for name, o := range map[string]dispatch.DispatcherOptions{
		"negative inbox": {Inbox: -1}, "an inbox below one message": {InboxBytes: 5, MaxMessage: 6}, "no age": {FilterAge: -time.Second},
		"too old": {FilterAge: 48 * time.Hour}, "no filter": {FilterMessages: -1}, "no message": {MaxMessage: -1},
	} {
		if _, err := dispatch.NewDispatcher(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	d, err := dispatch.NewDispatcher(dispatch.DispatcherOptions{Inbox: 2, MaxMessage: 10, InboxBytes: 15})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Stop()
	d.Register(dispatch.NewSubscriber("s", make(chan dispatch.Message, 1), false, "t", 1))
	ten := strings.Repeat("x", 10)
	if err := d.Put(dispatch.NewMessage("t", "", []byte(ten+"x"))); !errors.Is(err, dispatch.ErrTooLarge) {
		t.Errorf("11 bytes of 10: %v", err)
	}
	put(t, d, "t", ten)
	if err := d.Put(dispatch.NewMessage("t", "", []byte(ten))); !errors.Is(err, dispatch.ErrInboxFull) {
		t.Errorf("20 bytes of 15: %v", err)
	}
	put(t, d, "t", "y")
	if err := d.Put(dispatch.NewMessage("t", "", nil)); !errors.Is(err, dispatch.ErrInboxFull) {
		t.Errorf("the third of two: %v", err)
	}
	if st := d.Stats(); st.TooLarge != 1 || st.Type("t").Refused != 2 || st.Waiting != 2 {
		t.Errorf("%+v", st)
	}
}

// The filter leaves out what came before, for those who want that, and forgets
// with time, one message after another.
func TestDuplicateFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, dispatch.DispatcherOptions{FilterAge: 10 * time.Second})
		all, once, other := make(chan dispatch.Message, 9), make(chan dispatch.Message, 9), make(chan dispatch.Message, 9)
		d.Register(dispatch.NewSubscriber("all", all, false, "t", 1), dispatch.NewSubscriber("once", once, true, "t", 1),
			dispatch.NewSubscriber("other", other, true, "u", 1))
		put(t, d, "t", "a")
		time.Sleep(6 * time.Second)
		put(t, d, "t", "a", "b")
		put(t, d, "u", "a") // another type is other content
		expect(t, "all", drain(all), "a", "a", "b")
		expect(t, "once", drain(once), "a", "b")
		expect(t, "other", drain(other), "a")
		time.Sleep(5 * time.Second) // a is forgotten, b is not
		put(t, d, "t", "b", "a")
		expect(t, "once", drain(once), "a")
		expect(t, "all", drain(all), "b", "a")
		if st := d.Stats(); st.Type("t").Duplicates != 2 || st.Subscribers[1].Duplicates != 2 || st.Subscribers[0].Duplicates != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// The oldest go first when there are too many, and only they.
func TestDuplicateFilterBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, dispatch.DispatcherOptions{FilterMessages: 100})
		ch := make(chan dispatch.Message, 1000)
		d.Register(dispatch.NewSubscriber("s", ch, true, "t", 1))
		for i := range 150 {
			put(t, d, "t", fmt.Sprint(i))
		}
		drain(ch)
		put(t, d, "t", "149", "50", "49")
		expect(t, "only the 51st is forgotten", drain(ch), "49")
	})
}

// A thousand types make no more than MaxTypes labels, and nothing is lost in sum.
func TestStatsLabelsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, dispatch.DispatcherOptions{})
		ch := make(chan dispatch.Message, 1)
		const types = 1000
		for i := range types {
			s := dispatch.NewSubscriber(i, ch, false, fmt.Sprint(i), 1)
			d.Register(s)
			put(t, d, s.MessageType(), "x")
			drain(ch)
			if i%2 == 0 {
				d.Deregister(s)
			}
		}
		st := d.Stats()
		sum := st.Others.Received
		for _, s := range st.Types {
			sum += s.Received
		}
		if len(st.Types) != dispatch.MaxTypes || sum != types {
			t.Errorf("%d types, %d messages", len(st.Types), sum)
		}
		if len(st.Subscribers) != types/2 {
			t.Errorf("%d subscribers", len(st.Subscribers))
		}
	})
}

// A stuck subscriber changes nothing for the others: under virtual time, they have
// everything at the moment it was put, with a stuck one as without.
func TestStuckSubscriberHurtsOnlyItself(t *testing.T) {
	for _, stuck := range []int{0, 1, 20} {
		synctest.Test(t, func(t *testing.T) {
			d := newDispatcher(t, dispatch.DispatcherOptions{})
			s, err := dispatch.NewService(nil, dispatch.Options{Key: testKey(1)})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			defer s.Stop()
			for i := range stuck {
				d.Register(dispatch.NewSubscriber(i, make(chan dispatch.Message), i%2 == 0, "t", 1))
				p := dispatch.Policy{Queue: 1, Overflow: dispatch.Overflow(i % 3)}
				if _, err := s.SubscribeBytes("t", p); err != nil {
					t.Fatal(err)
				}
			}
			const messages = 2000
			ch := make(chan dispatch.Message, messages)
			d.Register(dispatch.NewSubscriber("healthy", ch, false, "t", 1))
			sub, err := s.SubscribeBytes("t", dispatch.Policy{Queue: messages})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			for i := range messages {
				put(t, d, "t", fmt.Sprint(i))
				put(t, s.Dispatcher(), "t", fmt.Sprint(i))
			}
			if got := drain(ch); len(got) != messages || got[messages-1] != fmt.Sprint(messages-1) {
				t.Errorf("%d stuck: %d messages", stuck, len(got))
			}
			if st := sub.Stats(); st.Queued != messages || st.Dropped() != 0 {
				t.Errorf("%d stuck: %+v", stuck, st)
			}
			if took := time.Since(start); took != 0 {
				t.Errorf("%d stuck: it took %v", stuck, took)
			}
			if got := d.Stats().Type("t").Dropped; got != uint64(stuck)*messages {
				t.Errorf("%d stuck lost %d", stuck, got)
			}
		})
	}
}

// A twin of the queue's three policies, by what is left in it.
func TestOverflow(t *testing.T) {
	for _, c := range []struct {
		policy dispatch.Policy
		left   []string
		newest uint64
		oldest uint64
		large  uint64
	}{
		{dispatch.Policy{Queue: 3}, []string{"c", "d", "ee"}, 0, 2, 0},
		{dispatch.Policy{Queue: 3, Overflow: dispatch.DropNewest}, []string{"a", "b", "c"}, 2, 0, 0},
		{dispatch.Policy{Queue: 3, Overflow: dispatch.Hold}, []string{"a", "b", "c"}, 2, 0, 0},
		{dispatch.Policy{QueueBytes: 3}, []string{"d", "ee"}, 0, 3, 0},
		{dispatch.Policy{QueueBytes: 3, Overflow: dispatch.DropNewest}, []string{"a", "b", "c"}, 2, 0, 0},
		{dispatch.Policy{QueueBytes: 1}, []string{"d"}, 0, 3, 1},
	} {
		t.Run(fmt.Sprint(c.policy.Overflow, c.policy.Queue, c.policy.QueueBytes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := dispatch.NewService(nil, dispatch.Options{Key: testKey(1)})
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Start(); err != nil {
					t.Fatal(err)
				}
				sub, err := s.SubscribeBytes("t", c.policy)
				if err != nil {
					t.Fatal(err)
				}
				put(t, s.Dispatcher(), "t", "a", "b", "c", "d", "ee")
				synctest.Wait()
				st := sub.Stats()
				if st.DroppedNewest != c.newest || st.DroppedOldest != c.oldest || st.DroppedLarge != c.large || st.Queued != len(c.left) {
					t.Errorf("%+v", st)
				}
				sub.Close()
				var left []string
				for m, err := range sub.Messages(t.Context()) {
					if err != nil {
						if !errors.Is(err, dispatch.ErrClosed) {
							t.Error(err)
						}
						break
					}
					left = append(left, string(m.Message))
				}
				expect(t, "left", left, c.left...)
				if err := s.Stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A subscriber that moved took with it what it had lost, which the dispatcher of
// before was still writing to: the process ended.
func TestRegressionMovedSubscriber(t *testing.T) {
	ch := make(chan dispatch.Message) // full from the start
	s := dispatch.NewSubscriber("s", ch, true, "a", 1)
	stop := make(chan struct{})
	var putting sync.WaitGroup
	defer putting.Wait()
	defer close(stop)
	ds := []*dispatch.Dispatcher{newDispatcher(t, dispatch.DispatcherOptions{}), newDispatcher(t, dispatch.DispatcherOptions{})}
	for k, d := range ds {
		putting.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					_ = d.Put(dispatch.NewMessage("a", "", []byte(fmt.Sprint(k, i)))) // the inbox may be full
				}
			}
		})
	}
	for range 20 {
		for _, d := range ds {
			was := d.Stats().Subscribers
			d.Register(s)
			if len(was) != 0 || len(d.Stats().Subscribers) != 1 {
				t.Fatalf("%v", was)
			}
			for lost := s.Stats().Dropped(); s.Stats().Dropped() < lost+100; {
				runtime.Gosched()
			}
			d.Deregister(s) // while the loop hands on
		}
	}
}
