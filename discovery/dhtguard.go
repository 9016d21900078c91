package discovery

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
)

var errGuardClosed = errors.New("discovery: the DHT has ended")

// guard is the host as kad-dht sees it: with the peerstore of one net, and
// knowing what kad-dht does with it, so that nothing is left at the end. kad-dht
// leaves its handlers in place, its streams open, and does not wait for its own
// calls.
type guard struct {
	host.Host
	peers *netPeers

	busy sync.WaitGroup // calls of kad-dht, and its handlers; added to under mu

	mu       sync.Mutex // guards the fields below
	closed   bool
	streams  map[*guarded]struct{}
	handlers []protocol.ID
}

func newGuard(h host.Host, r *netRules, hide func(peer.ID) bool) *guard {
	return &guard{Host: h, peers: &netPeers{h.Peerstore(), r, hide}, streams: map[*guarded]struct{}{}}
}

// Peerstore implements host.Host.
func (g *guard) Peerstore() peerstore.Peerstore { return g.peers }

// guarded is a stream of kad-dht.
type guarded struct {
	network.Stream
	g *guard
}

func (g *guard) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.busy.Add(1)
	return true
}

// Connect implements host.Host.
func (g *guard) Connect(ctx context.Context, p peer.AddrInfo) error {
	if !g.enter() {
		return errGuardClosed
	}
	defer g.busy.Done()
	return g.Host.Connect(ctx, p)
}

// NewStream implements host.Host.
func (g *guard) NewStream(ctx context.Context, p peer.ID, protos ...protocol.ID) (network.Stream, error) {
	if !g.enter() {
		return nil, errGuardClosed
	}
	defer g.busy.Done()
	s, err := g.Host.NewStream(ctx, p, protos...)
	if err != nil {
		return nil, err
	}
	return g.keep(s)
}

func (g *guard) keep(s network.Stream) (*guarded, error) {
	k := &guarded{s, g}
	g.mu.Lock()
	closed := g.closed
	if !closed {
		g.streams[k] = struct{}{}
	}
	g.mu.Unlock()
	if closed {
		_ = s.Reset()
		return nil, errGuardClosed
	}
	return k, nil
}

func (s *guarded) forget() {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	delete(s.g.streams, s)
}

// Close implements network.Stream.
func (s *guarded) Close() error {
	s.forget()
	return s.Stream.Close()
}

// Reset implements network.Stream.
func (s *guarded) Reset() error {
	s.forget()
	return s.Stream.Reset()
}

// ResetWithError implements network.Stream.
func (s *guarded) ResetWithError(code network.StreamErrorCode) error {
	s.forget()
	return s.Stream.ResetWithError(code)
}

// SetStreamHandler implements host.Host.
func (g *guard) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	g.mu.Lock()
	g.handlers = append(g.handlers, id)
	g.mu.Unlock()
	g.Host.SetStreamHandler(id, func(s network.Stream) {
		if !g.enter() {
			_ = s.Reset()
			return
		}
		defer g.busy.Done()
		if k, err := g.keep(s); err == nil {
			defer k.forget()
			handle(k)
		}
	})
}

// RemoveStreamHandler implements host.Host.
func (g *guard) RemoveStreamHandler(id protocol.ID) {
	g.Host.RemoveStreamHandler(id)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handlers = slices.DeleteFunc(g.handlers, func(h protocol.ID) bool { return h == id })
}

// close lets nothing new begin, ends what there is, and waits for it. node, if
// not nil, is kad-dht's Close, which cancels its calls.
func (g *guard) close(node func() error) error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	var err error
	if node != nil {
		err = node()
	}
	g.mu.Lock()
	handlers := g.handlers
	var open []*guarded
	for s := range g.streams {
		open = append(open, s)
	}
	g.mu.Unlock()
	for _, id := range handlers {
		g.Host.RemoveStreamHandler(id)
	}
	for _, s := range open {
		_ = s.Reset()
	}
	g.busy.Wait()
	return err
}
