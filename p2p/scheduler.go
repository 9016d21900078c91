package p2p

import (
	"errors"
	"fmt"
	"time"
)

const (
	// sendClasses is how many classes there are: 0 goes first, 3 last.
	sendClasses = 4
	// chunkOverhead is what a chunk is charged beside its data: about what a packet
	// costs on a wire. Without it messages of no bytes would be free, and a channel
	// full of them would keep the rest of its class waiting for ever.
	chunkOverhead = 16
	// urgentBurst is how many bytes class 0 may send in one go while others wait,
	// before it is held to its quarter: enough for the urgent messages of a moment.
	urgentBurst = 16 << 10
)

// sendChannel says how the messages of one channel are sent to one peer.
type sendChannel struct {
	id       ChannelID
	class    uint8 // 0 to 3: a lower class is served before a higher one
	priority uint8 // 1 to 255: the weight within the class
	policy   SendPolicy
	limits   queueLimits // of what waits, the message being sent included
	// maxMessage is the longest message that may be sent, in bytes: what the peer
	// takes. 0 is DefaultMaxMessage.
	maxMessage int
}

// chunk is one decision of the scheduler: what to send next.
type chunk struct {
	channel ChannelID
	data    []byte // part of a message that others may share: not to be changed
	eof     bool   // the message ends here
	message uint64 // which message it is of: numbered from 1 in order of acceptance
}

// outMessage is one queued message. Its bytes may be queued for many peers at
// once and are never written to; the garbage collector frees them after the last.
type outMessage struct {
	data     []byte
	deadline time.Duration // on the scheduler's clock; 0 is none
	number   uint64
	owned    bool // nobody else has data: its memory is used again once it was sent
}

// sendRings are the rings of lanes that grew large.
var sendRings ringPool

// sendWaiter is a message whose sender waits for room. done is closed when it
// was decided about: refused is then why not, or nil.
type sendWaiter struct {
	data     []byte
	deadline time.Duration
	owned    bool // as outMessage.owned
	refused  error
	done     chan struct{}
}

// lane is the queue of one channel within a scheduler, which owns it.
type lane struct {
	sendChannel
	queue   fifo[outMessage]
	bytes   int // of all queued messages, whole, until their last chunk went out
	offset  int // how much of the first message was handed out
	started bool
	out     bool // a chunk was handed out and nothing was said about it yet
	outEOF  bool
	active  bool // in its class's ring: there is a chunk to hand out
	drained bool // a writer of its own is at work on it (see sendQueue.claim)
	leaving bool // removed: it ends with the message it is in
	deficit int  // bytes it may send before its turn is over
	waiters fifo[*sendWaiter]
	stats   SendStats
}

// scheduler decides what is sent next to one peer. It is a state machine without
// goroutine, lock or I/O: offer puts a message in, next takes a chunk out, and
// the clock is a function. Not safe for concurrent use; sendQueue wraps it.
//
// The order of chunks:
//
//   - A lower class goes before a higher one. Class 0, once it has used up a burst
//     of 16 KiB, is held to a quarter of the bytes for as long as others wait.
//   - Within a class, deficit round robin over bytes (Shreedhar and Varghese,
//     "Efficient Fair Queuing Using Deficit Round Robin", 1995): every round adds
//     a channel's priority to its deficit, and a chunk costs its length plus 16.
//     Rounds in which nobody could send yet are skipped in one step, and a channel
//     hands out one chunk at a time, so shares are exact and bursts are short.
//   - Within a channel, messages in the order they were offered, whole, one after
//     another. A message that was begun is finished: it is never cut in the middle
//     and never dropped, whatever its deadline and the policy, for the receiver
//     could not tell the rest of it from the next.
//
// The books always balance, for every channel and in sum:
//
//	Offered  = Accepted + the drops of refused reasons
//	Accepted = Written + Queued + the drops of the other reasons
type scheduler struct {
	clock func() time.Duration // asked only where a deadline is set
	total queueLimits

	lanes     map[ChannelID]*lane
	order     []*lane              // all lanes, in the order they were added
	rings     [sendClasses][]*lane // the active ones
	cursors   [sendClasses]int     // whose turn it is next
	last      *lane                // of the chunk that next handed out
	credit    int                  // what class 0 may send while others wait, in quarters of bytes
	messages  int
	bytes     int
	deadlines int // queued messages that have one
	waiting   int // senders that wait for room
	number    uint64
	closed    bool
	fresh     bool      // a lane became active; who drives the writer clears it
	former    SendStats // of lanes that are gone, and of channels that never were
}

// urgentCredit is the most that class 0 can save up.
const urgentCredit = 3 * urgentBurst

func newScheduler(total queueLimits, clock func() time.Duration) *scheduler {
	return &scheduler{clock: clock, total: total, lanes: make(map[ChannelID]*lane), credit: urgentCredit}
}

// room is how much of the total a class may fill: each class leaves an eighth
// that the classes after it cannot take, so that bulk never shuts urgent out.
func (s *scheduler) room(class uint8) queueLimits {
	l := s.total
	l.messages -= l.messages / 8 * int(class)
	l.bytes -= l.bytes / 8 * int(class)
	return l
}

// add makes a channel known. A channel that is being removed comes back with the
// new settings; one that is there gets them.
func (s *scheduler) add(c sendChannel) error {
	if c.maxMessage == 0 {
		c.maxMessage = DefaultMaxMessage
	}
	switch most := s.room(c.class); {
	case c.class >= sendClasses:
		return fmt.Errorf("p2p: channel %#02x: class %d, want 0 to %d", c.id, c.class, sendClasses-1)
	case c.priority == 0:
		return fmt.Errorf("p2p: channel %#02x: priority 0, want 1 to 255", c.id)
	case c.policy > SendBlock:
		return fmt.Errorf("p2p: channel %#02x: unknown policy %d", c.id, c.policy)
	case c.limits.messages < 1 || c.limits.bytes < c.maxMessage:
		return fmt.Errorf("p2p: channel %#02x: a queue of %d messages and %d bytes cannot hold one message of %d bytes",
			c.id, c.limits.messages, c.limits.bytes, c.maxMessage)
	case most.messages < 1 || most.bytes < c.maxMessage:
		return fmt.Errorf("p2p: channel %#02x: %d messages and %d bytes in all, of which class %d may fill %d bytes, cannot hold one message of %d bytes",
			c.id, s.total.messages, s.total.bytes, c.class, most.bytes, c.maxMessage)
	case s.closed:
		return ErrQueueClosed
	}
	l := s.lanes[c.id]
	if l == nil {
		l = &lane{queue: fifo[outMessage]{rings: &sendRings}}
		s.lanes[c.id] = l
		s.order = append(s.order, l)
	}
	wasActive := l.active
	s.deactivate(l)
	l.sendChannel, l.leaving = c, false
	if wasActive {
		s.activate(l)
	}
	s.admit()
	return nil
}

// remove drops what waits on a channel, and its waiting senders. A message that
// was begun is finished first.
func (s *scheduler) remove(id ChannelID) {
	if l := s.lanes[id]; l != nil && !l.leaving {
		l.leaving = true
		s.empty(l)
		s.retire(l)
		s.admit()
	}
}

// retire forgets a removed lane once its last message is out.
func (s *scheduler) retire(l *lane) {
	if !l.leaving || l.queue.len() > 0 {
		return
	}
	s.former.add(l.stats)
	delete(s.lanes, l.id)
	for i, o := range s.order {
		if o == l {
			s.order = append(s.order[:i], s.order[i+1:]...)
			return
		}
	}
}

// verdict is what becomes of an offer.
type verdict uint8

const (
	accepted verdict = iota
	refused          // with a reason, counted
	mustWait         // full, and the policy is to wait: call wait or giveUp
)

// offer asks for a message to be queued; it keeps data. A zero deadline is none.
// After mustWait nothing was counted yet: either wait or giveUp follows.
func (s *scheduler) offer(id ChannelID, data []byte, deadline time.Duration) (verdict, DropReason) {
	l := s.lanes[id]
	if s.closed || l != nil && l.leaving {
		return s.refuse(l, DropGone)
	}
	if l == nil {
		return s.refuse(nil, DropUnsupported)
	}
	if len(data) > l.maxMessage {
		return s.refuse(l, DropTooLarge)
	}
	if l.waiters.len() == 0 && s.fits(l, len(data)) {
		s.accept(l, data, deadline)
		return accepted, 0
	}
	s.expireLane(l)
	if l.policy == SendDropOldest {
		s.makeRoom(l, len(data))
	}
	defer s.admit() // more room than this message needs may have come of it
	switch {
	case l.waiters.len() == 0 && s.fits(l, len(data)):
		s.accept(l, data, deadline)
		return accepted, 0
	case l.policy == SendBlock:
		return mustWait, 0 // behind those who came before
	}
	return s.refuse(l, DropFull)
}

func (s *scheduler) refuse(l *lane, reason DropReason) (verdict, DropReason) {
	stats := &s.former
	if l != nil {
		stats = &l.stats
	}
	stats.Offered++
	stats.Dropped[reason]++
	return refused, reason
}

func (s *scheduler) fits(l *lane, n int) bool {
	return l.limits.takes(l.queue.len(), l.bytes, n) && s.room(l.class).takes(s.messages, s.bytes, n)
}

func (s *scheduler) accept(l *lane, data []byte, deadline time.Duration) {
	s.number++
	l.queue.push(outMessage{data: data, deadline: deadline, number: s.number})
	l.bytes += len(data)
	s.bytes += len(data)
	s.messages++
	if deadline != 0 {
		s.deadlines++
	}
	l.stats.Offered++
	l.stats.Accepted++
	s.activate(l)
}

// wait queues the sender of a message that must wait.
func (s *scheduler) wait(id ChannelID, w *sendWaiter) {
	s.lanes[id].waiters.push(w)
	s.waiting++
}

// own says that the message which was accepted last on a channel, just now, belongs
// to the scheduler: when its last chunk has gone out its memory is used again.
func (s *scheduler) own(id ChannelID) {
	q := &s.lanes[id].queue
	q.at(q.len() - 1).owned = true
}

// giveUp counts a sender that was told to wait and does not want to: now (w is
// nil, for DropFull) or any more (DropCancelled). It reports false when w was
// decided about in the meantime.
func (s *scheduler) giveUp(id ChannelID, w *sendWaiter, reason DropReason) bool {
	l := s.lanes[id]
	if w == nil {
		s.refuse(l, reason)
		return true
	}
	if l == nil {
		return false
	}
	for i := range l.waiters.len() {
		if *l.waiters.at(i) == w {
			l.waiters.remove(i)
			s.waiting--
			s.refuse(l, reason)
			s.admit() // who waits behind it may be shorter
			return true
		}
	}
	return false
}

// admit lets waiting senders in, in order of arrival within a channel, urgent
// classes before others. It is called whenever room appeared.
func (s *scheduler) admit() {
	for class := uint8(0); s.waiting > 0 && class < sendClasses; class++ {
		for _, l := range s.order {
			for l.class == class && l.waiters.len() > 0 && s.fits(l, len((*l.waiters.front()).data)) {
				w := l.waiters.pop()
				s.waiting--
				s.accept(l, w.data, w.deadline)
				l.queue.at(l.queue.len() - 1).owned = w.owned
				close(w.done)
			}
		}
	}
}

// drop takes the message i places behind the front of a lane out of the books.
func (s *scheduler) drop(l *lane, i int, reason DropReason) {
	l.stats.Dropped[reason]++
	s.forget(l, l.queue.remove(i))
}

func (s *scheduler) forget(l *lane, m outMessage) {
	l.bytes -= len(m.data)
	s.bytes -= len(m.data)
	s.messages--
	if m.deadline != 0 {
		s.deadlines--
	}
	if l.queue.len() == 0 {
		s.deactivate(l)
	}
}

// makeRoom drops the oldest messages that were not begun until n bytes fit; it
// drops none if that would not help.
func (s *scheduler) makeRoom(l *lane, n int) {
	first := 0
	if l.started {
		first = 1
	}
	free, most := 0, s.room(l.class)
	for i := first; i < l.queue.len(); i++ {
		free += len(l.queue.at(i).data)
		if dropped := i - first + 1; l.limits.takes(l.queue.len()-dropped, l.bytes-free, n) && most.takes(s.messages-dropped, s.bytes-free, n) {
			for range dropped {
				s.drop(l, first, DropOldest)
			}
			return
		}
	}
}

// expireLane drops the messages at the front of a lane whose deadline passed
// before they were begun. Those further back go when they get there.
func (s *scheduler) expireLane(l *lane) {
	for l.queue.len() > 0 && !l.started && l.queue.front().deadline != 0 && l.queue.front().deadline <= s.clock() {
		s.drop(l, 0, DropDeadline)
	}
}

// empty drops all messages of a lane but one that was begun, and its waiters.
func (s *scheduler) empty(l *lane) {
	first := 0
	if l.started {
		first = 1
	}
	for l.queue.len() > first {
		l.stats.Dropped[DropClosed]++
		s.forget(l, l.queue.popBack())
	}
	for l.waiters.len() > 0 {
		w := l.waiters.pop()
		s.waiting--
		s.refuse(l, DropGone)
		w.refused = ErrQueueClosed
		close(w.done)
	}
}

// close ends it: what waits is dropped, and so are the rests of messages that
// were begun, but for chunks that are out: settle or fail decides about them.
func (s *scheduler) close() {
	s.closed = true
	for _, l := range s.order {
		s.empty(l)
		s.cut(l)
	}
}

// cut drops the rest of a message that was begun, after close.
func (s *scheduler) cut(l *lane) {
	if l.started && !l.out {
		l.started, l.offset = false, 0
		s.drop(l, 0, DropCut)
	}
}

// statsOf are the counts of one channel; false if there is none.
func (s *scheduler) statsOf(id ChannelID) (SendStats, bool) {
	l := s.lanes[id]
	if l == nil {
		return SendStats{}, false
	}
	st := l.stats
	st.Queued, st.QueuedBytes = l.queue.len(), l.bytes
	return st, true
}

// stats are the sums over all channels there are and were.
func (s *scheduler) stats() SendStats {
	sum := s.former
	for _, l := range s.order {
		st, _ := s.statsOf(l.id)
		sum.add(st)
	}
	return sum
}

// check returns what is wrong with the books, for tests.
func (s *scheduler) check() error {
	var messages, bytes, deadlines, waiting, active int
	for _, l := range s.order {
		lane := 0
		for i := range l.queue.len() {
			lane += len(l.queue.at(i).data)
			if l.queue.at(i).deadline != 0 {
				deadlines++
			}
		}
		if lane != l.bytes || l.queue.len() > l.limits.messages || lane > l.limits.bytes {
			return fmt.Errorf("channel %#x: %d messages, %d bytes, %d on the books", l.id, l.queue.len(), lane, l.bytes)
		}
		if l.deficit < 0 || l.active != (l.queue.len() > 0) || l.started && l.queue.len() == 0 {
			return fmt.Errorf("channel %#x: %+v", l.id, l)
		}
		if err := s.balance(l.id); err != nil {
			return err
		}
		messages, bytes, waiting = messages+l.queue.len(), bytes+lane, waiting+l.waiters.len()
		if l.active {
			active++
		}
	}
	for _, ring := range s.rings {
		active -= len(ring)
	}
	if messages != s.messages || bytes != s.bytes || deadlines != s.deadlines || waiting != s.waiting || active != 0 {
		return fmt.Errorf("sums: %d/%d messages, %d/%d bytes, %d/%d deadlines, %d/%d waiting, %d active not in a ring",
			messages, s.messages, bytes, s.bytes, deadlines, s.deadlines, waiting, s.waiting, active)
	}
	if messages > s.total.messages || bytes > s.total.bytes {
		return errors.New("above the total")
	}
	return s.stats().check()
}

func (s *scheduler) balance(id ChannelID) error {
	st, _ := s.statsOf(id)
	if err := st.check(); err != nil {
		return fmt.Errorf("channel %#x: %w", id, err)
	}
	return nil
}
