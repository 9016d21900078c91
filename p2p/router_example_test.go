package p2p_test

import (
	"context"
	"errors"
	"fmt"
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

	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	reply, err := ask.Request(ctx, up.NodeID, wrapperspb.String("world"))
	fmt.Println(reply.GetValue(), err)
	// Output:
	// the peer is up
	// hello, world <nil>
}

// echo is the reactor of ADR 062: it pings all peers every 5 s, answers pings, and
// reports peers that say something else.
func echo(ctx context.Context, channel *p2p.Channel, name string, said func(string)) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			select {
			case channel.Out <- p2p.Envelope{Broadcast: true, Message: wrapperspb.String("ping")}:
			case <-channel.Done():
				return
			}
		case e, ok := <-channel.In:
			if !ok {
				return
			}
			switch m := e.Message.(*wrapperspb.StringValue); m.Value {
			case "ping":
				said(name + " is asked")
				channel.Out <- p2p.Envelope{To: e.From, Message: wrapperspb.String("pong")}
			case "pong":
				said(name + " is answered")
			default:
				channel.Error <- p2p.PeerError{NodeID: e.From, Err: errors.New("what is " + m.Value + "?")}
			}
		case <-ctx.Done():
			return
		}
	}
}

func ExampleRouter_OpenChannel() {
	network := memory.NewNetwork(memory.Options{})
	router, peers, _ := exampleNode(network, 1)
	defer peers.Close()
	channel, err := router.OpenChannel(0x11, new(wrapperspb.StringValue))
	if err != nil {
		panic(err)
	}
	if err := router.Start(); err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		echo(ctx, channel, "one", func(what string) { fmt.Println(what) })
	}()
	stop()
	<-done
	fmt.Println(router.Stop())
	// Output: <nil>
}

// The echo reactor of the example, on two nodes, for 12 s of virtual time.
func TestEchoReactor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memory.NewNetwork(memory.Options{})
		a, peersOfA, _ := exampleNode(network, 1)
		b, peersOfB, addressOfB := exampleNode(network, 2)
		count := make(map[string]int)
		heard := make(chan string, 100)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{}, 2)
		for name, r := range map[string]*p2p.Router{"a": a, "b": b} {
			channel, err := r.OpenChannel(0x11, new(wrapperspb.StringValue))
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Start(); err != nil {
				t.Fatal(err)
			}
			go func() {
				echo(ctx, channel, name, func(what string) { heard <- what })
				done <- struct{}{}
			}()
			if name == "a" {
				defer func() { <-channel.Done() }()
			}
		}
		if _, err := peersOfA.Add(addressOfB); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Second)
		synctest.Wait()
		stop()
		<-done
		<-done
		close(heard)
		for what := range heard {
			count[what]++
		}
		if len(count) != 4 {
			t.Errorf("%v", count)
		}
		for what, n := range count {
			if n != 2 {
				t.Errorf("%s %d times", what, n)
			}
		}
		a.Stop()
		b.Stop()
		peersOfA.Close()
		peersOfB.Close()
	})
}
