package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/kith-p2p/kith"
)

// boundRow compares the tunnel with the most that its parts allow. A byte goes
// through two loopback TCP hops and one libp2p stream on the same cores, so
// with T and S as the throughput of one hop and of one stream measured alone,
// no tunnel is faster than 1/(2/T + 1/S).
func boundRow(ctx context.Context, b *bench) error {
	s, err := newService()
	if err != nil {
		return err
	}
	defer s.close()
	near, far, stop, err := twoHosts(ctx)
	if err != nil {
		return err
	}
	defer stop()
	raw, plain := dialRaw(near, far), dialTCP(s.addr())
	tunnel, shut, err := dialTunnel(ctx, b.dir, s.addr())
	if err != nil {
		return err
	}
	defer shut()
	b.report.peer("raw streams", hostConfig)
	b.report.peer("kith in process", "two kith.Node in this process, TCP only, otherwise as by default; Expose and Forward")

	for _, way := range ways {
		var ts, ss []float64
		err := b.measure(ctx, comparison{
			row: "bound", what: "throughput, " + way.name,
			ours: "tunnel", theirs: "1/(2/T+1/S)", unit: "MiB/s", bar: 0.95,
			pair: func(ctx context.Context) (o, bound float64, err error) {
				t, err := transfer(ctx, plain, way.op, b.size, readSize)
				if err != nil {
					return 0, 0, fmt.Errorf("loopback TCP: %w", err)
				}
				s, err := transfer(ctx, raw, way.op, b.size, readSize)
				if err != nil {
					return 0, 0, fmt.Errorf("raw stream: %w", err)
				}
				ts, ss = append(ts, t), append(ss, s)
				if o, err = transfer(ctx, tunnel, way.op, b.size, readSize); err != nil {
					return 0, 0, fmt.Errorf("tunnel: %w", err)
				}
				return o, 1 / (2/t + 1/s), nil
			},
			notes: func() []string {
				return []string{fmt.Sprintf("medians: T (loopback TCP) %.0f MiB/s, S (raw stream) %.0f MiB/s", quantile(ts, 0.5), quantile(ss, 0.5))}
			},
		})
		if err != nil {
			return err
		}
		if err := b.profileTransfers(ctx, "tunnel-"+way.short, tunnel, way.op); err != nil {
			return err
		}
	}
	return b.profile("tunnel-connect", func() error {
		_, err := sequence(ctx, tunnel, profiledConnections)
		return err
	})
}

// ways are the two directions of a transfer.
var ways = []struct {
	name, short string
	op          byte
}{
	{"client to service", "push", push},
	{"service to client", "pull", pull},
}

// dialTunnel runs two kith nodes in this process, with a tunnel from a local
// port of the one to target behind the other.
func dialTunnel(ctx context.Context, dir, target string) (dial dialFunc, stop func() error, err error) {
	var nodes []*kith.Node
	stop = func() error {
		var errs []error
		for _, n := range nodes {
			errs = append(errs, n.Close())
		}
		return errors.Join(errs...)
	}
	for _, name := range []string{"near", "far"} {
		n, err := kith.New(kith.Config{Home: filepath.Join(dir, name), Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true})
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		nodes = append(nodes, n)
	}
	near, far := nodes[0], nodes[1]
	if _, err := far.Expose(ctx, kith.Expose{Target: target, Name: "bench", Allow: []string{near.ID().String()}}); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	m, err := near.Forward(ctx, kith.Forward{Peer: far.Addrs()[0], Name: "bench", Check: true})
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return dialTCP(m.Local), stop, nil
}
