package main

import (
	"context"
	"fmt"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// The sides of the mconn and echo rows.
const (
	ceiling         = "ceiling"
	rawTCP          = "TCP"
	cometStack      = "CometBFT"
	cometEager      = "CometBFT, flush at once"
	cometPackets    = "CometBFT, packets of 64 KiB"
	kithConnection  = "connection"
	kithRouters     = "Routers"
	framesConn      = "connection, kith frames"
	framesRouters   = "Routers, kith frames"
	mconnTurnsAlike = 5 // turns that use the same connections
)

// mconnConfig describes the sides in the report.
const mconnConfig = "two ends in this process over loopback TCP with SecretConnection, no rate limits. " +
	"ceiling: full frames sealed from one buffer, 64 to a write, opened. connection: p2p/mconn alone, on CometBFT's wire. " +
	"Routers: two p2p.Router with a typed channel, from Send to Receive, on CometBFT's wire. kith frames: the larger frames that two kith nodes agree on"

const cometText = "SecretConnection and MConnection of v1.0.1 with its defaults but no rate limits, a send queue of 64; its reactors' decoding not counted"

// mconnRow compares throughput over mconn with CometBFT's own stack and with
// what cipher and TCP leave.
func mconnRow(ctx context.Context, b *bench) error {
	b.report.peer("mconn", mconnConfig)
	b.report.peer(cometStack, cometText)
	b.report.peer(cometPackets, "as CometBFT, but with max_packet_msg_payload_size 64 KiB instead of 1 KiB on both ends")
	for _, size := range []struct {
		bytes               int
		name                string
		connection, routers float64 // bars, of the ceiling
		comet               float64 // the Routers', of CometBFT's
		frames              float64 // those with kith frames, of CometBFT's
	}{
		{256, "256 B", 0, 0, 1.4, 0},
		{1 << 10, "1 KiB", 0.6, 0.5, 1.1, 0},
		{16 << 10, "16 KiB", 0.75, 0.65, 1.1, 1.5},
		{1 << 20, "1 MiB", 0.8, 0.7, 1.1, 1.5},
	} {
		err := b.contest(ctx, contest{
			row: "mconn", what: "throughput, messages of " + size.name, unit: "msg/s", every: mconnTurnsAlike, rates: true,
			lines: []line{
				{ours: kithConnection, theirs: ceiling, bar: size.connection},
				{ours: kithRouters, theirs: ceiling, bar: size.routers},
				{ours: kithConnection, theirs: cometStack, bar: 1.1},
				{ours: kithRouters, theirs: cometStack, bar: size.comet},
				{ours: framesConn, theirs: cometStack, bar: size.frames},
				{ours: framesRouters, theirs: cometStack, bar: size.frames},
				{ours: framesConn, theirs: cometPackets},
				{ours: framesRouters, theirs: cometPackets},
			},
			sides: func(ctx context.Context, s *scope) ([]side, error) { return b.mconnSides(ctx, s, size.bytes) },
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) mconnSides(ctx context.Context, s *scope, size int) (sides []side, err error) {
	routers := func(o mconn.Options) (flow, error) {
		from, to, err := mconnRouters(ctx, s, o, bulk)
		if err != nil {
			return nil, err
		}
		return routerFlow(s, from, to, size), nil
	}
	for _, m := range []struct {
		name string
		make func() (flow, error)
	}{
		{ceiling, func() (flow, error) { return ceilingFlow(s, size) }},
		{kithConnection, func() (flow, error) { return connectionFlow(ctx, s, cometWire, size) }},
		{cometStack, func() (flow, error) { return cometFlow(s, cometConfig(), size) }},
		{kithRouters, func() (flow, error) { return routers(cometWire) }},
		{cometPackets, func() (flow, error) { return cometFlow(s, cometLarge(), size) }},
		{framesConn, func() (flow, error) { return connectionFlow(ctx, s, mconn.Options{}, size) }},
		{framesRouters, func() (flow, error) { return routers(mconn.Options{}) }},
	} {
		f, err := m.make()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		sides = append(sides, side{m.name, f.rate(b.window)})
	}
	return sides, nil
}

// cometWire is what a kith node speaks with a CometBFT node.
var cometWire = mconn.Options{CometOnly: true}

// mconnRouters are two connected Routers over mconn.
func mconnRouters(ctx context.Context, s *scope, o mconn.Options, d p2p.ChannelDescriptor) (from, to *routed, err error) {
	o.Listen = "127.0.0.1:0"
	return twoRouted(ctx, s, d, func(i int) (identity.PrivKey, p2p.Transport, error) {
		key, err := benchKey(byte(i + 1))
		if err != nil {
			return key, nil, err
		}
		tr, err := mconn.New(o)
		return key, tr, err
	})
}

// echoRow compares round trips on an idle link.
func echoRow(ctx context.Context, b *bench) error {
	b.report.peer("mconn", mconnConfig)
	b.report.peer(cometStack, cometText)
	b.report.peer(cometEager, "as CometBFT, but with a flush throttle of 1 ns instead of 10 ms")
	return b.contest(ctx, contest{
		row: "echo", what: fmt.Sprintf("p50 of %d round trips of %d B, idle link", b.echoes, echoSize), unit: "µs", every: mconnTurnsAlike,
		lines: []line{
			{ours: kithConnection, theirs: rawTCP, bar: 3, atMost: true},
			{ours: kithRouters, theirs: rawTCP, bar: 5, atMost: true},
			{ours: framesConn, theirs: rawTCP, bar: 3, atMost: true},
			{ours: framesRouters, theirs: rawTCP, bar: 5, atMost: true},
			{ours: cometStack, theirs: rawTCP},
			{ours: cometEager, theirs: rawTCP},
		},
		sides: b.echoSides,
	})
}

func (b *bench) echoSides(ctx context.Context, s *scope) (sides []side, err error) {
	routers := func(o mconn.Options) (func() error, error) {
		from, to, err := mconnRouters(ctx, s, o, p2p.ChannelDescriptor{})
		if err != nil {
			return nil, err
		}
		return routerEcho(s, from, to), nil
	}
	eager := cometConfig()
	eager.FlushThrottle = 1
	for _, m := range []struct {
		name  string
		times int
		make  func() (func() error, error)
	}{
		{rawTCP, b.echoes, func() (func() error, error) { return tcpEcho(s) }},
		{kithConnection, b.echoes, func() (func() error, error) { return connectionEcho(ctx, s, cometWire) }},
		{kithRouters, b.echoes, func() (func() error, error) { return routers(cometWire) }},
		{framesConn, b.echoes, func() (func() error, error) { return connectionEcho(ctx, s, mconn.Options{}) }},
		{framesRouters, b.echoes, func() (func() error, error) { return routers(mconn.Options{}) }},
		// Its default makes each wait for ten milliseconds, twice: a few will do.
		{cometStack, max(3, b.echoes/100), func() (func() error, error) { return cometEcho(s, cometConfig()) }},
		{cometEager, b.echoes, func() (func() error, error) { return cometEcho(s, eager) }},
	} {
		round, err := m.make()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		sides = append(sides, side{m.name, roundTrip(m.times, round)})
	}
	return sides, nil
}
