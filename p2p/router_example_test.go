package p2p_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// exampleNode makes a node in a network within this process.
func exampleNode(network *memory.Network, n int) (*p2p.Router, *p2p.PeerManager, p2p.NodeAddress) {
	key := testKey(n) // a program has identity.LoadOrCreate
	id := key.Public().NodeID()
	transport, err := network.Listen(id)
	if err != nil {
		panic(err)
	}
	peers, err := p2p.NewPeerManager(id, addrbook.NewMemoryStore(), p2p.PeerManagerOptions{
		MinRetryTime: time.Second, DisconnectCooldownPeriod: time.Second,
	})
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
	return router, peers, transport.Endpoints()[0].NodeAddress(id)
}

// Two nodes; one asks the other.
func ExampleOpenTyped() {
	network := memory.NewNetwork(memory.Options{})
	a, peersOfA, _ := exampleNode(network, 1)
	b, peersOfB, addressOfB := exampleNode(network, 2)
	defer peersOfA.Close()
	defer peersOfB.Close()

	// Channels first: peers learn of them in the handshake.
	ask, err := p2p.OpenTyped[*wrapperspb.StringValue](a, 0x10, p2p.WithRequests())
	if err != nil {
		panic(err)
	}
	answer, err := p2p.OpenTyped[*wrapperspb.StringValue](b, 0x10, p2p.WithRequests())
	if err != nil {
		panic(err)
	}
	ups := peersOfA.Subscribe()
	defer ups.Close()
	for _, r := range []*p2p.Router{a, b} {
		if err := r.Start(); err != nil {
			panic(err)
		}
		defer r.Stop()
	}
	go func() {
		for in, err := range answer.Receive(context.Background()) {
			if err != nil {
				return // the Router stopped
			}
			if in.IsRequest() {
				_ = in.Reply(in.Context(), wrapperspb.String("hello, "+in.Message.Value))
			}
		}
	}()
	if _, err := peersOfA.Add(addressOfB); err != nil {
		panic(err)
	}
	up := <-ups.Updates()
	fmt.Println("the peer is", up.Status)

	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	reply, err := ask.Request(ctx, up.NodeID, wrapperspb.String("world"))
	fmt.Println(reply.GetValue(), err)
	// Output:
	// the peer is up
	// hello, world <nil>
}

// echo is the reactor of ADR 062: it pings a peer that comes up, and all peers every
// 5 s; it answers pings, and reports peers that say anything else. It ends with its
// context, or when the Router stops. said hears what happens.
func echo(ctx context.Context, channel *p2p.Channel, peers *p2p.PeerUpdates, said func(what string, peer p2p.NodeID)) {
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	send := func(e p2p.Envelope) {
		select {
		case channel.Out <- e: // queued for the peer, or dropped and counted: it does not wait for the peer
		case <-channel.Done():
		}
	}
	ping, pong := wrapperspb.String("ping"), wrapperspb.String("pong")
	for {
		select {
		case up, ok := <-peers.Updates():
			if !ok {
				return // the PeerManager was closed
			}
			if up.Status == p2p.PeerStatusUp {
				send(p2p.Envelope{To: up.NodeID, Message: ping})
			}
		case <-ticker.C:
			send(p2p.Envelope{Broadcast: true, Message: ping})
		case e, ok := <-channel.In:
			if !ok {
				return // the channel was closed, or the Router stopped
			}
			switch m := e.Message.(*wrapperspb.StringValue); m.GetValue() {
			case "ping":
				said("ping", e.From)
				send(p2p.Envelope{To: e.From, Message: pong})
			case "pong":
				said("pong", e.From)
			default:
				said("unknown", e.From)
				select {
				case channel.Error <- p2p.PeerError{NodeID: e.From, Err: fmt.Errorf("unexpected message %q", m.GetValue())}:
				case <-channel.Done():
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// The echo reactor on two nodes. The first pings the second and is answered; then
// the second says what the first does not know, which costs it a point.
func ExampleRouter_OpenChannel() {
	network := memory.NewNetwork(memory.Options{})
	one, peersOfOne, _ := exampleNode(network, 1)
	two, peersOfTwo, addressOfTwo := exampleNode(network, 2)
	defer peersOfOne.Close()
	defer peersOfTwo.Close()
	ctx, stop := context.WithCancel(context.Background())
	var reactors sync.WaitGroup
	heard := make(chan string, 16)
	run := func(r *p2p.Router, pm *p2p.PeerManager, said func(string, p2p.NodeID)) *p2p.Channel {
		channel, err := r.OpenChannel(0x11, new(wrapperspb.StringValue))
		if err != nil {
			panic(err)
		}
		updates := pm.Subscribe()
		reactors.Go(func() {
			defer updates.Close()
			echo(ctx, channel, updates, said)
		})
		if err := r.Start(); err != nil {
			panic(err)
		}
		return channel
	}
	var ponged sync.Once
	run(one, peersOfOne, func(what string, _ p2p.NodeID) {
		switch what {
		case "pong": // pings, and with them pongs, go on for as long as this takes
			ponged.Do(func() { heard <- what })
		case "unknown":
			heard <- what
		}
	})
	channelOfTwo := run(two, peersOfTwo, func(string, p2p.NodeID) {})

	if _, err := peersOfOne.Add(addressOfTwo); err != nil {
		panic(err)
	}
	fmt.Println("node two said:", <-heard)
	channelOfTwo.Out <- p2p.Envelope{Broadcast: true, Message: wrapperspb.String("what's up?")}
	fmt.Println("node two said:", <-heard)
	for peersOfOne.Scores()[addressOfTwo.NodeID] == 0 { // the report is on its way
		runtime.Gosched()
	}
	fmt.Println("score of node two:", peersOfOne.Scores()[addressOfTwo.NodeID])

	stop()
	reactors.Wait()
	fmt.Println(one.Stop(), two.Stop())
	// Output:
	// node two said: pong
	// node two said: unknown
	// score of node two: -1
	// <nil> <nil>
}

// The echo reactor of the example, on two nodes, for 12 s of virtual time: each
// pings when the other comes up, and twice later.
func TestEchoReactor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memory.NewNetwork(memory.Options{})
		a, peersOfA, _ := exampleNode(network, 1)
		b, peersOfB, addressOfB := exampleNode(network, 2)
		heard := make(chan string, 100)
		ctx, stop := context.WithCancel(t.Context())
		var reactors sync.WaitGroup
		for name, n := range map[string]struct {
			r  *p2p.Router
			pm *p2p.PeerManager
		}{"a": {a, peersOfA}, "b": {b, peersOfB}} {
			channel, err := n.r.OpenChannel(0x11, new(wrapperspb.StringValue))
			if err != nil {
				t.Fatal(err)
			}
			updates := n.pm.Subscribe()
			if err := n.r.Start(); err != nil {
				t.Fatal(err)
			}
			reactors.Go(func() {
				defer updates.Close()
				echo(ctx, channel, updates, func(what string, _ p2p.NodeID) { heard <- name + " hears " + what })
			})
		}
		if _, err := peersOfA.Add(addressOfB); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Second)
		synctest.Wait()
		stop()
		reactors.Wait()
		close(heard)
		count := make(map[string]int)
		for what := range heard {
			count[what]++
		}
		if len(count) != 4 {
			t.Errorf("%v", count)
		}
		for what, n := range count {
			if n != 3 {
				t.Errorf("%s %d times", what, n)
			}
		}
		a.Stop()
		b.Stop()
		peersOfA.Close()
		peersOfB.Close()
	})
}
