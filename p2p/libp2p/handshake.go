package libp2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/kith-p2p/kith/internal/wire"
	"github.com/kith-p2p/kith/p2p"
)

// Handshake exchanges node infos with the peer, whose key libp2p has proved: the
// NodeInfo that is returned is of that key, or the handshake fails. Ours must be of
// the host's key, and so must the key given. Whether the peer is the one that was
// dialled, of our network and with a channel of ours, is for the caller to see.
//
// It may be called once, and takes at most Options.HandshakeTimeout. When it fails,
// or the context ends, the connection is closed. Errors are *HandshakeError (with
// the context's error inside, if that ended), or ErrIdentity, ErrNodeInfo and
// ErrHandshake for mistakes of ours.
func (c *Connection) Handshake(ctx context.Context, info p2p.NodeInfo, key p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error) {
	if !c.began.CompareAndSwap(false, true) {
		return p2p.NodeInfo{}, p2p.PubKey{}, ErrHandshake
	}
	if err := c.checkOwn(info, key); err != nil {
		c.end(io.EOF, nil)
		return p2p.NodeInfo{}, p2p.PubKey{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.t.o.HandshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		c.end(fmt.Errorf("libp2p: handshake: %w", context.Cause(ctx)), nil)
		_ = c.path.Load().control.SetDeadline(longAgo)
	})
	theirs, err := c.shake(info)
	if !stop() && err == nil {
		err = ctx.Err() // it ended while the last byte came
	}
	if err == nil {
		c.limits = make(map[p2p.ChannelID]int, len(info.Channels))
		for _, id := range info.Channels {
			c.limits[id] = p2p.DefaultMaxMessage
		}
		if c.begin() {
			return theirs, c.key, nil
		}
		err = io.EOF
	}
	return p2p.NodeInfo{}, p2p.PubKey{}, c.refuse(err)
}

// checkOwn says what is wrong with our own side.
func (c *Connection) checkOwn(info p2p.NodeInfo, key p2p.PrivKey) error {
	switch own := key.Public(); {
	case key.IsZero():
		return fmt.Errorf("%w: no key was given", ErrIdentity)
	case own.PeerID() != c.t.h.ID():
		return fmt.Errorf("%w: our key is of %s, the host's of %s", ErrIdentity, own.PeerID(), c.t.h.ID())
	case info.NodeID != own.NodeID():
		return fmt.Errorf("%w: our node info is of %.50q, our key of %s", ErrIdentity, info.NodeID, own.NodeID())
	}
	return nil
}

// shake says hello and reads the peer's. The dialler speaks first; the listener
// answers when it knows that the peer is whom it says.
func (c *Connection) shake(info p2p.NodeInfo) (p2p.NodeInfo, error) {
	p := c.path.Load()
	if p.relayed {
		info.Extensions.Observed = "" // it would be the relay's
	}
	if !c.dialled {
		theirs, err := c.readHello()
		if err == nil {
			err = c.sayHello(info)
		}
		return theirs, err
	}
	if err := c.sayHello(info); err != nil {
		return p2p.NodeInfo{}, err
	}
	sent := time.Now()
	if err := readAnswer(p.in, controlGreeting); err != nil {
		return p2p.NodeInfo{}, err
	}
	theirs, err := c.readHello()
	if err == nil {
		c.rtt.Store(int64(time.Since(sent)))
	}
	return theirs, err
}

// sayHello registers the session, since the peer may use it once it has our hello,
// and says it.
func (c *Connection) sayHello(info p2p.NodeInfo) error {
	hello, err := appendHello(nil, c.session, info)
	if err != nil {
		return err
	}
	hello = appendWindow(hello)
	if err := c.t.register(c); err != nil {
		return err
	}
	return c.say(hello, c.t.o.HandshakeTimeout)
}

func (c *Connection) readHello() (p2p.NodeInfo, error) {
	body, err := c.readControl(c.path.Load())
	if err != nil {
		return p2p.NodeInfo{}, err
	}
	switch body[0] {
	case kindHello:
	case kindGoodbye:
		return p2p.NodeInfo{}, farewellError(body[1:])
	default:
		return p2p.NodeInfo{}, fmt.Errorf("%w: frame kind %d instead of a hello", ErrMalformed, body[0])
	}
	session, theirs, err := parseHello(body[1:], c.node)
	switch {
	case err != nil:
		return p2p.NodeInfo{}, err
	case c.dialled && session != c.session:
		return p2p.NodeInfo{}, fmt.Errorf("%w: its hello is of another session", ErrMalformed)
	}
	if c.credit, err = parseWindow(body[1:]); err != nil {
		return p2p.NodeInfo{}, err
	}
	c.session = session
	c.heard.Store(c.clock())
	return theirs, nil
}

// readControl reads one control frame, which is not empty.
func (c *Connection) readControl(p *path) ([]byte, error) {
	body, err := wire.ReadFrame(p.in, maxControl)
	if err == nil && len(body) == 0 {
		err = fmt.Errorf("%w: an empty control frame", ErrMalformed)
	}
	if errors.Is(err, wire.ErrTooLarge) || errors.Is(err, wire.ErrMalformed) {
		err = fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return body, err
}

// refuse ends a handshake that failed, and says so.
func (c *Connection) refuse(err error) error {
	var bye *goodbye
	if errors.Is(err, ErrNodeInfo) || errors.Is(err, ErrMalformed) || errors.Is(err, ErrIdentity) {
		c.t.counts.faults.Add(1)
		bye = &goodbye{reason: err.Error()}
	}
	c.end(err, bye)
	<-c.closed
	if c.cause != io.EOF {
		err = c.cause // it ended for another reason before
	}
	return &HandshakeError{Remote: c.RemoteEndpoint(), Peer: c.node, Err: err}
}

// begin starts what runs for as long as the session lives, unless it has ended.
func (c *Connection) begin() bool {
	c.mu.Lock()
	ending := c.ending
	if !ending {
		c.watching.Store(true)
		c.watchdog = time.AfterFunc(drainAfter, c.look)
		close(c.shaken)
		p := c.path.Load()
		c.tasks.Go(func() { c.keep(p) })
		c.tasks.Go(c.ping)
	}
	c.mu.Unlock()
	for _, conn := range c.t.h.Network().ConnsToPeer(c.peer) {
		c.t.connected(nil, conn) // it may have come meanwhile
	}
	return !ending
}

// SetChannelLimits says which channels exist and how many bytes a message of each
// may have. It is called after Handshake and before the first ReceiveMessage;
// without it every channel announced in our node info takes p2p.DefaultMaxMessage.
func (c *Connection) SetChannelLimits(limits map[p2p.ChannelID]int) {
	select {
	case <-c.receiving:
	default:
		c.limits = maps.Clone(limits)
	}
}
