package main

import (
	"context"
	"strconv"

	"github.com/kith-p2p/kith/daemon"
	"github.com/spf13/cobra"
)

func (a *app) p2pStreamLsCommand() *cobra.Command {
	var headers bool
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the open connections",
		Example: "  kith p2p stream ls\n  kith p2p stream ls -v",
		Args:    takes(0, 0, ""),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
			res, err := c.ListStreams(ctx)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			rows := make([][]string, 0, len(res.GetStreams()))
			for _, s := range res.GetStreams() {
				rows = append(rows, []string{strconv.FormatUint(s.GetId(), 10), s.GetName(), s.GetOriginAddress(), s.GetTargetAddress()})
			}
			return kuboTable(a.stdout, headers, []string{"ID", "Protocol", "Origin", "Target"}, rows)
		}),
	}
	cmd.Flags().BoolVarP(&headers, "headers", "v", false, "print table headers (ID, Protocol, Origin, Target)")
	return cmd
}

func (a *app) p2pStreamCloseCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "close [ID]",
		Short:   "Cut one open connection, or all",
		Example: "  kith p2p stream close 7\n  kith p2p stream close --all",
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return takes(0, 0, "")(cmd, args)
			}
			if len(args) == 0 {
				return usagef("no id specified; `kith p2p stream ls` shows them, or say --all")
			}
			return takes(1, 1, "the ID of a stream, or --all")(cmd, args)
		},
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
			res, err := closeStreams(ctx, c, all, args)
			if err == nil && a.json {
				return a.printJSON(res)
			}
			return err
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "cut all of them")
	cmd.ValidArgsFunction = a.completeStreams
	return cmd
}
