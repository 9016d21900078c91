package p2p_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// stuckLogger is a handler that does not return from a bad message until it is let
// go, and counts what it was told.
type stuckLogger struct {
	slog.Handler
	letGo          chan struct{}
	told, untold   int // written before letGo by the first call only, then by one goroutine
	reached, ended chan struct{}
}

func newStuckLogger(o *p2p.RouterOptions) *stuckLogger {
	s := &stuckLogger{slog.DiscardHandler, make(chan struct{}), 0, 0, make(chan struct{}, 1), make(chan struct{}, 1)}
	o.Logger = slog.New(s)
	return s
}

func (s *stuckLogger) Enabled(context.Context, slog.Level) bool { return true }

func (s *stuckLogger) Handle(_ context.Context, r slog.Record) error {
	switch r.Message {
	case "bad message":
		select {
		case s.reached <- struct{}{}:
		default:
		}
		<-s.letGo
		s.told++
	case "bad messages that were too many to log":
		r.Attrs(func(a slog.Attr) bool {
			s.untold += int(a.Value.Uint64())
			return true
		})
	}
	return nil
}

// badPeer is a connection to a node that has channels 1, with requests, and 2.
func badPeer(t *testing.T, w *world, to *testNode) p2p.Connection {
	t.Helper()
	key := testKey(50)
	tr, err := w.net.Listen(key.Public().NodeID())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tr.Dial(t.Context(), w.endpoint(to))
	if err != nil {
		t.Fatal(err)
	}
	info := rawInfo(key)
	info.Channels, info.Extensions = []p2p.ChannelID{1, 2}, p2p.Extensions{Kith: true, RequestChannels: []p2p.ChannelID{1}}
	if _, _, err := conn.Handshake(t.Context(), info, key); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		tr.Close()
	})
	w.until(func() bool { return up(to, info.NodeID) })
	return conn
}

func (w *world) endpoint(of *testNode) p2p.Endpoint {
	w.Helper()
	es, err := of.at.Resolve(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return es[0]
}

// A handler that blocks in the midst of a bad message stops neither the next
// message of the peer nor Stop; the faults are counted all the same.
func TestRegressionBlockingLoggerOnTheReadLoop(t *testing.T) {
	inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
		var logger *stuckLogger
		b := w.node(func(o *p2p.RouterOptions) { logger = newStuckLogger(o) })
		one := openBytes(t, b, 1, p2p.ChannelDescriptor{Requests: true})
		two := openBytes(t, b, 2, p2p.ChannelDescriptor{})
		w.start(b)
		conn := badPeer(t, w, b)
		good, err := proto.Marshal(wrapperspb.Bytes([]byte("x")))
		if err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			if err := conn.SendMessage(1, []byte{9, 9, 9}); err != nil {
				t.Fatal(err)
			}
			if err := conn.SendMessage(2, good); err != nil {
				t.Fatal(err)
			}
			next(t, two)
		}
		<-logger.reached
		if s := one.Stats(); s.Malformed != 1000 || b.pm.Scores()[testKey(50).Public().NodeID()] != -1000 {
			t.Errorf("%+v, %v", s, b.pm.Scores())
		}
		began := time.Now()
		b.r.Stop()
		if took := time.Since(began); took > 10*time.Second { // of virtual time
			t.Errorf("Stop took %v", took)
		}
		close(logger.letGo)
		synctest.Wait()
		if logger.told != 1 {
			t.Errorf("told %d times after Stop", logger.told-1)
		}
	})
}

// A handler that goes on hears of as many bad messages as were kept for it and how
// many were not, before Stop returns.
func TestBadMessagesAreLoggedOrCounted(t *testing.T) {
	for _, bad := range []int{1, 65, 1000} {
		inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
			var logger *stuckLogger
			b := w.node(func(o *p2p.RouterOptions) { logger = newStuckLogger(o) })
			one := openBytes(t, b, 1, p2p.ChannelDescriptor{Requests: true})
			w.start(b)
			conn := badPeer(t, w, b)
			for i := range bad {
				if err := conn.SendMessage(1, []byte{9, 9, 9}); err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					<-logger.reached
				}
			}
			w.until(func() bool { return one.Stats().Malformed == uint64(bad) })
			close(logger.letGo)
			b.r.Stop()
			if want := min(bad, 65); logger.told != want || logger.untold != bad-want {
				t.Errorf("of %d bad messages told of %d and that there were %d more", bad, logger.told, logger.untold)
			}
		})
	}
}

// An Unwrap that blocks stops its channel's receiver, and nothing else.
func TestRegressionBlockingUnwrapOnTheReadLoop(t *testing.T) {
	overBoth(t, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		wrapped := func(n *testNode) *p2p.Channel {
			c, err := n.r.OpenChannel(1, p2p.NewWrapperForTest())
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		from, to := wrapped(a), wrapped(b)
		fromTwo, toTwo := openBytes(t, a, 2, p2p.ChannelDescriptor{}), openBytes(t, b, 2, p2p.ChannelDescriptor{})
		reached, letGo := make(chan struct{}, 1), make(chan struct{})
		defer p2p.DuringUnwrapForTest(func() {
			select {
			case reached <- struct{}{}:
			default:
			}
			<-letGo
		})()
		w.start(a, b)
		w.connect(a, b)
		for range 10 {
			from.Out <- p2p.Envelope{To: b.id, Message: wrapperspb.String("wrapped")}
		}
		<-reached
		for range 100 {
			if err := fromTwo.Send(t.Context(), b.id, wrapperspb.Bytes([]byte("x"))); err != nil {
				t.Fatal(err)
			}
			next(t, toTwo)
		}
		close(letGo)
		for range 10 {
			if e := <-to.In; e.Message.(*text).Value != "wrapped" {
				t.Errorf("%+v", e)
			}
		}
	})
}
