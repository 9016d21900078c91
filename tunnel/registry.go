package tunnel

import (
	"cmp"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Kind tells the two ends of a tunnel apart.
type Kind int

const (
	// KindExpose binds a service name to a local target.
	KindExpose Kind = iota + 1
	// KindForward binds a local socket to a service of a peer.
	KindForward
)

// String returns "expose" or "forward".
func (k Kind) String() string {
	switch k {
	case KindExpose:
		return "expose"
	case KindForward:
		return "forward"
	}
	return "unknown"
}

// ListenerInfo is a snapshot of one mount: list again for the current state.
type ListenerInfo struct {
	// ID is the mount's number in its registry, from 1.
	ID uint64
	// Kind says which end of a tunnel it is.
	Kind     Kind
	Protocol string  // the service name
	Identity peer.ID // who serves it: this node, or the peer forwarded to
	// Address is where connections come in: a local socket, or /p2p/<this
	// node> for an exposed service.
	Address ma.Multiaddr
	// TargetAddress is where they go: a local socket, or /p2p/<peer>; nil for
	// a service that a program accepts itself.
	TargetAddress ma.Multiaddr
	Since         time.Time // when it was made
	// Running is false once the mount was closed; Done is closed then.
	Running bool
	Done    <-chan struct{}
	// Closer removes the mount; live connections go on.
	Closer io.Closer
	// Registry is where the mount is listed.
	Registry *ListenerRegistry
	// Allow and AllowAny are who may use an exposed service.
	Allow    []peer.ID
	AllowAny bool

	Connections       int    // live now
	Waiting           int    // accepted, and waiting for the peer
	Accepted, Refused uint64 // since the mount was made
	BytesIn, BytesOut uint64 // from and to the peer
	// LastError is why the latest connection failed; nil when none did.
	LastError *Error
}

// Mount is what a ListenerRegistry lists. Its methods are called from several
// goroutines at once.
type Mount interface {
	// Info returns a snapshot. The registry fills in ID, Since, Running, Done,
	// Closer and Registry. It must not block.
	Info() ListenerInfo
	// Close ends the mount. It is called once, when the mount has been taken
	// off the list.
	Close() error
}

// listing is one entry of a ListenerRegistry; it is the Closer of its
// ListenerInfo.
type listing struct {
	m     Mount
	r     *ListenerRegistry
	id    uint64
	since time.Time

	once   sync.Once
	err    error // of Close; written before once is done
	closed atomic.Bool
	done   chan struct{} // closed by Close
}

// Close removes the mount. Closing it again waits for the first call.
func (e *listing) Close() error {
	e.once.Do(func() {
		e.closed.Store(true)
		e.r.Deregister(e.id)
		close(e.done)
		e.err = e.m.Close()
	})
	return e.err
}

func (e *listing) info() ListenerInfo {
	i := e.m.Info()
	i.ID, i.Since, i.Registry, i.Closer, i.Done = e.id, e.since, e.r, e, e.done
	i.Running = !e.closed.Load()
	return i
}

// ListenerRegistry lists mounts. The zero value is ready; it is safe for
// concurrent use and calls mounts outside its lock.
type ListenerRegistry struct {
	mu     sync.Mutex
	last   uint64
	mounts map[uint64]*listing
}

// Register lists a mount, gives it a number and returns its first snapshot,
// whose Closer ends it. The mounts of a P2P register themselves.
func (r *ListenerRegistry) Register(m Mount) ListenerInfo { return r.register(m).info() }

func (r *ListenerRegistry) register(m Mount) *listing {
	e := &listing{m: m, r: r, since: time.Now(), done: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mounts == nil {
		r.mounts = map[uint64]*listing{}
	}
	r.last++
	e.id = r.last
	r.mounts[e.id] = e
	return e
}

// Deregister takes a mount off the list without closing it, and reports
// whether it was there.
func (r *ListenerRegistry) Deregister(id uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.mounts[id]
	delete(r.mounts, id)
	return ok
}

// Close closes every mount that matches and returns what it closed. Live
// connections go on; see StreamRegistry.Reset.
func (r *ListenerRegistry) Close(match func(ListenerInfo) bool) []ListenerInfo {
	var closed []ListenerInfo
	for _, e := range r.sorted() {
		if match(e.info()) {
			e.Close()
			closed = append(closed, e.info())
		}
	}
	return closed
}

// List returns a snapshot of every mount, in the order they were made.
func (r *ListenerRegistry) List() []ListenerInfo {
	var out []ListenerInfo
	for _, e := range r.sorted() {
		out = append(out, e.info())
	}
	return out
}

func (r *ListenerRegistry) sorted() []*listing {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.mounts))
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b *listing) int { return cmp.Compare(a.id, b.id) })
	return all
}

// StreamInfo is a snapshot of one live connection.
type StreamInfo struct {
	ID                    uint64
	Kind                  Kind
	Mount                 uint64 // ListenerInfo.ID; 0 for a connection a program opened
	Protocol              string // the service name
	LocalPeer, RemotePeer peer.ID
	// LocalAddr and RemoteAddr are the local socket and /p2p/<peer>.
	LocalAddr, RemoteAddr ma.Multiaddr
	// Local and Remote are the two ends: where the connection came from and
	// where it goes, as kubo prints them.
	Local, Remote     ma.Multiaddr
	Registry          *StreamRegistry
	BytesIn, BytesOut uint64 // from and to the peer
	Since             time.Time
	// Path is the multiaddr the peer is reached by; nil within this node, and
	// while the connection waits.
	Path    ma.Multiaddr
	Relayed bool
	// Waiting: the connection was accepted here and has no stream yet, because
	// the peer is being redialled.
	Waiting bool
	// LastError is why it is being cut, or why the last attempt to reach the
	// peer failed while it waits; nil while it is well.
	LastError *Error
}

// Connection is what a StreamRegistry lists. Its methods are called from
// several goroutines at once.
type Connection interface {
	// RemotePeer says whose connection is kept from trimming. It is constant.
	RemotePeer() peer.ID
	// Info returns a snapshot. The registry fills in ID, Since and Registry. It
	// must not block.
	Info() StreamInfo
	// Cut ends the connection for a reason. It does nothing after the end.
	Cut(*Error)
}

// active is one entry of a StreamRegistry.
type active struct {
	c     Connection
	id    uint64
	peer  peer.ID
	since time.Time
}

// StreamRegistry lists live connections and keeps libp2p from trimming what
// they run on. It is safe for concurrent use and calls connections outside its
// lock.
type StreamRegistry struct {
	h host.Host

	mu      sync.Mutex
	next    uint64 // the first is 0, as in kubo
	streams map[uint64]active
	perPeer map[peer.ID]int
}

// Register lists a connection, protects its peer from trimming, and returns its
// number. The connections of a P2P register themselves.
func (r *StreamRegistry) Register(c Connection) (id uint64) {
	p, now := c.RemotePeer(), time.Now()
	r.mu.Lock()
	if r.streams == nil {
		r.streams = map[uint64]active{}
		r.perPeer = map[peer.ID]int{}
	}
	id = r.next
	r.next++
	r.streams[id] = active{c, id, p, now}
	r.perPeer[p]++
	first := r.perPeer[p] == 1
	r.mu.Unlock()
	if first {
		r.h.ConnManager().Protect(p, protectTag)
	}
	return id
}

// Deregister takes an ended connection off the list, and reports whether it was
// there.
func (r *StreamRegistry) Deregister(id uint64) bool {
	r.mu.Lock()
	a, ok := r.streams[id]
	last := false
	if ok {
		delete(r.streams, id)
		if r.perPeer[a.peer]--; r.perPeer[a.peer] == 0 {
			delete(r.perPeer, a.peer)
			last = true
		}
	}
	r.mu.Unlock()
	if last {
		r.unprotect(a.peer)
	}
	return ok
}

// unprotect gives a peer free, unless a new connection to it came meanwhile.
func (r *StreamRegistry) unprotect(p peer.ID) {
	live := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.perPeer[p] > 0
	}
	for {
		r.h.ConnManager().Unprotect(p, protectTag)
		if !live() {
			return
		}
		r.h.ConnManager().Protect(p, protectTag)
		if live() {
			return
		}
	}
}

// Reset cuts one connection with ReasonClosed and reports whether it was live.
func (r *StreamRegistry) Reset(id uint64) bool {
	r.mu.Lock()
	a, ok := r.streams[id]
	r.mu.Unlock()
	if ok {
		a.c.Cut(&Error{Reason: ReasonClosed, Detail: "closed by the operator of this node"})
	}
	return ok
}

// List returns a snapshot of every live connection, oldest first.
func (r *StreamRegistry) List() []StreamInfo {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.streams))
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b active) int { return cmp.Compare(a.id, b.id) })
	out := make([]StreamInfo, 0, len(all))
	for _, a := range all {
		i := a.c.Info()
		i.ID, i.Since, i.Registry = a.id, a.since, r
		out = append(out, i)
	}
	return out
}

// Len returns the number of live connections.
func (r *StreamRegistry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.streams)
}
