package libp2p

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/kith-p2p/kith/p2p"
)

// A path is where a session runs: a libp2p connection, and the control stream on
// it. A session that began on a relayed connection moves to a direct one when there
// is one (spec.md, "Moving"):
//
//	dialler                                            listener
//	opens a stream /kith/msg/1.0.0/move on the direct
//	connection, with the session's 16 bytes       ->   speaks there from now on
//	speaks there from now on, ends the relayed    <-   frame 5, moved
//	control stream and channel streams
//
// Both read both control streams while there are two.
type path struct {
	conn          network.Conn
	control       network.Stream
	in            *bufio.Reader // Handshake's or move's, then the keeper's
	relayed       bool
	local, remote p2p.Endpoint
}

func (t *Transport) newPath(conn network.Conn, control network.Stream, dialled bool) *path {
	p := &path{
		conn: conn, control: control, in: bufio.NewReaderSize(control, 512), relayed: isRelayed(conn.RemoteMultiaddr()),
		local: endpointOf(conn.LocalMultiaddr(), t.h.ID()), remote: endpointOf(conn.RemoteMultiaddr(), conn.RemotePeer()),
	}
	if p.relayed && !dialled {
		p.remote = behind(conn.RemoteMultiaddr(), conn.RemotePeer())
	}
	return p
}

// moveTimeout is how long a move may take; the session goes on as it was meanwhile.
const moveTimeout = 20 * time.Second

// connected hears of every libp2p connection. It must not block.
func (t *Transport) connected(_ network.Network, conn network.Conn) {
	if isRelayed(conn.RemoteMultiaddr()) {
		return
	}
	t.mu.Lock()
	var here []*Connection
	for key, c := range t.sessions {
		if key.peer == conn.RemotePeer() {
			here = append(here, c)
		}
	}
	t.mu.Unlock()
	for _, c := range here {
		c.mayMove(conn)
	}
}

// mayMove begins to move a session that we dialled over a relay to a direct
// connection.
func (c *Connection) mayMove(conn network.Conn) {
	if !c.dialled || !c.path.Load().relayed || !c.isShaken() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending || c.moving {
		return
	}
	c.moving = true
	c.tasks.Go(func() {
		if err := c.move(conn); err != nil {
			c.t.o.Logger.Debug("libp2p: a session could not move to a direct connection", "peer", c.node, "err", err)
			c.mu.Lock()
			c.moving = false
			c.mu.Unlock()
		}
	})
}

// move is the dialler's part.
func (c *Connection) move(conn network.Conn) error {
	ctx, cancel := context.WithTimeout(c.sending, moveTimeout)
	defer cancel()
	s, err := conn.NewStream(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.ResetWithError(network.StreamNoError) })
	p := c.t.newPath(conn, s, true)
	err = s.SetProtocol(MoveProtocol)
	if err == nil {
		_, err = s.Write(append(moveGreeting[:len(moveGreeting):len(moveGreeting)], c.session[:]...))
	}
	if err == nil {
		err = readAnswer(p.in, moveGreeting)
	}
	var body []byte
	if err == nil {
		body, err = c.readControl(p)
	}
	if err == nil && (body[0] != kindMoved || len(body) != 1) {
		err = fmt.Errorf("%w: frame kind %d instead of moved", ErrMalformed, body[0])
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = c.turnTo(p, nil)
	}
	if err != nil {
		_ = s.ResetWithError(network.StreamNoError)
		return err
	}
	c.moveChannels()
	return nil
}

// moved takes a stream on which a peer moves a session. It runs on libp2p's
// goroutine.
func (t *Transport) moved(s network.Stream) {
	_ = s.SetReadDeadline(time.Now().Add(t.o.HandshakeTimeout))
	var id sessionID
	if _, err := io.ReadFull(s, id[:]); err != nil {
		t.stray(s)
		return
	}
	_ = s.SetReadDeadline(time.Time{})
	c := t.find(s, id)
	if c == nil || c.dialled || isRelayed(s.Conn().RemoteMultiaddr()) {
		t.stray(s)
		return
	}
	select {
	case <-c.shaken: // the peer was first to know
	case <-c.closed:
		t.stray(s)
		return
	}
	c.mu.Lock()
	mayMove := !c.ending && !c.moving && c.path.Load().relayed
	if mayMove {
		c.moving = true
		c.tasks.Go(func() {
			if c.turnTo(t.newPath(s.Conn(), s, false), []byte{kindMoved}) != nil {
				_ = s.ResetWithError(network.StreamNoError)
				return
			}
			c.moveChannels()
		})
	}
	c.mu.Unlock()
	if !mayMove {
		t.stray(s)
	}
}

// turnTo makes a path the one on which we speak, with a first word there, and
// starts to listen on it. The dialler, who has no first word, ends the old one; so it
// ends when both have left it.
func (c *Connection) turnTo(p *path, word []byte) error {
	select {
	case c.turn <- struct{}{}:
	case <-c.closed:
		return c.cause
	}
	defer func() { <-c.turn }()
	c.mu.Lock()
	ending := c.ending
	if !ending {
		// Before the first word, which makes the dialler end the old path.
		c.former = c.path.Swap(p)
		c.tasks.Go(func() { c.keep(p) })
	}
	c.mu.Unlock()
	switch {
	case ending:
		return errors.New("libp2p: the session is over")
	case word != nil:
		_ = c.write(p, word, controlTimeout) // a failure will show in reading
	default:
		_ = c.former.control.CloseWrite()
	}
	return nil
}

// moveChannels ends the channel streams on the former path, each behind the message
// under way. The next message opens one on the new path.
func (c *Connection) moveChannels() {
	c.mu.Lock()
	outs := make([]*outChannel, 0, len(c.outs))
	for _, o := range c.outs {
		outs = append(outs, o)
	}
	c.mu.Unlock()
	for _, o := range outs {
		select {
		case o.turn <- struct{}{}:
		case <-c.closed:
			return
		}
		c.leavePath(o)
		<-o.turn
	}
}

// leavePath ends a channel's stream if it is not on the session's path. The caller
// has the channel's turn.
func (c *Connection) leavePath(o *outChannel) {
	if o.s == nil || o.path == c.path.Load() {
		return
	}
	s := o.s
	c.mu.Lock()
	o.s = nil
	c.mu.Unlock()
	_ = s.Close()
}
