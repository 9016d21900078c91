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
// yamux has no setting for that floor, but it measures once, with its first
// ping: holding that back adds to what is measured, and to the set-up of the
// connection. (Not the first frame, whatever it is: a stream that identify opens
// at once may overtake the ping, whose round trip would then be the true one.)
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
	t, over := m.internet, c
	if onLAN(c.RemoteAddr()) {
		t, over = m.lan, &heldBack{Conn: c}
	}
	muxed, err := t.NewConn(over, isServer, scope)
	if secured, ok := c.(*securedConn); ok && err == nil {
		secured.watch(muxed)
	}
	return muxed, err
}

func onLAN(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && (t.IP.IsLoopback() || t.IP.IsPrivate() || t.IP.IsLinkLocalUnicast())
}

// heldBack delays the first ping that goes through it.
type heldBack struct {
	net.Conn
	once sync.Once
}

func (h *heldBack) Write(frame []byte) (int, error) {
	if isPing(frame) {
		h.once.Do(func() { time.Sleep(lanRTT) })
	}
	return h.Conn.Write(frame)
}

// isPing says whether a frame of yamux is a ping, not the answer to one. yamux
// writes a frame at once, its header first: version 0, type, flags (2 bytes),
// stream (4), value (4); spec.md of go-yamux.
func isPing(frame []byte) bool {
	const ping, syn = 2, 1
	return len(frame) == 12 && frame[0] == 0 && frame[1] == ping && frame[2] == 0 && frame[3] == syn
}
