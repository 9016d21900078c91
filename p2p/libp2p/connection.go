package libp2p

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
)

// How long the end of a session may take.
const (
	// farewell bounds the writing of our goodbye.
	farewell = 250 * time.Millisecond
	// lastWords is how long a stream that broke waits for the control stream to say
	// why.
	lastWords = time.Second
	// linger is how long after the peer's goodbye, and after the last bytes that came,
	// what it sent before is waited for; lingerMost is how long at most.
	linger     = 5 * time.Second
	lingerMost = time.Minute
)

// longAgo as a deadline releases whoever is blocked.
var longAgo = time.Unix(1, 0)

// A Connection is one session with a peer over a libp2p connection that it may
// share with other sessions and other protocols: closing it closes its streams
// alone. Besides p2p.Connection it is a p2p.ConcurrentSender and takes
// p2p.ChannelLimits.
//
// One goroutine for each channel may send at a time, and one receive.
type Connection struct {
	t       *Transport
	dialled bool
	peer    peer.ID
	node    p2p.NodeID
	key     p2p.PubKey
	path    atomic.Pointer[path] // where we speak; changed with the turn and mu

	session    sessionID // a dialler's from the start, otherwise Handshake's; constant after it
	registered sessionID // Transport.mu guards it, and the next
	state      connState

	began  atomic.Bool   // Handshake was called
	shaken chan struct{} // closed when it succeeded
	turn   chan struct{} // held by who writes on a control stream, for one write

	credit    uint64                // with which the peer's streams of our channels begin, 0: it knows none; constant after Handshake
	limits    map[p2p.ChannelID]int // Handshake's and SetChannelLimits's; fixed when receiving is closed
	receive   sync.Once
	receiving chan struct{} // closed by the first ReceiveMessage or ReceiveMessages
	deliver   func(p2p.ChannelID, []byte)
	inbox     chan batch // from the streams to ReceiveMessage
	current   batch      // ReceiveMessage's

	start  time.Time
	heard  atomic.Int64 // when the last bytes came, by clock
	pinged atomic.Int64 // when the ping under way went out; 0: none
	pong   chan struct{}
	rtt    atomic.Int64

	sending     context.Context // ends when nothing can be sent any more
	stopSending context.CancelFunc
	tasks       sync.WaitGroup // keepers, pinger, mover and drains

	watchdog *time.Timer  // calls look; made by Handshake
	watching atomic.Bool  // it will
	grown    atomic.Int64 // by how much the windows of streams have grown

	closed  chan struct{} // closed with cause set
	cause   error
	parted  chan struct{} // closed when all that end started has ended
	gone    chan struct{} // closed with goneErr set: the peer is done
	goneErr error
	drained chan struct{} // closed when, after gone, nothing more will come

	mu       sync.Mutex // guards the rest; nothing is called under it
	ending   bool       // closed is closed, or about to be
	moving   bool       // a move is under way, or was made
	former   *path      // what we moved from
	outs     map[p2p.ChannelID]*outChannel
	ins      map[p2p.ChannelID]*inChannel
	opened   uint64 // streams of ours
	finished uint64 // streams of the peer's that have ended
	expected uint64 // how many it opened; valid after gone
	empty    bool   // drained is closed
	waiting  *time.Timer
}

var (
	_ p2p.Connection       = (*Connection)(nil)
	_ p2p.ConcurrentSender = (*Connection)(nil)
	_ p2p.ChannelLimits    = (*Connection)(nil)
	_ p2p.Recycler         = (*Connection)(nil)
)

// newConnection makes a session of its control stream. Who is at the other end
// libp2p has proved.
func (t *Transport) newConnection(conn network.Conn, control network.Stream, dialled bool) (*Connection, error) {
	key, err := identity.PubKeyFromPeerID(conn.RemotePeer())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	c := &Connection{
		t: t, dialled: dialled, peer: conn.RemotePeer(), node: key.NodeID(), key: key,
		shaken: make(chan struct{}), turn: make(chan struct{}, 1),
		receiving: make(chan struct{}), inbox: make(chan batch), start: time.Now(), pong: make(chan struct{}, 1),
		closed: make(chan struct{}), parted: make(chan struct{}), gone: make(chan struct{}), drained: make(chan struct{}),
		outs: make(map[p2p.ChannelID]*outChannel), ins: make(map[p2p.ChannelID]*inChannel),
	}
	c.path.Store(t.newPath(conn, control, dialled))
	if dialled {
		if _, err := rand.Read(c.session[:]); err != nil {
			return nil, err
		}
	}
	if err := t.enter(c); err != nil {
		return nil, err
	}
	c.sending, c.stopSending = context.WithCancel(network.WithAllowLimitedConn(context.Background(), protectTag))
	return c, nil
}

// ConcurrentSend marks the connection.
func (c *Connection) ConcurrentSend() {}

// LocalEndpoint returns our end.
func (c *Connection) LocalEndpoint() p2p.Endpoint { return c.path.Load().local }

// RemoteEndpoint returns the peer's end of the libp2p connection, with its peer ID.
// If it is inbound, the port is not one to dial; if it is also relayed, there is no
// IP, since that would be the relay's. It changes when the session moves from a
// relayed connection to a direct one.
func (c *Connection) RemoteEndpoint() p2p.Endpoint { return c.path.Load().remote }

// Proven reports whether the session stands on a direct connection that this host
// made to just that endpoint; it implements p2p.Prover. libp2p uses a connection
// that is there already, whoever made it, and dials all addresses that it knows.
func (c *Connection) Proven(e p2p.Endpoint) bool {
	conn := c.path.Load().conn
	want, err := e.Multiaddr()
	if err != nil || conn.Stat().Direction != network.DirOutbound || isRelayed(conn.RemoteMultiaddr()) {
		return false
	}
	at, _ := peer.SplitAddr(want)
	return at.Equal(conn.RemoteMultiaddr())
}

// Conn returns the libp2p connection under the session, to look at. It may serve
// others, too, and it is another one when the session has moved.
func (c *Connection) Conn() network.Conn { return c.path.Load().conn }

// RTT is the last round trip that was measured. 0: not known. It may be called from
// any goroutine.
func (c *Connection) RTT() time.Duration { return time.Duration(c.rtt.Load()) }

// Stale reports that nothing came from the peer for longer than it takes to ping it
// once and get an answer: it is probably gone.
func (c *Connection) Stale() bool {
	return time.Duration(c.clock()-c.heard.Load()) > c.t.o.PingInterval+staleSlack
}

// staleSlack is how late an answer may be that is not yet a sign.
const staleSlack = 5 * time.Second

// clock is the time since the connection began.
func (c *Connection) clock() int64 { return int64(time.Since(c.start)) }

// Close ends the session, and returns when all it started has ended. What
// SendMessage took is delivered, as long as the peer reads. It may be called from
// any goroutine, and again. It does not wait for the peer, but on a libp2p connection
// that takes nothing any more it may block for seconds, until libp2p gives that up.
// It returns nil.
func (c *Connection) Close() error { return c.CloseWithReason("", nil) }

// CloseWithReason is Close, but the peer's ReceiveMessage returns a *GoodbyeError
// with the reason, cut to 1,024 bytes, and whom else it may try (NodeAddress URLs,
// at most 32).
func (c *Connection) CloseWithReason(reason string, peers []string) error {
	var bye *goodbye
	if c.isShaken() || reason != "" {
		bye = &goodbye{reason: reason, peers: peers}
	}
	c.end(io.EOF, bye)
	<-c.parted
	return nil
}

func (c *Connection) isShaken() bool {
	select {
	case <-c.shaken:
		return true
	default:
		return false
	}
}

// end ends the session for a cause, the first of which stays, and with a goodbye if
// there is one. It does not block.
func (c *Connection) end(cause error, bye *goodbye) {
	c.mu.Lock()
	first := !c.ending
	c.ending = true
	c.mu.Unlock()
	if !first {
		return
	}
	c.cause = cause
	close(c.closed)
	c.stopSending()
	go c.part(bye)
}

// fault is end for what the peer did wrong, which it is told.
func (c *Connection) fault(err error) {
	select {
	case <-c.closed:
		return
	default:
	}
	c.t.counts.faults.Add(1)
	c.t.o.Logger.Debug("libp2p: a session ends for the peer's fault", "peer", c.node, "err", err)
	c.end(err, &goodbye{reason: err.Error()})
}

// part takes leave: a goodbye, then the end of every stream. It belongs to Close,
// which waits for it.
func (c *Connection) part(bye *goodbye) {
	defer close(c.parted)
	c.t.leave(c)
	c.mu.Lock()
	outs, ins := c.outs, c.ins // nothing is added once ending is set
	opened := c.opened
	controls := []network.Stream{c.path.Load().control}
	if c.former != nil {
		controls = append(controls, c.former.control)
	}
	if c.waiting != nil {
		c.waiting.Stop()
	}
	if c.watchdog != nil {
		c.watchdog.Stop()
	}
	c.mu.Unlock()
	said := false
	if bye != nil {
		bye.streams = opened
		said = c.say(bye.append(nil), farewell) == nil
	}
	if said {
		_ = controls[0].CloseWrite()
	}
	for _, o := range outs {
		c.closeChannel(o)
	}
	c.mu.Lock()
	var streams []network.Stream
	for _, in := range ins {
		streams = in.streams(streams)
	}
	c.mu.Unlock()
	for _, s := range streams {
		_ = s.ResetWithError(network.StreamNoError)
	}
	for _, s := range controls {
		_ = s.SetDeadline(longAgo)
	}
	c.tasks.Wait()
	for _, s := range controls {
		if said {
			_ = s.Close()
		} else {
			_ = s.ResetWithError(network.StreamNoError)
		}
	}
}

// depart notes that the peer is done: it said so, after it opened that many
// streams, or the session was lost. Nothing is sent any more. What it sent before
// may still come, for a while.
func (c *Connection) depart(err error, streams uint64) {
	c.mu.Lock()
	if c.goneErr != nil {
		c.mu.Unlock()
		return
	}
	c.goneErr, c.expected = err, streams
	close(c.gone)
	c.drain(false)
	c.awaitRest()
	var blocked []network.Stream
	for _, o := range c.outs {
		if o.s != nil {
			blocked = append(blocked, o.s)
		}
	}
	c.mu.Unlock()
	c.stopSending()
	for _, s := range blocked {
		_ = s.SetDeadline(longAgo)
	}
}

// awaitRest begins to wait for what the peer sent before it was gone, once it is
// gone and we receive. The caller holds mu.
func (c *Connection) awaitRest() {
	select {
	case <-c.receiving:
	default:
		return
	}
	if c.goneErr == nil || c.empty || c.ending {
		return
	}
	since := c.clock()
	c.waiting = time.AfterFunc(linger, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		now := c.clock()
		left := linger - time.Duration(now-max(since, c.heard.Load()))
		if left <= 0 || time.Duration(now-since) > lingerMost {
			c.drain(true)
		} else if !c.empty && !c.ending {
			c.waiting.Reset(left)
		}
	})
}

// drain notes when nothing more will come, or that nothing more is waited for. The
// caller holds mu.
func (c *Connection) drain(anyway bool) {
	if c.goneErr != nil && !c.empty && (anyway || c.finished >= c.expected) {
		c.empty = true
		if c.waiting != nil {
			c.waiting.Stop()
		}
		close(c.drained)
	}
}

// ended returns how the session ended, nil if it has not.
func (c *Connection) ended() error {
	select {
	case <-c.closed:
		return c.cause
	default:
	}
	select {
	case <-c.gone:
		return c.goneErr
	default:
		return nil
	}
}

// broke is what a stream's error means. It waits for the control stream to say why,
// and otherwise the session is lost.
func (c *Connection) broke(err error) error {
	if !c.explained() {
		c.depart(&lostError{err}, 0)
	}
	return c.ended()
}

// explained waits for the control stream to say that the session is over.
func (c *Connection) explained() bool {
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-c.closed:
	case <-c.gone:
	case <-timer.C:
		return false
	}
	return true
}

// isEnd says whether an error of a stream is the peer's orderly end of it.
func isEnd(err error) bool { return errors.Is(err, io.EOF) }
