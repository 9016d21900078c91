package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// The sides of the router row.
const (
	orderedStreams = "a stream each, in order"
	manyStreams    = "a stream each, 64 at once"
	rawStream      = "raw stream"
)

// routerRow compares the Router over libp2p with what a program would write
// that knows only libp2p.
func routerRow(ctx context.Context, b *bench) error {
	b.report.peer("kith's hosts", kithHostConfig)
	b.report.peer("router", "every side over kith's hosts. Routers: two p2p.Router with a typed channel, from Send to Receive. "+
		"In order: a message is read before the next one's stream is opened")
	for _, size := range []struct {
		bytes int
		name  string
		bar   float64
	}{{1 << 10, "1 KiB", 5}, {64 << 10, "64 KiB", 2}} {
		err := b.contest(ctx, contest{
			row: "router", what: "throughput, messages of " + size.name, unit: "msg/s", every: 1, rates: true,
			lines: []line{
				{ours: kithRouters, theirs: orderedStreams, bar: size.bar},
				{ours: kithRouters, theirs: manyStreams},
			},
			sides: func(ctx context.Context, s *scope) ([]side, error) { return b.routerSides(ctx, s, size.bytes) },
		})
		if err != nil {
			return err
		}
	}
	return b.contest(ctx, contest{
		row: "router", what: fmt.Sprintf("p50 of %d round trips of %d B, idle link", b.echoes, echoSize), unit: "µs", every: 1,
		lines: []line{{ours: kithRouters, theirs: rawStream, bar: 2, atMost: true}},
		sides: func(ctx context.Context, s *scope) ([]side, error) {
			near, far, err := kithHosts(ctx, s, true)
			if err != nil {
				return nil, err
			}
			raw, err := streamEcho(ctx, s, near, far)
			if err != nil {
				return nil, err
			}
			from, to, err := libp2pRouters(ctx, s, p2p.ChannelDescriptor{})
			if err != nil {
				return nil, err
			}
			return []side{{kithRouters, roundTrip(b.echoes, routerEcho(s, from, to))}, {rawStream, roundTrip(b.echoes, raw)}}, nil
		},
	})
}

func (b *bench) routerSides(ctx context.Context, s *scope, size int) (sides []side, err error) {
	from, to, err := libp2pRouters(ctx, s, bulk)
	if err != nil {
		return nil, err
	}
	sides = append(sides, side{kithRouters, routerFlow(s, from, to, size).rate(b.window)})
	for _, way := range []struct {
		name  string
		ahead int
	}{{orderedStreams, 1}, {manyStreams, 64}} {
		near, far, err := kithHosts(ctx, s, true)
		if err != nil {
			return nil, err
		}
		sides = append(sides, side{way.name, streamFlow(ctx, near, far, size, way.ahead).rate(b.window)})
	}
	return sides, nil
}

// libp2pRouters are two connected Routers over libp2p.
func libp2pRouters(ctx context.Context, s *scope, d p2p.ChannelDescriptor) (from, to *routed, err error) {
	near, far, err := kithHosts(ctx, s, false)
	if err != nil {
		return nil, nil, err
	}
	return twoRouted(ctx, s, d, func(i int) (identity.PrivKey, p2p.Transport, error) {
		h := []keyedHost{near, far}[i]
		tr, err := libp2p.New(h.Host, libp2p.Options{})
		return h.key, tr, err
	})
}

const messageProtocol protocol.ID = "/kith-bench/message/1"

// streamFlow sends each message over a stream of its own, which the receiver
// reads to its end, so many ahead of it.
func streamFlow(ctx context.Context, near, far host.Host, size, ahead int) flow {
	window, failed := make(chan struct{}, ahead), make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	far.SetStreamHandler(messageProtocol, func(s network.Stream) {
		defer s.Close()
		if data, err := io.ReadAll(s); err != nil || len(data) != size {
			fail(fmt.Errorf("%d bytes: %w", len(data), errors.Join(err, errShort)))
			return
		}
		<-window
	})
	ready := func() error {
		select {
		case window <- struct{}{}:
			return nil
		case err := <-failed:
			return err
		}
	}
	data := make([]byte, size)
	send := func() error {
		if err := ready(); err != nil {
			return err
		}
		s, err := near.NewStream(ctx, far.ID(), messageProtocol)
		if err != nil {
			return err
		}
		if _, err := s.Write(data); err != nil {
			return err
		}
		if err := s.CloseWrite(); err != nil {
			return err
		}
		go func() { // as programs should: wait for the end, or the stream leaks
			_, _ = s.Read(make([]byte, 1))
			_ = s.Close()
		}()
		return nil
	}
	return func(d time.Duration) (n int, took time.Duration, err error) {
		start := time.Now()
		for ; time.Since(start) < d; n++ {
			if err := send(); err != nil {
				return n, time.Since(start), err
			}
		}
		for range ahead { // until all of it has arrived
			if err := ready(); err != nil {
				return n, time.Since(start), err
			}
		}
		took = time.Since(start)
		for range ahead {
			<-window
		}
		return n, took, nil
	}
}

// streamEcho is a round trip over a bare stream, with a length before the message.
func streamEcho(ctx context.Context, sc *scope, near, far host.Host) (func() error, error) {
	far.SetStreamHandler(messageProtocol, func(s network.Stream) {
		defer s.Reset()
		for buf := make([]byte, 4+echoSize); ; {
			if _, err := io.ReadFull(s, buf); err != nil {
				return
			}
			if _, err := s.Write(buf); err != nil {
				return
			}
		}
	})
	s, err := near.NewStream(ctx, far.ID(), messageProtocol)
	if err != nil {
		return nil, err
	}
	sc.add(func() error { _ = s.Reset(); return nil }) // the other end may have been quicker
	buf := make([]byte, 4+echoSize)
	binary.BigEndian.PutUint32(buf, echoSize)
	return func() error {
		if _, err := s.Write(buf); err != nil {
			return err
		}
		_, err := io.ReadFull(s, buf)
		return err
	}, nil
}
