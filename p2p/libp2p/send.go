package libp2p

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/kith-p2p/kith/p2p"
)

// outChannel is one channel towards the peer.
type outChannel struct {
	turn chan struct{}  // held by who sends on it, and for good by who closed it
	s    network.Stream // nil: none yet; written with the turn and Connection.mu
	path *path          // of s; who has the turn owns it, and the rest
	part uint32         // of the next stream

	credit   int  // how many bytes of messages the peer takes on s, if it knows credit
	answered bool // the answer to the greeting was read from s
	granted  int  // bytes of grants that are not whole yet
	grants   [4 * creditSize]byte
}

// closeChannel ends a channel's stream behind what was sent, releasing whoever sends.
func (c *Connection) closeChannel(o *outChannel) {
	select {
	case o.turn <- struct{}{}:
	default:
		// Whoever has the turn finds the session closed, and gives up when it opens a
		// stream; when it writes or waits for credit, now. part waits for it either way.
		c.mu.Lock()
		s := o.s
		c.mu.Unlock()
		if s != nil {
			_ = s.SetDeadline(longAgo)
		}
		o.turn <- struct{}{}
	}
	if o.s != nil {
		_ = o.s.Close()
	}
}

// maxMessage bounds what is sent, as p2p bounds what a channel may take.
const maxMessage = 1 << 30

// together is how much is copied to be one write: a message with the length before
// it, or the beginning of a long one.
const together = 8 << 10

var sendBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, together)
	return &b
}}

// SendMessage sends a message on its channel's stream, which the first one opens.
// It blocks while the peer takes nothing in on that channel; other channels do not
// wait for it. One goroutine for each channel may send at a time. At the end it
// returns an error that matches io.EOF when either side closed, or ErrHandshake
// before the handshake, ErrMessageTooLarge above 1 GiB.
func (c *Connection) SendMessage(id p2p.ChannelID, data []byte) error {
	if err := c.ended(); err != nil {
		return sendError(err)
	}
	if !c.isShaken() {
		return ErrHandshake
	}
	if len(data) > maxMessage {
		return fmt.Errorf("%w: %d bytes", ErrMessageTooLarge, len(data))
	}
	o := c.out(id)
	if o == nil {
		return io.EOF
	}
	select {
	case o.turn <- struct{}{}:
	case <-c.closed:
		return sendError(c.cause)
	}
	err := c.send(o, id, data)
	<-o.turn
	if err == nil {
		return nil
	}
	if cause := c.ended(); cause != nil {
		return sendError(cause)
	}
	return sendError(c.broke(err))
}

// sendError is how an end looks to a sender: who is at fault is told to the
// receiver.
func sendError(cause error) error {
	if isEnd(cause) {
		return cause
	}
	return fmt.Errorf("%w: %w", io.EOF, cause)
}

// out finds a channel; nil when the session is ending.
func (c *Connection) out(id p2p.ChannelID) *outChannel {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.outs[id]
	if o == nil && !c.ending {
		o = &outChannel{turn: make(chan struct{}, 1)}
		c.outs[id] = o
	}
	return o
}

// send writes one message. The caller has the channel's turn.
func (c *Connection) send(o *outChannel, id p2p.ChannelID, data []byte) error {
	lent := sendBuffers.Get().(*[]byte)
	defer sendBuffers.Put(lent)
	b := (*lent)[:0]
	c.leavePath(o)
	if o.s == nil {
		if err := c.open(o); err != nil {
			return err
		}
		b = append(b, channelGreeting...)
		b = header{c.session, id, o.part}.append(b)
		o.part++
	}
	lead := len(b)
	b = binary.AppendUvarint(b, uint64(len(data)))
	n := min(len(data), together-len(b))
	if err := c.put(o, append(b, data[:n]...), lead); err != nil || n == len(data) {
		return err
	}
	return c.put(o, data[n:], 0)
}

// open opens the stream of a channel.
func (c *Connection) open(o *outChannel) error {
	p := c.path.Load()
	s, err := p.conn.NewStream(c.sending)
	if err != nil {
		return err
	}
	if err := s.SetProtocol(ChannelProtocol); err != nil {
		_ = s.ResetWithError(network.StreamResourceLimitExceeded)
		return fmt.Errorf("libp2p: our own limit for %s and this peer is reached: %w", ChannelProtocol, err)
	}
	c.mu.Lock()
	gone := c.ending || c.goneErr != nil
	if !gone {
		o.s, o.path = s, p
		o.credit, o.answered, o.granted = int(c.credit), false, 0
		c.opened++
	}
	c.mu.Unlock()
	if gone {
		_ = s.ResetWithError(network.StreamNoError)
		return io.EOF
	}
	return nil
}
