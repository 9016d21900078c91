package main

import (
	"context"
	"fmt"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
)

func (a *app) downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop the node",
		Long: `Stop the node of the home. Open connections are cut, with a reason. Returns when
the home is free again.`,
		Example: "  kith down\n  kith down --home /tmp/kith-a",
		Args:    takes(0, 0, ""),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
			stop := a.working("stopping the node")
			err := c.Shutdown(ctx)
			stop()
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(&controlv1.ShutdownResponse{})
			}
			_, err = fmt.Fprintf(a.stdout, "the node in %s has stopped\n", clean(c.Home()))
			return err
		}),
	}
}
