package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

func (a *app) pingCommand() *cobra.Command {
	var count int32
	var interval, timeout time.Duration
	cmd := &cobra.Command{
		Use:   "ping PEER",
		Short: "Measure the round trip to a peer and how it is reached",
		Long: `Send a round trip a second to a peer, until Ctrl-C or --count, and print how
long each took and over which address it went. Fails if none was answered.`,
		Example: "  kith ping 12D3KooWFw4... -c 3\n  kith ping /ip4/192.168.1.7/tcp/4001/p2p/12D3KooWFw4... --interval 200ms",
		Args:    takes(1, 1, "a PEER"),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
			if count < 0 {
				return usagef("--count is %d; give how many round trips, or 0 for no end", count)
			}
			return a.ping(ctx, c, &controlv1.PingRequest{
				Peer: args[0], Count: count, Interval: durationpb.New(interval), Timeout: durationpb.New(timeout),
			})
		}),
	}
	flags := cmd.Flags()
	flags.Int32VarP(&count, "count", "c", 0, "round trips to make (0: until Ctrl-C)")
	flags.DurationVar(&interval, "interval", time.Second, "time between round trips, at least 10ms")
	flags.DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait for an answer")
	cmd.ValidArgsFunction = a.completePeer
	return cmd
}

// ping prints each round trip and a summary.
func (a *app) ping(ctx context.Context, c *daemon.Client, req *controlv1.PingRequest) error {
	var sent, answered int
	var least, most, sum time.Duration
	stop := a.working("connecting to %s", req.GetPeer())
	defer stop()
	var failed error
	for res, err := range c.Ping(ctx, req) {
		stop()
		if err != nil {
			if ctx.Err() == nil {
				failed = err
			}
			break
		}
		sent++
		if a.json {
			if err := a.printLine(res); err != nil {
				return err
			}
		}
		if res.GetError() != "" {
			if !a.json {
				fmt.Fprintf(a.stdout, "seq=%d failed: %s\n", res.GetSeq(), oneLine(res.GetError()))
			}
			continue
		}
		rtt := res.GetRtt().AsDuration()
		if answered++; answered == 1 || rtt < least {
			least = rtt
		}
		most, sum = max(most, rtt), sum+rtt
		if !a.json {
			fmt.Fprintf(a.stdout, "seq=%d time=%s via %s\n", res.GetSeq(), millis(rtt), clean(via(res.GetAddress(), res.GetRelayed())))
		}
	}
	if answered > 0 && !a.json {
		fmt.Fprintf(a.stdout, "%d of %d answered; least %s, mean %s, most %s\n", answered, sent, millis(least), millis(sum/time.Duration(answered)), millis(most))
	}
	switch {
	case failed != nil:
		return failed
	case answered == 0 && sent > 0:
		return errors.New("the peer answered none of the round trips; check that it runs and that its address is current")
	}
	return nil
}
