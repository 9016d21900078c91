package libp2p

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
)

// Over every network channels whose receiver does not take anything, and whose policy
// is to pause, stop alone: nothing of them is lost, and the other channels go on in
// both directions.
func TestPauseStopsOneChannel(t *testing.T)           { pauseStopsAlone(t, 1) }
func TestTwoPausedChannelsStopNoOther(t *testing.T)   { pauseStopsAlone(t, 2) }
func TestThreePausedChannelsStopNoOther(t *testing.T) { pauseStopsAlone(t, 3) }
func TestEightPausedChannelsStopNoOther(t *testing.T) { pauseStopsAlone(t, 8) }

func pauseStopsAlone(t *testing.T, paused int) {
	for _, nw := range networks[min(paused-1, 1):] { // one kind of TCP is enough for the later ones
		t.Run(nw.name, func(t *testing.T) {
			p := nw.make(t)
			x, y := route(t, p.a), route(t, p.b)
			d := p2p.ChannelDescriptor{
				ReceivePolicy: p2p.ReceivePause, RecvQueueCapacity: 4, SendPolicy: p2p.SendBlock, SendQueueCapacity: 4,
			}
			var stuckX, stuckY []*bytesChannel
			for i := range paused {
				stuckX, stuckY = append(stuckX, open(t, x, p2p.ChannelID(10+i), d)), append(stuckY, open(t, y, p2p.ChannelID(10+i), d))
			}
			freeX, freeY := open(t, x, 2, d), open(t, y, 2, d)
			start(t, x, y)
			meet(t, x, y, p.at.NodeAddress(p.b.id()))

			const size, most = 100_000, 2000
			sent := make([]int, paused)
			var senders sync.WaitGroup
			for i, c := range stuckX {
				senders.Go(func() { // until nothing more goes
					for ; sent[i] < most; sent[i]++ {
						slow, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
						err := c.Send(slow, p.b.id(), wrapperspb.Bytes(numbered(sent[i], size)))
						cancel()
						if err != nil {
							break
						}
					}
				})
			}
			senders.Wait()
			if slices.Contains(sent, most) {
				t.Fatalf("%d messages were taken for a receiver that takes none", most)
			}
			for i := range 200 {
				for _, ends := range []struct {
					from *bytesChannel
					to   *bytesChannel
					id   p2p.NodeID
				}{{freeX, freeY, p.b.id()}, {freeY, freeX, p.a.id()}} {
					// More of them than all windows of a QUIC connection have room for.
					if err := ends.from.Send(t.Context(), ends.id, wrapperspb.Bytes(numbered(i, 10_000))); err != nil {
						t.Fatal(err)
					}
					if in := next(t, ends.to); number(in.Message.Value) != i {
						t.Fatalf("message %d is %d", i, number(in.Message.Value))
					}
				}
			}
			for k, c := range stuckY {
				for i := range sent[k] {
					if in := next(t, c); number(in.Message.Value) != i || len(in.Message.Value) != size {
						t.Fatalf("message %d of a channel that was stuck is %d", i, number(in.Message.Value))
					}
				}
			}
			for _, c := range y.r.Stats().Channels {
				if n := c.Received.Dropped.Total(); n > 0 {
					t.Errorf("%d messages were dropped", n)
				}
			}
		})
	}
}
