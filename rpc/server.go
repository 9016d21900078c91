package rpc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/kith-p2p/kith/stream"
)

// Protocol is the framed protocol between kith nodes; spec.md describes it.
const Protocol protocol.ID = "/kith/rpc/1.0.0"

// backlog is how many new streams may wait to be taken.
const backlog = 1024

// StreamHandler answers one request. The name is PointSub's: it gets one
// request and gives one answer. It owns request, and gives response away. An
// error is an error at the caller (see Error for how much of it), never an
// answer.
type StreamHandler func(request []byte) (response []byte, err error)

// Request is a request as it travels.
type Request struct {
	// Peer is who calls, in a handler; whom to call, in Client.Do.
	Peer peer.ID
	// Method is the protocol ID.
	Method protocol.ID
	// Headers, nil if there are none. There are none on the plain wire.
	Headers Headers
	// Body is the request itself. It belongs to whom it is given.
	Body []byte
}

// Response is an answer as it travels.
type Response struct {
	Headers Headers
	Body    []byte
}

// Handler answers one request. ctx ends when the caller gives up or is lost,
// when its deadline passes, and when the server is stopped. A nil Response is
// an empty one.
type Handler func(ctx context.Context, r *Request) (*Response, error)

// method is what one protocol ID stands for.
type method struct {
	id      protocol.ID
	simple  StreamHandler // one of the three is set
	handler Handler
	stream  func(context.Context, *ServerStream) error
	builtin bool
	limiter *limiter
	counters
}

type counters = methodCounters

// Server serves methods to other peers, each on its protocol ID: with the
// framed protocol to kith nodes, and with PointSub's plain one to everybody.
// There is one Server on a host. All methods may be called concurrently.
type Server struct {
	h   host.Host
	cfg ServerConfig

	ctx    context.Context // ends when Stop resets what is left
	cancel context.CancelCauseFunc
	drain  chan struct{} // closed by Stop
	bufs   *bufferPool
	since  time.Time

	listening sync.WaitGroup // the accept loops and the janitor
	serving   sync.WaitGroup // the links

	methods atomic.Pointer[map[string]*method] // never changed: replaced, under mu
	clock   clock

	mu        sync.Mutex // guards what follows, and starts of WaitGroups against Stop
	stopped   bool
	listeners map[protocol.ID]net.Listener
	links     map[*serverLink]struct{}
	peers     map[peer.ID]*peerState
	stopOnce  sync.Once
	stopErr   error

	memory                                         atomic.Int64
	running                                        atomic.Int64
	calls, failed, refused, panics, cancels, pings atomic.Uint64
	opened, turnedAway                             atomic.Uint64
	faults                                         faultCounters
}

// peerState is what the server holds about one peer over all of its streams.
type peerState struct {
	limiter *limiter
	gather  gather
	memory  atomic.Int64 // bytes that its requests hold
	links   int          // guarded by Server.mu
	left    time.Time    // when links became 0; guarded by Server.mu
}

// NewServer makes a server on the host. A nil config means the defaults. It
// answers ping, info, stats and services at once (see BuiltIn), and methods
// from Start on. It returns what Validate returns, or ErrServerAlreadyStarted
// if there is a Server on the host. Stop it before closing the host.
func NewServer(h host.Host, config *ServerConfig) (*Server, error) {
	if config == nil {
		config = DefaultServerConfig()
	}
	if err := config.Validate(); err != nil {
		return nil, err
	}
	s := &Server{
		h: h, cfg: config.withDefaults(), drain: make(chan struct{}), since: time.Now(),
		listeners: map[protocol.ID]net.Listener{}, links: map[*serverLink]struct{}{}, peers: map[peer.ID]*peerState{},
	}
	s.bufs = newBufferPool(s.cfg.BufferPoolSize)
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	builtIn := s.builtIns()
	s.methods.Store(&builtIn)
	s.clock.start(s.cfg.ReadTimeout, s.cfg.WriteTimeout, s.cfg.ConnectTimeout, s.cfg.IdleTimeout, s.cfg.MaxIdleTime, s.cfg.CleanupInterval)
	if err := s.listen(Protocol, s.serveFramed); err != nil {
		s.cancel(ErrServerClosed)
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listening.Go(s.janitor)
	return s, nil
}

// Start serves a method whose handler needs to know nothing but the request.
// It is StartHandler otherwise.
func (s *Server) Start(protocolID protocol.ID, handler StreamHandler) error {
	if handler == nil {
		return fmt.Errorf("rpc: start %q: no handler given", protocolID)
	}
	return s.start(&method{id: protocolID, simple: handler}, nil)
}

// StartHandler serves a method, to kith nodes and over the plain wire. It
// returns ErrServerAlreadyStarted if the host serves the protocol already, and
// ErrServerClosed after Stop. It does not block on the network.
func (s *Server) StartHandler(protocolID protocol.ID, handler Handler, opts ...HandleOption) error {
	if handler == nil {
		return fmt.Errorf("rpc: start %q: no handler given", protocolID)
	}
	return s.start(&method{id: protocolID, handler: handler}, opts)
}

// HandleOption changes how one method is served. WithLimits makes one.
type HandleOption func(*method) error

// WithLimits gives a method limits of its own, in place of MethodLimits.
func WithLimits(l Limits) HandleOption {
	return func(m *method) error {
		var f faults
		f.limits("Limits", l)
		if err := f.join("limits of " + string(m.id)); err != nil {
			return err
		}
		m.limiter = newLimiter(l.withDefaults(1000))
		return nil
	}
}

func (s *Server) start(m *method, opts []HandleOption) error {
	if m.id == "" || len(m.id) > methodMax {
		return fmt.Errorf("rpc: start: a protocol ID of %d bytes: must be between 1 and %d", len(m.id), methodMax)
	}
	m.limiter = newLimiter(s.cfg.MethodLimits)
	for _, o := range opts {
		if err := o(m); err != nil {
			return err
		}
	}
	if err := s.register(m); err != nil {
		return err
	}
	if m.stream != nil { // there is no plain form of it
		return nil
	}
	if err := s.listen(m.id, func(c *stream.Conn) { s.servePlain(c, m) }); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		rest := maps.Clone(*s.methods.Load())
		delete(rest, string(m.id))
		s.methods.Store(&rest)
		return err
	}
	return nil
}

// register makes a method known to the framed protocol.
func (s *Server) register(m *method) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.methods.Load()
	switch {
	case s.stopped:
		return ErrServerClosed
	case strings.HasPrefix(string(m.id), builtInPrefix):
		return fmt.Errorf("rpc: %q: names that begin with %s are for what every node answers; choose another", m.id, builtInPrefix)
	case old[string(m.id)] != nil || m.id == Protocol:
		return fmt.Errorf("%w: %q", ErrServerAlreadyStarted, m.id)
	}
	more := maps.Clone(old)
	more[string(m.id)] = m
	s.methods.Store(&more)
	return nil
}

// listen accepts streams of a protocol until Stop.
func (s *Server) listen(id protocol.ID, serve func(*stream.Conn)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return ErrServerClosed
	}
	ln, err := stream.Listen(s.h, id, stream.WithBacklog(backlog))
	if errors.Is(err, stream.ErrAddrInUse) {
		return fmt.Errorf("%w: %q: %w", ErrServerAlreadyStarted, id, err)
	}
	if err != nil {
		return fmt.Errorf("rpc: serve %q: %w", id, err)
	}
	s.listeners[id] = ln
	s.listening.Go(func() { stream.Serve(ln, serve) }) // until Stop closes it
	return nil
}

// add takes a new stream, or turns it away.
func (s *Server) add(l *serverLink) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ps := s.peers[l.peer]
	if s.stopped || len(s.links) >= s.cfg.MaxConcurrentConns || ps != nil && ps.links >= s.cfg.MaxConnsPerPeer {
		s.turnedAway.Add(1)
		return false
	}
	s.opened.Add(1)
	if ps == nil {
		ps = &peerState{limiter: newLimiter(s.cfg.PeerLimits)}
		s.peers[l.peer] = ps
	}
	ps.links++
	l.state = ps
	s.links[l] = struct{}{}
	return true
}

func (s *Server) remove(l *serverLink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, l)
	if l.state.links--; l.state.links == 0 {
		l.state.left = time.Now()
	}
}

func (s *Server) draining() bool {
	select {
	case <-s.drain:
		return true
	default:
		return false
	}
}

// ConnectionInfo is one stream that the server serves.
type ConnectionInfo struct {
	RemoteAddr net.Addr // a stream.Addr: who
	Protocol   protocol.ID
	LastActive time.Time     // last byte in either direction
	IdleTime   time.Duration // since then
}

// GetConnectionsInfo lists the streams that are open now, those of one peer
// together. Times are exact to about a second.
func (s *Server) GetConnectionsInfo() []ConnectionInfo {
	s.mu.Lock()
	links := make([]*serverLink, 0, len(s.links))
	for l := range s.links {
		links = append(links, l)
	}
	s.mu.Unlock()
	now := tick()
	infos := make([]ConnectionInfo, len(links))
	for i, l := range links {
		idle := time.Duration(max(now-l.active.Load(), 0))
		infos[i] = ConnectionInfo{l.conn.RemoteAddr(), l.conn.Protocol(), time.Now().Add(-idle), idle}
	}
	slices.SortFunc(infos, func(a, b ConnectionInfo) int {
		if c := strings.Compare(a.RemoteAddr.String(), b.RemoteAddr.String()); c != 0 {
			return c
		}
		return a.LastActive.Compare(b.LastActive)
	})
	return infos
}

// How long Stop waits for handlers whose context it has ended: at first so that
// they answer, and then, with their streams reset, so that they end.
const (
	answerGrace = 100 * time.Millisecond
	endGrace    = 1900 * time.Millisecond
)

// Stop withdraws all protocols, tells callers to go elsewhere, waits for the
// calls under way for at most DrainTimeout, ends the contexts of the rest, and a
// moment later resets the streams of those that have not answered. When it
// returns nil, nothing is registered and nothing runs. ErrHandlersRunning names
// the handlers that ignore that their context has ended; nothing can stop those. A
// second Stop waits for the first.
func (s *Server) Stop() error {
	s.stopOnce.Do(func() { s.stopErr = s.stop() })
	return s.stopErr
}

func (s *Server) stop() error {
	s.mu.Lock()
	s.stopped = true
	listeners := s.listeners
	s.mu.Unlock()
	close(s.drain)
	for _, ln := range listeners {
		_ = ln.Close()
	}
	s.listening.Wait()
	s.eachLink((*serverLink).wake)

	done := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(done)
	}()
	defer s.cancel(ErrServerClosed)
	if closedWithin(done, s.cfg.DrainTimeout) {
		return nil
	}
	s.cancel(Errorf(CodeUnavailable, "the server is stopping"))
	if closedWithin(done, answerGrace) {
		return nil
	}
	s.eachLink(func(l *serverLink) { l.kill(Errorf(CodeUnavailable, "the server is stopping")) })
	if closedWithin(done, endGrace) {
		return nil
	}
	names := map[string]int{}
	s.eachLink(func(l *serverLink) {
		if m := l.method.Load(); m != nil {
			names[string(m.id)]++
		}
	})
	return fmt.Errorf("%w: %v", ErrHandlersRunning, names)
}

func (s *Server) eachLink(f func(*serverLink)) {
	s.mu.Lock()
	links := make([]*serverLink, 0, len(s.links))
	for l := range s.links {
		links = append(links, l)
	}
	s.mu.Unlock()
	for _, l := range links {
		f(l)
	}
}

func closedWithin(c <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}

// Stats returns the counters. It may be called at any time.
func (s *Server) Stats() ServerStats {
	st := ServerStats{
		Running: int(s.running.Load()), Calls: s.calls.Load(), Failed: s.failed.Load(), Refused: s.refused.Load(),
		Panics: s.panics.Load(), Cancelled: s.cancels.Load(), Pings: s.pings.Load(),
		ConnsOpened: s.opened.Load(), ConnsRefused: s.turnedAway.Load(), Memory: uint64(max(s.memory.Load(), 0)),
		Faults: s.faults.snapshot(), Methods: map[string]MethodStats{},
	}
	s.mu.Lock()
	st.Conns = len(s.links)
	s.mu.Unlock()
	for id, m := range *s.methods.Load() {
		_, waiting := m.limiter.load()
		st.Queued += waiting
		if !m.builtin || m.calls.Load() > 0 {
			st.Methods[id] = m.snapshot()
		}
	}
	return st
}

// janitor resets streams that take too long and forgets peers. One look in a
// while over all streams is cheaper than deadlines for every frame.
func (s *Server) janitor() {
	t := time.NewTicker(s.clock.every)
	defer t.Stop()
	forget := time.Now().Add(s.cfg.CleanupInterval)
	for {
		select {
		case <-s.drain:
			return
		case <-t.C:
		}
		s.clock.now.Store(tick())
		s.eachLink((*serverLink).check)
		if time.Now().After(forget) {
			s.forgetPeers()
			forget = time.Now().Add(s.cfg.CleanupInterval)
		}
	}
}

func (s *Server) forgetPeers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, ps := range s.peers {
		if ps.links == 0 && time.Since(ps.left) > s.cfg.CleanupInterval {
			delete(s.peers, id)
		}
	}
}
