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
	Accepted, Refused uint64 // since the mount was made
	BytesIn, BytesOut uint64 // from and to the peer
	// LastError is why the latest connection failed; nil when none did.
	LastError *Error
}

// mount is the run-time state behind a ListenerInfo.
type mount struct {
	info  ListenerInfo // constant after registration
	name  string
	close func() error

	once     sync.Once
	err      error // of close; written before once is done
	closed   atomic.Bool
	done     chan struct{} // closed by Close
	live     atomic.Int64
	accepted atomic.Uint64
	refusals atomic.Uint64
	in, out  atomic.Uint64 // of ended connections
	last     atomic.Pointer[Error]
}

func (m *mount) refuse(e *Error) {
	m.refusals.Add(1)
	m.last.Store(e)
}

// Close removes the mount; it is the Closer of its ListenerInfo.
// Closing it again waits for the first call.
func (m *mount) Close() error {
	m.once.Do(func() {
		m.closed.Store(true)
		m.info.Registry.Deregister(m.info.ID)
		close(m.done)
		m.err = m.close()
	})
	return m.err
}

func (m *mount) snapshot() ListenerInfo {
	i := m.info
	i.Running = !m.closed.Load()
	i.Connections = int(m.live.Load())
	i.Accepted, i.Refused = m.accepted.Load(), m.refusals.Load()
	i.BytesIn, i.BytesOut = m.in.Load(), m.out.Load()
	i.LastError = m.last.Load()
	return i
}

// ListenerRegistry lists mounts. The zero value is ready; it is safe for
// concurrent use and closes mounts outside its lock.
type ListenerRegistry struct {
	mu     sync.Mutex
	last   uint64
	mounts map[uint64]*mount
}

// Register gives a mount its number and lists it. Mounts register themselves.
func (r *ListenerRegistry) Register(m *mount) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mounts == nil {
		r.mounts = map[uint64]*mount{}
	}
	r.last++
	m.info.ID, m.info.Registry, m.info.Closer = r.last, r, m
	m.info.Since = time.Now()
	m.done = make(chan struct{})
	m.info.Done = m.done
	r.mounts[m.info.ID] = m
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
	for _, m := range r.sorted() {
		if match(m.snapshot()) {
			m.Close()
			closed = append(closed, m.snapshot())
		}
	}
	return closed
}

// List returns a snapshot of every mount, in the order they were made.
func (r *ListenerRegistry) List() []ListenerInfo {
	var out []ListenerInfo
	for _, m := range r.sorted() {
		out = append(out, m.snapshot())
	}
	return out
}

func (r *ListenerRegistry) sorted() []*mount {
	r.mu.Lock()
	ms := slices.Collect(maps.Values(r.mounts))
	r.mu.Unlock()
	slices.SortFunc(ms, func(a, b *mount) int { return cmp.Compare(a.info.ID, b.info.ID) })
	return ms
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
	// Path is the multiaddr the peer is reached by; nil within this node.
	Path    ma.Multiaddr
	Relayed bool
	// LastError is why it is being cut; nil while it is well.
	LastError *Error
}

// active is the run-time state behind a StreamInfo.
type active struct {
	info    StreamInfo
	mount   *mount // may be nil
	in, out func() uint64
	fail    func(*Error)
	cause   func() *Error
}

// StreamRegistry lists live connections and keeps libp2p from trimming what
// they run on. It is safe for concurrent use.
type StreamRegistry struct {
	h host.Host

	mu      sync.Mutex
	next    uint64 // the first is 0, as in kubo
	streams map[uint64]*active
	perPeer map[peer.ID]int
}

// Register lists a connection and protects its peer from trimming.
func (r *StreamRegistry) Register(a *active) {
	r.mu.Lock()
	if r.streams == nil {
		r.streams = map[uint64]*active{}
		r.perPeer = map[peer.ID]int{}
	}
	a.info.ID, a.info.Registry, a.info.Since = r.next, r, time.Now()
	r.next++
	r.streams[a.info.ID] = a
	p := a.info.RemotePeer
	r.perPeer[p]++
	first := r.perPeer[p] == 1
	r.mu.Unlock()
	if first {
		r.h.ConnManager().Protect(p, protectTag)
	}
	if a.mount != nil {
		a.mount.live.Add(1)
		a.mount.accepted.Add(1)
	}
}

// Deregister takes an ended connection off the list.
func (r *StreamRegistry) Deregister(id uint64) {
	r.mu.Lock()
	a, ok := r.streams[id]
	delete(r.streams, id)
	last := false
	if ok {
		p := a.info.RemotePeer
		if r.perPeer[p]--; r.perPeer[p] == 0 {
			delete(r.perPeer, p)
			last = true
		}
	}
	r.mu.Unlock()
	if !ok {
		return
	}
	if last {
		r.unprotect(a.info.RemotePeer)
	}
	if m := a.mount; m != nil {
		m.live.Add(-1)
		m.in.Add(a.in())
		m.out.Add(a.out())
	}
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
		a.fail(&Error{Reason: ReasonClosed, Detail: "closed by the operator of this node"})
	}
	return ok
}

// List returns a snapshot of every live connection, oldest first.
func (r *StreamRegistry) List() []StreamInfo {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.streams))
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b *active) int { return cmp.Compare(a.info.ID, b.info.ID) })
	out := make([]StreamInfo, 0, len(all))
	for _, a := range all {
		i := a.info
		i.BytesIn, i.BytesOut = a.in(), a.out()
		i.LastError = a.cause()
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
