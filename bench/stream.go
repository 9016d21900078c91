package main

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const streamProtocol protocol.ID = "/bench/stream/1.0.0"

// streamRow compares stream's net.Conn with the libp2p stream below it, over
// the same connection between the same two hosts.
func streamRow(ctx context.Context, b *bench) error {
	var ours, theirs dialFunc
	var running scope
	defer running.end()
	renew := func(ctx context.Context) error {
		if err := running.end(); err != nil {
			return err
		}
		near, far, err := plainHosts(ctx, &running)
		if err != nil {
			return err
		}
		theirs = dialRaw(near, far)
		ours, err = dialStream(&running, near, far)
		return err
	}
	b.report.peer("raw streams", hostConfig)

	for _, chunk := range []int{64 << 10, 256 << 10} {
		err := b.measure(ctx, comparison{
			row: "stream", what: fmt.Sprintf("throughput, %d KiB writes", chunk>>10),
			ours: "stream", theirs: "raw stream", unit: "MiB/s", bar: 0.93,
			renew: renew, every: 1,
			pair: func(ctx context.Context) (o, t float64, err error) {
				if o, err = transfer(ctx, ours, push, b.size, chunk); err == nil {
					t, err = transfer(ctx, theirs, push, b.size, chunk)
				}
				return o, t, err
			},
			notes: func() []string {
				return []string{fmt.Sprintf("stream.Conn itself makes %v allocations for a Write and a Read of %d KiB", allocations(chunk), chunk>>10)}
			},
		})
		if err != nil {
			return err
		}
	}
	return b.profileTransfers(ctx, "stream", ours, push)
}

// dialStream serves the traffic on far with stream.Listen, and opens
// connections with stream.Dial.
func dialStream(s *scope, near, far host.Host) (dialFunc, error) {
	l, err := stream.Listen(far, streamProtocol)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(c) })
		}
	})
	s.add(func() error { l.Close(); wg.Wait(); return nil })
	return func(ctx context.Context) (conn, error) {
		return stream.Dial(ctx, near, far.ID(), streamProtocol)
	}, nil
}

// allocations counts what stream.Conn adds to a stream that allocates nothing.
func allocations(chunk int) float64 {
	c, buf := stream.New(still{}), make([]byte, chunk)
	return testing.AllocsPerRun(1000, func() {
		c.Write(buf)
		c.Read(buf)
	})
}

// still is a libp2p stream that gives and takes bytes without doing anything.
type still struct{ network.Stream }

func (still) Read(p []byte) (int, error)  { return len(p), nil }
func (still) Write(p []byte) (int, error) { return len(p), nil }
func (still) Protocol() protocol.ID       { return streamProtocol }
func (still) Conn() network.Conn          { return stillConn{} }

type stillConn struct{ network.Conn }

func (stillConn) LocalPeer() peer.ID  { return "" }
func (stillConn) RemotePeer() peer.ID { return "" }
