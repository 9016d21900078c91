// Package dispatch hands messages to whoever subscribed to their type: inside a
// node, between direct peers, and, as topics, across a network. Its shape is that
// of Nebulas' NetService and Dispatcher.
//
// # The sixty-second program
//
//	router, err := p2p.NewRouter(...)                        // see package p2p
//	service, err := dispatch.NewService(router, dispatch.Options{Router: router, Peers: peers, Key: key})
//	blocks, err := dispatch.Subscribe[*mypb.Block](service, "blocks", dispatch.Policy{Queue: 100})
//	err = service.Start()                                    // the dispatcher, then the router
//	defer service.Stop()                                     // the router, then the dispatcher
//
//	err = service.Publish(ctx, "blocks", block)              // to all who subscribed, wherever
//	told := service.Broadcast("blocks", block, dispatch.PriorityHigh) // to direct peers
//	for m, err := range blocks.Messages(ctx) {
//		if err != nil {
//			break // the context ended, or the service was stopped
//		}
//		use(m.Message, m.Author)
//	}
//
// # The parts
//
// A Dispatcher is within the node: Put takes a message, one loop hands it to the
// Subscribers of its type. A Service puts peers around it: what it sends goes over
// three channels of a p2p.Router, one for each Priority, and what arrives goes into
// its Dispatcher. Topics (Publish) go beyond the direct peers: over the same
// channels, with every node passing on what it has not seen; or over a Backend, of
// which dispatch/gossip has one, for GossipSub. Programs see no difference.
//
// A subscription has a Policy: how much may wait, what happens when that is full,
// whether content that came before is wanted, how urgent and how valuable it is.
// Subscribe gives out messages of a Protobuf type, decoded once for all
// subscribers; SubscribeBytes gives out bytes; NewSubscriber has a Go channel.
//
// # Guarantees
//
// The Dispatcher's loop waits for nobody: a subscriber that is stuck loses its own
// messages, which its counts show, and no other notices. When the loop itself does
// not keep up, Put says ErrInboxFull, and what peers send waits in the Router's
// queues, where each peer has its own; no read loop ever waits. Hold slows down
// the peer that is too fast, and nobody else.
//
// A message arrives at most once from each peer that sends it; a published one
// arrives at most once at all (over GossipSub, within two minutes). Whether content that somebody else sent earlier is
// wanted again, Policy.Dedup says. The filter knows content by a SHA-256 over type
// and data before compression, forgets each message after its time, and is never
// wiped.
//
// What says "sent" says whom it was queued for; that it arrived, only an answer
// tells. Author and From are proven: From by the connection, Author by its
// signature. That nodes are of one network is checked in the handshake.
//
// Peers that send what is wanted earn the weights of its types, shared among those
// who sent it (Options.ScoreEvery); peers that send rubbish lose, and every kind of
// rubbish has a counter in ServiceStats. Everything a peer can make us keep is
// bounded.
//
// # Limits
//
// A message has up to DispatcherOptions.MaxMessage bytes, a type or topic up to
// MaxTypeName. Topics over direct channels are for small networks: every message
// crosses every connection, and clocks may be half a FilterAge apart. They do not
// mix with topics over a Backend.
//
// # The caller's duties
//
// Make the Service before the Router is started: peers learn of channels in the
// handshake. Do not change messages that were received, which others share. Receive
// from subscriptions, or close them. Stop the Service before the PeerManager and the
// Backend are closed. spec.md beside this file is the wire.
package dispatch
