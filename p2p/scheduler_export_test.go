package p2p

import (
	"context"
	"time"
)

// QueueForTest is a sendQueue for tests outside the package, which may use the
// transports.
type QueueForTest struct{ q *sendQueue }

// NewQueueForTest makes a queue with room for anything on each channel, of the
// class given, and with the policy SendBlock.
func NewQueueForTest(classes map[ChannelID]uint8, room int) (QueueForTest, error) {
	q, err := newSendQueue(queueLimits{1 << 20, 1 << 30})
	for id, class := range classes {
		if err == nil {
			err = q.add(sendChannel{id: id, class: class, priority: 1, policy: SendBlock, limits: queueLimits{room, 1 << 28}, maxMessage: 1 << 20})
		}
	}
	return QueueForTest{q}, err
}

func (t QueueForTest) Send(ctx context.Context, id ChannelID, data []byte) error {
	return t.q.send(ctx, id, data, time.Time{})
}
func (t QueueForTest) TrySend(id ChannelID, data []byte) error {
	return t.q.trySend(id, data, time.Time{})
}
func (t QueueForTest) Run(c Connection) error { return runWriter(c, t.q) }
func (t QueueForTest) Close()                 { t.q.close() }
func (t QueueForTest) Stats() SendStats       { return t.q.stats() }
func (t QueueForTest) Check() error           { return t.q.sched.check() }
