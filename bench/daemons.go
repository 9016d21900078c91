package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// daemons is a pair of nodes of one kind, each a process of its own, with a
// tunnel from a local port of the near one to the service behind the far one.
type daemons struct {
	name      string
	config    string // as the report shows it
	near, far *process
	dial      dialFunc // through the tunnel
}

// stop ends both processes. It does nothing for daemons that never started.
func (d *daemons) stop() error {
	if d == nil {
		return nil
	}
	return errors.Join(d.near.stop(), d.far.stop())
}

// sides measures kith, then what it is compared with, and adds up what CPU
// time that took.
func (b *bench) sides(ctx context.Context, c *costs, measure func(context.Context, *daemons) (float64, error)) (ours, theirs float64, err error) {
	one := func(d *daemons, cost *float64) (float64, error) {
		before, err := d.cpu()
		if err != nil {
			return 0, err
		}
		v, err := measure(ctx, d)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", d.name, err)
		}
		after, err := d.cpu()
		*cost += after - before
		return v, err
	}
	c.pairs++
	if ours, err = one(b.kith, &c.ours); err != nil {
		return 0, 0, err
	}
	theirs, err = one(b.other, &c.theirs)
	return ours, theirs, err
}

// kuboRow compares throughput.
func kuboRow(ctx context.Context, b *bench) error {
	for _, way := range ways {
		var cost costs
		err := b.measure(ctx, comparison{
			row: "kubo", what: "throughput, " + way.name, ours: "kith", theirs: b.otherName(), unit: "MiB/s", bar: 1.2, renew: b.renew, every: daemonPairs,
			pair: func(ctx context.Context) (float64, float64, error) {
				return b.sides(ctx, &cost, func(ctx context.Context, d *daemons) (float64, error) {
					return transfer(ctx, d.dial, way.op, b.size, readSize)
				})
			},
			notes: func() []string { return []string{cost.note(b.other.name, float64(b.size)/(1<<30), "GiB")} },
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// connectRow compares how long a new connection takes: connect, a byte there
// and back, close, one connection after another.
func connectRow(ctx context.Context, b *bench) error {
	var cost costs
	var p99s [2][]float64
	return b.measure(ctx, comparison{
		row: "connect", what: fmt.Sprintf("p50 of %d new connections", b.conns),
		ours: "kith", theirs: b.otherName(), unit: "µs", bar: 0.6, atMost: true,
		renew: b.renew, every: daemonPairs,
		pair: func(ctx context.Context) (float64, float64, error) {
			return b.sides(ctx, &cost, func(ctx context.Context, d *daemons) (float64, error) {
				took, err := sequence(ctx, d.dial, b.conns)
				side := 0
				if d == b.other {
					side = 1
				}
				p99s[side] = append(p99s[side], quantile(took, 0.99))
				return quantile(took, 0.5), err
			})
		},
		notes: func() []string {
			return []string{cost.note(b.other.name, float64(b.conns), "connection"), fmt.Sprintf("median p99: kith %s µs, %s %s µs", figure(quantile(p99s[0], 0.5)), b.other.name, figure(quantile(p99s[1], 0.5)))}
		},
	})
}

// sequence opens connections one after another and returns how many
// microseconds each took.
func sequence(ctx context.Context, dial dialFunc, n int) ([]float64, error) {
	took := make([]float64, 0, n)
	for i := range n {
		d, err := once(ctx, dial)
		if err != nil {
			return nil, fmt.Errorf("connection %d: %w", i+1, err)
		}
		took = append(took, float64(d)/float64(time.Microsecond))
	}
	return took, nil
}

// rssRow compares the memory that the nodes hold right after the load of the
// rows above: a transfer each way and a sequence of connections.
func rssRow(ctx context.Context, b *bench) error {
	if err := b.renew(ctx); err != nil { // that no earlier row has used
		return err
	}
	var cost costs
	return b.measure(ctx, comparison{
		row: "rss", what: "resident memory of both nodes", ours: "kith", theirs: b.otherName(), unit: "MiB", bar: 0.5, atMost: true,
		pair: func(ctx context.Context) (float64, float64, error) {
			return b.sides(ctx, &cost, func(ctx context.Context, d *daemons) (float64, error) {
				for _, way := range ways {
					if _, err := transfer(ctx, d.dial, way.op, b.size, readSize); err != nil {
						return 0, err
					}
				}
				if _, err := sequence(ctx, d.dial, b.conns); err != nil {
					return 0, err
				}
				near, far, err := d.memory("VmRSS")
				return near + far, err
			})
		},
		notes: func() []string { return []string{memoryNote(b.kith), memoryNote(b.other)} },
	})
}

// manyRow opens connections all at once, holds them until every one has had an
// answer or failed, asks each again, and closes them. All of them must work.
func manyRow(ctx context.Context, b *bench) error {
	if err := b.both(ctx); err != nil {
		return err
	}
	free, err := b.startKubo(ctx, "kubo without limits", map[string]any{"Swarm.ResourceMgr.Enabled": false})
	if err != nil {
		return fmt.Errorf("kubo: %w", err)
	}
	b.report.peer(free.name, free.config)
	counts := map[*daemons][]int{}
	var took []float64
	return b.measure(ctx, comparison{
		row: "many", what: "connections held at once", ours: "kith", theirs: "asked for", unit: "connections",
		bar: 1, worst: true, rounds: b.rounds,
		pair: func(ctx context.Context) (float64, float64, error) {
			for _, d := range []*daemons{b.kith, b.other, free} {
				start := time.Now()
				n, err := crowd(ctx, d.dial, b.many)
				if d == b.kith {
					took = append(took, time.Since(start).Seconds())
					if err != nil {
						fmt.Fprintf(b.progress, "(kith: %v)", err)
					}
				}
				counts[d] = append(counts[d], n)
			}
			rounds := counts[b.kith]
			return float64(rounds[len(rounds)-1]), float64(b.many), nil
		},
		notes: func() []string {
			return []string{
				fmt.Sprintf("kith held %v of %d, in %.2g s (median)", counts[b.kith], b.many, quantile(took, 0.5)),
				fmt.Sprintf("%s, as in the other rows, held %v; %s %v", b.other.name, counts[b.other], free.name, counts[free]),
				memoryNote(b.kith) + " (after this row)", memoryNote(b.other) + " (after this row)",
			}
		},
	})
}

// crowdTimeout is when a connection that neither works nor fails has failed.
const crowdTimeout = 60 * time.Second

// crowd opens n connections at once and returns how many of them worked while
// all were open, and why the first of the others did not.
func crowd(ctx context.Context, dial dialFunc, n int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, crowdTimeout)
	defer cancel()
	var clients, settled sync.WaitGroup
	errs := make([]error, n)
	again := make(chan struct{})
	settled.Add(n)
	for i := range n {
		clients.Go(func() {
			errs[i] = member(ctx, dial, again, sync.OnceFunc(settled.Done))
		})
	}
	settled.Wait()
	close(again)
	clients.Wait()
	works := 0
	for _, err := range errs {
		if err == nil {
			works++
		}
	}
	first := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if first < 0 {
		return works, nil
	}
	return works, errs[first]
}

// member is one connection of a crowd: it says when it is settled and asks
// once more when all are. It keeps an open connection until then.
func member(ctx context.Context, dial dialFunc, again <-chan struct{}, settled func()) error {
	defer settled()
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := ping(c); err != nil {
		return err
	}
	settled()
	<-again
	return ping(c)
}
