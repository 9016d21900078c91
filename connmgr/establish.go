package connmgr

import (
	"context"
	"errors"
)

// evictions is how many times a newcomer may make room: a place made can be
// taken by another before.
const evictions = 8

// establish takes a connection from its handshake to the table, or ends it and
// says why. It runs on the connection's goroutine, or on Admit's caller's.
func (e *Engine[A, C]) establish(c *Conn[A, C]) error {
	err := e.check(c)
	if err != nil {
		e.fail(c, err)
		return err
	}
	now := e.cfg.Now()
	e.mu.Lock()
	cause := context.Cause(c.pending)
	cancel := c.cancel
	c.pending, c.cancel = nil, nil
	c.since = now
	e.delist(c)
	e.conns[c.id] = c
	e.count.Established++
	e.hub.emit(c.event(EventConnected, now, nil)) // under the lock: nobody can close it before
	e.mu.Unlock()
	cancel(nil)
	if cause != nil { // cancelled since it was admitted: announced all the same
		c.CloseWith(cause)
	}
	e.Wake()
	return nil
}

// check is everything between the open connection and the table.
func (e *Engine[A, C]) check(c *Conn[A, C]) error {
	info := EstablishInfo[A]{ID: c.id, Direction: c.permit.direction, Dial: c.dial}
	if e.cfg.Establish != nil {
		if err := e.handshake(c, info); err != nil {
			return err
		}
	}
	if e.cfg.Identify != nil {
		c.identity = e.cfg.Identify(c.raw)
	}
	if refusal := e.takePlace(c); refusal != nil {
		if e.cfg.Refused != nil {
			c.task.enter(stageRefused)
			e.cfg.Refused(c.raw, refusal)
			c.task.leave(stageRefused)
		}
		return refusal
	}
	if e.cfg.Admit == nil {
		return nil
	}
	c.task.enter(stageAdmit)
	defer c.task.leave(stageAdmit)
	return e.cfg.Admit(c.raw, info)
}

// handshake runs Establish against the clock. When its context ends, the
// connection is closed, so that a read in it returns.
func (e *Engine[A, C]) handshake(c *Conn[A, C], info EstablishInfo[A]) error {
	ctx, cancel := context.WithTimeout(c.pending, e.cfg.EstablishTimeout)
	defer cancel()
	unhook := e.onEnd(ctx, func() { c.closeRaw() })
	c.task.enter(stageEstablish)
	err := e.cfg.Establish(ctx, c.raw, info)
	c.task.leave(stageEstablish)
	if unhook() && ctx.Err() == nil {
		return err
	}
	return ended(c.pending, ctx, e.cfg.EstablishTimeout, "handshake", err)
}

// takePlace is the engine's part of the second checkpoint: by identity, and for
// a place in the table, for which it may evict.
func (e *Engine[A, C]) takePlace(c *Conn[A, C]) *Refusal {
	for made := 0; ; {
		e.mu.Lock()
		refusal := e.gate.establish(&c.permit, c.identity)
		full := refusal != nil && (refusal.Rule == RuleDirection || refusal.Rule == RuleTotal)
		e.mu.Unlock()
		if !full {
			return refusal
		}
		tried, won := made < evictions && e.cfg.Limits.Evict, false
		if tried {
			tried, won = e.evict(c)
		}
		if !tried {
			e.mu.Lock()
			e.gate.turnAway(refusal)
			e.mu.Unlock()
			return refusal
		}
		if won {
			made++
		}
	}
}

// evict closes the inbound connection the policy names, on behalf of c. tried
// is false if there is none; won is false if somebody else closed it first.
func (e *Engine[A, C]) evict(c *Conn[A, C]) (tried, won bool) {
	var candidates []Candidate
	e.mu.Lock()
	for _, other := range e.conns {
		if other.permit.direction == Inbound && !other.closing.Load() {
			candidates = append(candidates, other.candidate())
		}
	}
	e.mu.Unlock()
	if len(candidates) == 0 {
		return false, false
	}
	c.task.enter(stageVictim)
	id, ok := e.cfg.Policy.Victim(candidates)
	c.task.leave(stageVictim)
	if !ok {
		return false, false
	}
	e.mu.Lock()
	victim := e.conns[id]
	e.mu.Unlock()
	if victim == nil || victim.permit.direction != Inbound {
		for _, k := range candidates {
			if k.ID == id {
				return true, false // gone meanwhile
			}
		}
		return false, false // no candidate: the policy made it up
	}
	if won, _ = victim.close(ErrEvicted); won {
		e.mu.Lock()
		e.count.Evicted++
		e.mu.Unlock()
	}
	return true, won
}

// fail ends a connection that never came into the table.
func (e *Engine[A, C]) fail(c *Conn[A, C], cause error) {
	if c.opened {
		c.task.enter(stageClose)
		c.closeRaw()
		c.task.leave(stageClose)
	}
	e.mu.Lock()
	e.delist(c)
	e.gate.release(&c.permit)
	outbound := c.permit.direction == Outbound
	if outbound {
		e.count.DialsFailed++
	} else {
		e.count.HandshakesFailed++
	}
	e.mu.Unlock()
	c.cancel(nil)
	if outbound {
		now := e.cfg.Now()
		c.ended(Outcome{Cause: cause, At: now})
		e.hub.emit(c.event(EventFailed, now, cause))
	}
	e.Wake() // an inbound one may have had the last place of Limits.Total
	if !errors.Is(cause, ErrStopped) {
		e.cfg.Logger.Debug("connmgr: no connection", "connection", c.String(), "error", cause)
	}
}

// delist strikes a connection off the pending ones; the lock is held.
func (e *Engine[A, C]) delist(c *Conn[A, C]) {
	delete(e.pending, c.id)
	if c.permit.direction == Outbound {
		e.dials--
		e.occupy(c, -1)
	}
}

// announce runs the callbacks of an established connection, to its end.
func (e *Engine[A, C]) announce(c *Conn[A, C]) {
	if e.cfg.Connected != nil {
		c.task.enter(stageConnected)
		e.cfg.Connected(c)
		c.task.leave(stageConnected)
	}
	<-c.done
	if e.cfg.Disconnected != nil {
		c.task.enter(stageDisconnected)
		e.cfg.Disconnected(c, c.cause)
		c.task.leave(stageDisconnected)
	}
}
