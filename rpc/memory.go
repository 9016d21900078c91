package rpc

import "errors"

// What the requests of all callers may hold: see ServerConfig.MaxMemoryUsage.

var errMemory = errors.New("rpc: all memory for requests is in use")

// take is the meter of requests. A peer gets more than one body of the largest
// size only while at least as much as it would hold then is left for others: one
// peer alone holds half of MaxMemoryUsage, two hold a third each, and so on. So
// there is always some left for who comes next, and nobody needs to know who.
func (l *serverLink) take(n int) error {
	err := l.reserve(n)
	if err == nil {
		l.held.Add(int64(n))
	}
	return err
}

// reserve counts n bytes, for the node and for the peer, or says that there is no
// room for them.
func (l *serverLink) reserve(n int) error {
	if n == 0 {
		return nil
	}
	most := int64(min(l.s.cfg.MaxMemoryUsage, 1<<62))
	all, own := l.s.memory.Add(int64(n)), l.state.memory.Add(int64(n))
	if all > most || own > int64(l.s.cfg.MaxBlockSize) && own > most-all {
		l.s.memory.Add(-int64(n))
		l.state.memory.Add(-int64(n))
		return errMemory
	}
	return nil
}

func (l *serverLink) unreserve(n int) {
	l.s.memory.Add(-int64(n))
	l.state.memory.Add(-int64(n))
}

// give gives back what take took.
func (l *serverLink) give(n int) {
	l.unreserve(n)
	l.held.Add(-int64(n))
}

// taking is the meter of a message that a follower reads. Until keep it is the
// follower's, so that the end of the call does not give it back.
type taking struct {
	l *serverLink
	n int
}

func (t *taking) take(n int) error {
	err := t.l.reserve(n)
	if err == nil {
		t.n += n
	}
	return err
}

func (t *taking) give(n int) {
	t.l.unreserve(n)
	t.n -= n
}

func (t *taking) keep() {
	t.l.held.Add(int64(t.n))
	t.n = 0
}

// free gives back what the call has taken.
func (l *serverLink) free() {
	if n := l.held.Swap(0); n != 0 {
		l.s.memory.Add(-n)
		l.state.memory.Add(-n)
	}
}
