package p2p

// next says what to send now: at most limit bytes of one message (limit 0: a
// whole message), or nothing. Asking again says that the chunk before went out;
// if it could not be sent, fail says so instead. For one writer.
func (s *scheduler) next(limit int) (chunk, bool) {
	if l := s.last; l != nil {
		s.last = nil
		s.settle(l)
	}
	if s.closed {
		return chunk{}, false
	}
	if s.deadlines > 0 {
		s.expire()
	}
	class, others := -1, false
	for c := sendClasses - 1; c >= 0; c-- {
		if len(s.rings[c]) > 0 {
			others = class > 0
			class = c
		}
	}
	if class < 0 {
		return chunk{}, false
	}
	if class == 0 && others && s.credit <= 0 {
		for class = 1; len(s.rings[class]) == 0; class++ {
		}
	}
	l := s.turn(class, limit)
	c := s.take(l, limit)
	cost := len(c.data) + chunkOverhead
	l.deficit -= cost
	switch {
	case class > 0:
		s.credit = min(urgentCredit, s.credit+cost)
	case others:
		s.credit -= 3 * cost
	}
	s.last = l
	return c, true
}

// nextOf is next for one channel, for transports on which channels do not wait
// for each other. It knows no classes. fail is then failOf.
func (s *scheduler) nextOf(id ChannelID, limit int) (chunk, bool) {
	l := s.lanes[id]
	if l == nil {
		return chunk{}, false
	}
	if l.out {
		s.settle(l)
	}
	if s.deadlines > 0 {
		s.expireLane(l)
		s.admit()
	}
	if s.closed || !l.active {
		return chunk{}, false
	}
	return s.take(l, limit), true
}

// expire drops what should have been sent by now and was not begun.
func (s *scheduler) expire() {
	before := s.messages
	for class := range s.rings {
		for i := len(s.rings[class]) - 1; i >= 0; i-- {
			s.expireLane(s.rings[class][i])
		}
	}
	if s.messages != before {
		s.admit()
	}
}

// turn is the channel of a class whose chunk is next. The class has one.
func (s *scheduler) turn(class, limit int) *lane {
	ring := s.rings[class]
	rounds := 0 // until somebody may send
	for i := range ring {
		at := (s.cursors[class] + i) % len(ring)
		l := ring[at]
		short := l.ahead(limit) + chunkOverhead - l.deficit
		if short <= 0 {
			s.cursors[class] = at + 1
			return l
		}
		if r := (short + int(l.priority) - 1) / int(l.priority); rounds == 0 || r < rounds {
			rounds = r
		}
	}
	for _, l := range ring {
		l.deficit += rounds * int(l.priority)
	}
	return s.turn(class, limit)
}

// ahead is the length of the lane's next chunk.
func (l *lane) ahead(limit int) int {
	n := len(l.queue.front().data) - l.offset
	if limit > 0 {
		n = min(n, limit)
	}
	return n
}

// take hands out the lane's next chunk.
func (s *scheduler) take(l *lane, limit int) chunk {
	m, n := l.queue.front(), l.ahead(limit)
	end := l.offset + n
	c := chunk{channel: l.id, data: m.data[l.offset:end:end], eof: end == len(m.data), message: m.number}
	l.started, l.offset = true, end
	l.out, l.outEOF = true, c.eof
	return c
}

// settle says that the chunk of a lane that is out was sent.
func (s *scheduler) settle(l *lane) {
	l.out = false
	if l.outEOF {
		m := l.queue.pop()
		l.started, l.offset = false, 0
		l.stats.Written++
		l.stats.WrittenBytes += uint64(len(m.data))
		s.forget(l, m)
		s.retire(l)
		s.admit()
		if m.owned {
			Recycle(m.data)
		}
	}
	if s.closed {
		s.cut(l)
	}
}

// fail closes the scheduler: the chunk that next handed out could not be sent.
func (s *scheduler) fail() {
	if l := s.last; l != nil {
		s.last = nil
		l.out = false
	}
	s.close()
}

// failOf is fail for a chunk that nextOf handed out.
func (s *scheduler) failOf(id ChannelID) {
	if l := s.lanes[id]; l != nil {
		l.out = false
	}
	s.close()
}

func (s *scheduler) activate(l *lane) {
	if !l.active {
		l.active, s.fresh = true, true
		s.rings[l.class] = append(s.rings[l.class], l)
	}
}

// deactivate takes a lane out of its ring. What it had saved up is forfeited.
func (s *scheduler) deactivate(l *lane) {
	if !l.active {
		return
	}
	l.active, l.deficit = false, 0
	ring := s.rings[l.class]
	for i := range ring {
		if ring[i] == l {
			copy(ring[i:], ring[i+1:])
			ring[len(ring)-1] = nil
			s.rings[l.class] = ring[:len(ring)-1]
			if i < s.cursors[l.class] {
				s.cursors[l.class]--
			}
			return
		}
	}
}
