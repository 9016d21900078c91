package p2p_test

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
)

// The memory of a message to one peer is used again once it was sent, that of a
// broadcast never is: whatever the order, what arrives is what was sent.
func TestMemoryOfSentMessagesIsNotUsedTooEarly(t *testing.T) {
	const messages = 6000
	overBoth(t, func(t *testing.T, w *world) {
		hub, b, c := w.node(), w.node(), w.node()
		d := p2p.ChannelDescriptor{SendPolicy: p2p.SendBlock, SendQueueCapacity: 512, RecvQueueCapacity: 4 * messages, RecvQueueBytes: 64 << 20, RecvTotalBytes: 128 << 20}
		from := openBytes(t, hub, 1, d)
		asked := d
		asked.Requests = true
		calls := openBytes(t, hub, 2, asked)
		var receivers sync.WaitGroup
		check := func(m []byte) bool {
			if len(m) < 8 {
				return false
			}
			fill := byte(binary.BigEndian.Uint64(m))
			for _, got := range m[8:] {
				if got != fill {
					return false
				}
			}
			return true
		}
		last := make(map[p2p.NodeID]uint64)
		var mu sync.Mutex // guards last
		for _, n := range []*testNode{b, c} {
			plain, answer := openBytes(t, n, 1, d), openBytes(t, n, 2, asked)
			receivers.Go(func() {
				for in, err := range plain.Receive(t.Context()) {
					if err != nil {
						return
					}
					if !check(in.Message.Value) {
						t.Errorf("%d bytes, not as they were sent", len(in.Message.Value))
						return
					}
					mu.Lock()
					last[n.id] = binary.BigEndian.Uint64(in.Message.Value)
					mu.Unlock()
				}
			})
			receivers.Go(func() {
				for in, err := range answer.Receive(t.Context()) {
					if err != nil {
						return
					}
					_ = in.Reply(t.Context(), in.Message)
				}
			})
		}
		w.start(hub, b, c)
		w.connect(hub, b, c)
		random := rand.New(rand.NewPCG(5, 5))
		for i := range uint64(messages) {
			value := make([]byte, 8+random.IntN(4000))
			binary.BigEndian.PutUint64(value, i)
			for k := range value[8:] {
				value[8+k] = byte(i)
			}
			m := wrapperspb.Bytes(value)
			to := []*testNode{b, c}[i%2]
			switch i % 5 {
			case 0, 1:
				if _, err := from.Broadcast(t.Context(), m); err != nil {
					t.Fatal(err)
				}
			case 2:
				got, err := calls.Request(t.Context(), to.id, m)
				if err != nil || !check(got.Value) || binary.BigEndian.Uint64(got.Value) != i {
					t.Fatal(err, "the reply is not what was sent")
				}
			default:
				if err := from.Send(t.Context(), to.id, m); err != nil {
					t.Fatal(err)
				}
			}
		}
		for k, n := range []*testNode{b, c} {
			end := make([]byte, 8)
			binary.BigEndian.PutUint64(end, messages+uint64(k))
			if err := from.Send(t.Context(), n.id, wrapperspb.Bytes(end)); err != nil {
				t.Fatal(err)
			}
			w.until(func() bool {
				mu.Lock()
				defer mu.Unlock()
				return last[n.id] == messages+uint64(k)
			})
		}
		hub.r.Stop()
		b.r.Stop()
		c.r.Stop()
		receivers.Wait()
	})
}
