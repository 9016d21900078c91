package mconn

import "sync/atomic"

// A turn is the right to write, one holder at a time. Only the sender waits for
// it; what the protocol itself has to say is left with whoever holds it
// (Connection.ask), so that pings and pongs never queue behind a peer that takes
// nothing in. It is not a mutex: the holder writes to the socket.
type turn struct {
	state atomic.Int32  // 0 free, 1 held, 2 held and waited for
	wake  chan struct{} // holds one
}

// try takes the turn if it is free.
func (t *turn) try() bool { return t.state.CompareAndSwap(0, 1) }

// take waits for the turn; false when closed comes first.
func (t *turn) take(closed <-chan struct{}) bool {
	if t.try() {
		return true
	}
	for t.state.Swap(2) != 0 {
		select {
		case <-t.wake:
		case <-closed:
			return false
		}
	}
	return true
}

// give ends the turn.
func (t *turn) give() {
	if t.state.Swap(0) == 2 {
		select {
		case t.wake <- struct{}{}:
		default: // somebody is being woken already
		}
	}
}

// What the protocol has to say: bits of Connection.wanted.
const (
	wantPing uint32 = 1 << iota
	wantPong
	wantGoodbye
)

// ask has packets of the protocol itself sent, by the caller or, if somebody has
// the turn, by them before they give it up. Several that ask for the same are
// one. It may block on the socket if nobody had the turn.
func (c *Connection) ask(packets uint32) {
	c.wanted.Or(packets)
	if c.turn.try() {
		c.give()
	}
}

// take waits for the turn and returns false when the connection ends before.
func (c *Connection) take() bool { return c.turn.take(c.closed) }

// give says what was asked for, and ends the turn.
func (c *Connection) give() {
	for {
		if packets := c.wanted.Swap(0); packets != 0 {
			c.say(packets)
		}
		c.turn.give()
		// Whoever asked before that could not have the turn; whoever asks
		// after has it.
		if c.wanted.Load() == 0 || !c.turn.try() {
			return
		}
	}
}

// say sends packets of the protocol itself. Its errors are the writer's, which
// the sender or the read loop will meet.
func (c *Connection) say(packets uint32) {
	if packets&wantPing != 0 {
		c.pinged.Store(c.clock())
	}
	if packets&wantPing != 0 && c.out.control(appendControl(nil, packetPing)) == nil {
		c.wrote.pings.Add(1)
	}
	if packets&wantPong != 0 && c.out.control(appendControl(nil, packetPong)) == nil {
		c.wrote.pongs.Add(1)
	}
	if packets&wantGoodbye != 0 {
		_ = c.out.control(*c.goodbye.Load())
		close(c.saidGoodbye)
	}
}
