package main

import (
	"context"
	"fmt"

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
	var raw, tunnel dialFunc
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
		raw = dialRaw(near, far)
		tunnel, err = b.dialTunnel(ctx, &running, s.addr())
		return err
	}
	plain := dialTCP(s.addr())
	b.report.peer("raw streams", hostConfig)
	b.report.peer("kith in process", "two kith.Node in this process, TCP only, otherwise as by default; Expose and Forward")

	for _, way := range ways {
		var ts, ss []float64
		err := b.measure(ctx, comparison{
			row: "bound", what: "throughput, " + way.name,
			ours: "tunnel", theirs: "1/(2/T+1/S)", unit: "MiB/s", bar: 0.95,
			renew: renew, every: 1,
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
func (b *bench) dialTunnel(ctx context.Context, s *scope, target string) (dialFunc, error) {
	var near, far *kith.Node
	for _, n := range []**kith.Node{&near, &far} {
		home, err := b.nodeDir()
		if err != nil {
			return nil, err
		}
		if *n, err = kith.New(kith.Config{Home: home, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}); err != nil {
			return nil, err
		}
		s.add((*n).Close)
	}
	if _, err := far.Expose(ctx, kith.Expose{Target: target, Name: "bench", Allow: []string{near.ID().String()}}); err != nil {
		return nil, err
	}
	m, err := near.Forward(ctx, kith.Forward{Peer: far.Addrs()[0], Name: "bench", Check: true})
	if err != nil {
		return nil, err
	}
	return dialTCP(m.Local), nil
}
