package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/access"
)

// Time in queue, rate and retry-after, under virtual time.
func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newLimiter(Limits{Concurrent: 2, Queue: 2, QueueTime: time.Second}.withDefaults(1))
		stop := make(chan struct{})
		for range 2 {
			if _, ok := m.acquire(wait{stop: stop}); !ok {
				t.Fatal("not admitted")
			}
		}
		type result struct {
			after, waited time.Duration
			ok            bool
		}
		results := make(chan result, 2)
		start := time.Now()
		for range 2 {
			go func() {
				after, ok := m.acquire(wait{stop: stop})
				results <- result{after, time.Since(start), ok}
			}()
		}
		synctest.Wait()
		if after, ok := m.acquire(wait{stop: stop}); ok || after < minRetryAfter {
			t.Errorf("a full queue admits, %s", after)
		}
		if running, waiting := m.load(); running != 2 || waiting != 2 {
			t.Errorf("%d, %d", running, waiting)
		}
		time.Sleep(500 * time.Millisecond)
		m.release(8 * time.Second) // an average of 1 s from now on
		if r := <-results; !r.ok || r.waited != 500*time.Millisecond {
			t.Errorf("%+v", r)
		}
		if r := <-results; r.ok || r.waited != time.Second || r.after < 500*time.Millisecond {
			t.Errorf("%+v", r)
		}
		m.release(0)
		m.release(0)
		if running, waiting := m.load(); running != 0 || waiting != 0 {
			t.Errorf("%d, %d", running, waiting)
		}

		m = newLimiter(Limits{Rate: 10, Burst: 2}.withDefaults(100))
		got := 0
		for range 20 { // two at once, then one each 100 ms
			after, ok := m.acquire(wait{stop: stop})
			if ok {
				got++
				m.release(0)
			} else if after <= 0 || after > 100*time.Millisecond {
				t.Errorf("come back in %s", after)
			}
			time.Sleep(50 * time.Millisecond)
		}
		if got < 11 || got > 12 {
			t.Errorf("%d calls in a second", got)
		}
	})
}

// A queue that is closed by Stop lets its callers go.
func TestLimiterStops(t *testing.T) {
	m := newLimiter(Limits{Concurrent: 1, QueueTime: time.Hour}.withDefaults(1))
	stop := make(chan struct{})
	m.acquire(wait{stop: stop})
	done := make(chan bool)
	go func() {
		_, ok := m.acquire(wait{stop: stop})
		done <- ok
	}()
	close(stop)
	if await(t, "answer", done) {
		t.Error("admitted")
	}
}

// Overload is an answer: who is refused learns when to come back, and its
// client does so by itself, so that all calls are served in the end.
func TestOverloadIsAnAnswer(t *testing.T) {
	c, s, id := pair(t, nil, &ClientConfig{RetryInterval: time.Millisecond, MaxRetries: 1000, RetryBudget: 1})
	handle(t, s, "/kith-test/narrow", func(context.Context, *Request) (*Response, error) {
		time.Sleep(time.Millisecond) // some work
		return nil, nil
	}, WithLimits(Limits{Concurrent: 1, Queue: 1}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				if _, err := c.Send(ctxOf(t), id, "/kith-test/narrow", nil); err == nil {
					return
				} else if CodeOf(err) != CodeResourceExhausted {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if st := s.Stats().Methods["/kith-test/narrow"]; st.Refused == 0 || st.Calls != 8 {
		t.Errorf("%+v", st)
	}
	err := s.StartHandler("/kith-test/bad", func(context.Context, *Request) (*Response, error) { return nil, nil }, WithLimits(Limits{Rate: -1}))
	if err == nil {
		t.Error("a negative rate")
	}
}

// Unary calls get through when streaming calls hold all that they may.
func TestStreamsDoNotStarveCalls(t *testing.T) {
	c, s, id := pair(t, nil, &ClientConfig{MaxConnsPerPeer: 1})
	handleStream(t, s, "/kith-test/stream", echoStream)
	st, err := c.Open(ctxOf(t), &Request{Peer: id, Method: "/kith-test/stream"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	if _, err := c.Send(ctx, id, echoID, nil); CodeOf(err) != CodeDeadlineExceeded {
		t.Errorf("one stream in all, and it is taken: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Send(ctxOf(t), id, echoID, nil)
		done <- err
	}()
	st.Close()
	if err := await(t, "answer", done); err != nil {
		t.Error(err)
	}
}

func TestAllowFollowsTheAccessRules(t *testing.T) {
	var rules access.Control
	c, s, id := pair(t, &ServerConfig{Authorize: Allow(&rules)}, nil)
	me := c.h.ID()
	call := func() error {
		_, err := c.Send(ctxOf(t), id, echoID, nil)
		return err
	}
	wantCode(t, call(), CodeUnimplemented) // who has nothing to do here learns nothing
	_, err := c.Info(ctxOf(t), id)
	wantCode(t, err, CodeUnimplemented)
	rules.Set(string(echoID), access.Rule{Peers: nil})
	wantCode(t, call(), CodePermissionDenied)
	rules.Set("/kith-test/other", access.Rule{Any: true})
	wantCode(t, call(), CodePermissionDenied)
	rules.Set(string(echoID), access.Rule{Peers: append([]peer.ID{me}, id)})
	if err := call(); err != nil {
		t.Error(err)
	}
	list, err := c.Services(ctxOf(t), id)
	if err != nil || fmt.Sprint(list) != fmt.Sprint(s.Services(me)) || len(list) != 5 {
		t.Errorf("%v, %v", list, err)
	}
	rules.Remove(string(echoID))
	wantCode(t, call(), CodeUnimplemented)
	if s.Stats().Methods[string(echoID)].Calls != 1 {
		t.Errorf("%+v", s.Stats())
	}

	only := AllowPeers(me)
	if only(Caller{Peer: me}) != nil || !errors.Is(only(Caller{Peer: id}), access.ErrNotAllowed) {
		t.Error("AllowPeers")
	}
}
