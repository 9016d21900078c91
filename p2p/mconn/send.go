package mconn

import (
	"fmt"
	"slices"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// turnBytes is how much of a long message is sent before somebody else may have
// the turn: pongs go in between.
const turnBytes = 16 << 10

// MaxChunk returns how much a chunk should have now: up to 16 KiB, less while the
// link is slow, down to 1,024 bytes, so that it drains within a millisecond. It
// may be called from any goroutine.
func (c *Connection) MaxChunk() int {
	n := int(min(widePacketData, c.out.limit.Load()/4))
	return max(packetData, n-n%packetData)
}

// SendChunk sends a part of a message, with eof its last; parts of messages of
// other channels may come in between. It is buffered until Flush, or until a batch
// is full: 64 KiB, less on a slow link. It blocks while the peer does not take
// in what is written. A chunk above MaxChunk is cut. The data stays the
// caller's.
//
// It returns p2p.ErrChannelUnsupported, with the connection as it was, for a channel
// that was not announced to a peer that is not kith: one above 0x7F, or that is not
// among the first 16 of our node info up to there; otherwise an error is the end of the
// connection: io.EOF when either side closed, or what ReceiveMessage says.
func (c *Connection) SendChunk(ch p2p.ChannelID, data []byte, eof bool) error {
	if err := c.sendable(ch); err != nil {
		return err
	}
	return c.send(ch, data, eof)
}

// Flush writes what is buffered. It returns when the kernel has it, with the
// errors of SendChunk.
func (c *Connection) Flush() error {
	if !c.ready.Load() {
		return ErrHandshake
	}
	if c.isClosed() || !c.take() {
		return c.cause
	}
	err := c.out.write(true)
	c.give()
	return c.sent(err)
}

// SendMessage sends a whole message and returns when the kernel has all of it,
// with the errors of SendChunk. A message may be empty.
func (c *Connection) SendMessage(ch p2p.ChannelID, message []byte) error {
	if err := c.sendable(ch); err != nil {
		return err
	}
	for len(message) > turnBytes {
		if err := c.send(ch, message[:turnBytes], false); err != nil {
			return err
		}
		message = message[turnBytes:]
	}
	if err := c.send(ch, message, true); err != nil {
		return err
	}
	return c.Flush()
}

// sendable says whether the connection carries a channel.
func (c *Connection) sendable(ch p2p.ChannelID) error {
	switch {
	case !c.ready.Load():
		return ErrHandshake
	case c.kith:
	case ch > commonChannel:
		return fmt.Errorf("mconn: %w: %#x is above %#x, and the peer is not kith", p2p.ErrChannelUnsupported, uint16(ch), commonChannel)
	case !slices.Contains(c.common, ch):
		return fmt.Errorf("mconn: %w: %#x was not announced to the peer, which is not kith; it heard of %s (at most %d)",
			p2p.ErrChannelUnsupported, uint16(ch), channelList(c.common), commonChannels)
	}
	return nil
}

// send appends packets, and writes full batches.
func (c *Connection) send(ch p2p.ChannelID, data []byte, eof bool) error {
	if c.isClosed() {
		return c.cause
	}
	if c.opts.SendRate > 0 {
		if err := c.paceSend(); err != nil {
			return c.sent(err)
		}
	}
	if !c.take() {
		return c.cause
	}
	var err error
	for err == nil && len(data) > c.packetMax {
		err = c.out.message(uint16(ch), data[:c.packetMax], false)
		data = data[c.packetMax:]
	}
	if err == nil {
		err = c.out.message(uint16(ch), data, eof)
	}
	c.give()
	return c.sent(err)
}

// sent says what the error of a write means. One of the socket does not close
// the connection: what the peer sent before, its goodbye perhaps, is still to be
// received, and receiving will find the end.
func (c *Connection) sent(err error) error {
	if err == nil {
		return nil
	}
	if c.isClosed() {
		return c.cause
	}
	if err == errNonces {
		return c.failed(err)
	}
	return ending(err)
}

// paceSend waits for SendRate, without the turn, so that pongs go out.
func (c *Connection) paceSend() error {
	for {
		wait := time.Until(time.Unix(0, c.out.free.Load()))
		if wait <= 0 {
			return nil
		}
		if err := c.pause(wait); err != nil {
			return err
		}
	}
}
