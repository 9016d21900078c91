// Package rpc is request and reply between peers: one node serves methods under
// protocol IDs, others call them by peer ID.
//
//	s, err := rpc.NewServer(h, nil)                                  // on one node
//	err = s.Start("/my/upper/1.0.0", func(b []byte) ([]byte, error) { return bytes.ToUpper(b), nil })
//
//	c, err := rpc.NewClient(h, nil)                                  // on another
//	resp, err := c.Send(ctx, peerID, "/my/upper/1.0.0", []byte("hello"))
//
// Server and Client have PointSub's names and speak its plain wire, so that its
// v0.0.2 peers can be served and called. Between kith nodes they speak a framed
// protocol, offered first and described in spec.md, which has what the plain
// one lacks: errors, deadlines, cancel, headers, compression, streams of
// messages. A program does not choose; it sees the difference only where the
// plain wire cannot say something.
//
// # Typed methods and streams
//
// Handle and Call carry Go values: Protobuf messages, []byte and string as they
// are, everything else as JSON. HandleServerStream, HandleClientStream and
// HandleBidi, with CallServerStream, CallClientStream and CallBidi, carry any
// number of messages as iterators; HandleStream and Client.Open are the untyped
// form below. CallMany makes one call to many peers and waits for the first
// good answer, for a quorum, or for all. gRPC runs over streams too: see
// package peergrpc.
//
// # What is guaranteed
//
//   - A call is made once. It is made again only if the peer has certainly not
//     given it to a handler, or if it was declared Idempotent; then with growing
//     pauses, within a budget, and not before the peer asks for it.
//   - A call ends when its context does, within milliseconds, and the handler's
//     context a round trip later. Deadlines travel.
//   - Every failure is an *Error with a Code; errors.Is(err, rpc.CodeNotFound)
//     asks. A handler's text reaches the caller only if the handler made it
//     with Errorf; that of a call it made itself does not. A panic is
//     CodeInternal there and a stack in the log here.
//   - Memory follows what has come, never what a peer says will come.
//     Compressed bodies are bounded by size and by ratio as they expand.
//   - ServerConfig.Authorize decides by peer and method before a body is read.
//   - Each peer and each method has limits on calls at a time, calls a second
//     and time in queue. Who meets one is answered at once, with
//     CodeResourceExhausted and when to come back. Half a request takes no
//     place, and no peer takes all memory for requests.
//   - A peer that stalls, floods or breaks the protocol loses the stream it does
//     it on, and is counted (Faults). Others do not notice.
//   - Stop tells callers to go elsewhere, waits for the calls under way, and
//     leaves nothing registered or running.
//
// # How it works
//
// A stream carries one call at a time, and goes back to a pool after it: libp2p
// has flow control for each stream, so no call waits behind another's bytes. On
// the server one goroutine reads a request, runs the handler and writes the
// answer. A second one, to notice a cancel, is started when a handler first asks
// whether its context has ended. Small requests, and small answers, of calls that
// run at the same time leave in one piece, each on its stream. A janitor at each
// end looks for what takes too long.
//
// # Duties of the caller
//
// Stop the server and Close the client before closing the host. There is one
// Server on a host. A handler should heed its context: nothing can stop one
// that does not. End each ClientStream by Close, or by receiving to its end.
//
// Errors on the server's own side, not a peer's, are the sentinels in this
// package. Everything may be used concurrently unless it says otherwise.
package rpc
