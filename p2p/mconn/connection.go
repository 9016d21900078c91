package mconn

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// A Connection is one MConnection over one SecretConnection. Besides
// p2p.Connection it is a p2p.ChunkSender and takes p2p.ChannelLimits.
//
// One goroutine may send (SendMessage, or SendChunk and Flush) and one receive
// at a time. Whoever receives is the read loop: it is what answers
// pings, so it must come back to ReceiveMessage without delay for as long as the
// connection is to live.
type Connection struct {
	nc     net.Conn
	opts   Options
	local  p2p.Endpoint
	remote p2p.Endpoint

	began atomic.Bool // Handshake was called
	ready atomic.Bool // and succeeded: what it set may be read

	// Set by Handshake, constant after it.
	own, peer p2p.NodeInfo
	key       p2p.PubKey
	kith      bool            // the peer is kith, and its frames are spoken
	packetMax int             // data bytes of a packet
	common    []p2p.ChannelID // the only channels there are, unless the peer is kith
	shaken    int64           // frames that the peer's handshake took

	// The receiving goroutine's.
	in       *reader
	channels receiver

	turn        turn
	out         *writer       // whose turn it is
	wanted      atomic.Uint32 // what the protocol has to say, by whoever has the turn
	goodbye     atomic.Pointer[[]byte]
	saidGoodbye chan struct{}

	keeper    keeper       // of pings and pongs; Handshake starts it
	pongTimer *time.Timer  // running while a ping of ours is not answered
	pinged    atomic.Int64 // when the last ping went out, by clock
	rtt       atomic.Int64 // nanoseconds; 0: unknown
	throttled atomic.Bool  // a read of the socket was put off for RecvRate since the last ping

	here   atomic.Bool // Close was called
	once   sync.Once
	closed chan struct{} // closed with cause set
	cause  error

	start  time.Time
	read   readStats
	wrote  writeStats
	faults faultCounts  // of the transport, or of this connection alone
	fault  atomic.Int64 // 1 + what the peer did wrong, by faultOf; 0: nothing yet
}

var (
	_ p2p.Connection    = (*Connection)(nil)
	_ p2p.ChunkSender   = (*Connection)(nil)
	_ p2p.ChannelLimits = (*Connection)(nil)
	_ p2p.Recycler      = (*Connection)(nil)
	_ p2p.ReasonCloser  = (*Connection)(nil)
	_ p2p.StaleTeller   = (*Connection)(nil)
)

// NewConnection makes a connection of a stream that is already there, dialled or
// accepted elsewhere; it belongs to the connection from then on. Options that
// are not of a connection are ignored. It returns the fault of invalid options.
func NewConnection(nc net.Conn, opts Options) (*Connection, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	c := &Connection{
		nc: nc, opts: opts,
		local: endpointOf(nc.LocalAddr()), remote: endpointOf(nc.RemoteAddr()),
		packetMax: packetData,
		start:     time.Now(),
		turn:      turn{wake: make(chan struct{}, 1)}, saidGoodbye: make(chan struct{}),
		closed: make(chan struct{}), faults: newFaultCounts(),
	}
	c.pongTimer = stopped(c.pongMissing)
	c.keeper.pings, c.keeper.pongs = stopped(c.ping), stopped(c.pong)
	c.in = newReader(nc, &c.read)
	c.in.clock = c.clock
	c.in.noise = c.channels.quiet
	if opts.RecvRate > 0 {
		c.in.limit = newBucket(float64(opts.RecvRate), float64(opts.RecvRate)/10, time.Now())
		c.in.pause = func(d time.Duration) error {
			c.throttled.Store(true)
			return c.pause(d)
		}
	}
	c.out = newWriter(nc, &c.wrote)
	c.out.long = opts.LongQueues
	if opts.SendRate > 0 {
		c.out.rate = newBucket(float64(opts.SendRate), float64(opts.SendRate)/10, time.Now())
	}
	if tcp, ok := nc.(*net.TCPConn); ok {
		_ = tcp.SetNoDelay(true)
		if !opts.LongQueues {
			shortenQueue(tcp)
		}
	}
	return c, nil
}

// LocalEndpoint returns our end.
func (c *Connection) LocalEndpoint() p2p.Endpoint { return c.local }

// RemoteEndpoint returns the peer's end as the socket names it: for an inbound
// connection the port is not one to dial.
func (c *Connection) RemoteEndpoint() p2p.Endpoint { return c.remote }

// Close ends the connection and returns after everything it started has ended.
// What was not flushed is lost. It may be called from any goroutine, and again.
// It does not wait for the peer; senders and the receiver return io.EOF.
func (c *Connection) Close() error {
	c.here.Store(true)
	c.fail(io.EOF)
	c.keeper.said.Wait()
	return nil
}

// goodbyeTimeout is how long CloseWithReason may take.
const goodbyeTimeout = 250 * time.Millisecond

// CloseWithReason tells a kith node why, and whom else it may try (NodeAddress
// URLs, at most 32), before it closes: its ReceiveMessage then returns a
// *GoodbyeError. Everybody else sees a close, since their protocol has no word
// for it. What is buffered goes out first. It blocks for at most a quarter of a
// second; the goodbye is lost if the peer takes nothing in for so long.
func (c *Connection) CloseWithReason(reason string, peers []string) error {
	c.tell(reason, peers)
	return c.Close()
}

// tell says goodbye to a kith node, once, and returns when that is written, or
// after goodbyeTimeout.
func (c *Connection) tell(reason string, peers []string) {
	encoded := appendGoodbye(nil, reason, peers)
	if c.ready.Load() && c.kith && c.goodbye.CompareAndSwap(nil, &encoded) {
		// Whoever writes gives up by then.
		_ = c.nc.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
		timer := time.NewTimer(goodbyeTimeout)
		defer timer.Stop()
		c.ask(wantGoodbye)
		select {
		case <-c.saidGoodbye:
		case <-timer.C:
		case <-c.closed:
		}
	}
}

// Stale reports that nothing came from the peer for a quarter longer than
// PingInterval, although a pong should have: it may be gone without a word. It
// does not block. A connection that is slowed down by RecvRate is never stale.
func (c *Connection) Stale() bool {
	if !c.ready.Load() || c.throttled.Load() {
		return false
	}
	silent := time.Duration(c.clock() - c.read.heard.Load())
	return silent > c.opts.PingInterval+c.opts.PingInterval/4
}

// fail ends the connection for a reason; the first one stays.
func (c *Connection) fail(cause error) {
	c.once.Do(func() {
		c.cause = cause
		shaking := c.began.Load() && !c.ready.Load() && !c.here.Load()
		if i := faultOf(cause, shaking); i >= 0 {
			c.fault.Store(int64(i) + 1)
			c.faults[i].Add(1)
		}
		close(c.closed)
		_ = c.nc.Close()
		c.endKeeper()
	})
}

// isClosed reports whether the connection ended, so that cause may be read.
func (c *Connection) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// failed ends the connection for what reading or writing returned, and returns
// why it ended, which may be something earlier: io.EOF when either side closed.
func (c *Connection) failed(err error) error {
	c.fail(ending(err))
	<-c.closed
	return c.cause
}

// ending makes an end like any other of what a socket says, but keeps its words.
func ending(err error) error {
	if _, socket := errors.AsType[*net.OpError](err); socket || errors.Is(err, net.ErrClosed) || err == io.ErrClosedPipe || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: %w", io.EOF, err)
	}
	return err
}

// Peer returns what the peer said of itself and its key, after the handshake;
// zero values before.
func (c *Connection) Peer() (p2p.NodeInfo, p2p.PubKey) {
	if !c.ready.Load() {
		return p2p.NodeInfo{}, p2p.PubKey{}
	}
	return c.peer, c.key
}

// RTT is the last round trip that was measured: by the last ping, at first by the
// handshake, which takes a little longer. 0: not known. It may be called from any
// goroutine.
func (c *Connection) RTT() time.Duration { return time.Duration(c.rtt.Load()) }

// clock is the time since the connection began.
func (c *Connection) clock() int64 { return int64(time.Since(c.start)) }

// Handshake exchanges keys and node infos with the peer: the returned key is
// proved, and the returned NodeInfo is of that key. Whether the peer is the one
// that was dialled, of our network and with a channel of ours, is for the caller
// to see. Our own node info must be of the key.
//
// It may be called once, and takes at most Options.HandshakeTimeout. When it
// fails, or the context ends, the connection is closed. Errors are
// *HandshakeError (with the context's error inside, if that ended), or
// ErrNodeInfo and ErrHandshake for mistakes of ours.
func (c *Connection) Handshake(ctx context.Context, info p2p.NodeInfo, key p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error) {
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return p2p.NodeInfo{}, p2p.PubKey{}, fmt.Errorf("mconn: make an ephemeral key: %w", err)
	}
	return c.shake(ctx, info, key, ephemeral)
}

// shake is Handshake with a given ephemeral key.
func (c *Connection) shake(ctx context.Context, info p2p.NodeInfo, key p2p.PrivKey, ephemeral *ecdh.PrivateKey) (p2p.NodeInfo, p2p.PubKey, error) {
	if !c.began.CompareAndSwap(false, true) {
		return p2p.NodeInfo{}, p2p.PubKey{}, ErrHandshake
	}
	if id := key.Public().NodeID(); info.NodeID != id || id == "" {
		_ = c.Close()
		return p2p.NodeInfo{}, p2p.PubKey{}, fmt.Errorf("%w: our own is of %q, our key of %q", ErrNodeInfo, info.NodeID, id)
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.HandshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	h := handshake{c: c, info: info, sign: key}
	err := h.run(ephemeral)
	if !stop() && err == nil {
		err = ctx.Err() // it ended while the last byte came
	}
	if err != nil {
		return p2p.NodeInfo{}, p2p.PubKey{}, h.error(err)
	}
	c.own, c.peer, c.key, c.shaken = info, h.peer, h.key, c.in.frames
	if !c.kith {
		c.common = announced(info.Channels)
	}
	c.SetChannelLimits(defaultLimits(info.Channels))
	c.ready.Store(true)
	c.keep()
	if c.isClosed() {
		return p2p.NodeInfo{}, p2p.PubKey{}, h.error(c.cause)
	}
	return c.peer, c.key, nil
}

// pause waits, but not beyond the end of the connection.
func (c *Connection) pause(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}
