package memory

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// segment is what travels: a chunk, a piece of the handshake, or the end.
type segment struct {
	channel p2p.ChannelID
	data    []byte
	eof     bool
	hello   *hello
	end     bool
	arrives time.Time
	lost    bool // arrives when the link opens again
}

func (s *segment) isChunk() bool { return s.hello == nil && !s.end }

func (s *segment) size() int {
	n := len(s.data) + Overhead
	if s.hello != nil {
		n += s.hello.size()
	}
	return n
}

// pipe is one direction of a connection. The sender puts segments into buffer
// and moves them on, through the link, into queue; the reader takes them out when
// they have arrived.
type pipe struct {
	pair  *pair
	link  *link
	ready chan struct{} // holds a token when the reader should look again
	space chan struct{} // holds a token when the sender should

	mu       sync.Mutex // guards the rest
	buffer   []segment  // sent, not flushed
	buffered int
	queue    []segment // on the way or arrived, in order
	queued   int
	partial  map[p2p.ChannelID][]byte // begun messages of which the reader has taken a part
	last     time.Time                // arrival of the last of the queue
	unread   bool                     // the reader is gone: what is sent is destroyed
	err      error                    // broken: for both sides
	counts   map[p2p.ChannelID]*Count
}

func newPipe(p *pair, l *link) *pipe {
	q := &pipe{
		pair: p, link: l, ready: make(chan struct{}, 1), space: make(chan struct{}, 1),
		partial: make(map[p2p.ChannelID][]byte), counts: make(map[p2p.ChannelID]*Count),
	}
	l.add(q)
	return q
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// count is the counts of a channel. p.mu is held.
func (p *pipe) count(id p2p.ChannelID) *Count {
	c := p.counts[id]
	if c == nil {
		c = &Count{}
		p.counts[id] = c
	}
	return c
}

// put buffers a segment, which counts as sent. It reports whether the buffer has
// to be moved on now. An error means that nothing was taken.
func (p *pipe) put(s segment) (full bool, err error) {
	paced, _ := p.link.paced()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return false, p.err
	}
	if s.isChunk() {
		c := p.count(s.channel)
		c.Sent.add(s)
	}
	p.buffer = append(p.buffer, s)
	p.buffered += s.size()
	return paced || p.buffered >= p.pair.net.o.Batch, nil
}

// step moves one segment from the buffer to the link. It returns when the segment
// has gone out; whether there was one; and whether the sender has to wait for
// space first.
func (p *pipe) step() (gone time.Time, moved, wait bool, err error) {
	random := 0.0
	if _, jittery := p.link.paced(); jittery {
		random = p.pair.net.random(nil)
	}
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return gone, false, false, p.err
	}
	if len(p.buffer) == 0 {
		p.buffer = nil
		p.mu.Unlock()
		return gone, false, false, nil
	}
	s := p.buffer[0]
	if p.queued > 0 && p.queued+s.size() > p.pair.net.o.Window {
		p.mu.Unlock()
		return gone, false, true, nil
	}
	p.buffer[0] = segment{}
	p.buffer = p.buffer[1:]
	p.buffered -= s.size()
	way := p.link.pass(s.size(), s.isChunk(), random)
	p.push(s, way)
	p.mu.Unlock()
	if way.cut && p.pair.reset() {
		p.pair.net.count(func(s *Stats) { s.Faults.Cuts++ })
	}
	return way.gone, true, false, nil
}

// push puts a segment on its way. p.mu is held.
func (p *pipe) push(s segment, way passage) {
	if p.unread {
		p.destroy(s)
		p.queued += s.size() // there is nobody to make room; it ends when the sender hears of it
		return
	}
	s.arrives, s.lost = way.arrives, way.lost
	if s.arrives.Before(p.last) {
		s.arrives = p.last
	}
	p.last = s.arrives
	p.queue = append(p.queue, s)
	p.queued += s.size()
	token(p.ready)
}

// destroy counts a segment that will not arrive. p.mu is held.
func (p *pipe) destroy(s segment) {
	if s.isChunk() {
		p.count(s.channel).Destroyed.add(s)
	}
}

// finish is the sender's Close: what is not flushed is destroyed, and the reader
// finds the end behind the rest.
func (p *pipe) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.buffer {
		p.destroy(s)
	}
	p.buffer, p.buffered = nil, 0
	if p.err == nil {
		p.err = io.EOF // for the sender; the reader goes by the queue
		s := segment{end: true}
		p.push(s, p.link.pass(s.size(), false, 0))
	}
}

// abandon is the reader's Close: what has not been read, and what comes, is
// destroyed.
func (p *pipe) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unread = true
	p.clear()
	token(p.space)
}

// clear destroys what is on the way. p.mu is held.
func (p *pipe) clear() {
	for _, s := range p.queue {
		p.destroy(s)
	}
	for id, part := range p.partial {
		p.count(id).Destroyed.Bytes += uint64(len(part))
	}
	p.queue, p.queued = nil, 0
	clear(p.partial)
}

// shut breaks the pipe for both sides.
func (p *pipe) shut(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.unread = err, true
	for _, s := range p.buffer {
		p.destroy(s)
	}
	p.buffer, p.buffered = nil, 0
	p.clear()
	token(p.ready)
	token(p.space)
}

// linkChanged is told by the link that it was shut or opened: what is on its way
// when it is shut arrives a latency after it is opened.
func (p *pipe) linkChanged(shut bool, latency time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for i := range p.queue {
		switch s := &p.queue[i]; {
		case shut && s.arrives.After(now):
			s.lost = true
		case !shut && s.lost:
			s.lost, s.arrives = false, now.Add(latency)
			p.last = s.arrives
		}
	}
	token(p.ready)
	token(p.other().space) // whose sender may wait for the end that comes this way
}

// read takes what has arrived. Without a result, wait says how long until the
// next thing arrives, 0 being unknown.
func (p *pipe) read(limit func(p2p.ChannelID) (int, bool)) (id p2p.ChannelID, data []byte, ok bool, wait time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		s, wait, err := p.head()
		if s == nil || err != nil {
			return 0, nil, false, wait, err
		}
		if s.end {
			return 0, nil, false, 0, io.EOF
		}
		if s.hello != nil {
			return 0, nil, false, 0, fmt.Errorf("%w: a second one", ErrHandshake)
		}
		most, known := limit(s.channel)
		before := p.partial[s.channel]
		if !known {
			return 0, nil, false, 0, fmt.Errorf("%w: %#02x", ErrUnknownChannel, uint16(s.channel))
		}
		if len(before)+len(s.data) > most {
			return 0, nil, false, 0, fmt.Errorf("%w: more than %d bytes on channel %#02x", ErrMessageTooLarge, most, uint16(s.channel))
		}
		id, data = s.channel, s.data
		if before != nil {
			data = append(before, data...)
		}
		eof := s.eof
		p.pop()
		if !eof {
			if data == nil {
				data = []byte{}
			}
			p.partial[id] = data
			continue
		}
		delete(p.partial, id)
		c := p.count(id)
		c.Delivered.Messages++
		c.Delivered.Bytes += uint64(len(data))
		return id, data, true, 0, nil
	}
}

// readHello takes a piece of the handshake.
func (p *pipe) readHello() (h *hello, wait time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, wait, err := p.head()
	switch {
	case s == nil || err != nil:
		return nil, wait, err
	case s.end:
		return nil, 0, io.EOF
	case s.hello == nil:
		return nil, 0, fmt.Errorf("%w: the peer sent a message first", ErrHandshake)
	}
	h = s.hello
	p.pop()
	return h, 0, nil
}

// head is the first segment if it has arrived. p.mu is held.
func (p *pipe) head() (s *segment, wait time.Duration, err error) {
	if len(p.queue) == 0 {
		if p.unread {
			return nil, 0, p.err
		}
		return nil, 0, nil
	}
	s = &p.queue[0]
	if s.lost {
		return nil, 0, nil
	}
	if wait = time.Until(s.arrives); wait > 0 {
		return nil, wait, nil
	}
	return s, 0, nil
}

// pop takes the first segment off the queue. p.mu is held.
func (p *pipe) pop() {
	p.queued -= p.queue[0].size()
	p.queue[0] = segment{}
	if p.queue = p.queue[1:]; len(p.queue) == 0 {
		p.queue = nil
	}
	token(p.space)
}

// ending reports whether the end has arrived, so that this side can know that the
// other has closed, or in how long it will; 0 is unknown.
func (p *pipe) ending() (ended bool, in time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return false, 0
	}
	s := &p.queue[len(p.queue)-1]
	if !s.end || s.lost {
		return false, 0
	}
	in = time.Until(s.arrives)
	return in <= 0, max(0, in)
}

// other is the opposite direction of the connection.
func (p *pipe) other() *pipe {
	if p.pair.ends[0].out == p {
		return p.pair.ends[0].in
	}
	return p.pair.ends[0].out
}

// addTo adds the counts to others.
func (p *pipe) addTo(counts map[p2p.ChannelID]Count) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, c := range p.counts {
		sum := counts[id]
		sum.Sent.sum(c.Sent)
		sum.Delivered.sum(c.Delivered)
		sum.Destroyed.sum(c.Destroyed)
		counts[id] = sum
	}
}
