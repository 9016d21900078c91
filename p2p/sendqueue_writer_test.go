package p2p

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// plainConn takes whole messages; each waits for a token of its channel's.
type plainConn struct {
	Connection
	gate map[ChannelID]chan error

	mu   sync.Mutex // guards got and busy
	got  []string
	busy map[ChannelID]int
	most map[ChannelID]int
}

func newPlainConn(ids ...ChannelID) *plainConn {
	c := &plainConn{gate: map[ChannelID]chan error{}, busy: map[ChannelID]int{}, most: map[ChannelID]int{}}
	for _, id := range ids {
		c.gate[id] = make(chan error, 1000)
	}
	return c
}

func (c *plainConn) SendMessage(id ChannelID, data []byte) error {
	c.mu.Lock()
	c.busy[id]++
	c.most[id] = max(c.most[id], c.busy[id])
	c.mu.Unlock()
	err := <-c.gate[id]
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy[id]--
	if err == nil {
		c.got = append(c.got, fmt.Sprintf("%d:%s", id, data))
	}
	return err
}

func (c *plainConn) seen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got)
}

func (c *plainConn) open(id ChannelID, n int) {
	for range n {
		c.gate[id] <- nil
	}
}

type concurrentConn struct{ *plainConn }

func (concurrentConn) ConcurrentSend() {}

// Over a ChunkSender the writer flushes when nothing is left, once for all that
// was sent before, and again for what comes later.
func TestWriterFlushesWhenEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testQueue(t, plenty, testChannel(1, 1, 1))
		conn := newStalledConn()
		writer := startWriter(t, conn, q)
		for range 10 {
			_ = q.trySend(1, make([]byte, 100), time.Time{})
		}
		conn.resume()
		synctest.Wait()
		if len(conn.messages()) != 10 || conn.flushes != 1 {
			t.Errorf("%d messages, %d flushes", len(conn.messages()), conn.flushes)
		}
		_ = q.trySend(1, nil, time.Time{})
		synctest.Wait()
		if len(conn.messages()) != 11 || conn.flushes != 2 {
			t.Errorf("%d messages, %d flushes", len(conn.messages()), conn.flushes)
		}
		if err := writer.stop(); err != nil {
			t.Error(err)
		}
	})
}

type unflushable struct{ *stalledConn }

func (unflushable) Flush() error { return io.ErrClosedPipe }

// A connection that fails closes the queue, whatever it was doing.
func TestWriterEndsWithTheConnection(t *testing.T) {
	failing := newPlainConn(1)
	failing.gate[1] <- io.ErrClosedPipe
	flushless := newStalledConn()
	flushless.resume()
	concurrent := newPlainConn(1)
	concurrent.gate[1] <- io.ErrClosedPipe
	chunks := newStalledConn()
	chunks.resume()
	chunks.failAt = 1
	for name, c := range map[string]struct {
		conn    Connection
		written uint64
	}{
		"in a chunk": {chunks, 0}, "in a message": {failing, 0}, "in a flush": {unflushable{flushless}, 1}, "in a channel's message": {concurrentConn{concurrent}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			q := testQueue(t, plenty, testChannel(1, 1, 1))
			_ = q.trySend(1, []byte("x"), time.Time{})
			if err := runWriter(c.conn, q); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%v", err)
			}
			if err := q.trySend(1, nil, time.Time{}); !errors.Is(err, ErrQueueClosed) {
				t.Errorf("%v", err)
			}
			st := q.stats()
			if st.Written != c.written || st.Dropped[DropCut] != 1-c.written || st.check() != nil {
				t.Errorf("%+v", st)
			}
		})
	}
}

// Over a plain Connection messages go one by one, the most urgent next.
func TestWriterOfMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testQueue(t, plenty, testChannel(1, 3, 1), testChannel(2, 1, 1))
		conn := newPlainConn(1, 2)
		writer := startWriter(t, conn, q)
		for i := range 3 {
			_ = q.trySend(1, fmt.Append(nil, i), time.Time{})
		}
		synctest.Wait()
		_ = q.trySend(2, []byte("urgent"), time.Time{})
		conn.open(1, 3)
		conn.open(2, 1)
		synctest.Wait()
		if got, want := conn.seen(), []string{"1:0", "2:urgent", "1:1", "1:2"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if err := writer.stop(); err != nil {
			t.Error(err)
		}
	})
}

// Over a ConcurrentSender a channel that is stuck holds up no other, order within
// a channel is kept, and a channel has one writer at most.
func TestWriterOfChannels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testQueue(t, plenty, testChannel(1, 0, 1), testChannel(2, 3, 1), testChannel(3, 3, 1))
		conn := newPlainConn(1, 2, 3)
		writer := startWriter(t, concurrentConn{conn}, q)
		for i := range 3 {
			_ = q.trySend(1, fmt.Append(nil, i), time.Time{})
			_ = q.trySend(2, fmt.Append(nil, i), time.Time{})
		}
		conn.open(2, 2)
		synctest.Wait()
		if got, want := conn.seen(), []string{"2:0", "2:1"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		_ = q.trySend(3, []byte("later"), time.Time{})
		_ = q.trySend(2, []byte("3"), time.Time{})
		conn.open(3, 1)
		synctest.Wait()
		conn.open(1, 3)
		synctest.Wait()
		conn.open(2, 2)
		synctest.Wait()
		want := []string{"2:0", "2:1", "3:later", "1:0", "1:1", "1:2", "2:2", "2:3"}
		if got := conn.seen(); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		for id, n := range conn.most {
			if n != 1 {
				t.Errorf("channel %d had %d writers at once", id, n)
			}
		}
		// A second burst finds its writers, though the first ones are gone.
		conn.open(1, 1)
		_ = q.trySend(1, []byte("again"), time.Time{})
		synctest.Wait()
		if got := conn.seen(); got[len(got)-1] != "1:again" {
			t.Errorf("%q", got)
		}
		// Closing waits for the message that is under way, which counts as written.
		_ = q.trySend(1, []byte("last"), time.Time{})
		_ = q.trySend(1, []byte("dropped"), time.Time{})
		synctest.Wait()
		q.close()
		synctest.Wait()
		select {
		case err := <-writer.done:
			t.Errorf("the writer left a goroutine behind: %v", err)
		default:
		}
		conn.open(1, 1)
		if err := <-writer.done; err != nil {
			t.Error(err)
		}
		st := q.stats()
		if st.Written != 10 || st.Dropped[DropClosed] != 1 || st.check() != nil {
			t.Errorf("%+v", st)
		}
	})
}

// Deadlines and waiting senders count over a ConcurrentSender, too.
func TestWriterOfChannelsDropsAndAdmits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := sendChannel{id: 1, priority: 1, policy: SendBlock, limits: queueLimits{2, 10}, maxMessage: 10}
		q := testQueue(t, plenty, one)
		conn := newPlainConn(1)
		writer := startWriter(t, concurrentConn{conn}, q)
		_ = q.trySend(1, []byte("a"), time.Time{})
		synctest.Wait()
		_ = q.trySend(1, []byte("late"), time.Now().Add(time.Second))
		sent := make(chan error, 1)
		go func() { sent <- q.send(t.Context(), 1, []byte("b"), time.Time{}) }()
		time.Sleep(2 * time.Second)
		conn.open(1, 2)
		if err := <-sent; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got, want := conn.seen(), []string{"1:a", "1:b"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		// A channel that goes while its writer is at work ends with its message.
		_ = q.trySend(1, []byte("c"), time.Time{})
		synctest.Wait()
		q.remove(1)
		conn.open(1, 1)
		synctest.Wait()
		if err := writer.stop(); err != nil {
			t.Error(err)
		}
		if st := q.stats(); st.Written != 3 || st.Dropped[DropDeadline] != 1 || st.check() != nil {
			t.Errorf("%+v", st)
		}
	})
}
