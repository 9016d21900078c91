package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
)

// Bits of Conn.state. They are only ever set.
const (
	closed      uint32 = 1 << iota // Close or Reset was called
	readClosed                     // CloseRead was called
	writeClosed                    // CloseWrite was called
	refused                        // the peer does not offer the protocol
	greeted                        // nothing of the negotiation is left to send
	answered                       // nothing of the negotiation is left to read

	agreed = greeted | answered
)

// longAgo as a deadline releases whoever is blocked.
var longAgo = time.Unix(1, 0)

// Conn is a net.Conn over one libp2p stream, or in process if a node dials
// itself. Dial and Accept return it. All methods may be called concurrently.
//
// rmu and wmu are the one place where a lock is held over I/O. It is the
// contract of this package: a muxed stream takes one reader and one writer at
// a time (see the package comment), and the lock hands it from one to the
// next. It cannot hold anybody up for longer than net.Conn allows, because
// deadlines, CloseRead, CloseWrite, Close and Reset act on the stream without
// it and so release the holder, and then each waiter in turn.
type Conn struct {
	s             network.MuxedStream
	stream        network.Stream // s, or nil in process
	id            protocol.ID
	local, remote net.Addr
	localPeer     peer.ID
	remotePeer    peer.ID
	waitable      bool // an empty read of s blocks until it is readable

	state atomic.Uint32

	rmu    sync.Mutex
	answer []byte // owned by rmu: what the peer must still answer
	got    []byte // owned by rmu: what it has answered so far

	wmu   sync.Mutex
	hello []byte // owned by wmu: what must be sent before anything else

	// dmu orders the setters of deadlines against Close, so that no late
	// deadline undoes the one that releases the blocked. Never held over I/O.
	dmu     sync.Mutex
	writeBy time.Time // owned by dmu: the caller's write deadline

	once sync.Once // Close or Reset, whichever is first
}

var _ net.Conn = (*Conn)(nil)

// New wraps a stream whose protocol is agreed, or will be by the stream
// itself: one that a stream handler was given or that host.NewStream returned.
// From then on only the Conn may use s.
func New(s network.Stream) *Conn {
	c := s.Conn()
	conn := newConn(s, s.Protocol(), Addr{id: c.LocalPeer()}, Addr{id: c.RemotePeer()})
	conn.stream = s
	conn.state.Store(agreed)
	// host.NewStream may return a wrapper whose empty read returns at once.
	if _, ok := s.(*swarm.Stream); ok {
		conn.waitable = c.ConnState().StreamMultiplexer == yamux.ID
	}
	return conn
}

func newConn(s network.MuxedStream, id protocol.ID, local, remote Addr) *Conn {
	return &Conn{s: s, id: id, local: local, remote: remote, localPeer: local.id, remotePeer: remote.id}
}

// Read reads up to len(p) bytes. It blocks until there is at least one, the
// peer closes for writing (io.EOF), the read deadline passes or the connection
// ends. An empty p returns at once. It may return bytes together with an error.
func (c *Conn) Read(p []byte) (int, error) {
	if c.state.Load()&(closed|readClosed|refused) != 0 {
		return 0, c.opError("read", nil)
	}
	if len(p) == 0 {
		return 0, nil
	}
	return c.read(p)
}

func (c *Conn) read(p []byte) (int, error) {
	c.rmu.Lock()
	if c.answer != nil {
		if err := c.readAnswer(); err != nil {
			c.rmu.Unlock()
			return 0, c.opError("read", err)
		}
	}
	if c.state.Load()&(closed|readClosed) != 0 {
		c.rmu.Unlock()
		return 0, c.opError("read", nil)
	}
	n, err := c.s.Read(p)
	c.rmu.Unlock()
	if err != nil {
		return n, c.opError("read", err)
	}
	return n, nil
}

// CanWaitReadable says whether WaitReadable works here: on yamux (TCP,
// WebSocket, relays) and in process it does, on QUIC and its relatives not.
func (c *Conn) CanWaitReadable() bool { return c.waitable }

// WaitReadable blocks until a Read would not, without holding a buffer. It
// returns nil if there are bytes, and otherwise what Read would return: io.EOF,
// a timeout, a reset, net.ErrClosed. Concurrent readers wait for it, and it for
// them. It returns errors.ErrUnsupported at once if CanWaitReadable is false.
func (c *Conn) WaitReadable() error {
	if !c.waitable {
		return fmt.Errorf("stream: wait for readable over this transport: %w", errors.ErrUnsupported)
	}
	if c.state.Load()&(closed|readClosed|refused) != 0 {
		return c.opError("read", nil)
	}
	_, err := c.read(nil)
	return err
}

// Write writes all of p, or says how much of it and why not more. It blocks
// while the peer's window is full. Each Write is whole: concurrent ones follow
// one another. That the bytes were written does not mean that the peer will
// read them.
func (c *Conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	if c.state.Load()&(closed|writeClosed|refused) != 0 {
		c.wmu.Unlock()
		return 0, c.opError("write", nil)
	}
	if len(c.hello) > 0 {
		n, err := c.sendHelloWith(p)
		shut := c.state.Load()&writeClosed != 0 // see CloseWrite
		if err != nil || n == len(p) || shut {
			c.wmu.Unlock()
			if err == nil && n == len(p) {
				return n, nil
			}
			return n, c.opError("write", err)
		}
	}
	n, err := c.s.Write(p)
	c.wmu.Unlock()
	if err != nil {
		return n, c.opError("write", err)
	}
	return n, nil
}

// CloseWrite ends our half: the peer reads io.EOF after the last byte. Writers
// that are blocked are released with net.ErrClosed. It returns net.ErrClosed
// after Close, otherwise nil: that the peer has already stopped listening is
// reported by Read and Write.
func (c *Conn) CloseWrite() error {
	c.dmu.Lock()
	old := c.state.Or(writeClosed)
	c.dmu.Unlock()
	if old&closed != 0 {
		return c.opError("close", nil)
	}
	if old&writeClosed != 0 {
		return nil
	}
	if c.state.Load()&greeted != 0 {
		c.lockOutWriters()
	} else {
		// The hello must not be cut short. A Write that is sending it stops
		// after it, since it sets greeted before it looks for writeClosed.
		c.wmu.Lock()
	}
	defer c.wmu.Unlock()
	if c.sendHelloAnyway() == nil {
		_ = c.s.CloseWrite()
	}
	return nil
}

// CloseRead ends the peer's half: Reads are released and fail with
// net.ErrClosed. QUIC tells the peer, whose writes then fail; yamux does not.
// It returns net.ErrClosed after Close, otherwise nil.
func (c *Conn) CloseRead() error {
	c.dmu.Lock()
	old := c.state.Or(readClosed)
	if old&(closed|readClosed) == 0 {
		_ = c.s.SetReadDeadline(longAgo)
	}
	c.dmu.Unlock()
	if old&closed != 0 {
		return c.opError("close", nil)
	}
	if old&readClosed == 0 {
		_ = c.s.CloseRead()
	}
	return nil
}

// Close ends both halves and frees the stream. What was written before is
// still delivered if the connection to the peer lives, but Close does not wait
// for that; the peer reads it, then io.EOF. Blocked Reads and Writes are
// released with net.ErrClosed. It returns nil, also when called again or when
// the peer was first. It may block for a few seconds on a stalled connection.
func (c *Conn) Close() error {
	c.once.Do(func() {
		c.shut()
		c.lockOutWriters()
		c.wmu.Unlock()
		_ = c.s.Close()
	})
	return nil
}

// Reset is ResetWithCode(0).
func (c *Conn) Reset() error { return c.ResetWithCode(network.StreamNoError) }

// ResetWithCode ends both halves at once and frees the stream: bytes under way
// may be lost, blocked Reads and Writes are released with net.ErrClosed, and
// the peer's fail with the code. It does nothing after Close. It returns nil.
func (c *Conn) ResetWithCode(code network.StreamErrorCode) error {
	c.once.Do(func() {
		c.shut()
		c.dmu.Lock()
		_ = c.s.SetWriteDeadline(longAgo)
		c.dmu.Unlock()
		_ = c.s.ResetWithError(code)
	})
	return nil
}

// shut marks the connection as closed and releases the readers.
func (c *Conn) shut() {
	c.dmu.Lock()
	c.state.Or(closed)
	_ = c.s.SetReadDeadline(longAgo)
	c.dmu.Unlock()
}

// lockOutWriters returns holding wmu, with every writer gone. The bit that
// stops new ones is already set. A write that is under way is cut short, since
// it may be blocked; without one the deadline is left alone.
func (c *Conn) lockOutWriters() {
	if c.wmu.TryLock() {
		return
	}
	c.dmu.Lock()
	_ = c.s.SetWriteDeadline(longAgo)
	c.dmu.Unlock()
	c.wmu.Lock()
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadline(t, true, true) }

// SetReadDeadline sets when pending and later Reads time out. The zero time
// means never. A timeout spoils nothing: move the deadline and read on. Bytes
// that have already arrived may still be returned after the deadline. It
// returns net.ErrClosed after Close.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(t, true, false) }

// SetWriteDeadline sets when pending and later Writes time out. The zero time
// means never. A Write that timed out may have written a part. It returns
// net.ErrClosed after Close.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, false, true) }

func (c *Conn) setDeadline(t time.Time, read, write bool) error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	state := c.state.Load()
	if state&closed != 0 {
		return c.opError("set", nil)
	}
	if read && state&readClosed == 0 {
		if err := c.s.SetReadDeadline(t); err != nil {
			return c.opError("set", err)
		}
	}
	if write && state&writeClosed == 0 {
		c.writeBy = t
		if err := c.s.SetWriteDeadline(t); err != nil {
			return c.opError("set", err)
		}
	}
	return nil
}

// LocalAddr returns an Addr with our peer ID.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns an Addr with the peer's ID.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// LocalPeer returns our peer ID.
func (c *Conn) LocalPeer() peer.ID { return c.localPeer }

// RemotePeer returns who is at the other end, as proven by the handshake.
func (c *Conn) RemotePeer() peer.ID { return c.remotePeer }

// Protocol returns the protocol ID that the connection was dialled for.
func (c *Conn) Protocol() protocol.ID { return c.id }

// Stream returns the stream below, to look at (Stat, Conn, Scope). Reading,
// writing, closing or resetting it behind the Conn's back is a mistake. It is
// nil if the node dialled itself.
func (c *Conn) Stream() network.Stream { return c.stream }

// opError is reason in the shape that users of net.Conn expect. io.EOF stays
// bare.
func (c *Conn) opError(op string, err error) error {
	if err = c.reason(op, err); err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: Network, Source: c.local, Addr: c.remote, Err: err}
}

// reason says why op failed: what c.state knows, or else what err means.
func (c *Conn) reason(op string, err error) error {
	gone := closed
	switch op {
	case "read":
		gone |= readClosed
	case "write":
		gone |= writeClosed
	}
	state := c.state.Load()
	switch {
	case state&gone != 0:
		return net.ErrClosed
	case state&refused != 0, state&answered == 0 && isNegotiationReset(err):
		return noSuchService(c.remotePeer, c.id)
	}
	return MapError(err)
}
