package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

func (a *app) findCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "find PEER",
		Short: "Find where a peer is, by its ID alone",
		Long: `Say where a peer is, given its peer ID or node ID: the connections to it, the
address book, and, if the node takes part in one (dht in config.toml), the
distributed hash table. An address marked "met" is one at which the peer proved
who it is; the others are hearsay.`,
		Example: "  kith find 12D3KooWFw4...\n  kith find 3f2c9a... --timeout 5s --json",
		Args:    takes(1, 1, "a PEER"),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
			if timeout <= 0 {
				return usagef("--timeout is %s; give a time such as 30s", timeout)
			}
			stop := a.working("looking for %s", args[0])
			res, err := c.Find(ctx, &controlv1.FindRequest{Peer: args[0], Timeout: durationpb.New(timeout)})
			stop()
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			fmt.Fprintf(a.stdout, "peer ID  %s\nnode ID  %s\n", clean(res.GetPeerId()), clean(res.GetNodeId()))
			t := newTable(a.stdout, "ADDRESS", "FROM", "TAUGHT BY", "MET")
			for _, p := range res.GetPlaces() {
				t.row(p.GetAddress(), p.GetFrom(), p.GetSource(), yes(p.GetVerified()))
			}
			return t.flush()
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to look")
	cmd.ValidArgsFunction = a.completePeer
	return cmd
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
