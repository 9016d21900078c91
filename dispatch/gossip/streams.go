package gossip

import (
	"sync/atomic"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// watchedHost is a host whose streams from peers are watched: pubsub ends one
// that sends what is no RPC, or a longer one than allowed, and tells nobody.
type watchedHost struct {
	corehost.Host
	trace *tracer
}

// SetStreamHandler is host.Host's.
func (h watchedHost) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	h.Host.SetStreamHandler(id, h.watch(handle))
}

// SetStreamHandlerMatch is host.Host's.
func (h watchedHost) SetStreamHandlerMatch(id protocol.ID, match func(protocol.ID) bool, handle network.StreamHandler) {
	h.Host.SetStreamHandlerMatch(id, match, h.watch(handle))
}

// watch is a handler that counts. pubsub's returns when the stream is at its end.
func (h watchedHost) watch(handle network.StreamHandler) network.StreamHandler {
	return func(s network.Stream) {
		w := &watchedStream{Stream: s}
		from := s.Conn().RemotePeer()
		h.trace.opened(from)
		handle(w)
		h.trace.ended(from, !w.failed.Load())
	}
}

// watchedStream notes whether reading failed: when it did not, and the stream is
// at its end, what was read was refused.
type watchedStream struct {
	network.Stream
	failed atomic.Bool
}

// Read is io.Reader's.
func (s *watchedStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if err != nil {
		s.failed.Store(true)
	}
	return n, err
}
