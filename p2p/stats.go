package p2p

import "fmt"

// SendStats counts the messages of a queue towards a peer, or of one channel in
// it. They balance at every moment: Offered = Accepted + the drops of refused
// reasons, and Accepted = Written + Queued + the other drops. What was written is
// what the connection took; whether it arrived, only the peer knows.
type SendStats struct {
	Offered      uint64 // asked to be sent
	Accepted     uint64 // of these, queued
	Written      uint64 // of these, handed to the connection whole
	WrittenBytes uint64
	Queued       int // waiting now, the one being written included
	QueuedBytes  int // whole messages: a message weighs until its last byte is out
	Dropped      Drops
}

func (s *SendStats) add(o SendStats) {
	s.Offered += o.Offered
	s.Accepted += o.Accepted
	s.Written += o.Written
	s.WrittenBytes += o.WrittenBytes
	s.Queued += o.Queued
	s.QueuedBytes += o.QueuedBytes
	s.Dropped.add(o.Dropped)
}

// check returns how the counts fail to balance.
func (s SendStats) check() error {
	refused := s.Dropped.refused()
	if s.Offered != s.Accepted+refused {
		return fmt.Errorf("offered %d, accepted %d, dropped %s", s.Offered, s.Accepted, s.Dropped)
	}
	if s.Accepted != s.Written+uint64(s.Queued)+s.Dropped.Total()-refused {
		return fmt.Errorf("accepted %d, written %d, queued %d, dropped %s", s.Accepted, s.Written, s.Queued, s.Dropped)
	}
	return nil
}

// ReceiveStats counts the messages that arrived on a channel. They balance at
// every moment: Received = Delivered + Queued + Dropped + those of read loops
// that a pausing channel holds up.
type ReceiveStats struct {
	Received       uint64 // arrived
	ReceivedBytes  uint64
	Delivered      uint64 // handed to the receiver
	DeliveredBytes uint64
	Queued         int // waiting now
	QueuedBytes    int
	Paused         int // read loops held up now, with one message each
	Dropped        Drops
}

// check returns how the counts fail to balance.
func (s ReceiveStats) check() error {
	if s.Received != s.Delivered+uint64(s.Queued)+uint64(s.Paused)+s.Dropped.Total() {
		return fmt.Errorf("received %d, delivered %d, queued %d, paused %d, dropped %s", s.Received, s.Delivered, s.Queued, s.Paused, s.Dropped)
	}
	return nil
}
