package dispatch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/kith-p2p/kith/p2p"
)

// The queue against its bounds, on random input: what came in comes out once, in
// each peer's order, and the books balance at every step.
func TestQueueRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		p := Policy{Queue: 1 + r.IntN(40), QueueBytes: 1 + r.IntN(60), Overflow: Overflow(r.IntN(3))}
		q := newQueue(p, func() {})
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // next never waits
		var offered, out uint64
		last := make(map[p2p.NodeID]int)
		for step := range 400 {
			if r.IntN(3) > 0 {
				run := make([]parcel, 1+r.IntN(5))
				for i := range run {
					from := p2p.NodeID(fmt.Sprint("peer", r.IntN(12)))
					m := &message{name: fmt.Sprint(step*10 + i), from: from, data: make([]byte, r.IntN(12))}
					run[i] = parcel{m: m, size: len(m.data)}
				}
				offered += uint64(len(run))
				q.push(run, nil, 1)
			} else if m, err := q.next(ctx); err == nil {
				out++
				var n int
				if _, err := fmt.Sscan(m.MessageType(), &n); err != nil || n <= last[m.MessageFrom()] && last[m.MessageFrom()] > 0 {
					t.Fatalf("%v: %d after %d", p, n, last[m.MessageFrom()])
				}
				last[m.MessageFrom()] = n
			}
			messages, bytes, took, dropped := q.depth()
			lost := uint64(0)
			for _, n := range dropped {
				lost += n
			}
			if out+uint64(messages)+lost != offered || took != out+uint64(messages)+dropped[droppedOldest] {
				t.Fatalf("%+v: offered %d, out %d, wait %d, lost %v, took %d", p, offered, out, messages, dropped, took)
			}
			factor := 1
			if p.Overflow == Hold {
				factor = holdPeers
			}
			if most := factor*p.Queue + q.outMost(); messages > most || bytes > factor*p.QueueBytes+q.outMost()*12 {
				t.Fatalf("%+v: %d messages, %d bytes", p, messages, bytes)
			}
			if len(q.lines) > factor*p.Queue+1 || p.Overflow == Hold && q.messages == 0 && len(q.lines) > 0 {
				t.Fatalf("%+v: %d lines", p, len(q.lines))
			}
		}
	}
}
