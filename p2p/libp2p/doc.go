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
// and the message under way. A stuck channel holds up only itself, however many are
// stuck and whatever is under them: what the user does not take is bounded by credit
// for each channel, and waits in memory where it keeps nothing else from coming. That
// is 256 KiB a channel at first, 4 MiB at most where messages are taken quickly, and
// at most 16 MiB a session beyond the first 256 KiB of each channel; all of it is
// counted against the peer's limit in libp2p. (A peer of a version that knows no
// credit is held up by the windows of libp2p's streams. Over QUIC, where one window
// serves all streams of a connection, several stuck channels stop the others, then.)
//
// A peer that breaks the rules loses its session, with a typed error here and the
// reason in a goodbye there. Control frames are held to 100 a second.
//
// Over QUIC a host of go-libp2p's own making allows 256 streams at once in each
// direction, so a session with one has room for about 250 channels that are in use.
package libp2p
