package mconn

import (
	"sync"
	"sync/atomic"
	"time"
)

// pongRest is the least time between two pongs: who pings faster shares one.
const pongRest = 100 * time.Millisecond

// A keeper sees to what the protocol itself has to say: a ping now and then, and
// the pongs that the read loop asks for, which so never waits for the writer. It
// has no goroutine while there is nothing to say: each word is a timer's, and what
// the timer starts ends when the word is written or the connection ends.
type keeper struct {
	pings, pongs *time.Timer
	owed         atomic.Bool  // a pong, for which the timer is set
	rested       atomic.Int64 // from when on, by the connection's clock, the next may go

	mu   sync.Mutex     // of setting a timer against ending
	said sync.WaitGroup // of timers that are set and what they started
}

// keep starts the pings. Those go on until the connection ends.
func (c *Connection) keep() { c.set(c.keeper.pings, c.opts.PingInterval) }

// set sets one of the keeper's timers, unless the connection has ended.
func (c *Connection) set(timer *time.Timer, after time.Duration) {
	c.keeper.mu.Lock()
	defer c.keeper.mu.Unlock()
	if c.isClosed() {
		return
	}
	if !timer.Stop() {
		c.keeper.said.Add(1)
	}
	timer.Reset(after)
}

// endKeeper stops the timers, after closed was closed. What they have started
// ends by itself; said waits for it.
func (c *Connection) endKeeper() {
	c.keeper.mu.Lock()
	defer c.keeper.mu.Unlock()
	for _, timer := range []*time.Timer{c.keeper.pings, c.keeper.pongs} {
		if timer.Stop() {
			c.keeper.said.Done()
		}
	}
	c.pongTimer.Stop()
}

// ping is what the timer of pings starts.
func (c *Connection) ping() {
	defer c.keeper.said.Done()
	c.set(c.keeper.pings, c.opts.PingInterval)
	if c.isClosed() {
		return
	}
	c.throttled.Store(false)
	c.pongTimer.Reset(c.opts.PongTimeout)
	c.ask(wantPing)
}

// owePong has the peer's ping answered, soon. It does not block.
func (c *Connection) owePong() {
	if c.keeper.owed.CompareAndSwap(false, true) {
		c.set(c.keeper.pongs, max(0, time.Duration(c.keeper.rested.Load()-c.clock())))
	}
}

// pong is what the timer of pongs starts.
func (c *Connection) pong() {
	defer c.keeper.said.Done()
	c.keeper.rested.Store(c.clock() + int64(pongRest))
	c.keeper.owed.Store(false)
	c.ask(wantPong)
}

// pongMissing runs when a ping was not answered in time.
func (c *Connection) pongMissing() {
	if c.isClosed() {
		return
	}
	if c.throttled.Swap(false) {
		c.pongTimer.Reset(c.opts.PongTimeout) // it may be among what we have not read
		return
	}
	c.fail(ErrPongTimeout)
}

// stopped is a timer that is not set.
func stopped(f func()) *time.Timer {
	timer := time.AfterFunc(time.Hour, f)
	timer.Stop()
	return timer
}
