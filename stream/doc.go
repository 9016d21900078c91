// Package stream gives any program that speaks net.Conn and net.Listener the
// peer-to-peer network: it dials and listens by peer ID and protocol ID, over
// libp2p streams. net/http, gRPC, crypto/tls and database drivers run over it
// unmodified.
//
//	ln, err := stream.Listen(h, "/my/service/1.0.0")     // on one node
//	conn, err := stream.Dial(ctx, h, peerID, "/my/service/1.0.0") // on another
//
// # Why not the bare stream
//
// A libp2p stream looks like a net.Conn and is not one. This package closes
// the differences, over every transport of the host:
//
//   - Writers are serialised. Two concurrent writes on one yamux stream spend
//     the same flow-control window twice, and the remote then closes the whole
//     connection to the peer, with every stream on it. Readers are serialised
//     too: yamux wakes one of several blocked readers and forgets the rest.
//   - Close and deadlines release whoever is blocked, and whoever waits behind.
//   - Errors speak net's language (see the table below).
//   - Dialling says hello at once, so a silent dialler is seen by Accept and a
//     server that speaks first works. The hello is the usual multistream-select
//     one; kith writes and reads it itself, because libp2p's lazy negotiation
//     is spoilt for good by a read deadline that passes before the peer's
//     answer, and makes Close wait up to 10 s for that answer.
//   - A second Listen on one protocol is refused instead of taking over.
//
// # Errors
//
// Read and Write return io.EOF bare, and everything else as a *net.OpError:
//
//	deadline passed                 errors.Is os.ErrDeadlineExceeded; Timeout() is true
//	closed or reset here            errors.Is net.ErrClosed
//	closed for writing there        io.EOF, after the last byte
//	reset there                     errors.Is syscall.ECONNRESET; errors.As *network.StreamError has the code
//	connection to the peer lost     errors.Is syscall.ECONNRESET and network.ErrReset; never io.EOF, never a timeout
//	service refused there           errors.Is ErrNoSuchService, on the first use
//
// # Duties of the caller
//
// End every connection with Close or Reset, also after CloseRead and
// CloseWrite: an unfinished stream holds a slot of the resource manager for as
// long as the connection to the peer lives. Close listeners before the host.
// Close does not wait until the peer has read everything; who needs to know
// calls CloseWrite, reads until io.EOF, then closes. On a yamux connection
// (TCP, WebSocket, relays) the peer's writer is not told of a Close or a
// CloseRead: it stalls when its window is full. Reset tells it.
package stream
