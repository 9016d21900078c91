package dispatch_test

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// Messages within a node: no network, no types.
func ExampleDispatcher() {
	d, err := dispatch.NewDispatcher(dispatch.DispatcherOptions{})
	if err != nil {
		panic(err)
	}
	if err := d.Start(); err != nil {
		panic(err)
	}
	defer d.Stop()
	ch := make(chan dispatch.Message, 10)
	d.Register(dispatch.NewSubscriber("printer", ch, true, "greeting", dispatch.DefaultWeight))
	for _, s := range []string{"hello", "hello", "good bye"} { // the second one is a duplicate
		if err := d.Put(dispatch.NewMessage("greeting", "", []byte(s))); err != nil {
			panic(err)
		}
	}
	fmt.Println(string((<-ch).Data()))
	fmt.Println(string((<-ch).Data()))
	// Output:
	// hello
	// good bye
}

// exampleService makes a node with a Service in a network within this process.
func exampleService(network *memory.Network, n int) (*dispatch.Service, *p2p.PeerManager, p2p.NodeAddress) {
	key := testKey(n) // a program has identity.LoadOrCreate
	id := key.Public().NodeID()
	transport, err := network.Listen(id)
	if err != nil {
		panic(err)
	}
	peers, err := p2p.NewPeerManager(id, addrbook.NewMemoryStore(), p2p.PeerManagerOptions{MinRetryTime: time.Second})
	if err != nil {
		panic(err)
	}
	router, err := p2p.NewRouter(p2p.RouterOptions{
		NodeInfo: p2p.NodeInfo{Network: "example", Moniker: fmt.Sprint("node", n), ListenAddr: "0.0.0.0:0"},
		PrivKey:  key, PeerManager: peers, Transports: []p2p.Transport{transport},
	})
	if err != nil {
		panic(err)
	}
	service, err := dispatch.NewService(router, dispatch.Options{Router: router, Peers: peers, Key: key})
	if err != nil {
		panic(err)
	}
	if err := service.Start(); err != nil {
		panic(err)
	}
	return service, peers, transport.Endpoints()[0].NodeAddress(id)
}

// Two nodes: what one publishes, the other gets.
func ExampleSubscribe() {
	network := memory.NewNetwork(memory.Options{})
	a, peersOfA, _ := exampleService(network, 1)
	b, peersOfB, addressOfB := exampleService(network, 2)
	defer peersOfA.Close()
	defer peersOfB.Close()
	defer a.Stop()
	defer b.Stop()

	chat, err := dispatch.Subscribe[*wrapperspb.StringValue](b, "chat", dispatch.Policy{Queue: 100, Overflow: dispatch.DropOldest})
	if err != nil {
		panic(err)
	}
	if _, err := peersOfA.Add(addressOfB); err != nil {
		panic(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	if err := a.WaitPeers(ctx, "chat", 1); err != nil {
		panic(err)
	}
	if err := a.Publish(ctx, "chat", wrapperspb.String("hello, everybody")); err != nil {
		panic(err)
	}
	for m, err := range chat.Messages(ctx) {
		if err != nil {
			panic(err)
		}
		fmt.Println(m.Message.GetValue(), m.Author == testKey(1).Public().NodeID())
		break
	}
	// Output: hello, everybody true
}

// Only to peers that can do something, and only to one of them.
func ExampleFilters() {
	network := memory.NewNetwork(memory.Options{})
	a, peers, _ := exampleService(network, 1)
	defer peers.Close()
	defer a.Stop()
	archive := dispatch.Filters(dispatch.WithChannels(0x30), dispatch.RandomPeer)
	asked := a.SendMessageToPeers("want", wrapperspb.UInt64(1000), dispatch.PriorityNormal, archive)
	fmt.Println("asked", len(asked), "peers")
	// Output: asked 0 peers
}
