package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// bench is one run: what it measures with, what it has started, what it found.
// It belongs to one goroutine.
type bench struct {
	settings
	dir      string // scratch, removed at the end
	progress io.Writer
	report   report

	service *service // what the daemons' tunnels lead to
	kith    *daemons // started on first use
	other   *daemons // kubo, or another kith; the same
	nodes   int      // started so far
	stops   scope
}

// stop ends what was started, last first.
func (b *bench) stop() error { return b.stops.end() }

// measure runs a comparison and adds it to the report.
func (b *bench) measure(ctx context.Context, c comparison) error {
	fmt.Fprintf(b.progress, "%s: %s ", c.row, c.what)
	r, err := c.measure(ctx, b.settings, func() { fmt.Fprint(b.progress, ".") })
	if err != nil {
		fmt.Fprintln(b.progress)
		return err
	}
	fmt.Fprintf(b.progress, " %.3f\n", r.Ratio)
	b.report.Rows = append(b.report.Rows, r)
	return nil
}

// daemonPairs is how many pairs the same daemons measure, daemonWarmUp the
// bytes they carry each way before the first.
const (
	daemonPairs  = 3
	daemonWarmUp = 8 << 20
)

// both starts kith's daemons and those it is compared with, unless they run.
func (b *bench) both(ctx context.Context) error {
	if b.kith == nil || b.other == nil {
		return b.renew(ctx)
	}
	return nil
}

// renew starts kith's daemons and those it is compared with, in the place of
// those that run.
func (b *bench) renew(ctx context.Context) (err error) {
	if b.service == nil {
		if b.service, err = newService(); err != nil {
			return err
		}
		b.stops.add(b.service.close)
	}
	if b.kithPath == "" {
		if b.kithPath, err = kithBinary(ctx, b.dir); err != nil {
			return err
		}
	}
	if err := errors.Join(b.kith.stop(), b.other.stop()); err != nil {
		return err
	}
	b.kith, b.other = nil, nil
	if b.kith, err = b.startKith(ctx, "kith", b.kithPath); err != nil {
		return fmt.Errorf("kith: %w", err)
	}
	if b.against != "" {
		b.other, err = b.startKith(ctx, b.otherName(), b.against)
	} else {
		b.other, err = b.startKubo(ctx, b.otherName(), nil)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b.otherName(), err)
	}
	for _, d := range []*daemons{b.kith, b.other} {
		b.report.peer(d.name, d.config)
		for _, way := range ways {
			if _, err := transfer(ctx, d.dial, way.op, daemonWarmUp, readSize); err != nil {
				return fmt.Errorf("%s, warming up: %w", d.name, err)
			}
		}
	}
	return nil
}

// otherName is what kith's daemons are compared with.
func (b *bench) otherName() string {
	if b.against != "" {
		return "other kith"
	}
	return "kubo"
}

// nodeDir makes a new directory for a node.
func (b *bench) nodeDir() (string, error) {
	b.nodes++
	dir := filepath.Join(b.dir, strconv.Itoa(b.nodes))
	return dir, os.Mkdir(dir, 0o700)
}
