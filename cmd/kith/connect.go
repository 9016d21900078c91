package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

func (a *app) connectCommand() *cobra.Command {
	req := &controlv1.ConnectRequest{}
	var wait, timeout time.Duration
	var foreground bool
	cmd := &cobra.Command{
		Use:   "connect PEER/NAME [LOCAL]",
		Short: "Use a peer's service at a local port",
		Long: `Bind a local socket to a service of another peer. PEER is a peer ID or an
address that ends in /p2p/ID, and everything after its slash is the service's
name. LOCAL is a port, HOST:PORT, unix:/PATH, or - for standard input and output;
without it a free port is picked. Prints what it bound. The forward redials the
peer by itself and is kept until kith close or the node's end, or as --foreground
and --once say.`,
		Example: `  kith connect 12D3KooWFw4.../3000 8080
  kith connect /ip4/192.168.1.7/tcp/4001/p2p/12D3KooWFw4.../web
  kith connect 12D3KooWFw4.../db unix:/tmp/db.sock --check
  kith connect 12D3KooWFw4...//x/kubo-service 9000
  tar c . | kith connect 12D3KooWFw4.../backup -`,
		Args: takes(1, 2, "PEER/NAME [LOCAL]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if req.Peer, req.Name, err = splitService(args[0]); err != nil {
				return err
			}
			switch flags := cmd.Flags(); {
			case flags.Changed("wait") && wait <= 0:
				return usagef("--wait is %s; give a time such as 10s", wait)
			case flags.Changed("timeout") && timeout <= 0:
				return usagef("--timeout is %s; give a time such as 30s", timeout)
			}
			if wait > 0 {
				req.Wait = durationpb.New(wait)
			}
			if timeout > 0 {
				req.Timeout = durationpb.New(timeout)
			}
			pipe := len(args) == 2 && args[1] == "-"
			if len(args) == 2 && !pipe {
				if req.Listen, err = absolute(args[1]); err != nil {
					return err
				}
			}
			return a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
				if pipe {
					return a.pipe(ctx, c, req)
				}
				return a.connect(ctx, c, req, foreground)
			})(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&wait, "wait", 0, "how long a connection waits while the peer is redialled (default 10s)")
	flags.DurationVar(&timeout, "timeout", 0, "how long a connection may wait for its stream in all (default 30s)")
	flags.BoolVarP(&foreground, "foreground", "f", false, "keep the forward until Ctrl-C only")
	flags.BoolVar(&req.Once, "once", false, "stop after the first connection")
	flags.BoolVar(&req.Check, "check", false, "fail, and bind nothing, if the peer cannot be reached now")
	flags.BoolVar(&req.Anyway, "anyway", false, "bind although the peer is unknown or says that it would refuse")
	flags.BoolVar(&req.AllowCustomProtocol, "allow-custom-protocol", false, "permit a name that begins with / but not with /x/")
	cmd.ValidArgsFunction = a.completePeerService
	return cmd
}

// connect asks for the forward and says where it is.
func (a *app) connect(ctx context.Context, c *daemon.Client, req *controlv1.ConnectRequest, foreground bool) error {
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
		switch {
		case a.json && foreground:
			return a.printLine(res)
		case a.json:
			return a.printJSON(res)
		}
		_, err := fmt.Fprintf(a.stdout, "%s -> %s on %s\n", clean(res.GetMount().GetLocal()), clean(res.GetMount().GetName()),
			clean(peerOf(res.GetMount())))
		return err
	}
	if foreground {
		return a.hold(ctx, c, res.GetMount(), say)
	}
	return say()
}

// peerOf is the peer of a forward's mount.
func peerOf(m *controlv1.Mount) string { return strings.TrimPrefix(m.GetTargetAddress(), "/p2p/") }
