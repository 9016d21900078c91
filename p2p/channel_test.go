package p2p_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// A closed Channel closes In and Done; what goes into Out and Error afterwards is
// dropped and counted, until the Router stops.
func TestChannelAfterClose(t *testing.T) {
	overBoth(t, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		from, err := a.r.OpenChannel(1, new(text))
		if err != nil {
			t.Fatal(err)
		}
		to := openText(t, b, 1)
		w.start(a, b)
		w.connect(a, b)
		from.Out <- p2p.Envelope{To: b.id, Message: wrapperspb.String("one")}
		from.Out <- p2p.Envelope{Broadcast: true, Message: wrapperspb.String("two")}
		from.Out <- p2p.Envelope{To: b.id, Message: wrapperspb.Int64(1)} // of another type
		from.Out <- p2p.Envelope{To: b.id}
		for _, want := range []string{"one", "two"} {
			if in := next(t, to); in.Message.Value != want {
				t.Errorf("%+v", in)
			}
		}
		if err := to.Send(t.Context(), a.id, wrapperspb.String("three")); err != nil {
			t.Fatal(err)
		}
		if e := <-from.In; e.From != b.id || e.ChannelID != 1 || e.Message.(*text).Value != "three" {
			t.Errorf("%+v", e)
		}
		w.until(func() bool { return from.Stats().Unencodable == 2 })
		if err := errors.Join(from.Close(), from.Close()); err != nil {
			t.Error(err)
		}
		<-from.Done()
		if _, ok := <-from.In; ok {
			t.Error("In is open")
		}
		from.Out <- p2p.Envelope{To: b.id, Message: wrapperspb.String("late")}
		from.Error <- p2p.PeerError{NodeID: b.id, Fatal: true}
		from.Error <- p2p.PeerError{NodeID: b.id, Fatal: true}
		w.until(func() bool { return from.Stats().Late == 3 })
		if s := from.Stats(); s.Unencodable != 2 || s.Send.Written != 2 || !up(a, b.id) {
			t.Errorf("%+v", s)
		}
		balance(t, from.Stats())
		// What b sends on it now is counted, and hurts nobody.
		if err := to.Send(t.Context(), a.id, wrapperspb.String("four")); err != nil {
			t.Fatal(err)
		}
		w.until(func() bool { return a.r.Stats().UnknownChannel == 1 })
		again := openText(t, a, 1)
		if err := to.Send(t.Context(), a.id, wrapperspb.String("five")); err != nil {
			t.Fatal(err)
		}
		if in := next(t, again); in.Message.Value != "five" {
			t.Errorf("%+v", in)
		}
		if err := again.Send(t.Context(), b.id, wrapperspb.String("six")); err != nil {
			t.Fatal(err)
		}
		if in := next(t, to); in.Message.Value != "six" {
			t.Errorf("%+v", in)
		}
		a.r.Stop()
		balance(t, from.Stats())
		balance(t, again.Stats())
	})
}

// Opening, sending, closing and stopping at once.
func TestChannelRaces(t *testing.T) {
	overBoth(t, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		openText(t, b, 1)
		openText(t, a, 9)
		openText(t, b, 9)
		w.start(a, b)
		w.connect(a, b)
		done := make(chan struct{})
		for range 4 {
			go func() {
				defer func() { done <- struct{}{} }()
				for range 200 {
					c, err := p2p.OpenTyped[*text](a.r, 1)
					if errors.Is(err, p2p.ErrChannelOpen) {
						continue
					}
					if err != nil {
						return
					}
					_ = c.TrySend(b.id, wrapperspb.String("x"))
					c.Close()
					balance(t, c.Stats())
				}
			}()
		}
		for range 3 {
			<-done
		}
		a.r.Stop()
		<-done
	})
}

// What OpenChannel and OpenTyped refuse.
func TestOpenRefuses(t *testing.T) {
	inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
		n := w.node()
		if _, err := n.r.OpenChannel(1, nil); err == nil {
			t.Error("no message type")
		}
		if _, err := p2p.OpenTyped[proto.Message](n.r, 1); err == nil {
			t.Error("an interface")
		}
		if _, err := p2p.OpenTyped[*text](n.r, 1, p2p.WithDescriptor(p2p.ChannelDescriptor{ReceivePolicy: p2p.ReceivePause})); !errors.Is(err, p2p.ErrPauseUnsupported) {
			t.Error(err)
		}
		// A peer's request there would find nobody who can reply, and wait.
		if _, err := n.r.OpenChannel(1, new(text), p2p.WithRequests()); !errors.Is(err, p2p.ErrRequestsNeedTyped) {
			t.Error(err)
		}
		if info := n.r.NodeInfo(); len(info.Extensions.RequestChannels) != 0 {
			t.Errorf("announced all the same: %+v", info)
		}
		all := p2p.ChannelDescriptor{
			Class: 4, SendPolicy: 9, ReceivePolicy: 9, SendTimeout: -1, SendQueueCapacity: -1, RecvQueueCapacity: 1 << 30,
			SendQueueBytes: 1<<63 - 1, RecvQueueBytes: 5, RecvTotalBytes: 1,
		}
		_, err := p2p.OpenTyped[*text](n.r, 1, p2p.WithDescriptor(all))
		for _, field := range []string{"Class", "SendPolicy", "ReceivePolicy", "SendTimeout", "SendQueueCapacity", "RecvQueueCapacity", "SendQueueBytes", "RecvQueueBytes", "RecvTotalBytes"} {
			if err == nil || !strings.Contains(err.Error(), field) {
				t.Errorf("%s is missing in %v", field, err)
			}
		}
		for _, capacity := range []int{-1, 1<<30 + 1} {
			if _, err := p2p.OpenTyped[*text](n.r, 1, p2p.WithDescriptor(p2p.ChannelDescriptor{RecvMessageCapacity: capacity})); err == nil {
				t.Error(capacity)
			}
		}
		huge := p2p.ChannelDescriptor{RecvMessageCapacity: 1 << 30, SendQueueBytes: (1<<63 - 1) / 16, RecvQueueBytes: (1<<63 - 1) / 16, Class: 3}
		if _, err := p2p.OpenTyped[*text](n.r, 1, p2p.WithDescriptor(huge)); err != nil {
			t.Error(err)
		}
		other := w.node()
		openText(t, other, 1)
		w.start(n, other)
		w.connect(n, other) // huge limits do not overflow into a session that fails
	})
}

// SendTimeout drops what waited too long; SendBlock waits for room until its
// context ends; the books tell.
func TestSendPoliciesThroughTheRouter(t *testing.T) {
	inMemory(t, memory.Options{Window: 1 << 10, Batch: 1 << 10}, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		stale := openBytes(t, a, 1, p2p.ChannelDescriptor{SendTimeout: time.Second})
		block := openBytes(t, a, 2, p2p.ChannelDescriptor{SendPolicy: p2p.SendBlock, SendQueueCapacity: 4})
		openBytes(t, b, 1, p2p.ChannelDescriptor{})
		openBytes(t, b, 2, p2p.ChannelDescriptor{})
		w.start(a, b)
		w.connect(a, b)
		w.net.Stall(a.id, b.id)
		m := wrapperspb.Bytes(make([]byte, 1000))
		var full error
		for full == nil {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			full = block.Send(ctx, b.id, m)
			stop()
		}
		if !errors.Is(full, context.DeadlineExceeded) {
			t.Error(full)
		}
		if err := block.TrySend(b.id, m); !errors.Is(err, p2p.ErrQueueFull) {
			t.Error(err)
		}
		for range 10 {
			if err := stale.TrySend(b.id, m); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		released := make(chan error)
		go func() { released <- block.Send(context.Background(), b.id, m) }()
		synctest.Wait()
		w.net.Heal(a.id, b.id)
		if err := <-released; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		s, k := stale.Stats().Send, block.Stats().Send
		if s.Dropped[p2p.DropDeadline] != 10 || s.Written != 0 || k.Dropped[p2p.DropCancelled] != 1 || k.Dropped[p2p.DropFull] != 1 || k.Written != k.Accepted {
			t.Errorf("%+v\n%+v", s, k)
		}
		// The end of the session releases who waits.
		w.net.Stall(a.id, b.id)
		go func() {
			for {
				if err := block.Send(context.Background(), b.id, m); err != nil {
					released <- err
					return
				}
			}
		}()
		time.Sleep(time.Second)
		w.net.Reset(a.id, b.id)
		if err := <-released; !errors.Is(err, p2p.ErrQueueClosed) && !errors.Is(err, p2p.ErrPeerUnknown) {
			t.Error(err)
		}
		balance(t, block.Stats())
	})
}
