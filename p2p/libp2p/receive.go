package libp2p

import (
	"errors"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/kith-p2p/kith/p2p"
)

// inChannel is one channel from the peer: the stream whose turn it is, and
// perhaps the one after it, which may overtake the end of the first.
type inChannel struct {
	turn     uint32 // the part that is read
	live     [2]*inStream
	advanced chan struct{} // closed, and replaced, when turn changes
}

func (in *inChannel) streams(all []network.Stream) []network.Stream {
	for _, l := range in.live {
		if l != nil {
			all = append(all, l.s)
		}
	}
	return all
}

// batch is what ReceiveMessage gets at once from a stream: the messages that were
// whole.
type batch struct {
	channel  p2p.ChannelID
	messages [][]byte
}

// serve reads a stream of a channel until it ends. It runs on libp2p's goroutine
// for the stream, and blocks while the user does not take what comes, so that
// the peer's credit is used up and it stops.
func (c *Connection) serve(s network.Stream, h header) {
	in := newInStream(c, s)
	ch, err := c.take(in, h)
	if err != nil {
		if !isEnd(err) {
			c.fault(err)
		}
		_ = s.ResetWithError(network.StreamProtocolViolation)
		return
	}
	err = c.read(in, h, ch)
	c.release(ch, h)
	in.end()
	if err != nil {
		c.fault(err)
		_ = s.ResetWithError(network.StreamProtocolViolation)
		return
	}
	_ = s.Close()
}

// take enters a stream, or says why it cannot be.
func (c *Connection) take(in *inStream, h header) (*inChannel, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		return nil, io.EOF
	}
	ch := c.ins[h.channel]
	if ch == nil {
		if len(c.ins) == p2p.MaxNodeInfoChannels {
			return nil, fmt.Errorf("%w: more than %d channels", ErrStreams, p2p.MaxNodeInfoChannels)
		}
		ch = &inChannel{advanced: make(chan struct{})}
		c.ins[h.channel] = ch
	}
	ahead := h.part - ch.turn
	if ahead >= uint32(len(ch.live)) || ch.live[ahead] != nil {
		return nil, fmt.Errorf("%w: channel %#02x, part %d after %d", ErrStreams, uint16(h.channel), h.part, ch.turn)
	}
	ch.live[ahead] = in
	return ch, nil
}

// release notes the end of a stream that was taken.
func (c *Connection) release(ch *inChannel, h header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.part == ch.turn { // or it ended with the session, before its turn
		ch.turn++
		ch.live = [2]*inStream{ch.live[1]}
		close(ch.advanced)
		ch.advanced = make(chan struct{})
	}
	c.finished++
	c.drain(false)
}

// read waits for the stream's turn and hands over its messages. The error is the
// peer's fault, nil at any other end.
func (c *Connection) read(in *inStream, h header, ch *inChannel) error {
	select {
	case <-c.shaken:
	case <-c.closed:
		return nil
	}
	in.begin()
	c.watch()
	select {
	case <-c.receiving:
	case <-c.closed:
		return nil
	}
	for {
		c.mu.Lock()
		turn, advanced := ch.turn, ch.advanced
		c.mu.Unlock()
		if turn == h.part {
			break
		}
		select {
		case <-advanced:
		case <-c.closed:
			return nil
		}
	}
	limit, ok := c.limits[h.channel]
	if !ok {
		return fmt.Errorf("%w: %#02x", ErrUnknownChannel, uint16(h.channel))
	}
	r := reader{src: in, limit: limit}
	for {
		message, err := r.next()
		if err == nil {
			err = c.handOver(&r, h.channel, message)
		}
		switch {
		case err == nil:
		case errors.Is(err, ErrMalformed), errors.Is(err, ErrMessageTooLarge), errors.Is(err, ErrCredit):
			return fmt.Errorf("channel %#02x: %w", uint16(h.channel), err)
		case err == io.EOF:
			return nil
		case err == io.ErrUnexpectedEOF:
			if !c.explained() {
				return fmt.Errorf("channel %#02x: %w", uint16(h.channel), ErrTruncated)
			}
			return nil
		default:
			_ = c.broke(err)
			return nil
		}
	}
}

// handOver gives a message to the user, and with it the others that are whole
// already. io.EOF: the session is closed.
func (c *Connection) handOver(r *reader, id p2p.ChannelID, message []byte) error {
	if c.deliver != nil {
		c.deliver(id, message)
		select {
		case <-c.closed:
			return io.EOF
		default:
			return nil
		}
	}
	b := batch{id, append(make([][]byte, 0, 8), message)}
	for r.whole() {
		message, err := r.next()
		if err != nil {
			return err
		}
		b.messages = append(b.messages, message)
	}
	select {
	case c.inbox <- b:
		return nil
	case <-c.closed:
		return io.EOF
	}
}

// ReceiveMessage returns the next message of any channel, in memory of the caller's
// own. It blocks until there is one. At the end it returns an error that matches
// io.EOF when either side closed: plain io.EOF, a *GoodbyeError when the peer said
// why, or one with what libp2p said. Faults of the peer close the connection and
// are the errors listed with ErrMalformed. ErrHandshake: before the handshake.
//
// One goroutine may call it at a time. While nobody does, the peer stops on every
// channel that it sends on; control frames are served all the same.
func (c *Connection) ReceiveMessage() (p2p.ChannelID, []byte, error) {
	if len(c.current.messages) == 0 {
		if err := c.nextBatch(); err != nil {
			return 0, nil, err
		}
	}
	select {
	case <-c.closed:
		return 0, nil, c.cause
	default:
	}
	message := c.current.messages[0]
	c.current.messages = c.current.messages[1:]
	return c.current.channel, message, nil
}

func (c *Connection) nextBatch() error {
	if err := c.startReceiving(nil); err != nil {
		return err
	}
	select {
	case c.current = <-c.inbox:
		return nil
	case <-c.closed:
		return c.cause
	case <-c.drained:
	}
	select {
	case c.current = <-c.inbox:
		return nil
	case <-c.closed:
		return c.cause
	default:
		return c.goneErr
	}
}

// startReceiving lets the streams be read.
func (c *Connection) startReceiving(deliver func(p2p.ChannelID, []byte)) error {
	if !c.isShaken() {
		if err := c.ended(); err != nil {
			return err
		}
		return ErrHandshake
	}
	c.receive.Do(func() {
		c.deliver = deliver
		c.mu.Lock()
		close(c.receiving)
		c.awaitRest()
		c.mu.Unlock()
	})
	return nil
}
