package p2p_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// The deadline of a request travels, and so does its cancellation; a reply that
// comes too late is refused or counted; the end of the session ends what waits.
func TestRequests(t *testing.T) {
	inMemory(t, memory.Options{Link: memory.Link{Latency: 10 * time.Millisecond}}, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		ask, answer := openText(t, a, 1, p2p.WithRequests()), openText(t, b, 1, p2p.WithRequests())
		w.start(a, b)
		w.connect(a, b)
		request := func(ctx context.Context) <-chan error {
			done := make(chan error, 1)
			go func() {
				_, err := ask.Request(ctx, b.id, wrapperspb.String("?"))
				done <- err
			}()
			return done
		}

		// A reply arrives once.
		done := request(t.Context())
		in := next(t, answer)
		if !in.IsRequest() || in.Context().Err() != nil {
			t.Errorf("%+v", in)
		}
		if err := in.Reply(t.Context(), wrapperspb.String("!")); err != nil {
			t.Error(err)
		}
		if err := in.Reply(t.Context(), nil); !errors.Is(err, p2p.ErrReplyUnwanted) {
			t.Error(err)
		}
		if err := <-done; err != nil || in.Context().Err() == nil {
			t.Error(err)
		}

		// The deadline.
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		done = request(ctx)
		in = next(t, answer)
		if at, ok := in.Context().Deadline(); !ok || time.Until(at) > time.Second || time.Until(at) < 900*time.Millisecond {
			t.Error(at, ok)
		}
		<-in.Context().Done()
		if err := in.Reply(t.Context(), nil); !errors.Is(err, p2p.ErrReplyUnwanted) {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		stop()

		// The cancellation; the request is passed over if nobody took it yet.
		for _, taken := range []bool{true, false} {
			ctx, stop = context.WithCancel(t.Context())
			done = request(ctx)
			if taken {
				in = next(t, answer)
			}
			time.Sleep(time.Second)
			stop()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			time.Sleep(time.Second)
			if taken && in.Context().Err() == nil {
				t.Error("still waits")
			}
		}
		if err := ask.TrySend(b.id, wrapperspb.String("plain")); err != nil {
			t.Fatal(err)
		}
		if in = next(t, answer); in.IsRequest() || in.Message.Value != "plain" {
			t.Errorf("%+v", in)
		}
		if err := in.Reply(t.Context(), nil); !errors.Is(err, p2p.ErrNotARequest) {
			t.Error(err)
		}

		// A reply that crosses the cancel on its way.
		ctx, stop = context.WithCancel(t.Context())
		done = request(ctx)
		in = next(t, answer)
		if err := in.Reply(t.Context(), nil); err != nil {
			t.Error(err)
		}
		stop()
		<-done
		time.Sleep(time.Second)
		if s := ask.Stats(); s.Unexpected != 1 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}

		// One too many.
		// They are given up in two halves: a cancel that finds the queue full is
		// lost, and the request then ends with its session.
		ctx, stop = context.WithCancel(t.Context())
		others, stopOthers := context.WithCancel(t.Context())
		for i := range 1030 {
			request([]context.Context{ctx, others}[i%2])
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		if s := answer.Stats(); s.Overload == 0 || s.Open == 0 || s.Open > 1024 {
			t.Errorf("%+v", s)
		}
		stop()
		time.Sleep(time.Second)
		stopOthers()
		time.Sleep(time.Second)
		if s := answer.Stats(); s.Open != 0 {
			t.Errorf("%+v", s)
		}

		// The end of the session, and of the channel.
		done = request(t.Context())
		time.Sleep(time.Second)
		w.net.Reset(a.id, b.id)
		if err := <-done; !errors.Is(err, p2p.ErrPeerClosed) {
			t.Error(err)
		}
		time.Sleep(time.Second)
		w.until(func() bool { return up(a, b.id) && up(b, a.id) })
		if s := answer.Stats(); s.Open != 0 {
			t.Errorf("%+v", s)
		}
		done = request(t.Context())
		synctest.Wait()
		ask.Close()
		if err := <-done; !errors.Is(err, p2p.ErrClosed) {
			t.Error(err)
		}
	})
}

// Requests over both transports, between channels of which one was opened again.
func TestRequestsAfterReopening(t *testing.T) {
	overBoth(t, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		ask, answer := openText(t, a, 1, p2p.WithRequests()), openText(t, b, 1, p2p.WithRequests())
		w.start(a, b)
		w.connect(a, b)
		go func() {
			for in, err := range answer.Receive(t.Context()) {
				if err != nil {
					return
				}
				_ = in.Reply(t.Context(), wrapperspb.String(in.Message.Value+"!"))
			}
		}()
		if got, err := ask.Request(t.Context(), b.id, wrapperspb.String("x")); err != nil || got.Value != "x!" {
			t.Error(got, err)
		}
		answer.Close()
		plain := openText(t, b, 1) // both agreed on request frames in the handshake
		if err := ask.TrySend(b.id, wrapperspb.String("y")); err != nil {
			t.Fatal(err)
		}
		if in := next(t, plain); in.Message.Value != "y" {
			t.Errorf("%+v", in)
		}
		if err := plain.TrySend(a.id, wrapperspb.String("z")); err != nil {
			t.Fatal(err)
		}
		if in := next(t, ask); in.Message.Value != "z" {
			t.Errorf("%+v", in)
		}
	})
}
