package mconn

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// A receiver puts messages together. It belongs to the receiving goroutine.
type receiver struct {
	limits map[p2p.ChannelID]*assembly
	last   *assembly // of the packet before
	noise  bucket    // of packets that carry nothing
}

// An assembly is the message of one channel that is under way.
type assembly struct {
	id    p2p.ChannelID
	limit int    // bytes of a message
	data  []byte // what came of it
	size  int    // of the message before: what to expect
}

// Packets that carry nothing: so many at once, and so many a second after that.
const (
	noiseBurst = 1000
	noiseRate  = 100
)

// defaultLimits are those of channels for which nothing was said.
func defaultLimits(ids []p2p.ChannelID) map[p2p.ChannelID]int {
	limits := make(map[p2p.ChannelID]int, len(ids))
	for _, id := range ids {
		limits[id] = p2p.DefaultMaxMessage
	}
	return limits
}

// set says which channels exist, and the limit of each.
func (r *receiver) set(limits map[p2p.ChannelID]int) {
	r.last, r.limits = nil, make(map[p2p.ChannelID]*assembly, len(limits))
	for id, limit := range limits {
		r.limits[id] = &assembly{id: id, limit: limit}
	}
}

// channel finds the assembly of a channel.
func (r *receiver) channel(id int32) (*assembly, error) {
	if r.last != nil && int32(r.last.id) == id {
		return r.last, nil
	}
	if id >= 0 && id <= 0xffff {
		if a := r.limits[p2p.ChannelID(id)]; a != nil {
			r.last = a
			return a, nil
		}
	}
	return nil, fmt.Errorf("%w: %#x", ErrUnknownChannel, id)
}

// quiet books a packet that carries nothing.
func (r *receiver) quiet() error {
	now := time.Now()
	if r.noise.rate == 0 {
		r.noise = newBucket(noiseRate, noiseBurst, now)
	}
	if r.noise.take(1, now) > 0 {
		return ErrFlood
	}
	return nil
}

// Growth of a message that comes in several packets. It starts with what the
// channel's message before had, at most firstBuffer; when that is full it doubles, or
// takes the size of the message before at once if that is within 16 times.
// So equal messages cost one allocation (two above 64 KiB), and nothing is held
// that was not received this time or the time before.
const (
	firstBuffer = 64 << 10
	growAtOnce  = 16
)

// add adds a packet's data. When the message is whole it is returned, in memory
// that is the caller's from then on; otherwise nil.
func (a *assembly) add(data []byte, eof bool) (message []byte, err error) {
	n := len(a.data) + len(data)
	if n > a.limit {
		return nil, fmt.Errorf("%w: %#x takes %d bytes, got %d", ErrMessageTooLarge, uint16(a.id), a.limit, n)
	}
	if eof && a.data == nil {
		a.size = n
		return append(p2p.Buffer(n), data...), nil
	}
	if n > cap(a.data) {
		size := 2 * n
		switch {
		case a.data == nil && a.size >= n:
			size = min(a.size, firstBuffer)
		case a.size > n && a.size <= growAtOnce*cap(a.data):
			size = a.size
		}
		grown := append(p2p.Buffer(min(size, a.limit)), a.data...)
		p2p.Recycle(a.data)
		a.data = grown
	}
	a.data = append(a.data, data...)
	if !eof {
		return nil, nil
	}
	message, a.data, a.size = a.data, nil, n
	if cap(message) > 2*n {
		exact := append(p2p.Buffer(n), message...)
		p2p.Recycle(message)
		message = exact
	}
	return message, nil
}

// SetChannelLimits says which channels exist and how many bytes a message of
// each may have. It is called after Handshake and before the first
// ReceiveMessage, and not at the same time as that; without it every channel
// announced in our node info takes p2p.DefaultMaxMessage. What was not announced to
// a peer that is not kith (see SendChunk) does not exist, whatever is said here: a message
// there is ErrUnknownChannel.
func (c *Connection) SetChannelLimits(limits map[p2p.ChannelID]int) {
	if !c.kith {
		limits = maps.Clone(limits)
		maps.DeleteFunc(limits, func(id p2p.ChannelID, _ int) bool { return !slices.Contains(c.common, id) })
	}
	c.channels.set(limits)
}

// ReceiveMessage returns the next message, in memory of the caller's own. It
// blocks until there is one, and answers pings meanwhile. At the end it returns
// an error that matches io.EOF when either side closed: plain io.EOF, a
// *GoodbyeError when a kith node said why, a *RefusedError when another kind of
// node closed before it sent anything, or one with what the socket said. Faults
// of the peer close the connection and are the errors listed with ErrDecrypt.
//
// One goroutine may call it at a time. It has to be called without delay for as
// long as the connection is to live.
func (c *Connection) ReceiveMessage() (p2p.ChannelID, []byte, error) {
	if !c.ready.Load() {
		return 0, nil, ErrHandshake
	}
	for {
		if c.isClosed() {
			return 0, nil, c.ended(io.EOF)
		}
		channel, message, err := c.receivePacket()
		if err != nil {
			return 0, nil, c.ended(err)
		}
		if message != nil {
			c.in.messages++
			return channel, message, nil
		}
	}
}

// Recycle gives the memory of a message from ReceiveMessage back (p2p.Recycle), for
// later messages of any connection. Nobody has to; but who is done with a message,
// having decoded it say, spares the collector most of its work by it, which at
// full speed is a tenth to a fifth of the throughput. The message and whatever
// shares its memory must not be touched afterwards. It may be called from any
// goroutine, after Close too.
func (c *Connection) Recycle(message []byte) { p2p.Recycle(message) }

// ended ends the connection for what receiving returned.
func (c *Connection) ended(err error) error {
	if err = ending(err); errors.Is(err, io.EOF) && !c.kith && c.in.frames == c.shaken && c.in.r == c.in.w {
		err = &RefusedError{Own: c.own, Peer: c.peer}
	}
	if c.kith && !c.isClosed() && tellable(err) {
		c.tell("you broke the protocol: "+strings.TrimPrefix(err.Error(), "mconn: "), nil)
	}
	err = c.failed(err) // what ended it earlier, if anything did
	c.in.end(err)
	return err
}

// receivePacket handles one packet. The message is nil unless it made one whole.
func (c *Connection) receivePacket() (p2p.ChannelID, []byte, error) {
	b, err := c.in.next(c.packetMax + packetSlack)
	if err != nil {
		return 0, nil, err
	}
	p, err := parsePacket(b, c.kith)
	if err != nil {
		return 0, nil, err
	}
	c.in.packets++
	switch p.kind {
	case packetPing:
		c.read.pings.Add(1)
		c.owePong()
		return 0, nil, c.channels.quiet()
	case packetPong:
		c.read.pongs.Add(1)
		c.pongTimer.Stop()
		if sent := c.pinged.Swap(0); sent > 0 {
			c.rtt.Store(c.clock() - sent)
		}
		return 0, nil, c.channels.quiet()
	case packetMessage:
		return c.receiveData(p)
	}
	return 0, nil, parseGoodbye(p.data)
}

func (c *Connection) receiveData(p packet) (p2p.ChannelID, []byte, error) {
	if len(p.data) > c.packetMax {
		return 0, nil, fmt.Errorf("%w: %d bytes of data, at most %d", ErrPacketTooLarge, len(p.data), c.packetMax)
	}
	a, err := c.channels.channel(p.channel)
	if err != nil {
		return 0, nil, err
	}
	if len(p.data) == 0 && !p.eof {
		return 0, nil, c.channels.quiet()
	}
	message, err := a.add(p.data, p.eof)
	return a.id, message, err
}
