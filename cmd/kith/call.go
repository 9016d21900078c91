package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

// maxInput is the most bytes of a request or message that are read from a
// stream: what a call may carry.
const maxInput = 32 << 20

// payload is the argument itself, or standard input for "-".
func (a *app) payload(args []string) ([]byte, error) {
	switch {
	case len(args) == 0:
		return nil, nil
	case args[0] != "-":
		return []byte(args[0]), nil
	}
	data, err := io.ReadAll(io.LimitReader(a.stdin, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read standard input: %w", err)
	}
	if len(data) > maxInput {
		return nil, usagef("standard input has more than %d bytes, which is the most that one message may have", maxInput)
	}
	return data, nil
}

func (a *app) callCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "call PEER SERVICE [DATA|-]",
		Short: "Send a request to a service of a peer and print the answer",
		Long: `Send DATA, or standard input for -, to a service of a peer and print the answer
as it came. Every kith node answers ping, info, stats and services; programs
serve others.`,
		Example: `  kith call 12D3KooWFw4... info
  echo hello | kith call 12D3KooWFw4... ping -
  kith call 12D3KooWFw4... kv/put '{"Key":"name","Value":"satoshi"}'    what examples/kv serves
  kith call 12D3KooWFw4... kv/get name`,
		Args: takes(2, 3, "a PEER and a SERVICE (and DATA)"),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
			if timeout <= 0 {
				return usagef("--timeout is %s; give a time such as 30s", timeout)
			}
			data, err := a.payload(args[2:])
			if err != nil {
				return err
			}
			stop := a.working("calling %s", args[1])
			res, err := c.Call(ctx, &controlv1.CallRequest{Peer: args[0], Service: args[1], Data: data, Timeout: durationpb.New(timeout)})
			stop()
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			_, err = a.stdout.Write(res.GetData())
			if n := len(res.GetData()); err == nil && n > 0 && res.GetData()[n-1] != '\n' && isTerminal(a.stdout) {
				fmt.Fprintln(a.stdout)
			}
			return err
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for the answer")
	cmd.ValidArgsFunction = a.completeCall
	return cmd
}

func (a *app) servicesCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     "services [PEER]",
		Short:   "List the services of a peer that this node may call",
		Long:    "List the services of a peer that this node may call; without PEER, those of this\nnode itself.",
		Example: "  kith services\n  kith services 12D3KooWFw4... --json",
		Args:    takes(0, 1, "at most one PEER"),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
			if timeout <= 0 {
				return usagef("--timeout is %s; give a time such as 30s", timeout)
			}
			req := &controlv1.ListServicesRequest{Timeout: durationpb.New(timeout)}
			if len(args) > 0 {
				req.Peer = args[0]
			}
			stop := a.working("asking for the services")
			res, err := c.ListServices(ctx, req)
			stop()
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			t := newTable(a.stdout, "SERVICE", "KIND", "OF")
			for _, s := range res.GetServices() {
				kind, of := "request", "a program"
				if s.GetStream() {
					kind = "stream"
				}
				if s.GetBuiltIn() {
					of = "every node"
				}
				t.row(s.GetName(), kind, of)
			}
			return t.flush()
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for the answer")
	cmd.ValidArgsFunction = a.completePeer
	return cmd
}
