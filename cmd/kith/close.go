package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
)

func (a *app) closeCommand() *cobra.Command {
	var all, streams bool
	cmd := &cobra.Command{
		Use:   "close NAME|LOCAL|--all",
		Short: "Take back what was exposed or connected",
		Long: `Close every mount of that service name or, when there is none, the ones at that
local socket (a port, host:port or unix:/path, as in kith ls). Connections that
are open go on unless --streams is given.`,
		Example: "  kith close web\n  kith close 127.0.0.1:8080 --streams\n  kith close --all",
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return takes(0, 0, "")(cmd, args)
			}
			return takes(1, 1, "a NAME, a LOCAL socket or --all")(cmd, args)
		},
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
			var res *controlv1.CloseMountsResponse
			var err error
			if all {
				res, err = c.CloseMounts(ctx, &controlv1.CloseMountsRequest{All: true, Streams: streams})
			} else {
				res, err = closeNamed(ctx, c, args[0], streams)
			}
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			case len(res.GetClosed()) == 0:
				_, err := fmt.Fprintln(a.stdout, "nothing to close")
				return err
			}
			for _, m := range res.GetClosed() {
				if _, err := fmt.Fprintf(a.stdout, "closed %s %s (%s)\n", kindText(m.GetKind()), clean(m.GetName()), clean(m.GetLocal())); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "close everything")
	cmd.Flags().BoolVar(&streams, "streams", false, "cut the open connections too")
	cmd.ValidArgsFunction = a.completeMounts
	return cmd
}

// closeNamed closes the mounts that word names.
func closeNamed(ctx context.Context, c *daemon.Client, word string, streams bool) (*controlv1.CloseMountsResponse, error) {
	if word == "" {
		return nil, usagef("an empty name matches nothing; `kith ls` shows the names")
	}
	list, err := c.ListMounts(ctx)
	if err != nil {
		return nil, err
	}
	ids := matching(list.GetMounts(), word)
	if len(ids) == 0 {
		return nil, &daemon.Error{Code: "not_found", Text: fmt.Sprintf("nothing named %q and nothing at that local socket is exposed or connected; `kith ls` shows what is", word)}
	}
	res := &controlv1.CloseMountsResponse{}
	for _, id := range ids {
		one, err := c.CloseMounts(ctx, &controlv1.CloseMountsRequest{Id: id, Streams: streams})
		if err != nil {
			return nil, err
		}
		res.Closed = append(res.Closed, one.GetClosed()...)
	}
	return res, nil
}

// matching returns the mounts of the name, or else those at the local socket.
func matching(mounts []*controlv1.Mount, word string) []uint64 {
	for _, is := range []func(*controlv1.Mount) bool{
		func(m *controlv1.Mount) bool { return m.GetName() == word },
		func(m *controlv1.Mount) bool {
			return m.GetLocal() == word || m.GetListenAddress() == word || m.GetTargetAddress() == word ||
				strings.HasSuffix(m.GetLocal(), ":"+word) && !strings.HasPrefix(m.GetLocal(), "unix:")
		},
	} {
		var ids []uint64
		for _, m := range mounts {
			if is(m) {
				ids = append(ids, m.GetId())
			}
		}
		if len(ids) > 0 {
			return ids
		}
	}
	return nil
}
