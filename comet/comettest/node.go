// Package comettest is a stand-in for a CometBFT node, for tests of programs on
// package comet: it speaks the wire over TCP on 127.0.0.1, has a chain of made-up
// blocks that fit each other, takes transactions, and can be told to misbehave.
//
//	n := comettest.Start(t, comettest.Options{Blocks: 10})
//	c, err := comet.Dial(ctx, n.Address(), comet.Options{})
//
// Nothing has to be closed: the end of the test ends it. Real nodes are tried in
// interop/cometbft.
package comettest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/pb/cometv1"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// The channels of a node: of blocks and of transactions.
const (
	BlockChannel ChannelID = 0x40
	TxChannel    ChannelID = 0x30
)

// Network is the network of a Node, unless Options.Info changes it.
const Network = "test-chain"

// The types of package p2p that Options speaks of.
type (
	NodeInfo  = p2p.NodeInfo
	ChannelID = p2p.ChannelID
)

// Options of a Node. The zero value is an honest node without blocks.
type Options struct {
	Blocks int             // how many there are at first, from height 1 on
	Info   func(*NodeInfo) // changes what it says of itself; nil: nothing
	// Refuse closes a connection after the handshake, as CometBFT does. Nil:
	// those whose network, block version or channels do not fit.
	Refuse func(peer NodeInfo) bool
	// Handle sees a message before the node does, and says whether that is all
	// that happens to it. It may send. It is called by one goroutine for each peer,
	// first with no message (nil), when a status is due.
	Handle func(p *Peer, ch ChannelID, message []byte) bool
}

// A Node is a stand-in for a CometBFT node. All methods are safe for concurrent
// use.
type Node struct {
	o         Options
	key       p2p.PrivKey
	transport *mconn.Transport
	work      sync.WaitGroup
	stop      context.Context

	mu    sync.Mutex // guards the fields below
	chain []*cometv1.Block
	txs   [][]byte // that were taken
	peers map[*Peer]struct{}
}

// A Peer is somebody who connected to a Node.
type Peer struct {
	Info NodeInfo
	conn *mconn.Connection
}

// Start starts a Node, which ends with the test.
func Start(tb testing.TB, o Options) *Node {
	tb.Helper()
	key, err := identity.Generate()
	if err != nil {
		tb.Fatal(err)
	}
	t, err := mconn.New(mconn.Options{Listen: "127.0.0.1:0", CometOnly: true})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &Node{o: o, key: key, transport: t, stop: ctx, peers: make(map[*Peer]struct{})}
	for range o.Blocks {
		n.AddBlock()
	}
	n.work.Go(n.accept)
	tb.Cleanup(func() {
		cancel()
		_ = t.Close()
		n.Disconnect()
		n.work.Wait()
	})
	return n
}

// ID is the node's identity.
func (n *Node) ID() p2p.NodeID { return n.key.Public().NodeID() }

// Address is where and who the node is: ID@127.0.0.1:port.
func (n *Node) Address() string { return fmt.Sprintf("%s@%s", n.ID(), n.HostPort()) }

// HostPort is where the node is.
func (n *Node) HostPort() string {
	return fmt.Sprintf("127.0.0.1:%d", n.transport.Endpoints()[0].Port)
}

// AddBlock makes the next block.
func (n *Node) AddBlock(txs ...[]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.chain = append(n.chain, NextBlock(n.chain, txs...))
}

// Block is the block of a height, and its hash; nil: there is none. It must not
// be changed.
func (n *Node) Block(height int64) (*cometv1.Block, []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if height < 1 || height > int64(len(n.chain)) {
		return nil, nil
	}
	b := n.chain[height-1]
	return b, HeaderHash(b.GetHeader())
}

// Txs are the transactions that were taken.
func (n *Node) Txs() [][]byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.txs)
}

// Disconnect ends the connections there are.
func (n *Node) Disconnect() {
	n.mu.Lock()
	peers := make([]*Peer, 0, len(n.peers))
	for p := range n.peers {
		peers = append(peers, p)
	}
	n.mu.Unlock()
	for _, p := range peers {
		_ = p.conn.Close()
	}
}

// accept serves the next connection, after it has seen to it that somebody accepts
// the one after that.
func (n *Node) accept() {
	c, err := n.transport.Accept()
	if err != nil {
		return
	}
	n.work.Go(n.accept)
	defer c.Close()
	n.serve(c.(*mconn.Connection))
}

func (n *Node) info() p2p.NodeInfo {
	info := p2p.NodeInfo{
		ProtocolVersion: p2p.ProtocolVersion{P2P: 9, Block: 11}, NodeID: n.ID(), ListenAddr: "tcp://" + n.HostPort(),
		Network: Network, Version: "1.0.0", Moniker: "stand-in", Channels: []p2p.ChannelID{TxChannel, BlockChannel},
	}
	if n.o.Info != nil {
		n.o.Info(&info)
	}
	return info
}

// serve is one connection, from its handshake to its end.
func (n *Node) serve(c *mconn.Connection) {
	peer, _, err := c.Handshake(n.stop, n.info(), n.key)
	if err != nil {
		return
	}
	refuse := n.o.Refuse
	if refuse == nil {
		refuse = func(peer p2p.NodeInfo) bool { return n.info().CompatibleWith(peer) != nil }
	}
	if refuse(peer) {
		return
	}
	p := &Peer{Info: peer, conn: c}
	n.mu.Lock()
	n.peers[p] = struct{}{}
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.peers, p)
		n.mu.Unlock()
	}()
	if n.stop.Err() != nil {
		return
	}
	c.SetChannelLimits(map[p2p.ChannelID]int{BlockChannel: 1 << 20, TxChannel: 4 << 20})
	// As CometBFT does: the first status comes unasked.
	if n.o.Handle == nil || !n.o.Handle(p, BlockChannel, nil) {
		p.Tell(n.status())
	}
	for {
		ch, b, err := c.ReceiveMessage()
		if err != nil {
			return
		}
		if n.o.Handle == nil || !n.o.Handle(p, ch, b) {
			n.handle(p, ch, b)
		}
	}
}

func (n *Node) status() *cometv1.BlocksyncMessage {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_StatusResponse{StatusResponse: &cometv1.StatusResponse{
		Height: int64(len(n.chain)), Base: int64(min(1, len(n.chain))),
	}}}
}

// handle is what an honest node does with a message.
func (n *Node) handle(p *Peer, ch p2p.ChannelID, b []byte) {
	if ch == TxChannel {
		var m cometv1.MempoolMessage
		if proto.Unmarshal(b, &m) == nil {
			n.mu.Lock()
			n.txs = append(n.txs, m.GetTxs().GetTxs()...)
			n.mu.Unlock()
		}
		return
	}
	var m cometv1.BlocksyncMessage
	if proto.Unmarshal(b, &m) != nil {
		return
	}
	switch q := m.GetSum().(type) {
	case *cometv1.BlocksyncMessage_StatusRequest:
		p.Tell(n.status())
	case *cometv1.BlocksyncMessage_BlockRequest:
		height := q.BlockRequest.GetHeight()
		if block, _ := n.Block(height); block != nil {
			p.Tell(&cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_BlockResponse{BlockResponse: &cometv1.BlockResponse{Block: block}}})
		} else {
			p.Tell(&cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_NoBlockResponse{NoBlockResponse: &cometv1.NoBlockResponse{Height: height}}})
		}
	}
}

// Tell sends a message on the block channel. A peer that is gone does not hear
// it. It is for Options.Handle.
func (p *Peer) Tell(m *cometv1.BlocksyncMessage) {
	if b, err := proto.Marshal(m); err == nil {
		p.Send(BlockChannel, b)
	}
}

// Send sends bytes as they are. It is for Options.Handle.
func (p *Peer) Send(ch ChannelID, message []byte) { _ = p.conn.SendMessage(ch, message) }

// Close ends the connection, without a word.
func (p *Peer) Close() { _ = p.conn.Close() }
