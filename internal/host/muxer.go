package host

import (
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	libyamux "github.com/libp2p/go-libp2p/p2p/muxer/yamux"
)

// rttFloor is the least round trip time that yamux believes in.
//
// yamux doubles a stream's receive window, and reserves the memory for it, when
// the window was used up within four round trips. On a loopback or a fast local
// network a round trip is a fraction of a millisecond, so the window stays at
// its first 256 KiB, or not, by luck, and the sender stops and waits. With a
// floor of 2 ms every stream that moves more than 32 MB a second gets a larger
// one; all of it is counted, and refused above half of a peer's memory limit.
const rttFloor = 2 * time.Millisecond

// muxer is libp2p's yamux with that floor. yamux has no setting for it, but it
// measures once, as its first act on a connection: holding back the first write
// adds to what it measures, and to the set-up of each connection, once.
type muxer struct {
	t *libyamux.Transport
}

func newMuxer() *muxer {
	cfg := *libyamux.DefaultTransport.Config()
	cfg.MeasureRTTInterval = 365 * 24 * time.Hour // the first measurement stands
	return &muxer{(*libyamux.Transport)(&cfg)}
}

var _ network.Multiplexer = (*muxer)(nil)

func (m *muxer) NewConn(c net.Conn, isServer bool, scope network.PeerScope) (network.MuxedConn, error) {
	return m.t.NewConn(&heldBack{Conn: c}, isServer, scope)
}

// heldBack delays its first write.
type heldBack struct {
	net.Conn
	once sync.Once
}

func (h *heldBack) Write(b []byte) (int, error) {
	h.once.Do(func() { time.Sleep(rttFloor) })
	return h.Conn.Write(b)
}
