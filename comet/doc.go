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
//
// # What a node can do to a Client
//
// A node is not trusted. What it sends is at most 100 MiB a message, the most
// that CometBFT's own protocol allows; a block takes its bytes, twice while it
// arrives, and 24 more for each transaction. A message that no honest node sends
// ends the connection, and every call then wraps ErrInvalid; a block that does
// not fit together is the error of the call that asked for it. A node that does
// not answer is waited for until the caller's context ends, in Blocks for
// Options.Wait.
//
// # The caller's duties
//
// Close a Client. One that lost its node does not connect again: Dial anew.
// Package comettest has a stand-in for a node, for tests.
package comet
