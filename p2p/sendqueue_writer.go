package p2p

import "sync"

// A ConcurrentSender is a Connection on which channels do not wait for each
// other, such as one with a stream for each: SendMessage may be called by one
// goroutine for each channel at a time. The Router then runs a writer for each
// channel that has something to send, and the scheduler's classes and weights
// are the transport's business. A Connection that is a ChunkSender too is treated
// as a ChunkSender.
type ConcurrentSender interface {
	Connection
	// ConcurrentSend does nothing; it marks the connection.
	ConcurrentSend()
}

// runWriter sends what q holds over conn until q closes (nil) or conn fails (its
// error). Either way q is closed when it returns and no goroutine is left; to
// make it return while conn blocks, close both.
//
// Over a ChunkSender it asks the scheduler before every chunk, so that an urgent
// message waits for one chunk at most, and flushes when the queues are empty.
// Over a ConcurrentSender each channel with something to send has a goroutine of
// its own until it is empty. Over others it sends message by message.
func runWriter(conn Connection, q *sendQueue) error {
	switch c := conn.(type) {
	case ChunkSender:
		return writeChunks(c, q)
	case ConcurrentSender:
		return writeChannels(c, q)
	}
	return writeMessages(conn, q)
}

func writeChunks(conn ChunkSender, q *sendQueue) error {
	limit := max(1, conn.MaxChunk())
	for dirty := false; ; {
		c, ok := q.next(limit)
		if ok {
			if err := conn.SendChunk(c.channel, c.data, c.eof); err != nil {
				q.fail()
				return err
			}
			dirty = true
			continue
		}
		if dirty {
			if err := conn.Flush(); err != nil {
				q.fail()
				return err
			}
			dirty = false
			continue // more may have come meanwhile
		}
		if !q.wait() {
			return nil
		}
	}
}

func writeMessages(conn Connection, q *sendQueue) error {
	for {
		c, ok := q.next(0)
		if !ok {
			if !q.wait() {
				return nil
			}
			continue
		}
		if err := conn.SendMessage(c.channel, c.data); err != nil {
			q.fail()
			return err
		}
	}
}

func writeChannels(conn Connection, q *sendQueue) error {
	var (
		writers sync.WaitGroup
		once    sync.Once
		failed  error
	)
	for {
		id, ok := q.claim()
		if !ok {
			if q.wait() {
				continue
			}
			writers.Wait()
			return failed
		}
		writers.Go(func() {
			for c, ok := q.nextOf(id); ok; c, ok = q.nextOf(id) {
				if err := conn.SendMessage(c.channel, c.data); err != nil {
					once.Do(func() { failed = err })
					q.failOf(id)
					return
				}
			}
		})
	}
}
