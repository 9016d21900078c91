// Package libp2p is the message transport for the open internet: messages over the
// connections of a libp2p host, be they TCP, QUIC, WebSocket or relayed. The host
// is the caller's, and may serve other protocols beside.
//
//	t, err := libp2p.New(host, libp2p.Options{Lookup: lookup} // who is at an address, from the book)
//	router, err := p2p.NewRouter(p2p.RouterOptions{Transports: []p2p.Transport{t}, ...})
//
// A session is a control stream, for handshake, pings and goodbye, and for each
// channel and direction a stream of its own, opened by whoever sends. So channels do
// not wait for each other, neither when they are sent (p2p.ConcurrentSender) nor
// when they are received (p2p.ConcurrentReceiver). spec.md is the wire; it is drawn
// at the head of codec.go, hello.go and path.go.
//
// # Who decides what
//
// The sessions are ours, the connection under them is libp2p's: closing a
// Connection ends its streams and nothing else, and several sessions may live on one
// connection at once (when two nodes dial each other, until the Router has chosen).
// Which physical connection it is, the swarm decides; RemoteEndpoint tells. Dial
// gives libp2p the endpoint it was told to dial, clears the swarm's backoff for the
// peer, since that dial was decided by whoever keeps the retry times, and lets
// dials of the same peer become one. The host's gater and resource limits hold here
// as for everything on the host. Protect and Unprotect put a tag on the host's
// connection manager.
//
// # Who the peer is
//
// libp2p proves the key when the connection is made. The NodeID is computed from
// that key, and a hello that names another one is refused before anything else in
// it is read. Keys that are not Ed25519 have no NodeID and are refused at once. The
// key given to Handshake must be the host's.
//
// # The caller's duties
//
// The host outlives the transport and its connections. One goroutine receives, with
// ReceiveMessage or ReceiveMessages; one for each channel may send. What Handshake
// returns is proved, but whether it is the peer that was dialled, and of our
// network, is the caller's to check. SetChannelLimits, if called, comes between
// Handshake and the first ReceiveMessage.
//
// # What it guarantees
//
// Messages of one channel arrive in the order they were sent, whole, or not at all;
// between channels there is no order. What SendMessage took before Close arrives, if
// the peer reads within seconds of the last bytes.
//
// Memory follows the bytes that came, never a length that was claimed: a channel
// stream costs half a kilobyte until something came on it, 16 KiB when it is busy,
// and the message under way. What the user does not take stays in the stream's
// window, which libp2p bounds (with kith's hosts: 256 KiB at first, 4 MiB at most
// on private networks, 16 MiB elsewhere; all of it counted against the peer's
// limit). A stuck channel holds up only itself.
//
// Over QUIC that holds for one stuck channel only. A QUIC connection has one window
// for all its streams, 768 KiB at first, of which each stream may fill 512 KiB: two
// channels that nobody takes from stop everything on the connection, until one is
// taken from, or the session is given up for want of a pong. kith's hosts prefer TCP
// wherever a peer offers both.
//
// A peer that breaks the rules loses its session, with a typed error here and the
// reason in a goodbye there. Control frames are held to 100 a second.
//
// Over QUIC go-libp2p allows 256 streams at once in each direction, so a session
// there has room for about 250 channels that are in use.
package libp2p
