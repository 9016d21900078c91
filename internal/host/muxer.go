package host

import (
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	libyamux "github.com/libp2p/go-libp2p/p2p/muxer/yamux"
)

const (
	// lanRTT is the least round trip time that yamux believes in on a private
	// network.
	lanRTT = 2 * time.Millisecond
	// lanWindow is how large a stream's receive window grows there: what 10
	// Gbit/s carry in 3 ms. Elsewhere libp2p's 16 MiB apply.
	lanWindow = 4 << 20
)

// muxer is libp2p's yamux, but for connections on loopback and private
// networks. yamux doubles a stream's receive window, and reserves the memory for
// it, when the window was used up within four round trips. There a round trip is
// a fraction of a millisecond, so that the window stays at its first 256 KiB, or
// not, by luck, and the sender stops and waits. With a floor of 2 ms every stream
// that moves more than 32 MB a second gets a larger one; all of it is counted,
// and refused above half of a peer's memory limit.
//
// yamux has no setting for that floor, but it measures as its first act on a
// connection: holding back the first write adds to what it measures, and to the
// set-up of the connection, once.
type muxer struct {
	internet, lan *libyamux.Transport
}

var _ network.Multiplexer = (*muxer)(nil)

func newMuxer() *muxer {
	lan := *libyamux.DefaultTransport.Config()
	lan.MaxStreamWindowSize = lanWindow
	lan.MeasureRTTInterval = 365 * 24 * time.Hour // the first measurement stands
	return &muxer{libyamux.DefaultTransport, (*libyamux.Transport)(&lan)}
}

// NewConn implements network.Multiplexer.
func (m *muxer) NewConn(c net.Conn, isServer bool, scope network.PeerScope) (network.MuxedConn, error) {
	if onLAN(c.RemoteAddr()) {
		return m.lan.NewConn(&heldBack{Conn: c}, isServer, scope)
	}
	return m.internet.NewConn(c, isServer, scope)
}

func onLAN(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && (t.IP.IsLoopback() || t.IP.IsPrivate() || t.IP.IsLinkLocalUnicast())
}

// heldBack delays its first write.
type heldBack struct {
	net.Conn
	once sync.Once
}

func (h *heldBack) Write(b []byte) (int, error) {
	h.once.Do(func() { time.Sleep(lanRTT) })
	return h.Conn.Write(b)
}
