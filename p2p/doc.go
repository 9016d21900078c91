// Package p2p is the node layer: it keeps connections to the right peers and
// carries Protobuf messages on numbered channels between them, by who a peer is,
// not where. Its shape is that of Tendermint's ADR 062. It stands on transports
// that are packages of their own: p2p/mconn speaks with CometBFT nodes, p2p/memory
// is a network within one process, for tests.
//
// # The sixty-second program
//
//	key, _ := identity.Generate()
//	id := key.Public().NodeID()
//	transport, _ := mconn.New(mconn.Options{Listen: "0.0.0.0:26656"})
//	peers, _ := p2p.NewPeerManager(id, addrbook.NewMemoryStore(), p2p.PeerManagerOptions{
//		MaxConnected: 32, MaxOutgoingConnections: 8, MinRetryTime: time.Second, MaxRetryTime: time.Hour,
//	})
//	defer peers.Close()
//	router, _ := p2p.NewRouter(p2p.RouterOptions{
//		NodeInfo: p2p.NodeInfo{Network: "mynet", Moniker: "me", ListenAddr: "0.0.0.0:26656"},
//		PrivKey:  key, PeerManager: peers, Transports: []p2p.Transport{transport},
//	})
//	chat, _ := p2p.OpenTyped[*wrapperspb.StringValue](router, 0x10, p2p.WithRequests())
//	_ = router.Start()
//	defer router.Stop()
//
//	address, _ := p2p.ParseNodeAddress("mconn://" + friend + "@192.0.2.1:26656")
//	_, _ = peers.Add(address)
//	_, _ = chat.Broadcast(ctx, wrapperspb.String("hello, everybody"))
//	for in, err := range chat.Receive(ctx) {
//		if err != nil {
//			break // the context ended, or the channel closed
//		}
//		if in.IsRequest() {
//			_ = in.Reply(ctx, wrapperspb.String("yes?"))
//		}
//	}
//
// # The parts
//
// A PeerManager decides whom to dial and when, who may stay and who has to go; it
// does no networking. A Router dials, accepts, shakes hands and carries messages;
// it asks the PeerManager about everything else. Between a Router and each peer
// there is one scheduler, which is the only queue: it holds messages by channel,
// bounded in bytes and in count, and is asked before every chunk, so that an
// urgent message waits for one chunk of another at most. What arrives is queued
// as bytes, by channel and peer, and decoded by whoever receives.
//
// A channel has two faces over the same machinery. TypedChannel (OpenTyped) is the
// one to use: errors say why a message was not queued, contexts bound what waits,
// and it has requests with replies. Channel (OpenChannel) is the ADR's, with Go
// channels and wrapped messages. PEX exchanges addresses with peers.
//
// # Guarantees
//
// A message arrives at most once, whole, from the peer that it says, and in order
// with the others of its channel and peer; gaps lie where a connection was lost
// or a counter says that something was dropped. A message that a send took
// without an error is queued, not delivered: only an answer tells that.
//
// A slow or hostile peer hurts only itself. A broadcast encodes once and waits for
// nobody. Read loops run no code of users, so a receiver that does not come back
// stops no ping, no other channel and no other peer: its queue fills, and drops by
// ChannelDescriptor.ReceivePolicy. Everything that is dropped is counted by its
// reason, and the counts of Stats balance.
//
// Peers see what they do wrong in their score: what cannot be decoded is never
// delivered and held against its sender, and a PeerError that is fatal ends the
// connection. A peer of another network is forgotten and left alone for a day,
// unless it is persistent. Two kith nodes that dial each other keep one connection.
// A kith peer is told why its connection is ended; what a peer or its transport says
// of an end is within the error that the Router logs (ErrPeerClosed, around
// *mconn.GoodbyeError for example). A peer that restarted takes the place of a
// session of its own that has fallen silent.
//
// # Limits
//
// A channel carries messages of up to ChannelDescriptor.RecvMessageCapacity bytes
// (default 1 MiB), both ways; both sides should have the same. Towards one peer at
// most RouterOptions.SendQueueBytes wait, of a channel SendQueueBytes; from one
// peer RecvQueueBytes of a channel, and from all RecvTotalBytes. A channel has up
// to 4,096 requests of ours under way and 1,024 of each peer's. Peers learn in the
// handshake which channels we have: open them before Start, for those who are
// connected will not hear of later ones.
//
// # The caller's duties
//
// Stop the Router before the PeerManager is closed, and close the store after
// that. Receive from the channels that you open, or close them. Do not change a
// message while a call that sends it has not returned; afterwards you may. A
// message type with an Unmarshal of its own may keep the bytes it is given, a
// generated type never does, and its bytes are used again. Filters and loggers run
// on the connection's goroutines: they must not call Stop.
package p2p
