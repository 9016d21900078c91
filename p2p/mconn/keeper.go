package mconn

import "time"

// pongRest is the least time between two pongs: who pings faster shares one.
const pongRest = 100 * time.Millisecond

// keep is the one goroutine of a connection besides the user's. It sees to what
// the protocol itself has to say: a ping now and then, and the pongs that the
// read loop asks for, which so never waits for the writer.
func (c *Connection) keep() {
	defer close(c.kept)
	pings := time.NewTicker(c.opts.PingInterval)
	defer pings.Stop()
	var (
		rest   <-chan time.Time
		wanted = c.pongWanted
	)
	for {
		select {
		case <-c.closed:
			return
		case <-pings.C:
			c.throttled.Store(false)
			c.pongTimer.Reset(c.opts.PongTimeout)
			c.ask(wantPing)
		case <-wanted:
			c.ask(wantPong)
			wanted, rest = nil, time.After(pongRest)
		case <-rest:
			wanted, rest = c.pongWanted, nil
		}
	}
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
