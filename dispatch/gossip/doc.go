// Package gossip carries the topics of package dispatch over GossipSub
// (go-libp2p-pubsub): for networks in which not everybody is connected to
// everybody, or to nodes that are not kith.
//
//	backend, err := gossip.New(host, gossip.Options{Preset: gossip.Open})
//	defer backend.Close()
//	service, err := dispatch.NewService(router, dispatch.Options{Router: router, Peers: peers, Key: key, Backend: backend})
//	...
//	blocks, err := dispatch.Subscribe[*mypb.Block](service, "/mychain/blocks/1", dispatch.Policy{})
//	for m, err := range blocks.Messages(ctx) { ... }
//
// # On the wire
//
// A topic is a GossipSub topic of the same name, and the payload of a message is
// the Protobuf message, or the bytes, as they are: nothing of kith's own is around
// them. So any libp2p program can take part that speaks GossipSub (/meshsub/1.0.0
// to 1.3.0, or /floodsub/1.0.0), signs its messages (policy StrictSign, the
// default everywhere), and has the default message ID, author and sequence number.
//
// # What is checked
//
// Before a message is delivered or passed on: its signature, its length
// (Options.MaxMessage), and with a typed subscription that it is of the type. What
// fails is refused, counted (Stats), and lowers the score of the peer that sent it
// (see Preset): one that does so five times within an hour is not listened to any
// more, on any topic. For a message of the wrong type only its author answers,
// since peers that pass it on may have no type to check it by, and only from the
// fifty-first within an hour on: the first are left out, counted, and logged once.
// A message is decoded once, in that check.
//
// A message is remembered for two minutes. Somebody may send an old one again
// later: it is still its author's, and signed. Where that matters, have a time or
// number in the message; or dispatch.Policy.Dedup, for ten minutes; or, where all
// authors count up (not those of Rust and JavaScript),
// pubsub.NewBasicSeqnoValidator by way of Options.Options.
//
// # Before the mesh
//
// GossipSub passes messages on to the neighbours in a topic's mesh, and a peer that
// has just subscribed is none before the next heartbeat, a second later. What comes
// in between it would never get. Here it does: until the mesh has its least number
// of neighbours, and for three heartbeats after somebody subscribed, a message goes to
// all who subscribed, once more to him who brought it among them. Where there are
// more subscribers than a mesh may have, it does so only for a few seconds after we
// joined: each message goes to no more peers than a mesh has, but for that time.
//
// # A slow subscriber
//
// pubsub drops messages silently when a subscription is not read fast enough. Here
// they go straight into the subscriptions' own queues, which have policies and
// counters (dispatch.Policy); Stats.Undeliverable shows that pubsub dropped none.
//
// # The caller's duties
//
// Stop the Service before Close, and close the host after it. Connecting to peers
// is somebody else's work: GossipSub talks to those who are connected. Limited
// (relayed) connections are not used.
package gossip
