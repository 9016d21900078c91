package stream

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const defaultBacklog = 128

// listeners holds the open listeners of this process, so that a second one on
// the same host and protocol is refused and a node can dial itself. A host is
// known by its protocol switch, which wrappers of a host share with it. Close
// removes the entry. Guarded by mu, never held over a call.
var listeners = struct {
	mu sync.Mutex
	m  map[listenerKey]*listener
}{m: make(map[listenerKey]*listener)}

type listenerKey struct {
	host protocol.Switch
	tag  protocol.ID
}

type listener struct {
	h     host.Host
	key   listenerKey
	addr  Addr
	done  chan struct{} // closed by Close
	queue chan *Conn    // connections that wait for Accept

	mu     sync.Mutex // orders enqueue against Close; guards closed and sends to queue
	closed bool
	once   sync.Once
}

// Listen offers the service tag on the host. Accept returns *Conn, in the order
// of arrival, as soon as the dialler has said hello. Accept and Close may be
// called concurrently. Close releases Accept with net.ErrClosed, withdraws the
// protocol and resets connections that nobody has accepted; accepted ones live
// on. Close it before the host.
//
// It returns a *net.OpError that is ErrAddrInUse if the host serves the
// protocol already; it does not block on the network.
func Listen(h host.Host, tag protocol.ID, opts ...ListenOption) (net.Listener, error) {
	cfg := listenConfig{backlog: defaultBacklog}
	for _, o := range opts {
		o.applyListen(&cfg)
	}
	addr := Addr{h.ID(), cfg.hostPort}
	l, err := listen(h, tag, addr, cfg)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: Network, Addr: addr, Err: err}
	}
	return l, nil
}

func listen(h host.Host, tag protocol.ID, addr Addr, cfg listenConfig) (*listener, error) {
	if tag == "" {
		return nil, errors.New("stream: no protocol ID given")
	}
	if cfg.backlog < 1 {
		return nil, fmt.Errorf("stream: backlog of %d: must be at least 1", cfg.backlog)
	}
	l := &listener{
		h: h, key: listenerKey{h.Mux(), tag}, addr: addr,
		done: make(chan struct{}), queue: make(chan *Conn, cfg.backlog),
	}
	listeners.mu.Lock()
	_, taken := listeners.m[l.key]
	if !taken {
		listeners.m[l.key] = l
	}
	listeners.mu.Unlock()
	if taken {
		return nil, errInUse(tag)
	}
	if slices.Contains(h.Mux().Protocols(), tag) {
		l.unregister()
		return nil, errInUse(tag)
	}
	h.SetStreamHandler(tag, l.handle)
	return l, nil
}

func errInUse(tag protocol.ID) error {
	return fmt.Errorf("%w: this host already serves %q; close the other listener or choose another name (%w)",
		ErrAddrInUse, tag, syscall.EADDRINUSE)
}

func (l *listener) unregister() {
	listeners.mu.Lock()
	defer listeners.mu.Unlock()
	delete(listeners.m, l.key)
}

// handle takes one stream from libp2p. It never blocks: the goroutine is
// libp2p's, and the stream's slot is not freed before it ends.
func (l *listener) handle(s network.Stream) {
	c := New(s)
	c.local, c.remote = l.addr, Addr{c.remotePeer, l.addr.hostPort}
	if code := l.enqueue(c); code != network.StreamNoError {
		_ = c.ResetWithCode(code)
	}
}

// enqueue offers a connection to Accept, or returns the code of the refusal.
func (l *listener) enqueue(c *Conn) network.StreamErrorCode {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return network.StreamShutdown
	}
	select {
	case l.queue <- c:
		return network.StreamNoError
	default:
		return network.StreamResourceLimitExceeded
	}
}

// Serve hands each connection of a listener made by Listen to handle, one after
// another, until the listener is closed. handle must return soon: it starts what
// takes time.
func Serve(l net.Listener, handle func(*Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // net.ErrClosed; there is no other
		}
		handle(c.(*Conn))
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done: // preferred: nothing is accepted after Close
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: Network, Addr: l.addr, Err: net.ErrClosed}
}

// Close always returns nil. A second one waits for the first.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		close(l.done)
		// Withdrawn before it is unregistered, or a new listener's handler
		// could be the one that goes.
		l.h.RemoveStreamHandler(l.key.tag)
		l.unregister()
		for {
			select {
			case c := <-l.queue:
				_ = c.ResetWithCode(network.StreamShutdown)
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

// dialSelf connects to the listener on the same host.
func dialSelf(h host.Host, tag protocol.ID, local, remote Addr) (*Conn, error) {
	listeners.mu.Lock()
	l := listeners.m[listenerKey{h.Mux(), tag}]
	listeners.mu.Unlock()
	if l == nil {
		return nil, noSuchService(remote.id, tag)
	}
	near, far := newLoopback()
	c := newConn(near, tag, local, remote)
	c.waitable = true
	c.state.Store(agreed)
	a := newConn(far, tag, l.addr, Addr{local.id, l.addr.hostPort})
	a.waitable = true
	a.state.Store(agreed)
	if code := l.enqueue(a); code != network.StreamNoError {
		return nil, MapError(&network.StreamError{ErrorCode: code, Remote: true})
	}
	return c, nil
}
