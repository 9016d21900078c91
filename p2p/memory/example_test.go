package memory_test

import (
	"context"
	"fmt"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// Two nodes, a connection with its handshake, a message, a reset, and the books.
func Example() {
	ctx := context.Background()
	network := memory.NewNetwork(memory.Options{})
	var (
		keys  [2]p2p.PrivKey
		nodes [2]*memory.Transport
	)
	for i := range nodes {
		keys[i], _ = identity.Generate()
		nodes[i], _ = network.Listen(keys[i].Public().NodeID())
	}
	info := func(i int) p2p.NodeInfo {
		return p2p.NodeInfo{NodeID: keys[i].Public().NodeID(), Moniker: fmt.Sprint("node ", i), Channels: []p2p.ChannelID{1}}
	}

	a, err := nodes[0].Dial(ctx, nodes[1].Endpoints()[0])
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := nodes[1].Accept()
	if err != nil {
		fmt.Println(err)
		return
	}
	shaken := make(chan error)
	go func() {
		_, _, err := b.Handshake(ctx, info(1), keys[1])
		shaken <- err
	}()
	peer, key, err := a.Handshake(ctx, info(0), keys[0])
	fmt.Println(peer.Moniker, key.NodeID() == keys[1].Public().NodeID(), err, <-shaken)

	_ = a.SendMessage(1, []byte("read"))
	_ = a.SendMessage(1, []byte("not read"))
	_, data, err := b.ReceiveMessage()
	fmt.Println(string(data), err)

	fmt.Println("reset:", network.Reset(keys[0].Public().NodeID(), keys[1].Public().NodeID()))
	_, _, err = b.ReceiveMessage()
	fmt.Println(err)
	c := network.Stats().Channels[1]
	fmt.Println("sent", c.Sent.Messages, "delivered", c.Delivered.Messages, "destroyed", c.Destroyed.Messages)
	// Output:
	// node 1 true <nil> <nil>
	// read <nil>
	// reset: 1
	// memory: connection reset
	// sent 2 delivered 1 destroyed 1
}
