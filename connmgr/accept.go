package connmgr

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/kith-p2p/kith/internal/backoff"
)

// Pauses after a failed Accept. The shortest, 70 ms less a quarter of jitter,
// makes fewer than 20 tries a second even if every other one succeeds; the
// longest is how late a listener that recovered is noticed.
const (
	acceptPause     = 70 * time.Millisecond
	acceptPauseMost = time.Second
)

// acceptLoop accepts until the listener is closed. It does nothing else that
// could block: who is refused is closed at once, everyone else gets a goroutine.
func (e *Engine[A, C]) acceptLoop(t *task, accept func() (C, error)) {
	for failures := 0; ; {
		t.enter(stageAccept)
		raw, err := accept()
		t.leave(stageAccept)
		if err == nil && isNil(raw) {
			err = ErrNoConnection
		}
		if err == nil {
			failures = 0
			if c, err := e.arrive(raw); err == nil {
				e.run(&c.task, func() {
					if e.establish(c) == nil {
						e.announce(c)
					}
				})
			}
			continue
		}
		if e.ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return
		}
		failures++
		e.mu.Lock()
		e.count.AcceptErrors++
		e.mu.Unlock()
		if failures&(failures-1) == 0 { // 1, 2, 4, 8...: seldom enough for a log
			e.cfg.Logger.Warn("connmgr: accept failed, trying again", "error", err, "times", failures)
		}
		pause := time.NewTimer(backoff.Delay(failures, acceptPause, acceptPauseMost, e.cfg.Rand()))
		select {
		case <-pause.C:
		case <-e.ctx.Done():
			pause.Stop()
			return
		}
	}
}

// arrive is the first checkpoint: by address. A connection that is refused is
// closed. One that is not is a task, which the caller has to finish.
func (e *Engine[A, C]) arrive(raw C) (*Conn[A, C], error) {
	var ip netip.Addr
	if e.cfg.RemoteIP != nil {
		ip = e.cfg.RemoteIP(raw)
	}
	c := e.newConn(Inbound, originOf(ip, e.cfg.Group))
	c.raw, c.opened = raw, true
	now, roll := e.cfg.Now(), e.cfg.Rand()

	e.mu.Lock()
	err := error(ErrStopped)
	if e.phase < phaseStopping {
		flooded := e.gate.flood.active
		refusal := e.gate.arrive(&c.permit, now, roll)
		e.tellFlood(flooded, now)
		e.count.Accepted++
		if err = nil; refusal != nil {
			err = refusal
		} else {
			e.enlist(c)
		}
	}
	e.mu.Unlock()
	if err != nil {
		c.cancel(nil)
		c.closeRaw()
		e.cfg.Logger.Debug("connmgr: inbound connection refused", "ip", c.RemoteIP(), "error", err)
		return nil, err
	}
	return c, nil
}

// tellFlood emits what changed; the lock is held.
func (e *Engine[A, C]) tellFlood(before bool, now time.Time) {
	switch after := e.gate.flood.active; {
	case after && !before:
		e.hub.emit(Event{Type: EventFloodBegan, At: now})
	case before && !after:
		e.hub.emit(Event{Type: EventFloodEnded, At: now})
	}
}

// Admit lets in an inbound connection that came another way than through an
// Accept loop. It passes the same checks, its handshake included, for which
// Admit blocks until ctx is over or EstablishTimeout passes; then Connected and
// Disconnected are called as for any other, on a goroutine of the connection's.
// Whoever is refused is closed: the error is then a *Refusal, what Establish or
// Config.Admit said, or ErrStopped.
//
// It works from NewEngine on, before Run too, and until the engine stops.
func (e *Engine[A, C]) Admit(ctx context.Context, raw C) (*Conn[A, C], error) {
	if isNil(raw) {
		return nil, ErrNoConnection
	}
	c, err := e.arrive(raw)
	if err != nil {
		return nil, err
	}
	cancel := c.cancel
	unhook := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	err = e.establish(c)
	unhook()
	if err != nil {
		e.finish(&c.task)
		return nil, err
	}
	e.run(&c.task, func() { e.announce(c) })
	return c, nil
}
