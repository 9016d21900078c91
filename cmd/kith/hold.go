package main

import (
	"context"
	"fmt"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

// hold keeps a mount until a signal comes (which removes it and is no failure),
// someone else closes it, or the node stops (which is one). say is called once,
// when the mount is held.
func (a *app) hold(ctx context.Context, c *daemon.Client, m *controlv1.Mount, say func() error) error {
	for _, err := range c.Hold(ctx, m.GetId()) {
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := say(); err != nil {
			return err
		}
		if !a.json {
			fmt.Fprintln(a.stderr, "Press Ctrl-C to end it.")
		}
	}
	if ctx.Err() == nil && !a.json {
		fmt.Fprintf(a.stderr, "%s was closed by another command.\n", clean(m.GetName()))
	}
	return nil
}
