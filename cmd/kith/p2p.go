package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
)

// kuboPrefix is what a protocol name of `ipfs p2p` begins with.
const kuboPrefix = "/x/"

func (a *app) p2pCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "p2p",
		Short: "Expose and connect in the words of ipfs p2p",
		Long: `The words, flags and output of ipfs p2p, for scripts and hands that know them.
The services are kubo's too: either side may be a kubo node. Different from kubo,
listen serves nobody unless --allow or --allow-any says whom, and connections
keep their half-close.`,
		Example: `  kith p2p listen /x/web /ip4/127.0.0.1/tcp/3000 --allow-any
  kith p2p forward /x/web /ip4/127.0.0.1/tcp/8080 /p2p/12D3KooWFw4...
  kith p2p ls -v`,
		Args: unknownCommand,
		RunE: showHelp,
	}
	stream := &cobra.Command{
		Use:     "stream",
		Short:   "List and close the open connections",
		Example: "  kith p2p stream ls -v\n  kith p2p stream close 7",
		Args:    unknownCommand,
		RunE:    showHelp,
	}
	stream.AddCommand(a.p2pStreamLsCommand(), a.p2pStreamCloseCommand())
	cmd.AddCommand(a.p2pListenCommand(), a.p2pForwardCommand(), a.p2pCloseCommand(), a.p2pLsCommand(), stream)
	return cmd
}

// checkProtocol holds kubo's rule for names.
func checkProtocol(name string, custom bool) error {
	if !custom && !strings.HasPrefix(name, kuboPrefix) {
		return usagef("protocol name must be within '%s' namespace", kuboPrefix) // kubo's very words, which its own test compares
	}
	return nil
}

func (a *app) p2pListenCommand() *cobra.Command {
	req := &controlv1.ExposeRequest{}
	var f exposeFlags
	cmd := &cobra.Command{
		Use:     "listen PROTOCOL TARGET-ADDRESS",
		Short:   "Serve a protocol name from a local socket",
		Example: "  kith p2p listen /x/web /ip4/127.0.0.1/tcp/3000 --allow 12D3KooWFw4...\n  kith p2p listen /x/db /ip4/127.0.0.1/tcp/5432 --allow-any --report-peer-id",
		Args:    takes(2, 2, "PROTOCOL TARGET-ADDRESS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkProtocol(args[0], req.GetAllowCustomProtocol()); err != nil {
				return err
			}
			if req.Name, req.Target = args[0], args[1]; len(req.GetAllow()) == 0 && !req.GetAllowAny() {
				return a.defaultDeny()
			}
			if len(req.GetAllow()) > 0 && req.GetAllowAny() {
				return usagef("--allow and --allow-any contradict each other; give one of them")
			}
			return a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
				res, err := c.Expose(ctx, req)
				if err != nil {
					return err
				}
				say := func() error {
					if a.json {
						return a.printLine(res)
					}
					if f.foreground {
						fmt.Fprintf(a.stdout, "Listening on %s, forwarding to %s\n", clean(req.GetName()), clean(req.GetTarget()))
					}
					return nil
				}
				if f.foreground {
					return a.hold(ctx, c, res.GetMount(), say)
				}
				return say()
			})(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&req.AllowCustomProtocol, "allow-custom-protocol", false, "do not require the /x/ prefix")
	flags.BoolVarP(&req.ReportPeerId, "report-peer-id", "r", false, "send \"<peer id>\\n\" to the target before the peer's bytes")
	flags.BoolVarP(&f.foreground, "foreground", "f", false, "keep it until Ctrl-C only")
	flags.StringArrayVar(&req.Allow, "allow", nil, "peer that may use it: a peer ID or address (repeatable)")
	flags.BoolVar(&req.AllowAny, "allow-any", false, "let every peer use it, as kubo does")
	a.completePeers(cmd, "allow")
	return cmd
}

func (a *app) p2pForwardCommand() *cobra.Command {
	req := &controlv1.ConnectRequest{}
	var foreground bool
	cmd := &cobra.Command{
		Use:     "forward PROTOCOL LISTEN-ADDRESS TARGET-ADDRESS",
		Short:   "Bind a local socket to a peer's protocol name",
		Example: "  kith p2p forward /x/web /ip4/127.0.0.1/tcp/8080 /p2p/12D3KooWFw4...\n  kith p2p forward /x/web /ip4/127.0.0.1/tcp/0 /ip4/192.168.1.7/tcp/4001/p2p/12D3KooWFw4...",
		Args:    takes(3, 3, "PROTOCOL LISTEN-ADDRESS TARGET-ADDRESS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkProtocol(args[0], req.GetAllowCustomProtocol()); err != nil {
				return err
			}
			req.Name, req.Listen, req.Peer = args[0], args[1], args[2]
			req.Anyway = true // kubo binds and dials later
			return a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
				stop := a.working("connecting to %s", req.GetPeer())
				res, err := c.Connect(ctx, req)
				stop()
				if err != nil {
					return err
				}
				if w := res.GetWarning(); w != "" && !a.json {
					a.warn("%s", w)
				}
				say := func() error {
					if a.json {
						return a.printLine(res)
					}
					if foreground {
						fmt.Fprintf(a.stdout, "Forwarding %s to %s on %s\n", clean(res.GetMount().GetListenAddress()), clean(req.GetName()), clean(req.GetPeer()))
					}
					return nil
				}
				if foreground {
					return a.hold(ctx, c, res.GetMount(), say)
				}
				return say()
			})(cmd, args)
		},
	}
	cmd.Flags().BoolVar(&req.AllowCustomProtocol, "allow-custom-protocol", false, "do not require the /x/ prefix")
	cmd.Flags().BoolVarP(&foreground, "foreground", "f", false, "keep it until Ctrl-C only")
	return cmd
}

func (a *app) p2pLsCommand() *cobra.Command {
	var headers bool
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List what is served and forwarded",
		Example: "  kith p2p ls\n  kith p2p ls -v",
		Args:    takes(0, 0, ""),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
			res, err := c.ListMounts(ctx)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			// As kubo does: what is forwarded, then what is served.
			mounts := slices.Clone(res.GetMounts())
			slices.SortStableFunc(mounts, func(a, b *controlv1.Mount) int { return cmp.Compare(b.GetKind(), a.GetKind()) })
			rows := make([][]string, 0, len(mounts))
			for _, m := range mounts {
				rows = append(rows, []string{m.GetName(), m.GetListenAddress(), m.GetTargetAddress()})
			}
			return kuboTable(a.stdout, headers, []string{"Protocol", "Listen Address", "Target Address"}, rows)
		}),
	}
	cmd.Flags().BoolVarP(&headers, "headers", "v", false, "print table headers (Protocol, Listen, Target)")
	return cmd
}

func (a *app) p2pCloseCommand() *cobra.Command {
	req := &controlv1.CloseMountsRequest{}
	cmd := &cobra.Command{
		Use:     "close",
		Short:   "Stop serving or forwarding what matches all the given options",
		Example: "  kith p2p close -p /x/web\n  kith p2p close -l /ip4/127.0.0.1/tcp/8080\n  kith p2p close --all",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags := cmd.Flags()
			given := false
			for _, name := range []string{"protocol", "listen-address", "target-address"} {
				if flags.Changed(name) {
					if given = true; flags.Lookup(name).Value.String() == "" {
						return usagef("--%s is empty and would match nothing; give what to match", name)
					}
				}
			}
			switch {
			case req.GetAll() && given:
				return usagef("can't combine --all with other matching options; give one or the other")
			case !req.GetAll() && !given:
				return usagef("no matching options given; say --all, or what to match with -p, -l or -t")
			}
			return a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
				res, err := c.CloseMounts(ctx, req)
				switch {
				case err != nil:
					return err
				case a.json:
					return a.printJSON(res)
				}
				_, err = fmt.Fprintf(a.stdout, "Closed %d stream(s)\n", len(res.GetClosed()))
				return err
			})(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&req.All, "all", "a", false, "close all")
	flags.StringVarP(&req.Name, "protocol", "p", "", "match the protocol name")
	flags.StringVarP(&req.ListenAddress, "listen-address", "l", "", "match the listen address")
	flags.StringVarP(&req.TargetAddress, "target-address", "t", "", "match the target address")
	return cmd
}

// kuboTable prints rows as kubo aligns them: one space between columns, no
// header unless asked for and there are rows, and then once.
func kuboTable(w io.Writer, headers bool, header []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 1, 2, 1, ' ', 0)
	if headers && len(rows) > 0 {
		rows = append([][]string{header}, rows...)
	}
	for _, row := range rows {
		for i, cell := range row {
			row[i] = clean(cell)
		}
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}
