package libp2p

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
)

// The libp2p protocols, which spec.md describes.
const (
	// ControlProtocol is that of a session's control stream.
	ControlProtocol = "/kith/msg/1.0.0"
	// ChannelProtocol is that of a channel's stream.
	ChannelProtocol = "/kith/msg/1.0.0/channel"
	// MoveProtocol is that of the control stream to which a session moves.
	MoveProtocol = "/kith/msg/1.0.0/move"
)

// A Transport carries messages over a libp2p host. All methods are safe for
// concurrent use.
type Transport struct {
	h    host.Host
	o    Options
	self p2p.NodeID

	notify  *network.NotifyBundle
	backlog chan *Connection
	closed  chan struct{}
	counts  counters

	mu        sync.Mutex // guards the rest; nothing is called under it
	down      bool       // closed is closed
	handlers  bool       // the channel protocol is still answered
	sessions  map[sessionKey]*Connection
	perPeer   map[peer.ID]int          // connections, those before the handshake included
	protected map[p2p.NodeID]struct{}  // by Protect
	known     map[p2p.NodeID]knownPeer // that have connections, or are protected
}

// sessionKey names a session: who is at the other end, and what the dialler drew.
type sessionKey struct {
	peer peer.ID
	id   sessionID
}

// knownPeer is what Protect needs: the libp2p ID, and for how many reasons it is
// remembered.
type knownPeer struct {
	id      peer.ID
	holders int
}

var (
	_ p2p.Transport = (*Transport)(nil)
	_ p2p.Protector = (*Transport)(nil)
)

// New makes a transport of a host, which stays the caller's: it has to be there
// until the transport and its connections are closed. It takes over the
// protocols at once, so from then on connections wait for Accept. It returns the
// fault of invalid options, ErrHostInUse, or ErrIdentity when the host's key is not
// Ed25519.
func New(h host.Host, o Options) (*Transport, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	self, err := identity.NodeIDFromPeerID(h.ID())
	if err != nil {
		return nil, fmt.Errorf("%w: the host's: %w", ErrIdentity, err)
	}
	o = o.withDefaults()
	t := &Transport{
		h: h, o: o, self: self,
		backlog: make(chan *Connection, o.Backlog), closed: make(chan struct{}), handlers: true,
		sessions: make(map[sessionKey]*Connection), perPeer: make(map[peer.ID]int),
		protected: make(map[p2p.NodeID]struct{}), known: make(map[p2p.NodeID]knownPeer),
	}
	t.notify = &network.NotifyBundle{ConnectedF: t.connected}
	inUse.Lock()
	defer inUse.Unlock()
	if slices.ContainsFunc(h.Mux().Protocols(), func(id protocol.ID) bool { return id == ControlProtocol || id == ChannelProtocol || id == MoveProtocol }) {
		return nil, ErrHostInUse
	}
	h.SetStreamHandler(ControlProtocol, t.arrived)
	h.SetStreamHandler(ChannelProtocol, t.channelStream)
	h.SetStreamHandler(MoveProtocol, t.moved)
	h.Network().Notify(t.notify)
	return t, nil
}

// inUse makes looking for our handlers and setting them one step.
var inUse sync.Mutex

// Protocols returns "libp2p".
func (t *Transport) Protocols() []p2p.Protocol { return []p2p.Protocol{Protocol} }

// Endpoints are the addresses that the host gives of itself, each with its peer ID;
// none after Close. What package address has no words for is left out.
func (t *Transport) Endpoints() []p2p.Endpoint {
	select {
	case <-t.closed:
		return nil
	default:
	}
	var es []p2p.Endpoint
	nowhere := endpointOf(nil, t.h.ID()).Path
	for _, at := range t.h.Addrs() {
		if e := endpointOf(at, t.h.ID()); e.Path != nowhere || len(e.IP) > 0 {
			es = append(es, e)
		}
	}
	return es
}

// Accept blocks for the next session that a peer opens, before its handshake. It
// returns io.EOF after Close, and no other error.
func (t *Transport) Accept() (p2p.Connection, error) {
	select {
	case <-t.closed:
		return nil, io.EOF
	default:
	}
	select {
	case c := <-t.backlog:
		return c, nil
	case <-t.closed:
		return nil, io.EOF
	}
}

// Close refuses sessions from now on and makes Accept return. Sessions that were
// accepted or dialled stay, and so does the host. Those that waited for Accept are
// closed. It returns nil.
func (t *Transport) Close() error {
	t.mu.Lock()
	first := !t.down
	t.down = true
	t.mu.Unlock()
	if !first {
		return nil
	}
	t.h.RemoveStreamHandler(ControlProtocol)
	close(t.closed)
	for {
		select {
		case c := <-t.backlog: // nothing is added once down is set
			_ = c.Close()
			continue
		default:
		}
		break
	}
	t.tidy()
	return nil
}

// tidy stops answering the channel protocol when nobody needs it any more.
func (t *Transport) tidy() {
	t.mu.Lock()
	last := t.down && t.handlers && len(t.perPeer) == 0
	if last {
		t.handlers = false
	}
	t.mu.Unlock()
	if last {
		t.h.Network().StopNotify(t.notify)
		t.h.RemoveStreamHandler(ChannelProtocol)
		t.h.RemoveStreamHandler(MoveProtocol)
	}
}

// arrived takes a control stream that a peer opened. libp2p runs it on a goroutine
// for each stream.
func (t *Transport) arrived(s network.Stream) {
	c, err := t.newConnection(s.Conn(), s, false)
	if err != nil {
		t.refuse(s, err)
		return
	}
	t.mu.Lock()
	queued := false
	if !t.down {
		select {
		case t.backlog <- c:
			queued = true
		default:
		}
	}
	t.mu.Unlock()
	if !queued {
		t.counts.refused.Add(1)
		_ = c.Close()
		return
	}
	t.counts.accepted.Add(1)
}

// refuse turns a control stream away.
func (t *Transport) refuse(s network.Stream, err error) {
	t.counts.refused.Add(1)
	t.o.Logger.Debug("libp2p: a session was refused", "peer", s.Conn().RemotePeer(), "err", err)
	code := network.StreamProtocolViolation
	if errors.Is(err, ErrBusy) {
		code = network.StreamResourceLimitExceeded
	}
	_ = s.ResetWithError(code)
}

// channelStream takes a stream of a channel and serves it until it ends, on
// libp2p's goroutine.
func (t *Transport) channelStream(s network.Stream) {
	_ = s.SetReadDeadline(time.Now().Add(t.o.HandshakeTimeout))
	var b [headerSize]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		t.stray(s)
		return
	}
	_ = s.SetReadDeadline(time.Time{})
	h := parseHeader(&b)
	c := t.find(s, h.session)
	if c == nil {
		t.stray(s)
		return
	}
	c.serve(s, h)
}

// find is the session that a stream names, of those with the peer whose it is.
func (t *Transport) find(s network.Stream, id sessionID) *Connection {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sessions[sessionKey{s.Conn().RemotePeer(), id}]
}

// stray turns away a stream that belongs to no session.
func (t *Transport) stray(s network.Stream) {
	t.counts.strays.Add(1)
	_ = s.ResetWithError(network.StreamProtocolViolation)
}

// enter counts a connection that begins.
func (t *Transport) enter(c *Connection) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.down:
		return net.ErrClosed
	case t.perPeer[c.peer] >= t.o.SessionsPerPeer:
		return fmt.Errorf("%w: %s has %d", ErrBusy, c.peer, t.perPeer[c.peer])
	}
	t.perPeer[c.peer]++
	k := t.known[c.node]
	t.known[c.node] = knownPeer{c.peer, k.holders + 1}
	return nil
}

// register makes a session known to the streams of its channels.
func (t *Transport) register(c *Connection) error {
	key := sessionKey{c.peer, c.session}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case c.state != connEntered:
		return io.EOF // it was closed meanwhile
	case t.sessions[key] != nil:
		return fmt.Errorf("%w: a session that there is already", ErrMalformed)
	}
	t.sessions[key] = c
	c.registered, c.state = c.session, connRegistered
	return nil
}

// connState is what a Transport knows of a connection.
type connState uint8

const (
	connEntered    connState = iota // counted
	connRegistered                  // and among the sessions
	connLeft
)

// leave forgets a connection that ends.
func (t *Transport) leave(c *Connection) {
	t.mu.Lock()
	if c.state == connRegistered {
		delete(t.sessions, sessionKey{c.peer, c.registered})
	}
	c.state = connLeft
	if t.perPeer[c.peer]--; t.perPeer[c.peer] == 0 {
		delete(t.perPeer, c.peer)
	}
	t.release(c.node)
	t.mu.Unlock()
	t.tidy()
}

// release gives up one reason to remember a peer. The caller holds mu.
func (t *Transport) release(id p2p.NodeID) {
	k := t.known[id]
	if k.holders--; k.holders <= 0 {
		delete(t.known, id)
		return
	}
	t.known[id] = k
}
