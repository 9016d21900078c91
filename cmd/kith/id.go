package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/kith-p2p/kith/daemon"
	"github.com/spf13/cobra"
)

func (a *app) idCommand() *cobra.Command {
	var node, addresses bool
	cmd := &cobra.Command{
		Use:   "id",
		Short: "Print the peer ID of the node",
		Long: `Print the node's peer ID, alone on one line. Others need it to allow this peer
(kith expose --allow) and, with an address, to reach it.`,
		Example: `  kith id
  kith id --addresses          full addresses, each ending in /p2p/<peer ID>
  ssh server kith expose 3000 --allow $(kith id)`,
		Args: takes(0, 0, ""),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
			if node && addresses {
				return usagef("--node-id and --addresses were both given; give one of them")
			}
			st, err := c.Status(ctx)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(st)
			case addresses:
				var b strings.Builder // one write: a reader may want the first line only
				for _, addr := range st.GetAddresses() {
					fmt.Fprintln(&b, clean(addr))
				}
				_, err := io.WriteString(a.stdout, b.String())
				return err
			case node:
				_, err = fmt.Fprintln(a.stdout, st.GetNodeId())
				return err
			}
			_, err = fmt.Fprintln(a.stdout, st.GetPeerId())
			return err
		}),
	}
	cmd.Flags().BoolVar(&node, "node-id", false, "print the node ID instead (20 bytes of the key's hash, in hex)")
	cmd.Flags().BoolVarP(&addresses, "addresses", "a", false, "print the node's full addresses instead, the most useful first")
	return cmd
}
