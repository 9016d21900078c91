package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
)

func (a *app) streamsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "streams",
		Short:   "List the open connections, or close one",
		Example: "  kith streams\n  kith streams --json\n  kith streams close 7",
		Args:    unknownCommand,
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
			res, err := c.ListStreams(ctx)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			return printStreams(a.stdout, res.GetStreams())
		}),
	}
	cmd.AddCommand(a.streamsCloseCommand())
	return cmd
}

func (a *app) streamsCloseCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "close ID|--all",
		Short:   "Cut one open connection, or all",
		Example: "  kith streams close 7\n  kith streams close --all",
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return takes(0, 0, "")(cmd, args)
			}
			return takes(1, 1, "the ID of a stream, or --all")(cmd, args)
		},
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
			res, err := closeStreams(ctx, c, all, args)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			_, err = fmt.Fprintf(a.stdout, "closed %s\n", plural(res.GetClosed(), "stream"))
			return err
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "cut all of them")
	cmd.ValidArgsFunction = a.completeStreams
	return cmd
}

// closeStreams cuts the stream that args name, or all.
func closeStreams(ctx context.Context, c *daemon.Client, all bool, args []string) (*controlv1.CloseStreamsResponse, error) {
	if all {
		return c.CloseStreams(ctx, &controlv1.CloseStreamsRequest{All: true})
	}
	id, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return nil, usagef("%q is no stream ID; `kith streams` shows the IDs", args[0])
	}
	return c.CloseStreams(ctx, &controlv1.CloseStreamsRequest{Id: &id})
}

// printStreams prints one row a stream.
func printStreams(w io.Writer, streams []*controlv1.Stream) error {
	t := newTable(w, "ID", "KIND", "NAME", "PEER", "FROM", "TO", "PATH", "IN", "OUT", "AGE", "LAST ERROR")
	for _, s := range streams {
		path := via(s.GetPath(), s.GetRelayed())
		if s.GetWaiting() {
			path = "waiting for the peer"
		}
		t.row(strconv.FormatUint(s.GetId(), 10), kindText(s.GetKind()), s.GetName(), s.GetRemotePeer(), s.GetOriginAddress(),
			s.GetTargetAddress(), path, bytesText(s.GetBytesIn()), bytesText(s.GetBytesOut()),
			sinceText(s.GetSince()), oneLine(s.GetLastError()))
	}
	return t.flush()
}

// via is how a peer is reached: a multiaddr, marked when it is a relay's.
func via(addr string, relayed bool) string {
	if relayed {
		return "relay " + addr
	}
	return addr
}
