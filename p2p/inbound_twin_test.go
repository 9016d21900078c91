package p2p

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// inboundTwin is an inbound written to be obviously right: one list of messages
// in order of arrival, and everything found by looking through it.
type inboundTwin struct {
	policy         ReceivePolicy
	perPeer, total queueLimits
	list           []*inboundTwinMessage // queued, in order of arrival
	turns          []NodeID              // peers with something queued, in the order they are served
	waiting        []*inboundTwinMessage
	log            []*inboundTwinMessage
	closed         bool
}

type inboundTwinMessage struct {
	from NodeID
	data []byte
	fate string // "", "waiting", "delivered", or the name of a reason
}

func (t *inboundTwin) held(match func(*inboundTwinMessage) bool) (messages, size int) {
	for _, m := range t.list {
		if match(m) {
			messages, size = messages+1, size+len(m.data)
		}
	}
	return messages, size
}

func (t *inboundTwin) peerHas(id NodeID, n int) bool {
	messages, size := t.held(func(m *inboundTwinMessage) bool { return m.from == id })
	return messages+1 <= t.perPeer.messages && size+n <= t.perPeer.bytes
}

func (t *inboundTwin) allHave(n int) bool {
	messages, size := t.held(func(*inboundTwinMessage) bool { return true })
	return messages+1 <= t.total.messages && size+n <= t.total.bytes
}

func (t *inboundTwin) share(id NodeID, extra []int) int {
	messages, size := t.held(func(m *inboundTwinMessage) bool { return m.from == id })
	share := func(messages, size int) int {
		return max(int(float64(size)/float64(t.total.bytes)*1e6), int(float64(messages)/float64(t.total.messages)*1e6))
	}
	sum := share(messages, size)
	for _, n := range extra {
		sum += share(1, n)
	}
	return sum
}

func (t *inboundTwin) fullest() NodeID {
	best := t.turns[0]
	for _, id := range t.turns {
		if t.share(id, nil) > t.share(best, nil) {
			best = id
		}
	}
	return best
}

// drop takes a peer's oldest or newest message.
func (t *inboundTwin) drop(id NodeID, newest bool, fate string) {
	at := slices.IndexFunc(t.list, func(m *inboundTwinMessage) bool { return m.from == id })
	if newest {
		for i, m := range t.list {
			if m.from == id {
				at = i
			}
		}
	}
	t.list[at].fate = fate
	t.list = slices.Delete(t.list, at, at+1)
	t.tidy()
}

func (t *inboundTwin) tidy() {
	t.turns = slices.DeleteFunc(t.turns, func(id NodeID) bool {
		return !slices.ContainsFunc(t.list, func(m *inboundTwinMessage) bool { return m.from == id })
	})
}

func (t *inboundTwin) accept(m *inboundTwinMessage) {
	m.fate = ""
	t.list = append(t.list, m)
	if !slices.Contains(t.turns, m.from) {
		t.turns = append(t.turns, m.from)
	}
}

func (t *inboundTwin) push(m *inboundTwinMessage) string {
	t.log = append(t.log, m)
	n := len(m.data)
	switch {
	case t.closed:
		m.fate = "gone"
	case n > t.perPeer.bytes || n > t.total.bytes:
		m.fate = "too-large"
	case t.policy == ReceivePause:
		if slices.ContainsFunc(t.waiting, func(o *inboundTwinMessage) bool { return o.from == m.from }) || !t.peerHas(m.from, n) || !t.allHave(n) || t.somebodyWaitsForTheTotal() {
			m.fate = "waiting"
			t.waiting = append(t.waiting, m)
			return m.fate
		}
	case t.policy == ReceiveDropOldest:
		for !t.peerHas(m.from, n) {
			t.drop(m.from, false, "oldest")
		}
		for !t.allHave(n) {
			t.drop(t.fullest(), false, "oldest")
		}
	default:
		if !t.peerHas(m.from, n) {
			m.fate = "full"
			break
		}
		for !t.allHave(n) {
			victim := t.fullest()
			if t.share(m.from, []int{n}) >= t.share(victim, nil) {
				m.fate = "full"
				break
			}
			t.drop(victim, true, "full")
		}
	}
	if m.fate == "" {
		t.accept(m)
		return "accepted"
	}
	return m.fate
}

func (t *inboundTwin) somebodyWaitsForTheTotal() bool {
	first := map[NodeID]bool{}
	for _, m := range t.waiting {
		if !first[m.from] && t.peerHas(m.from, len(m.data)) {
			return true
		}
		first[m.from] = true
	}
	return false
}

func (t *inboundTwin) pop() *inboundTwinMessage {
	if len(t.list) == 0 {
		return nil
	}
	id := t.turns[0]
	at := slices.IndexFunc(t.list, func(m *inboundTwinMessage) bool { return m.from == id })
	m := t.list[at]
	t.list = slices.Delete(t.list, at, at+1)
	m.fate = "delivered"
	t.turns = append(t.turns[1:], id)
	t.tidy()
	t.admit()
	return m
}

func (t *inboundTwin) admit() {
	passed := map[NodeID]bool{}
	for i := 0; i < len(t.waiting); i++ {
		m := t.waiting[i]
		if passed[m.from] || !t.peerHas(m.from, len(m.data)) {
			passed[m.from] = true
			continue
		}
		if !t.allHave(len(m.data)) {
			return
		}
		t.waiting = slices.Delete(t.waiting, i, i+1)
		i--
		t.accept(m)
	}
}

func (t *inboundTwin) stopWaiting(match func(*inboundTwinMessage) bool, fate string) int {
	before := len(t.waiting)
	t.waiting = slices.DeleteFunc(t.waiting, func(m *inboundTwinMessage) bool {
		if match(m) {
			m.fate = fate
		}
		return match(m)
	})
	return before - len(t.waiting)
}

func (t *inboundTwin) discard(id NodeID) int {
	n, _ := t.held(func(m *inboundTwinMessage) bool { return m.from == id })
	for range n {
		t.drop(id, false, "closed")
	}
	n += t.stopWaiting(func(m *inboundTwinMessage) bool { return m.from == id }, "closed")
	t.admit()
	return n
}

func (t *inboundTwin) count() ReceiveStats {
	var s ReceiveStats
	for _, m := range t.log {
		s.Received++
		s.ReceivedBytes += uint64(len(m.data))
		switch m.fate {
		case "":
			s.Queued++
			s.QueuedBytes += len(m.data)
		case "waiting":
			s.Paused++
		case "delivered":
			s.Delivered++
			s.DeliveredBytes += uint64(len(m.data))
		default:
			s.Dropped[slices.Index(dropNames[:], m.fate)]++
		}
	}
	return s
}

func runInboundTwins(s script, steps int) error {
	var (
		policy  = ReceivePolicy(s.upTo(3))
		perPeer = queueLimits{1 + s.upTo(6), 100 + s.upTo(200)}
		total   = queueLimits{perPeer.messages + s.upTo(8), perPeer.bytes + s.upTo(400)}
		one     = newInbound(policy, perPeer, total)
		two     = &inboundTwin{policy: policy, perPeer: perPeer, total: total}
		peers   = []NodeID{"a", "b", "c", "d", "e"}
		waiters = map[*inboundTwinMessage]*inboundWaiter{}
		number  uint64
		trace   []string
	)
	fault := func(format string, args ...any) error {
		return fmt.Errorf("policy %d, %v of %v: "+format+"\nafter %q", append(append([]any{policy, perPeer, total}, args...), trace[max(0, len(trace)-20):])...)
	}
	for step := range steps {
		id := peers[s.upTo(len(peers))]
		switch op := s.upTo(100); {
		case op < 50:
			number++
			m := &inboundTwinMessage{from: id, data: binary.BigEndian.AppendUint64(nil, number)}
			m.data = append(m.data, make([]byte, []int{0, 1, 20, 50, 92, 300}[s.upTo(6)])...)
			trace = append(trace, fmt.Sprintf("push %d of %s", len(m.data), id))
			want := two.push(m)
			v, reason := one.push(id, m.data)
			got := []string{"accepted", reason.String(), "waiting"}[v]
			if got != want {
				return fault("step %d: %s, the twin says %s", step, got, want)
			}
			if v == mustWait {
				waiters[m] = one.wait(id, m.data)
			}
		case op < 90:
			trace = append(trace, "pop")
			m := two.pop()
			from, data, ok := one.pop()
			if ok != (m != nil) || ok && (from != m.from || !bytes.Equal(data, m.data)) {
				return fault("step %d: %s %x, the twin says %+v", step, from, data, m)
			}
		case op < 93:
			trace = append(trace, "forget "+string(id))
			one.forget(id)
		case op < 95:
			trace = append(trace, "discard "+string(id))
			if got, want := one.discard(id), two.discard(id); got != want {
				return fault("step %d: discarded %d, the twin %d", step, got, want)
			}
		case op < 99 && len(two.waiting) > 0:
			m := two.waiting[s.upTo(len(two.waiting))]
			trace = append(trace, "give up "+string(m.from))
			if !one.giveUp(waiters[m]) {
				return fault("step %d: the waiter is not known", step)
			}
			two.stopWaiting(func(o *inboundTwinMessage) bool { return o == m }, "cancelled")
			two.admit()
			delete(waiters, m)
		case step > steps/2 && s.upTo(20) == 0:
			trace = append(trace, "close")
			one.close()
			for len(two.list) > 0 {
				two.drop(two.list[0].from, false, "closed")
			}
			two.stopWaiting(func(*inboundTwinMessage) bool { return true }, "closed")
			two.closed = true
		}
		for m, w := range waiters {
			select {
			case <-w.done:
				if m.fate == "waiting" || (w.refused != nil) != (m.fate == "closed") {
					return fault("step %d: a waiter was told %v, the twin says %q", step, w.refused, m.fate)
				}
				if one.giveUp(w) {
					return fault("step %d: a waiter was told twice", step)
				}
				delete(waiters, m)
			default:
				if m.fate != "waiting" {
					return fault("step %d: a waiter was not told %q", step, m.fate)
				}
			}
		}
		if err := one.check(); err != nil {
			return fault("step %d: %w", step, err)
		}
		if a, b := one.count(), two.count(); a != b {
			return fault("step %d: %+v\nthe twin counts %+v", step, a, b)
		}
	}
	return nil
}

func TestInboundAgainstTwin(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 5))
		if err := runInboundTwins(func() int { return int(rng.Uint32()) }, 300); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func FuzzInbound(f *testing.F) {
	f.Add([]byte("an inbound queue and its twin"), uint8(60))
	f.Add([]byte{2, 0, 255, 3, 60, 99, 94, 1}, uint8(200))
	f.Fuzz(func(t *testing.T, data []byte, steps uint8) {
		i := 0
		if err := runInboundTwins(func() int {
			if len(data) == 0 {
				return 0
			}
			i++
			return int(data[i%len(data)]) + 7*(i/len(data))
		}, int(steps)); err != nil {
			t.Fatal(err)
		}
	})
}
