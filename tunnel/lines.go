package tunnel

import (
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// How much of what peers cause is said in the log. What is not said is counted,
// and the count is said at most linePeriod later.
const (
	linePeriod = 10 * time.Second
	// lineBurst is how many lines one peer gets for one reason at once, and
	// lineRefill how many more each linePeriod.
	lineBurst  = 20
	lineRefill = 10
	// strangerBurst is the same for all peers together that the owner of this
	// node has not named: they can have as many IDs as they like.
	strangerBurst = 2 * lineBurst
	// maxFriendCounts and maxStrangerCounts bound what is remembered, for the
	// peers that were named and the others. Who finds no room is counted
	// together with others.
	maxFriendCounts   = 256
	maxStrangerCounts = 32
)

// lines writes the log lines that peers cause, so that the log stays short, each
// refusal is in it, if only as a number, and no peer's lines keep out those of a
// peer that the owner has named. It is safe for concurrent use.
type lines struct {
	log *slog.Logger

	wg sync.WaitGroup // the tick to come or under way

	mu        sync.Mutex // guards the fields below
	counts    map[lineKey]*lineCount
	friends   int         // how many of counts are
	strangers int         // and are not, those without a peer apart
	spent     int         // of strangerBurst
	timer     *time.Timer // of the next tick; nil while there is nothing to forget
	closed    bool
}

// lineKey is what is counted together. No peer stands for all those that there
// was no room for.
type lineKey struct {
	msg    string
	peer   peer.ID
	reason Reason
}

type lineCount struct {
	friend bool
	active bool // since the last tick
	spent  int  // of lineBurst
	unsaid int
	latest line // of those
}

type line struct {
	service string
	peer    peer.ID
	e       *Error
}

// say writes a line, or counts it for later. friend says that the owner of this
// node has named the peer.
func (l *lines) say(msg string, friend bool, this line) {
	l.mu.Lock()
	key, c := l.count(lineKey{msg, this.peer, min(this.e.Reason, reasons)}, friend)
	c.active = true
	more := c.unsaid
	now := l.closed || c.spent < lineBurst && (c.friend || l.spent < strangerBurst)
	if now {
		c.unsaid, c.latest = 0, line{}
		c.spent++
		if !c.friend {
			l.spent++
		}
	} else {
		c.unsaid++
		c.latest = this
	}
	if l.timer == nil && !l.closed {
		l.wg.Add(1)
		l.timer = time.AfterFunc(linePeriod, l.tick)
	}
	l.mu.Unlock()
	if now {
		l.write(key, this, more)
	}
}

// count returns where something is counted. The caller holds mu.
func (l *lines) count(key lineKey, friend bool) (lineKey, *lineCount) {
	if c := l.counts[key]; c != nil {
		if friend && !c.friend && key.peer != "" && l.friends < maxFriendCounts { // named since
			c.friend = true
			l.friends++
			l.strangers--
		}
		return key, c
	}
	switch {
	case friend && l.friends < maxFriendCounts:
		l.friends++
	case !friend && l.strangers < maxStrangerCounts:
		l.strangers++
	default:
		key.peer, friend = "", false
		if c := l.counts[key]; c != nil {
			return key, c
		}
	}
	if l.counts == nil {
		l.counts = map[lineKey]*lineCount{}
	}
	c := &lineCount{friend: friend}
	l.counts[key] = c
	return key, c
}

// tick says what was only counted, and forgets who is quiet.
func (l *lines) tick() {
	defer l.wg.Done()
	l.mu.Lock()
	due := l.due()
	l.spent = max(0, l.spent-lineRefill)
	for key, c := range l.counts {
		c.spent = max(0, c.spent-lineRefill)
		if c.active || c.spent > 0 {
			c.active = false
			continue
		}
		delete(l.counts, key)
		switch {
		case c.friend:
			l.friends--
		case key.peer != "":
			l.strangers--
		}
	}
	if l.timer = nil; !l.closed && (len(l.counts) > 0 || l.spent > 0) {
		l.wg.Add(1)
		l.timer = time.AfterFunc(linePeriod, l.tick)
	}
	l.mu.Unlock()
	for _, d := range due {
		l.write(d.key, d.line, d.more)
	}
}

// due takes the latest of what was counted, and how many more there were. The
// caller holds mu.
func (l *lines) due() (due []dueLine) {
	for key, c := range l.counts {
		if c.unsaid > 0 {
			due = append(due, dueLine{key, c.latest, c.unsaid - 1})
			c.unsaid, c.latest = 0, line{}
		}
	}
	return due
}

type dueLine struct {
	key  lineKey
	line line
	more int
}

// close says what has not been said, and returns when it is in the log.
func (l *lines) close() {
	l.mu.Lock()
	l.closed = true
	if l.timer != nil && l.timer.Stop() {
		l.wg.Done()
	}
	due := l.due()
	l.mu.Unlock()
	l.wg.Wait()
	for _, d := range due {
		l.write(d.key, d.line, d.more)
	}
}

// write writes a line. more is how many like it there were since the last one:
// of this peer and for this reason, or of others, for which there was no room.
func (l *lines) write(key lineKey, this line, more int) {
	e := this.e
	args := []any{"service", this.service, "peer", this.peer, "reason", e.Reason.String(), "detail", e.Error(), "cause", e.cause()}
	switch {
	case more > 0 && key.peer == "":
		args = append(args, "others", more)
	case more > 0:
		args = append(args, "more", more)
	}
	l.log.Info(key.msg, args...)
}
