// Package peers is a book of connections: one shared connection for each address, and one shared gRPC channel for each
// peer, dialled when first asked for and given to everyone who asks after that.
//
//	book, err := peers.New(peers.Params{
//		Address:   ma.StringCast("/p2p/" + h.ID().String()),                                   // who we are
//		Transport: transport.New(transport.Options{Peers: stream.NewPeerNetwork(h, "/kith/bytes/1.0.0")}),
//		GRPCTransport: transport.New(transport.Options{Peers: stream.NewPeerNetwork(h, "/kith/grpc/1.0.0")}),
//	})
//	go book.Job(ctx)                                                                               // cleans up
//	defer book.Shutdown()
//
//	cc, err := book.GRPCConnection(ctx, ma.StringCast("/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."), false)
//	reply, err := pb.NewThingClient(cc).Do(ctx, request)
//
// # What it is for
//
// A node that talks with many peers asks for "the connection to X" in many places. Done by hand, that ends in two dials
// to one peer, in a look-up that waits behind a slow dial to somebody else, in connections that nobody closes, and in
// live ones that are closed. The book does it once: look-ups of what is there take well under a microsecond whatever
// else hangs; one dial is under way per address; and whatever was dialled is owned, by the book until it is removed or
// shut down.
//
// # Addresses and their security
//
// The transport says which addresses there are (see package transport). How gRPC to them is secured:
//
//	/p2p/<id>, /ip4/.../p2p/<id>   over a libp2p stream, which is encrypted and proves the peer. The channel is keyed by
//	                               the peer, and refuses whoever is not <id>. The server uses grpc.Creds(Credentials()),
//	                               and its handlers read the caller with PeerFromContext.
//	/ip4/.../tcp/..., /dns/...     with Params.Credentials, most often TLS, for the host in the address; or in plain text
//	                               if Params.Insecure says so. With neither it is a *CredentialsError.
//	/unix/...                      as it is. Who may open the socket is for its file to say; bytes do not leave the
//	                               machine, so neither of the two is needed or used.
//
// A libp2p stream belongs to one protocol, so gRPC over /p2p needs a transport of its own beside that of raw bytes:
// Params.GRPCTransport. Without it gRPC runs on the protocol of Params.Transport, which only works if the other side
// serves gRPC on that.
//
// # The life of a gRPC channel
//
// GRPCConnection makes the channel, connects it, and returns it when it is ready. From then on gRPC keeps it: it pings
// it (Params.KeepAlive, PingTTL), frees its socket after Params.Idle without a call, connects again with the next call,
// and repeats failed dials at growing intervals. A call or stream counts as long as gRPC does not know its end, so read
// streams to their end or cancel their context. Idle time is counted from the end of the last one. Job removes channels
// that have been idle for Params.Idle; calls on those fail with code Canceled: ask the book for a channel before each
// piece of work instead of keeping it.
//
// There are two things that hold dials back, and they do not add up: gRPC's own waits between the dials of one channel,
// and the transport's breakers, which answer such a dial without making it. A breaker that opens also ends the wait of
// those who look the channel up; the reset argument of GRPCConnection forgets both, once.
//
// # Duties of the caller
//
// Call Shutdown at the end. Run Job, or idle channels keep their rows. Do not close what you share unless you mean it
// for all. Give servers ServerOptions, or their defaults will cut off clients that ping (see Params.KeepAlive).
package peers
