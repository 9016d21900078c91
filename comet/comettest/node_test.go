package comettest_test

import (
	"bytes"
	"testing"

	"github.com/kith-p2p/kith/comet"
	"github.com/kith-p2p/kith/comet/comettest"
)

// A stand-in is enough to test a program that follows a chain and adds to it.
func TestNode(t *testing.T) {
	n := comettest.Start(t, comettest.Options{Blocks: 2})
	c, err := comet.Dial(t.Context(), n.Address(), comet.Options{Network: comettest.Network})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SubmitTx(t.Context(), []byte("a=b")); err != nil {
		t.Fatal(err)
	}
	n.AddBlock(n.Txs()...)
	b, err := c.Block(t.Context(), 3)
	if _, hash := n.Block(3); err != nil || !bytes.Equal(b.Hash, hash) || len(b.Txs) != 1 || string(b.Txs[0]) != "a=b" {
		t.Errorf("%+v, %v", b, err)
	}
	if b, hash := n.Block(4); b != nil || hash != nil {
		t.Error("a block that was not made")
	}
	n.Disconnect()
	<-c.Done()
	if c.Info().NodeID != n.ID() {
		t.Error(c.Info())
	}
}
