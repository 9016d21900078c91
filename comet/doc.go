// Package comet speaks with a CometBFT node over its own peer-to-peer wire:
// who it is, how high its chain is, its blocks, and transactions for its
// mempool. It is what `kith comet` runs on, and an example of a program on
// package p2p: a Router whose only peer is the node, over the mconn transport,
// with two typed channels.
//
//	c, err := comet.Dial(ctx, "b62e867f...@127.0.0.1:26656", comet.Options{})
//	defer c.Close()
//	for block, err := range c.Blocks(ctx, 0) { ... }
//
// The node proves its identity in the handshake; blocks are checked against
// their own headers and against the block before, but not against signatures
// of validators: this is no light client.
package comet
