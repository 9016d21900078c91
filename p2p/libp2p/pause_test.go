package libp2p

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
)

// Over every network a channel whose receiver does not take anything, and whose
// policy is to pause, stops alone: nothing of it is lost, and the other channels go
// on in both directions.
func TestPauseStopsOneChannel(t *testing.T) {
	for _, nw := range networks {
		t.Run(nw.name, func(t *testing.T) {
			p := nw.make(t)
			x, y := route(t, p.a), route(t, p.b)
			d := p2p.ChannelDescriptor{
				ReceivePolicy: p2p.ReceivePause, RecvQueueCapacity: 4, SendPolicy: p2p.SendBlock, SendQueueCapacity: 4,
			}
			stuckX, stuckY := open(t, x, 1, d), open(t, y, 1, d)
			freeX, freeY := open(t, x, 2, d), open(t, y, 2, d)
			start(t, x, y)
			meet(t, x, y, p.at.NodeAddress(p.b.id()))

			const size, most = 100_000, 2000
			sent := make(chan int, 1)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			go func() { // until nothing more goes
				n := 0
				for ; n < most; n++ {
					slow, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
					err := stuckX.Send(slow, p.b.id(), wrapperspb.Bytes(numbered(n, size)))
					cancel()
					if err != nil {
						break
					}
				}
				sent <- n
			}()
			stuck := <-sent
			if stuck == most {
				t.Fatalf("%d messages were taken for a receiver that takes none", most)
			}
			for i := range 200 {
				for _, ends := range []struct {
					from *bytesChannel
					to   *bytesChannel
					id   p2p.NodeID
				}{{freeX, freeY, p.b.id()}, {freeY, freeX, p.a.id()}} {
					if err := ends.from.Send(t.Context(), ends.id, wrapperspb.Bytes(numbered(i, 1000))); err != nil {
						t.Fatal(err)
					}
					if in := next(t, ends.to); number(in.Message.Value) != i {
						t.Fatalf("message %d is %d", i, number(in.Message.Value))
					}
				}
			}
			for i := range stuck {
				if in := next(t, stuckY); number(in.Message.Value) != i || len(in.Message.Value) != size {
					t.Fatalf("message %d of the channel that was stuck is %d", i, number(in.Message.Value))
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
