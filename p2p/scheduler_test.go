package p2p

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// room for anything a test queues
var plenty = queueLimits{messages: 1 << 30, bytes: 1 << 40}

func testChannel(id ChannelID, class, priority uint8) sendChannel {
	return sendChannel{id: id, class: class, priority: priority, limits: plenty}
}

func testScheduler(t testing.TB, channels ...sendChannel) *scheduler {
	t.Helper()
	s := newScheduler(plenty, func() time.Duration { return time.Hour })
	for _, c := range channels {
		if err := s.add(c); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

var zeros [1 << 20]byte

func mustOffer(t testing.TB, s *scheduler, id ChannelID, n int) {
	t.Helper()
	if v, reason := s.offer(id, zeros[:n], 0); v != accepted {
		t.Fatalf("%d bytes on %#x: verdict %d, %v", n, id, v, reason)
	}
}

// Wherever a long message of low priority stands, an urgent one is the very next
// chunk, and the long one goes on after it.
func TestUrgentWaitsForOneChunk(t *testing.T) {
	const chunkSize, long = 1024, 1 << 20
	for _, when := range []int{0, 1, 2, 511, 1022, 1023} {
		s := testScheduler(t, testChannel(1, 1, 1), testChannel(2, 3, 1))
		mustOffer(t, s, 2, long)
		for range when {
			if c, ok := s.next(chunkSize); !ok || c.channel != 2 || len(c.data) != chunkSize {
				t.Fatalf("%+v %v", c, ok)
			}
		}
		mustOffer(t, s, 1, 100)
		if c, ok := s.next(chunkSize); !ok || c.channel != 1 || !c.eof || len(c.data) != 100 {
			t.Errorf("after %d chunks of the long message the next is %d bytes of channel %d", when, len(c.data), c.channel)
		}
		rest := 0
		for c, ok := s.next(chunkSize); ok; c, ok = s.next(chunkSize) {
			rest += len(c.data)
		}
		if rest != long-when*chunkSize {
			t.Errorf("%d bytes of the long message after the urgent one, want %d", rest, long-when*chunkSize)
		}
	}
}

// In one class, too, a message that comes to a saturated queue waits for a few
// chunks, not for a round of all the others' weights.
func TestSameClassWaitsForFewChunks(t *testing.T) {
	const others = 4
	s := testScheduler(t)
	for id := range ChannelID(others + 1) {
		if err := s.add(testChannel(id, 2, 255)); err != nil {
			t.Fatal(err)
		}
	}
	for id := range ChannelID(others) {
		mustOffer(t, s, id, 1<<20)
	}
	for range 1000 {
		s.next(1024)
	}
	mustOffer(t, s, others, 100)
	for waited := 0; ; waited++ {
		c, ok := s.next(1024)
		if !ok || waited > 2*others {
			t.Fatalf("still waiting after %d chunks of %d others", waited, others)
		}
		if c.channel == others {
			break
		}
	}
}

// Random channels that always have something to send share the bytes of their
// class by priority, whatever the lengths of their messages.
func TestSharesWithinAClass(t *testing.T) {
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 2))
		const chunks, limit = 20_000, 1024
		s := testScheduler(t)
		weights, sent, total := map[ChannelID]int{}, map[ChannelID]int{}, 0
		n := 2 + rng.IntN(5)
		refill := func(id ChannelID) { mustOffer(t, s, id, rng.IntN(4000)) }
		for id := range ChannelID(n) {
			w := 1 + rng.IntN(255)
			weights[id] = w
			total += w
			if err := s.add(testChannel(id, 2, uint8(w))); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				refill(id)
			}
		}
		all := 0
		for range chunks {
			c, _ := s.next(limit)
			sent[c.channel] += len(c.data) + chunkOverhead
			all += len(c.data) + chunkOverhead
			if c.eof {
				refill(c.channel)
			}
		}
		for id, w := range weights {
			want := float64(all) * float64(w) / float64(total)
			if off := float64(sent[id]) - want; off > 4*limit || off < -4*limit {
				t.Errorf("seed %d: channel %d of weight %d/%d sent %d bytes, want %.0f", seed, id, w, total, sent[id], want)
			}
		}
	}
}

// Whatever comes in when, class 0 takes at most a quarter of the bytes that are
// sent while others wait, and one burst.
func TestUrgentIsHeldToAQuarter(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 3))
		s := testScheduler(t, testChannel(0, 0, 1), testChannel(1, 1, 9), testChannel(3, 3, 200))
		urgent, all, contended := 0, 0, 0
		for range 15_000 {
			for range rng.IntN(3) {
				mustOffer(t, s, []ChannelID{0, 0, 0, 1, 3}[rng.IntN(5)], rng.IntN(3000))
			}
			contending := len(s.rings[1])+len(s.rings[3]) > 0
			if s.last != nil && s.last.class > 0 && s.last.outEOF && s.last.queue.len() == 1 && len(s.rings[1])+len(s.rings[3]) == 1 {
				contending = false // the last of the others is out already
			}
			c, ok := s.next(1024)
			if !ok || !contending {
				continue
			}
			contended++
			cost := len(c.data) + chunkOverhead
			all += cost
			if c.channel == 0 {
				urgent += cost
			}
			if most := all/4 + urgentBurst + 1024 + chunkOverhead; urgent > most {
				t.Fatalf("seed %d: class 0 sent %d of %d bytes while others waited, at most %d", seed, urgent, all, most)
			}
		}
		if contended < 5_000 || urgent < all/5 {
			t.Errorf("seed %d: a test of little: %d chunks while others waited, %d of %d bytes urgent", seed, contended, urgent, all)
		}
	}
}

// The default queue of tendermint v0.35 delivered the most urgent of 34 messages
// as the 33rd: each one that came in was moved on into a full channel at once.
// Here what is urgent is decided when the writer asks, with nothing in between.
func TestRegressionUrgentDeliveredLast(t *testing.T) {
	q := testQueue(t, plenty, testChannel(1, 3, 1), testChannel(2, 1, 1))
	conn := newStalledConn()
	writer := startWriter(t, conn, q)
	for i := range 400 {
		if err := q.trySend(1, fmt.Appendf(nil, "low %d", i), time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	<-conn.entered // the writer holds one message and cannot get rid of it
	if err := q.trySend(2, []byte("urgent"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	conn.resume()
	waitUntil(t, func() bool { return q.stats().Written == 401 })
	writer.stop()
	if at := slices.Index(conn.messages(), "urgent"); at != 1 {
		t.Errorf("the urgent message was delivered as number %d of %d, want the first after the one under way", at+1, len(conn.messages()))
	}
}

// Its successor, simple-priority, lost the most urgent message and half of the
// others: it took one off its heap for every attempt to send into a full channel,
// since Go evaluates what a select would send before it knows whether it can.
// Here nothing leaves the books but as written or as dropped for a reason.
func TestRegressionUrgentLostToSelectDefault(t *testing.T) {
	for round := range 20 {
		q := testQueue(t, plenty, testChannel(1, 3, 1), testChannel(2, 1, 1))
		conn := newStalledConn()
		writer := startWriter(t, conn, q)
		for i := range 400 {
			if err := q.trySend(1, fmt.Appendf(nil, "low %d", i), time.Time{}); err != nil {
				t.Fatal(err)
			}
			q.poke() // the writer is woken again and again while it cannot send
		}
		if err := q.trySend(2, []byte("urgent"), time.Time{}); err != nil {
			t.Fatal(err)
		}
		conn.resume()
		waitUntil(t, func() bool { return q.stats().Queued == 0 })
		writer.stop()
		got := conn.messages()
		if !slices.Contains(got, "urgent") || len(got) != 401 {
			t.Fatalf("round %d: %d of 401 messages delivered, the urgent one among them: %v", round, len(got), slices.Contains(got, "urgent"))
		}
		if st := q.stats(); st.Accepted != 401 || st.Written != 401 || st.Dropped.Total() != 0 {
			t.Fatalf("round %d: %+v", round, st)
		}
	}
}

// The books of a queue that is used from everywhere at once, and closed in the
// middle of it, balance to the message.
func TestRegressionAccountingIsExact(t *testing.T) {
	for _, failing := range []bool{false, true} {
		testAccounting(t, failing)
	}
}
