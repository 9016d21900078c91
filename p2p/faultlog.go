package p2p

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// faultLogRoom is how many bad messages may wait to be logged; more are only
	// counted. Peers make them, so they must not fill our memory.
	faultLogRoom = 64
	// faultLogLast is how long Stop waits for a logger that takes its time.
	faultLogLast = time.Second
)

// faultLog tells the user's logger of bad messages. The read loops find these, and
// a logger's handler is a user's code, Enabled too: it may block. So they are only
// noted here, and a goroutine tells of them, which is there while any wait.
type faultLog struct {
	logger *slog.Logger

	mu      sync.Mutex // guards the fields below; nothing is called under it
	waiting []badMessage
	unsaid  uint64        // had no room, since the last that was told
	told    chan struct{} // closed when the goroutine that tells is gone; nil: there was none
	telling bool
	closed  bool
}

// badMessage is what a peer sent and should not have.
type badMessage struct {
	from    NodeID
	channel string
	err     error
}

// note takes what is to be logged. It never blocks.
func (l *faultLog) note(b badMessage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return
	case len(l.waiting) >= faultLogRoom:
		l.unsaid++
		return
	}
	l.waiting = append(l.waiting, b)
	if !l.telling {
		l.telling, l.told = true, make(chan struct{})
		go l.tell(l.told)
	}
}

// tell logs what waits until nothing does.
func (l *faultLog) tell(told chan<- struct{}) {
	defer close(told)
	for {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			l.waiting, l.telling = nil, false
			l.mu.Unlock()
			return
		}
		b, unsaid := l.waiting[0], l.unsaid
		l.waiting, l.unsaid = l.waiting[1:], 0
		l.mu.Unlock()
		if unsaid > 0 {
			l.logger.Debug("bad messages that were too many to log", "messages", unsaid)
		}
		l.logger.Debug("bad message", "peer", b.from, "channel", b.channel, "err", b.err)
	}
}

// close waits until all that was noted is told, for faultLogLast at most: what a
// logger has not taken by then is forgotten, and the goroutine ends when the
// logger lets it go.
func (l *faultLog) close() {
	l.mu.Lock()
	l.closed = true
	told, telling := l.told, l.telling
	l.mu.Unlock()
	if !telling {
		return
	}
	last := time.NewTimer(faultLogLast)
	defer last.Stop()
	select {
	case <-told:
	case <-last.C:
		l.mu.Lock()
		l.waiting = nil
		l.mu.Unlock()
	}
}
