// Package mconn is the message transport that speaks with Tendermint and
// CometBFT nodes (v0.34 to v1.0), byte for byte: SecretConnection (X25519,
// Merlin, ChaCha20-Poly1305), the node info exchange, and MConnection's packets.
// Two kith nodes speak more over the same handshake: larger frames and packets,
// channels above 0x7F, further listen addresses, and a goodbye that says why.
// The wire is drawn at the head of secret.go, frame.go, packet.go and nodeinfo.go,
// and told as a whole in spec.md.
//
// A Router takes it as any p2p.Transport:
//
//	t, err := mconn.New(mconn.Options{Listen: "0.0.0.0:26656"})
//	router, err := p2p.NewRouter(p2p.RouterOptions{Transports: []p2p.Transport{t}, ...})
//
// Alone, a connection is used like this:
//
//	c, err := t.Dial(ctx, endpoint)
//	peer, key, err := c.Handshake(ctx, ourInfo, ourKey)  // then see whether key is who was dialled
//	go func() { for { ch, message, err := c.ReceiveMessage() ... } }()
//	err = c.SendMessage(0x40, statusRequest)
//
// # The caller's duties
//
// One goroutine receives, for as long as the connection is to live: it is the read
// loop, and pings are answered only while it comes back to ReceiveMessage
// without delay. One goroutine sends. The key that Handshake returns is proved,
// but whether it is the one that was dialled is the caller's to check, and so are
// network, block version and channels. SetChannelLimits, if called, comes between
// Handshake and the first ReceiveMessage.
//
// # What it guarantees
//
// Nothing the peer says is believed before it proved its key: up to then at most
// 12 KB are held for it, and the handshake has a deadline. A message is whole,
// in order within its channel, and from that peer, or the connection ends: a frame
// that was changed, repeated, left out or moved does not open. What the
// connection cannot tell is an end that somebody on the way made up by closing
// TCP, except towards a kith node that said goodbye.
//
// Memory per connection: 12 KB when idle; while it is busy up to 128 KiB to read
// and 170 KB to write, lent from pools; and for each channel at most the message
// under way, which grows with what has come and never beyond the channel's limit.
// Besides what the user starts there is no goroutine per connection: pings and
// pongs are of timers, and take one for as long as writing them does.
//
// Whatever a peer does wrong ends its connection, no other, with the error of its
// fault, and counts in Transport.Faults. A kith node is told what it was.
//
// What a peer can make us do is bounded: pings are answered at most 10 times a
// second however many come, without the read loop ever waiting for the writer, and
// packets that carry nothing end the connection above 1,000 at once and 100 a second
// (ErrFlood). Empty messages are messages: they take no memory, and a million of
// them about a tenth of a second.
//
// # Speed
//
// Packets are put densely into frames, frames are sealed and written up to 64 KiB
// at a time, and read as they come, up to 128 KiB; beside sealing and opening a byte
// is copied once on either side. The batch shrinks to what drains
// within 2 ms, and the kernel holds at most 16 KiB that TCP has not sent (on
// Linux), so that nothing queues behind the Router's scheduler. Nothing waits
// for a timer: Flush writes. bench_test.go measures all of it beside the ceiling
// that cipher and TCP set. Who decodes messages should give them back with
// Recycle.
package mconn
