package p2p

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func testQueue(t testing.TB, total queueLimits, channels ...sendChannel) *sendQueue {
	t.Helper()
	q, err := newSendQueue(total, channels...)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// waitUntil polls for what other goroutines bring about.
func waitUntil(t testing.TB, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("waited 30 s in vain")
		}
	}
}

// stalledConn is a Connection of chunks that stands still until resume.
type stalledConn struct {
	Connection
	entered chan struct{} // closed by the first SendChunk
	ready   chan struct{}
	once    sync.Once

	mu      sync.Mutex // guards the rest
	partial []byte
	got     []string
	flushes int
	failAt  int // of the chunk that fails, from 1
	chunks  int
}

func newStalledConn() *stalledConn {
	return &stalledConn{entered: make(chan struct{}), ready: make(chan struct{})}
}

func (c *stalledConn) MaxChunk() int { return 64 }
func (c *stalledConn) resume()       { close(c.ready) }

func (c *stalledConn) SendChunk(_ ChannelID, data []byte, eof bool) error {
	c.once.Do(func() { close(c.entered) })
	<-c.ready
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chunks++; c.chunks == c.failAt {
		return io.ErrClosedPipe
	}
	c.partial = append(c.partial, data...)
	if eof {
		c.got = append(c.got, string(c.partial))
		c.partial = nil
	}
	return nil
}

func (c *stalledConn) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushes++
	return nil
}

func (c *stalledConn) messages() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got
}

type testWriter struct {
	q    *sendQueue
	done chan error
}

func startWriter(t testing.TB, conn Connection, q *sendQueue) *testWriter {
	w := &testWriter{q, make(chan error, 1)}
	go func() { w.done <- runWriter(conn, q) }()
	return w
}

// stop closes the queue and returns what the writer did.
func (w *testWriter) stop() error {
	w.q.close()
	return <-w.done
}

func TestSendErrors(t *testing.T) {
	q := testQueue(t, plenty, sendChannel{id: 1, priority: 1, limits: queueLimits{1, 100}, maxMessage: 100})
	for _, c := range []struct {
		name string
		id   ChannelID
		n    int
		want error
	}{
		{"first", 1, 100, nil}, {"second", 1, 1, ErrQueueFull}, {"long", 1, 101, ErrMessageTooLarge}, {"elsewhere", 2, 1, ErrChannelUnsupported},
	} {
		if err := q.trySend(c.id, make([]byte, c.n), time.Time{}); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if c.want != nil {
			if err := q.send(t.Context(), c.id, make([]byte, c.n), time.Time{}); !errors.Is(err, c.want) {
				t.Errorf("%s, waiting: %v, want %v", c.name, err, c.want)
			}
		}
	}
	if st, ok := q.statsOf(1); !ok || st.Offered != 5 || st.Dropped[DropFull] != 2 || st.Dropped[DropTooLarge] != 2 {
		t.Errorf("%+v", st)
	}
	if _, ok := q.statsOf(2); ok {
		t.Error("counts of a channel that is not there")
	}
	if st := q.stats(); st.Dropped[DropUnsupported] != 2 || st.check() != nil {
		t.Errorf("%+v", st)
	}
	q.remove(1)
	if err := q.trySend(1, nil, time.Time{}); !errors.Is(err, ErrChannelUnsupported) {
		t.Errorf("on a removed channel: %v", err)
	}
	q.close()
	q.close()
	if err := q.trySend(1, nil, time.Time{}); !errors.Is(err, ErrQueueClosed) {
		t.Errorf("after close: %v", err)
	}
	if err := q.add(testChannel(5, 0, 1)); !errors.Is(err, ErrQueueClosed) {
		t.Errorf("adding after close: %v", err)
	}
	if _, err := newSendQueue(plenty, sendChannel{id: 1}); err == nil {
		t.Error("a channel without limits")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.send(ctx, 1, nil, time.Time{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// Under SendBlock a sender waits for room, for its context or for the end.
func TestSendBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocking := sendChannel{id: 1, priority: 1, policy: SendBlock, limits: queueLimits{1, 100}, maxMessage: 100}
		q := testQueue(t, plenty, blocking)
		send := func(ctx context.Context, text string) chan error {
			done := make(chan error, 1)
			go func() { done <- q.send(ctx, 1, []byte(text), time.Time{}) }()
			synctest.Wait()
			return done
		}
		if err := <-send(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if err := q.trySend(1, nil, time.Time{}); !errors.Is(err, ErrQueueFull) {
			t.Errorf("without waiting: %v", err)
		}
		second := send(t.Context(), "b")
		timed, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		third, fourth := send(timed, "c"), send(t.Context(), "d")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := <-third; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the third: %v", err)
		}
		select {
		case err := <-second:
			t.Fatalf("the second did not wait: %v", err)
		case err := <-fourth:
			t.Fatalf("the fourth did not wait: %v", err)
		default:
		}
		for _, want := range []string{"a", "b"} {
			if c, ok := q.next(0); !ok || string(c.data) != want {
				t.Errorf("%q %v, want %q", c.data, ok, want)
			}
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
		fifth := send(t.Context(), "e")
		q.close()
		if err := <-fifth; !errors.Is(err, ErrQueueClosed) {
			t.Errorf("the fifth: %v", err)
		}
		if err := <-fourth; !errors.Is(err, ErrQueueClosed) {
			t.Errorf("the fourth: %v", err)
		}
		q.next(0)
		st := q.stats()
		if st.check() != nil || st.Offered != 6 || st.Written != 2 || st.Dropped[DropCancelled] != 1 || st.Dropped[DropGone] != 2 {
			t.Errorf("%+v", st)
		}
	})
}

// Room that appears anywhere lets in a sender who waits for the total, and the
// writer of a transport that was idle on that channel hears of it.
func TestSendBlocksOnTheTotal(t *testing.T) {
	blocking := sendChannel{id: 1, priority: 1, policy: SendBlock, limits: plenty, maxMessage: 10}
	bulk := sendChannel{id: 2, priority: 1, limits: plenty, maxMessage: 10}
	q := testQueue(t, queueLimits{1, 10}, blocking, bulk)
	if err := q.trySend(2, make([]byte, 10), time.Time{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- q.send(t.Context(), 1, make([]byte, 5), time.Time{}) }()
	waitUntil(t, func() bool { q.mu.Lock(); defer q.mu.Unlock(); return q.sched.waiting == 1 })
	<-q.wake
	q.remove(2)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	select {
	case <-q.wake:
	default:
		t.Error("the writer was not woken")
	}
}

// Deadlines are those of the clock on the wall, which a bubble makes virtual.
func TestSendDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testQueue(t, plenty, testChannel(1, 1, 1))
		for _, d := range []time.Duration{time.Second, 3 * time.Second, -time.Second} {
			if err := q.trySend(1, []byte(d.String()), time.Now().Add(d)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		if c, ok := q.next(0); !ok || string(c.data) != "3s" {
			t.Errorf("%q %v", c.data, ok)
		}
		if c, ok := q.next(0); ok {
			t.Errorf("%q", c.data)
		}
		if st := q.stats(); st.Dropped[DropDeadline] != 2 || st.Written != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// testAccounting lets senders of every kind loose on one queue while a writer
// works, and closes it or lets the connection fail.
func testAccounting(t *testing.T, failing bool) {
	limited := func(id ChannelID, class uint8, policy SendPolicy) sendChannel {
		return sendChannel{id: id, class: class, priority: 1 + uint8(id), policy: policy, limits: queueLimits{20, 4000}, maxMessage: 300}
	}
	q := testQueue(t, queueLimits{80, 12_000}, limited(0, 0, SendDropNewest), limited(1, 1, SendDropOldest), limited(2, 1, SendBlock), limited(3, 3, SendBlock))
	conn := newStalledConn()
	conn.resume()
	recorder := &numberedConn{stalledConn: conn}
	writer := startWriter(t, recorder, q)
	var (
		senders sync.WaitGroup
		offered [4]atomic.Uint64
		queued  [4]atomic.Uint64
		enough  atomic.Bool // what the test needs has happened, however slow the writer is
	)
	defer enough.Store(true)
	for worker := range uint64(8) {
		senders.Go(func() {
			rng := rand.New(rand.NewPCG(worker, 4))
			for i := 0; i < 1000 || !enough.Load(); i++ {
				id := ChannelID(rng.IntN(4))
				data := make([]byte, 12+rng.IntN(280))
				binary.BigEndian.PutUint64(data, worker)
				binary.BigEndian.PutUint32(data[8:], uint32(i))
				var deadline time.Time
				if rng.IntN(10) == 0 {
					deadline = time.Now().Add(time.Duration(rng.IntN(2000)-1000) * time.Microsecond)
				}
				offered[id].Add(1)
				var err error
				if rng.IntN(2) == 0 {
					err = q.trySend(id, data, deadline)
				} else {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(3000))*time.Microsecond)
					err = q.send(ctx, id, data, deadline)
					if ctx.Err() != nil && err == ctx.Err() {
						// Cancelled: before it was offered, or while it waited.
						offered[id].Add(^uint64(0))
					}
					cancel()
				}
				if err == nil {
					queued[id].Add(1)
				}
			}
		})
	}
	waitUntil(t, func() bool {
		st := q.stats()
		return st.Written > 500 && st.Dropped[DropFull] > 0 && st.Dropped[DropOldest] > 0
	})
	if !failing {
		if err := writer.stop(); err != nil {
			t.Errorf("the writer says %v", err)
		}
	} else {
		conn.mu.Lock()
		conn.failAt = conn.chunks + 1
		conn.mu.Unlock()
		if err := <-writer.done; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the writer says %v", err)
		}
	}
	enough.Store(true)
	senders.Wait()
	st := q.stats()
	if err := q.sched.check(); err != nil {
		t.Fatal(err)
	}
	var all uint64
	for id := range ChannelID(4) {
		one, _ := q.statsOf(id)
		all += queued[id].Load()
		if one.Offered-one.Dropped[DropCancelled] != offered[id].Load() {
			t.Errorf("channel %d: %d messages offered, %+v", id, offered[id].Load(), one)
		}
		if one.Accepted != queued[id].Load() || one.Queued != 0 {
			t.Errorf("channel %d: %d messages queued, %+v", id, queued[id].Load(), one)
		}
		if one.Written != recorder.count[id] {
			t.Errorf("channel %d: %d messages arrived, %+v", id, recorder.count[id], one)
		}
	}
	lost := st.Dropped.Total() - st.Dropped.refused()
	if all != st.Written+lost || st.Queued != 0 {
		t.Errorf("accepted %d, written %d, dropped %v", all, st.Written, st.Dropped)
	}
	if failing && st.Dropped[DropCut] == 0 || st.Dropped[DropFull] == 0 || st.Dropped[DropOldest] == 0 {
		t.Errorf("a test of little: %v", st.Dropped)
	}
	if recorder.fault != "" {
		t.Error(recorder.fault)
	}
}

// numberedConn checks that the messages of one sender on one channel come in
// order and whole. Its fields belong to the writer.
type numberedConn struct {
	*stalledConn
	partial [4][]byte
	last    map[string]uint32
	count   [4]uint64
	fault   string
}

func (c *numberedConn) SendChunk(id ChannelID, data []byte, eof bool) error {
	if err := c.stalledConn.SendChunk(id, nil, false); err != nil {
		return err
	}
	if c.last == nil {
		c.last = map[string]uint32{}
	}
	c.partial[id] = append(c.partial[id], data...)
	if !eof {
		return nil
	}
	m := c.partial[id]
	c.partial[id] = nil
	c.count[id]++
	from, number := fmt.Sprint(id, binary.BigEndian.Uint64(m)), binary.BigEndian.Uint32(m[8:])
	if before, ok := c.last[from]; ok && number <= before && c.fault == "" {
		c.fault = fmt.Sprintf("message %d of %s came after %d", number, from, before)
	}
	c.last[from] = number
	return nil
}

// A broadcast marshals once and costs each of the 50 queues nothing but the room
// in its ring: no allocation, and no wait for the one that is stuck.
func TestBroadcastAllocatesNothingPerPeer(t *testing.T) {
	const peers = 50
	queues := make([]*sendQueue, peers)
	for i := range queues {
		queues[i] = testQueue(t, queueLimits{64, 1 << 20}, sendChannel{id: 1, priority: 1, limits: queueLimits{16, 1 << 20}})
	}
	data := make([]byte, 1000)
	stuck := queues[7]
	for range 16 {
		if err := stuck.trySend(1, data, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	broadcast := func() {
		for _, q := range queues {
			err := q.trySend(1, data, time.Time{})
			if full := errors.Is(err, ErrQueueFull); full != (q == stuck) {
				t.Fatal(err)
			}
		}
		for _, q := range queues {
			if q == stuck {
				continue
			}
			if c, ok := q.next(1024); !ok || &c.data[0] != &data[0] {
				t.Fatal("the bytes were copied")
			}
			q.next(1024)
		}
	}
	broadcast()
	if n := testing.AllocsPerRun(100, broadcast); n != 0 {
		t.Errorf("%v allocations for a broadcast to %d peers", n, peers)
	}
	if st := stuck.stats(); st.Queued != 16 || st.Dropped[DropFull] < 100 {
		t.Errorf("%+v", st)
	}
}
