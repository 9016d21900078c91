// Package tunnel carries ports over a peer-to-peer network. One peer exposes a
// service: a name bound to a local TCP or unix socket. Another forwards a local
// socket to (peer, name). Every connection that the local socket accepts gets a
// stream of its own to the peer, encrypted and authenticated by peer ID, and
// behaves there as if it had been made directly: the same bytes, the same
// half-closes, the same resets.
//
//	p := tunnel.NewP2P(h.ID(), h, h.Peerstore())
//	defer p.Close()
//	p.NewListener(ctx, "web", ma("/ip4/127.0.0.1/tcp/3000"), tunnel.AllowPeers(friend))  // on one node
//	p.Dial(ctx, addr, peerID, "web", ma("/ip4/127.0.0.1/tcp/3001"))                      // on the other
//
// Nothing is served to anybody by default: see AllowPeers and AllowAny.
//
// Two protocols are spoken (spec.md). Between kith nodes a connection starts
// with a frame that names the service and is answered with a reason when it is
// refused. A service whose name starts with "/" is also served raw, under that
// name as the stream's protocol, which is what kubo's `ipfs p2p` does.
//
// No refusal is silent: it has a Reason that reaches the other peer, the log,
// the counters (Stats) and the listings (ListenerInfo.LastError). Of a flood the
// log has the first lines, and then now and again one that says how many more
// there were.
//
// The caller keeps the host open for as long as the P2P, and closes the P2P
// first.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kith-p2p/kith/access"
	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

// Protocol is spoken between kith nodes.
const Protocol protocol.ID = "/kith/tunnel/1.0.0"

const (
	// backlog is how many streams may wait for the accept loop, which only
	// starts a goroutine for each: enough for a burst of thousands.
	backlog = 4096
	// closePatience is how long Close waits for peers to take a reset, and then
	// for their word that it has arrived.
	closePatience = 500 * time.Millisecond
	// strangerStreams is how many streams a peer that no service is open to may
	// hold without saying what for.
	strangerStreams = 16
	// maxName bounds a service name, in bytes.
	maxName = 128
	// protectTag marks connections that carry a tunnel, so that trimming
	// leaves them alone.
	protectTag = "kith-tunnel"
)

// Errors that callers decide on. Failures of single connections are *Error.
var (
	// ErrClosed: the P2P was closed.
	ErrClosed = errors.New("tunnel: closed")
	// ErrName: a service name is not acceptable.
	ErrName = errors.New("tunnel: bad service name")
	// ErrAddress: a target or local address is not one that can be used.
	ErrAddress = errors.New("tunnel: bad address")
	// ErrExists: the service, or the local address, is taken by another mount.
	ErrExists = errors.New("tunnel: listener already registered")
	// ErrOption: options that do not go together.
	ErrOption = errors.New("tunnel: bad option")
)

// P2P holds the mounts of one node. All methods are safe for concurrent use.
type P2P struct {
	id peer.ID
	h  host.Host
	ps peerstore.Peerstore

	// Listeners lists what is exposed and forwarded.
	Listeners ListenerRegistry
	// Streams lists the live connections.
	Streams StreamRegistry

	access *access.Control
	log    *slog.Logger
	lines  lines // of log, that peers cause
	bufs   buffers
	stats  counters
	dials  redials

	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc
	inner  net.Listener // accepts Protocol

	wg sync.WaitGroup // every goroutine and connection

	mu       sync.Mutex // guards the fields below
	closed   bool
	services map[string]*P2PListener // by name
	busy     map[peer.ID]int         // work under way, see begin
	greeting map[peer.ID]int         // streams that have not said what they want
}

// Option changes NewP2P.
type Option func(*P2P)

// WithLogger sets where refusals and failures are logged. Default: nowhere.
func WithLogger(l *slog.Logger) Option { return func(p *P2P) { p.log = l } }

// WithAccess shares the rules of who may use what. Default: rules of its own.
func WithAccess(c *access.Control) Option { return func(p *P2P) { p.access = c } }

// NewP2P starts serving tunnels on h, which must be the host of id. ps is
// where addresses given to Dial are kept; nil means the host's own. It panics
// if another P2P serves the same host: that is a mistake in the program.
func NewP2P(id peer.ID, h host.Host, ps peerstore.Peerstore, opts ...Option) *P2P {
	if ps == nil {
		ps = h.Peerstore()
	}
	p := &P2P{
		id: id, h: h, ps: ps,
		access:   new(access.Control),
		log:      slog.New(slog.DiscardHandler),
		services: map[string]*P2PListener{}, busy: map[peer.ID]int{}, greeting: map[peer.ID]int{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for _, o := range opts {
		o(p)
	}
	p.lines.log = p.log
	p.Streams.h = h
	p.dials.p = p
	inner, err := stream.Listen(h, Protocol, stream.WithBacklog(backlog))
	if err != nil {
		panic(fmt.Sprintf("tunnel: two P2Ps on one host: %v", err))
	}
	p.inner = inner
	p.wg.Go(func() { p.acceptLoop(inner, p.serveOpen) })
	return p
}

// Close removes every mount, resets every live connection with
// ReasonShutdown, and returns when the last goroutine has ended and the peers
// have the resets. Peers that do not take the reset within half a second lose
// their connection to this node; for the word that it has arrived Close waits
// another half second at most. Streams that Accept handed out are their owner's.
func (p *P2P) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.wg.Wait()
		return nil
	}
	p.closed = true
	p.mu.Unlock()
	busy := p.busyPeers()
	p.cancel() // resets every stream, each in a goroutine of its own
	err := p.inner.Close()
	p.Listeners.Close(func(ListenerInfo) bool { return true })
	done := make(chan struct{})
	go func() {
		p.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(closePatience):
		// A peer that reads nothing holds up even a reset. Its connection goes.
		for _, remote := range p.busyPeers() {
			p.h.Network().ClosePeer(remote)
		}
		<-done
	}
	p.lines.close()
	p.settle(busy)
	return err
}

// settle returns when the peers have what was sent to them so far. A reset is
// only queued, and the end of the connection, which the caller may bring about
// next, overtakes it: the peers would not learn why. Streams share one queue, so
// any answer on a later stream says that it has arrived.
func (p *P2P) settle(peers []peer.ID) {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	var wg sync.WaitGroup
	for _, remote := range peers {
		if remote == p.id || !p.dials.connected(remote) {
			continue
		}
		wg.Go(func() {
			// A refusal is an answer, too.
			c, err := stream.Dial(ctx, p.h, remote, ping.ID, stream.WithConfirm(), stream.WithAllowLimited())
			if err == nil {
				c.Close()
			}
		})
	}
	wg.Wait()
}

// busyPeers lists the peers that connections are still under way with.
func (p *P2P) busyPeers() []peer.ID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.busy))
}

// CheckProtoExists reports whether a service of this name is exposed.
func (p *P2P) CheckProtoExists(proto string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.services[proto]
	return ok
}

// begin counts work with a peer in, unless the P2P is closing. An accept loop
// has no peer.
func (p *P2P) begin(remote peer.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.wg.Add(1)
	if remote != "" {
		p.busy[remote]++
	}
	return true
}

// end counts it out.
func (p *P2P) end(remote peer.ID) {
	p.mu.Lock()
	if remote != "" {
		if p.busy[remote]--; p.busy[remote] == 0 {
			delete(p.busy, remote)
		}
	}
	p.mu.Unlock()
	p.wg.Done()
}

// greet counts a stream that has not said what it wants yet, or says that the
// peer has too many of those. A peer that no service is open to gets few: they
// cost a slot for as long as the open frame may take.
func (p *P2P) greet(remote peer.ID) bool {
	stranger := !p.access.Knows(remote)
	p.mu.Lock()
	defer p.mu.Unlock()
	if stranger && p.greeting[remote] >= strangerStreams {
		return false
	}
	p.greeting[remote]++
	return true
}

func (p *P2P) greeted(remote peer.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.greeting[remote]--; p.greeting[remote] == 0 {
		delete(p.greeting, remote)
	}
}

// acceptLoop hands each stream of l to serve, in a goroutine of its own.
func (p *P2P) acceptLoop(l net.Listener, serve func(*stream.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed: a stream listener has no other errors
		}
		s := c.(*stream.Conn)
		remote := s.RemotePeer()
		if !p.begin(remote) {
			s.ResetWithCode(ReasonShutdown.code())
			continue
		}
		go func() {
			defer p.end(remote)
			defer context.AfterFunc(p.ctx, func() { s.ResetWithCode(ReasonShutdown.code()) })()
			roomyStack()
			serve(s)
		}()
	}
}

// refused records why a connection was turned away.
func (p *P2P) refused(m *mount, remote peer.ID, e *Error) {
	p.stats.refuse(e.Reason)
	service := e.Service
	if m != nil {
		m.refuse(e)
		service = m.name
	}
	p.lines.say("connection refused", p.named(m, remote), line{service, remote, e})
}

// cut records why a connection that was being carried ended early.
func (p *P2P) cut(m *mount, remote peer.ID, e *Error) {
	p.stats.refuse(e.Reason)
	service := e.Service
	if m != nil {
		m.last.Store(e)
		service = m.name
	}
	p.lines.say("connection cut", p.named(m, remote), line{service, remote, e})
}

// named says whether the owner of this node has named a peer: to forward to it, or
// to let it use a service.
func (p *P2P) named(m *mount, remote peer.ID) bool {
	if m != nil && m.info.Kind == KindForward {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.services {
		if slices.Contains(l.cfg.Allow, remote) {
			return true
		}
	}
	return false
}

// checkName says whether a service may have this name, and whether it is also
// served raw.
func checkName(name string, custom bool) (raw bool, err error) {
	switch {
	case name == "":
		return false, fmt.Errorf("%w: it is empty; give one with --name", ErrName)
	case len(name) > maxName:
		return false, fmt.Errorf("%w: %.20q... has %d bytes, at most %d are possible", ErrName, name, len(name), maxName)
	}
	for _, r := range name {
		if r <= ' ' || r == 0x7f || r == '\ufffd' {
			return false, fmt.Errorf("%w: %q has a space or a control character", ErrName, name)
		}
	}
	if name[0] != '/' {
		return false, nil
	}
	if !custom && !strings.HasPrefix(name, "/x/") {
		return false, fmt.Errorf("%w: protocol name %q must be within '/x/' namespace; choose another, or allow a custom protocol", ErrName, name)
	}
	return true, nil
}
