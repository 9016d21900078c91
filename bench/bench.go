package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	stops   []func() error
}

// stop ends what was started, last first.
func (b *bench) stop() error {
	var errs []error
	for i := len(b.stops) - 1; i >= 0; i-- {
		errs = append(errs, b.stops[i]())
	}
	b.stops = nil
	return errors.Join(errs...)
}

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

// both starts the two kinds of daemons, unless they run already.
func (b *bench) both(ctx context.Context) error {
	if b.service == nil {
		s, err := newService()
		if err != nil {
			return err
		}
		b.service = s
		b.stops = append(b.stops, s.close)
	}
	if b.kith == nil {
		bin, err := b.kithPath, error(nil)
		if bin == "" {
			if bin, err = kithBinary(ctx, b.dir); err != nil {
				return err
			}
		}
		d, err := b.startKith(ctx, "kith", bin)
		if err != nil {
			return fmt.Errorf("kith: %w", err)
		}
		b.kith = d
	}
	if b.other == nil {
		d, err := b.startOther(ctx)
		if err != nil {
			return err
		}
		b.other = d
	}
	b.report.peer(b.kith.name, b.kith.config)
	b.report.peer(b.other.name, b.other.config)
	return nil
}

// startOther starts what kith is compared with.
func (b *bench) startOther(ctx context.Context) (*daemons, error) {
	if b.against != "" {
		return b.startKith(ctx, "other kith", b.against)
	}
	d, err := b.startKubo(ctx, "kubo", nil)
	if err != nil {
		return nil, fmt.Errorf("kubo: %w", err)
	}
	return d, nil
}
