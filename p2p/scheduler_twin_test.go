package p2p

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// twin is a scheduler written to be obviously right and nothing else: slices,
// one round after another, every count found by counting.
type twin struct {
	clock    time.Duration
	total    queueLimits
	channels []*twinChannel
	ring     [sendClasses][]*twinChannel // with something to send, by when they began to have it
	behind   [sendClasses]int            // how many of the ring come before whose turn it is
	credit   int
	number   uint64
	closed   bool
	log      []*twinMessage // everything that was ever offered
	out      *twinMessage
	outEOF   bool
}

type twinChannel struct {
	sendChannel
	queue   []*twinMessage
	waiting []*twinMessage
	deficit int
	removed bool
}

type twinMessage struct {
	channel  ChannelID
	data     []byte
	deadline time.Duration
	number   uint64
	sent     int
	begun    bool
	accepted bool
	fate     string // "", "written", or the name of the reason it was dropped for
}

func (t *twin) find(id ChannelID) *twinChannel {
	for _, c := range t.channels {
		if c.id == id {
			return c
		}
	}
	return nil
}

func (t *twin) held() (messages, size int) {
	for _, c := range t.channels {
		for _, m := range c.queue {
			messages, size = messages+1, size+len(m.data)
		}
	}
	return messages, size
}

func (t *twin) fits(c *twinChannel, n int) bool {
	messages, size := 0, 0
	for _, m := range c.queue {
		messages, size = messages+1, size+len(m.data)
	}
	allMessages, allSize := t.held()
	mostMessages := t.total.messages - int(c.class)*(t.total.messages/8)
	mostBytes := t.total.bytes - int(c.class)*(t.total.bytes/8)
	return messages+1 <= c.limits.messages && size+n <= c.limits.bytes && allMessages+1 <= mostMessages && allSize+n <= mostBytes
}

// tidy keeps the rings to the channels that have something.
func (t *twin) tidy() {
	for class := range t.ring {
		for i := 0; i < len(t.ring[class]); i++ {
			if c := t.ring[class][i]; len(c.queue) == 0 || int(c.class) != class {
				c.deficit = 0
				t.ring[class] = slices.Delete(t.ring[class], i, i+1)
				if i < t.behind[class] {
					t.behind[class]--
				}
				i--
			}
		}
	}
	t.channels = slices.DeleteFunc(t.channels, func(c *twinChannel) bool { return c.removed && len(c.queue) == 0 })
}

func (t *twin) accept(c *twinChannel, m *twinMessage) {
	t.number++
	m.number, m.accepted = t.number, true
	c.queue = append(c.queue, m)
	if !slices.Contains(t.ring[c.class], c) {
		t.ring[c.class] = append(t.ring[c.class], c)
	}
}

func (t *twin) admit() {
	t.tidy()
	for class := range uint8(sendClasses) {
		for _, c := range t.channels {
			for c.class == class && len(c.waiting) > 0 && t.fits(c, len(c.waiting[0].data)) {
				m := c.waiting[0]
				c.waiting = c.waiting[1:]
				t.accept(c, m)
			}
		}
	}
}

func (t *twin) drop(c *twinChannel, i int, fate string) {
	c.queue[i].fate = fate
	c.queue = slices.Delete(c.queue, i, i+1)
}

func (t *twin) expire(c *twinChannel) {
	for len(c.queue) > 0 && !c.queue[0].begun && c.queue[0].deadline != 0 && t.clock >= c.queue[0].deadline {
		t.drop(c, 0, "deadline")
	}
	t.tidy()
}

func (t *twin) offer(id ChannelID, data []byte, deadline time.Duration) (fate string, m *twinMessage) {
	m = &twinMessage{channel: id, data: data, deadline: deadline}
	t.log = append(t.log, m)
	c := t.find(id)
	switch {
	case t.closed || c != nil && c.removed:
		m.fate = "gone"
		return m.fate, m
	case c == nil:
		m.fate = "unsupported"
		return m.fate, m
	case len(data) > c.maxMessage:
		m.fate = "too-large"
		return m.fate, m
	}
	if len(c.waiting) > 0 || !t.fits(c, len(data)) {
		t.expire(c)
		if c.policy == SendDropOldest {
			// The fewest of the oldest that make room, or none at all.
			for drop := 1; drop <= len(c.queue); drop++ {
				saved := slices.Clone(c.queue)
				first := 0
				if saved[0].begun {
					first = 1
				}
				if first+drop > len(saved) {
					break
				}
				c.queue = slices.Delete(slices.Clone(saved), first, first+drop)
				ok := t.fits(c, len(data))
				c.queue = saved
				if ok {
					for range drop {
						t.drop(c, first, "oldest")
					}
					t.tidy()
					break
				}
			}
		}
	}
	defer t.admit()
	switch {
	case len(c.waiting) == 0 && t.fits(c, len(data)):
		t.accept(c, m)
		return "accepted", m
	case c.policy == SendBlock:
		return "must wait", m
	}
	m.fate = "full"
	return m.fate, m
}

func (t *twin) settle() {
	m := t.out
	if m == nil {
		return
	}
	t.out = nil
	c := t.find(m.channel)
	if t.outEOF {
		m.fate = "written"
		c.queue = c.queue[1:]
		t.admit()
	} else if t.closed {
		t.drop(c, 0, "cut")
	}
}

func (t *twin) next(limit int) (chunk, bool) {
	t.settle()
	if t.closed {
		return chunk{}, false
	}
	for _, c := range t.channels {
		t.expire(c)
	}
	t.admit()
	class, others := -1, false
	for c := sendClasses - 1; c >= 0; c-- {
		if len(t.ring[c]) > 0 {
			others, class = others || c > 0, c
		}
	}
	if class < 0 {
		return chunk{}, false
	}
	if class == 0 && others && t.credit <= 0 {
		for class = 1; len(t.ring[class]) == 0; class++ {
		}
	}
	ring := t.ring[class]
	for {
		for i := range ring {
			at := (t.behind[class] + i) % len(ring)
			c := ring[at]
			m := c.queue[0]
			size := len(m.data) - m.sent
			if limit > 0 && size > limit {
				size = limit
			}
			if c.deficit < size+chunkOverhead {
				continue
			}
			c.deficit -= size + chunkOverhead
			t.behind[class] = at + 1
			if class > 0 {
				t.credit = min(t.credit+size+chunkOverhead, urgentCredit)
			} else if others {
				t.credit -= 3 * (size + chunkOverhead)
			}
			m.begun = true
			data := m.data[m.sent : m.sent+size]
			m.sent += size
			t.out, t.outEOF = m, m.sent == len(m.data)
			return chunk{m.channel, data, t.outEOF, m.number}, true
		}
		for _, c := range ring {
			c.deficit += int(c.priority) // one round
		}
	}
}

func (t *twin) close(failed bool) {
	t.closed = true
	if failed {
		t.out = nil
	}
	for _, c := range t.channels {
		for len(c.queue) > 0 && !c.queue[len(c.queue)-1].begun {
			t.drop(c, len(c.queue)-1, "closed")
		}
		for _, m := range c.waiting {
			m.fate = "gone"
		}
		c.waiting = nil
		if len(c.queue) > 0 && c.queue[0] != t.out {
			t.drop(c, 0, "cut")
		}
	}
	for class := range t.ring {
		for _, c := range t.ring[class] {
			if len(c.queue) == 0 {
				c.deficit = 0
			}
		}
	}
}

func (t *twin) remove(id ChannelID) {
	c := t.find(id)
	if c == nil || c.removed {
		return
	}
	c.removed = true
	for len(c.queue) > 0 && !c.queue[len(c.queue)-1].begun {
		t.drop(c, len(c.queue)-1, "closed")
	}
	for _, m := range c.waiting {
		m.fate = "gone"
	}
	c.waiting = nil
	t.admit()
}

// count counts the log. Messages whose senders wait are not in the books yet.
func (t *twin) count() SendStats {
	var s SendStats
	waiting := map[*twinMessage]bool{}
	for _, c := range t.channels {
		for _, m := range c.waiting {
			waiting[m] = true
		}
	}
	for _, m := range t.log {
		if waiting[m] {
			continue
		}
		s.Offered++
		if m.accepted {
			s.Accepted++
		}
		switch i := slices.Index(dropNames[:], m.fate); {
		case m.fate == "written":
			s.Written++
			s.WrittenBytes += uint64(len(m.data))
		case m.fate == "":
			s.Queued++
			s.QueuedBytes += len(m.data)
		default:
			s.Dropped[i]++
		}
	}
	return s
}

// script is a source of decisions: random ones, or a fuzzer's.
type script func() int

func (s script) upTo(n int) int { return s() % n }

// runTwins does the same to a scheduler and its twin and returns the first
// difference.
func runTwins(s script, steps int) error {
	var (
		now      time.Duration = time.Second
		total                  = queueLimits{messages: 8 + s.upTo(40), bytes: 1000 + 100*s.upTo(20)}
		one                    = newScheduler(total, func() time.Duration { return now })
		two                    = &twin{total: total, credit: urgentCredit}
		waiters  []*sendWaiter
		waitsFor = map[*sendWaiter]*twinMessage{}
		log      []string
		note     = func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }
		fault    = func(format string, args ...any) error {
			return fmt.Errorf(format+"\nafter:\n%s", append(args, bytes.Join(func() (lines [][]byte) {
				for _, l := range log[max(0, len(log)-25):] {
					lines = append(lines, []byte("  "+l))
				}
				return lines
			}(), []byte("\n")))...)
		}
		offered uint64
		got     = map[ChannelID][]byte{} // of the message being sent
		last    = map[ChannelID]uint64{}
	)
	one.credit, two.credit = 400, 400 // so that class 0 comes to its limit
	add := func() {
		c := sendChannel{
			id: ChannelID(s.upTo(6)), class: uint8(s.upTo(sendClasses)), priority: uint8([]int{1, 2, 5, 100, 255}[s.upTo(5)]),
			policy: SendPolicy(s.upTo(3)), limits: queueLimits{messages: 1 + s.upTo(8), bytes: 200 + 100*s.upTo(6)}, maxMessage: 200,
		}
		if two.find(c.id) != nil {
			return
		}
		note("add %+v", c)
		if err := one.add(c); err != nil {
			if !two.closed {
				panic(err)
			}
			return
		}
		two.channels = append(two.channels, &twinChannel{sendChannel: c})
	}
	for range 4 {
		add()
	}
	for step := range steps {
		switch op := s.upTo(100); {
		case op < 45:
			id := ChannelID(s.upTo(7))
			data := make([]byte, []int{0, 1, 16, 63, 64, 65, 100, 199, 200, 201}[s.upTo(10)])
			if offered++; len(data) >= 8 {
				binary.BigEndian.PutUint64(data, offered)
			}
			var deadline time.Duration
			if s.upTo(4) == 0 {
				deadline = now + time.Duration(s.upTo(30)-5)
			}
			note("offer %d bytes on %d until %d", len(data), id, deadline)
			v, reason := one.offer(id, data, deadline)
			fate, m := two.offer(id, data, deadline)
			name := []string{"accepted", reason.String(), "must wait"}[v]
			if name != fate {
				return fault("step %d: %s, the twin says %s", step, name, fate)
			}
			if v == mustWait {
				if s.upTo(3) == 0 {
					one.giveUp(id, nil, DropFull)
					m.fate = "full"
					break
				}
				w := &sendWaiter{data: data, deadline: deadline, done: make(chan struct{})}
				one.wait(id, w)
				c := two.find(id)
				c.waiting = append(c.waiting, m)
				waiters = append(waiters, w)
				waitsFor[w] = m
			}
		case op < 90:
			limit := []int{0, 10, 64, 64, 64, 150}[s.upTo(6)]
			note("next %d", limit)
			a, okA := one.next(limit)
			b, okB := two.next(limit)
			if okA != okB || a.channel != b.channel || a.message != b.message || a.eof != b.eof || !bytes.Equal(a.data, b.data) {
				return fault("step %d: %v %+v, the twin says %v %+v", step, okA, a, okB, b)
			}
			if !okA {
				break
			}
			if limit > 0 && len(a.data) > limit {
				return fault("step %d: a chunk of %d", step, len(a.data))
			}
			if a.message < last[a.channel] || a.message > last[a.channel] && len(got[a.channel]) > 0 {
				return fault("step %d: message %d comes into the middle of, or after, message %d", step, a.message, last[a.channel])
			}
			last[a.channel] = a.message
			got[a.channel] = append(got[a.channel], a.data...)
			if a.eof {
				got[a.channel] = nil
			}
		case op < 94:
			now += time.Duration(s.upTo(10))
			two.clock = now
		case op < 96:
			add()
		case op < 97:
			id := ChannelID(s.upTo(6))
			note("remove %d", id)
			one.remove(id)
			two.remove(id)
		case op < 99:
			for _, w := range waiters {
				m := waitsFor[w]
				if !slices.Contains(two.waitersOf(m.channel), m) {
					continue
				}
				note("cancel a sender on %d", m.channel)
				if !one.giveUp(m.channel, w, DropCancelled) {
					return fault("step %d: the waiter is not known", step)
				}
				c := two.find(m.channel)
				c.waiting = slices.DeleteFunc(c.waiting, func(o *twinMessage) bool { return o == m })
				m.fate = "cancelled"
				two.admit()
				break
			}
		case step > steps/2 && s.upTo(20) == 0:
			note("end")
			if s.upTo(2) == 0 {
				one.close()
				two.close(false)
			} else {
				one.fail()
				two.close(true)
			}
		}
		two.clock = now
		for _, w := range slices.Clone(waiters) {
			m := waitsFor[w]
			select {
			case <-w.done:
				if (w.refused != nil) != (m.fate == "gone") || m.fate != "gone" && !m.accepted {
					return fault("step %d: a waiter was told %v, the twin says %q", step, w.refused, m.fate)
				}
			default:
				if m.accepted || m.fate == "gone" {
					return fault("step %d: a waiter was not told %q", step, m.fate)
				}
				if m.fate == "" {
					continue
				}
			}
			waiters = slices.DeleteFunc(waiters, func(o *sendWaiter) bool { return o == w })
		}
		if err := one.check(); err != nil {
			return fault("step %d: %w", step, err)
		}
		if a, b := one.stats(), two.count(); a != b {
			return fault("step %d: %+v\nthe twin counts %+v", step, a, b)
		}
	}
	return nil
}

func (t *twin) waitersOf(id ChannelID) []*twinMessage {
	if c := t.find(id); c != nil {
		return c.waiting
	}
	return nil
}

// The scheduler and its twin decide alike, and the books balance after each step.
func TestSchedulerAgainstTwin(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		if err := runTwins(func() int { return int(rng.Uint32()) }, 300); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func FuzzScheduler(f *testing.F) {
	f.Add([]byte("a scheduler and its twin"), uint8(50))
	f.Add([]byte{0, 255, 3, 9, 200, 17, 4, 88, 31, 7, 60}, uint8(200))
	f.Fuzz(func(t *testing.T, data []byte, steps uint8) {
		i := 0
		if err := runTwins(func() int {
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
