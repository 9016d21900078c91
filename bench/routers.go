package main

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// bytesChannel is a typed channel of byte messages.
type bytesChannel = p2p.TypedChannel[*wrapperspb.BytesValue]

// routed is a node with a Router and one channel.
type routed struct {
	id      p2p.NodeID
	manager *p2p.PeerManager
	router  *p2p.Router
	channel *bytesChannel
}

// bulk is a channel that drops nothing: a sender keeps no more on its way than
// the receiver's queue holds.
var bulk = p2p.ChannelDescriptor{
	SendPolicy: p2p.SendBlock, RecvMessageCapacity: 1<<20 + 64, SendQueueBytes: 8 << 20, SendQueueCapacity: 1 << 14,
	RecvQueueBytes: 512 << 20, RecvQueueCapacity: 1 << 20, RecvTotalBytes: 512 << 20,
}

// newRouted makes and starts a node over a transport, which ends with it.
func newRouted(s *scope, key identity.PrivKey, tr p2p.Transport, d p2p.ChannelDescriptor) (*routed, error) {
	n := &routed{id: key.Public().NodeID()}
	var err error
	if n.manager, err = p2p.NewPeerManager(n.id, addrbook.NewMemoryStore(), p2p.PeerManagerOptions{
		MinRetryTime: 10 * time.Millisecond, MaxRetryTime: 100 * time.Millisecond, DisconnectCooldownPeriod: 50 * time.Millisecond,
	}); err != nil {
		return nil, err
	}
	s.add(func() error {
		n.manager.Close()
		return nil
	})
	if n.router, err = p2p.NewRouter(p2p.RouterOptions{
		NodeInfo: p2p.NodeInfo{Network: "bench", Moniker: "bench", ListenAddr: "127.0.0.1:1"}, PrivKey: key, PeerManager: n.manager,
		Transports: []p2p.Transport{tr}, Limits: &connmgr.Limits{},
	}); err != nil {
		return nil, err
	}
	s.add(func() error {
		n.router.Stop()
		return nil
	})
	if n.channel, err = p2p.OpenTyped[*wrapperspb.BytesValue](n.router, 0x10, p2p.WithDescriptor(d)); err != nil {
		return nil, err
	}
	return n, n.router.Start()
}

// meet makes a node dial another and waits until they are connected.
func meet(ctx context.Context, from, to *routed, at p2p.NodeAddress) error {
	if _, err := from.manager.Add(at); err != nil {
		return err
	}
	up := func(n *routed, id p2p.NodeID) bool {
		for _, p := range n.router.Stats().Peers {
			if p.ID == id {
				return n.manager.Status(id) == p2p.PeerStatusUp
			}
		}
		return false
	}
	return waitFor(ctx, "two Routers that are connected", func() bool { return up(from, to.id) && up(to, from.id) })
}

// twoRouted are two connected nodes, over what transport makes for the first and
// the second.
func twoRouted(ctx context.Context, s *scope, d p2p.ChannelDescriptor, transport func(i int) (identity.PrivKey, p2p.Transport, error)) (from, to *routed, err error) {
	var at p2p.NodeAddress
	for i, n := range []**routed{&from, &to} {
		key, tr, err := transport(i)
		if err != nil {
			return nil, nil, err
		}
		s.add(tr.Close)
		at = tr.Endpoints()[0].NodeAddress(key.Public().NodeID())
		if *n, err = newRouted(s, key, tr, d); err != nil {
			return nil, nil, err
		}
	}
	return from, to, meet(ctx, from, to, at)
}

// waitFor waits for a condition.
func waitFor(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
	return nil
}

// encoded is a message of so many bytes on the wire.
func encoded(size int) *wrapperspb.BytesValue {
	m := wrapperspb.Bytes(make([]byte, size))
	for proto.Size(m) > size {
		m.Value = m.Value[1:]
	}
	return m
}

// routerFlow sends from one Router to another, through typed channels.
func routerFlow(s *scope, from, to *routed, size int) flow {
	ctx, cancel := context.WithCancel(context.Background())
	batch := max(1, batchBytes/size)
	credits := make(chan struct{}, (4<<20)/(batch*size)) // 4 MiB on their way
	ended := make(chan error, 1)
	go func() {
		n := 0
		for _, err := range to.channel.Receive(ctx) {
			if err != nil {
				ended <- err
				return
			}
			if n++; n%batch == 0 {
				<-credits
			}
		}
		ended <- ctx.Err()
	}()
	s.add(func() error {
		cancel()
		<-ended
		return nil
	})
	m := encoded(size)
	credit := func() error {
		select {
		case credits <- struct{}{}:
			return nil
		case err := <-ended:
			ended <- err
			return fmt.Errorf("receive: %w", err)
		}
	}
	return func(d time.Duration) (n int, took time.Duration, err error) {
		start := time.Now()
		for time.Since(start) < d {
			if err := credit(); err != nil {
				return n, time.Since(start), err
			}
			for range batch {
				if err := from.channel.Send(ctx, to.id, m); err != nil {
					return n, time.Since(start), err
				}
			}
			n += batch
		}
		for range cap(credits) { // until all of it has arrived
			if err := credit(); err != nil {
				return n, time.Since(start), err
			}
		}
		took = time.Since(start)
		for range cap(credits) {
			<-credits
		}
		return n, took, nil
	}
}

// routerEcho is a round trip from one Router to another, through typed channels.
func routerEcho(s *scope, from, to *routed) func() error {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for in, err := range to.channel.Receive(ctx) {
			if err != nil {
				return
			}
			_ = to.channel.TrySend(from.id, in.Message) // one is on its way at a time
		}
	}()
	next, done := iter.Pull2(from.channel.Receive(ctx))
	s.add(func() error {
		cancel()
		done()
		<-ended
		return nil
	})
	m := wrapperspb.Bytes(make([]byte, echoSize))
	return func() error {
		if err := from.channel.Send(ctx, to.id, m); err != nil {
			return err
		}
		_, err, _ := next()
		return err
	}
}
